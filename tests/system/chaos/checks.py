"""The promises of delivery, checked on what a line stored and what its clients recorded. Pure functions.

Each check yields a sentence for each broken promise.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import msgspec

from tests.system.chaos.clients import Began, Got, Item, Missed, StatusReceived, head_of


class Stored(NamedTuple):
    """An event as stored in the journal."""

    seq: int
    topic: str
    header: bytes


class Events:
    """All events of a run. `stored`: events of the journal in its order. `received`: headers of all events that were
    received live, the only source of those that no journal holds."""

    def __init__(self, stored: Sequence[Stored], received: Iterable[bytes]) -> None:
        self.stored = stored
        self.heads = [head_of(one.header) for one in stored]
        self.headers: dict[tuple[str, int], bytes] = {}
        """Headers by count and number."""
        self.numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
        """Numbers by count and topic, ascending."""
        self.broken: list[str] = []
        """Promises that the received events break."""
        for head, one in zip(self.heads, stored, strict=True):
            self.headers[head.count, head.seq] = one.header
            self.numbers[head.count, head.topic].append(head.seq)
        unjournalled: dict[tuple[str, int], bytes] = {}
        for header in received:
            head = head_of(header)
            known = self.headers if head.journal_id else unjournalled
            if known.setdefault((head.count, head.seq), header) != header:
                self.broken.append(f"{head.key} was received live with different bytes")
            elif head.journal_id and head.seq not in self.numbers[head.count, head.topic]:
                self.broken.append(f"{head.key} was received live as stored, and is not stored")
        self.headers |= unjournalled
        self.live_only = [head_of(header) for header in unjournalled.values()]
        """Events that no journal holds and a subscriber received."""
        for head in sorted(self.live_only, key=lambda head: head.seq):
            self.numbers[head.count, head.topic].append(head.seq)


def check_line(events: Events) -> Iterator[str]:
    """Check what the line stored and sent."""
    yield from events.broken
    yield from check_journal(events)
    yield from check_frames(events)


def check_journal(events: Events) -> Iterator[str]:
    """Check that the journal's numbers have no gap, and that its events name their number, topic and predecessor."""
    last: dict[str, int] = {}
    for before, after in pairwise(events.stored):
        if after.seq != before.seq + 1:
            yield f"in the journal, {after.seq} follows {before.seq}"
    for head, stored in zip(events.heads, events.stored, strict=True):
        if (head.count, head.seq, head.topic) != (events.heads[0].journal_id, stored.seq, stored.topic):
            yield f"{head.key} of {head.topic} is stored as {stored.seq} of {stored.topic}"
        if head.previous_seq != last.get(head.topic, 0):
            yield f"{head.key} names {head.previous_seq} as its predecessor, expected {last.get(head.topic, 0)}"
        last[head.topic] = stored.seq


def check_frames(events: Events) -> Iterator[str]:
    """Check that each frame has one event, and that the journal reports how many events it does not hold.

    Frame numbers go on from 1 in each boot and camera. Where some are missing, the journal reports at least as many
    events that no journal holds and no subscriber received.
    """
    unreceived: dict[str, int] = {}
    for boot_id in dict.fromkeys(head.boot_id for head in [*events.heads, *events.live_only]):
        reported, received = _not_held(events, boot_id)
        unreceived[boot_id] = reported - received
        if received > reported:
            yield f"boot {boot_id}: {received} received events are not stored, and the journal reports {reported}"
    verdicts = [head for head in [*events.heads, *events.live_only] if head.type == "verdict"]
    verdicts.sort(key=lambda head: (head.boot_id, head.camera or "", head.frame_number))
    for (boot_id, camera), of_camera in groupby(verdicts, key=lambda head: (head.boot_id, head.camera)):
        number, missing = 0, 0
        for head in of_camera:
            missing += max(head.frame_number - number - 1, 0)
            if head.frame_number <= number:
                yield f"boot {boot_id}, camera {camera}: frame {head.frame_number} has two events"
            number = head.frame_number + head.frames - 1
        if missing > max(unreceived[boot_id], 0):
            yield f"boot {boot_id}, camera {camera}: {missing} frames up to {number} have no event"
    captured = [
        (head.camera, head.frame_id, captured_ns)
        for head in events.heads
        if head.type == "verdict" and (captured_ns := head.times.get("captured_at_ns"))
    ]
    if len(captured) > len(set(captured)):
        yield f"{len(captured) - len(set(captured))} frames were reported again after a kill"


def _not_held(events: Events, boot_id: str) -> tuple[int, int]:
    """Return how many of a boot's events the journal reports that it does not hold, and how many of them were received.

    After a pause of recording it reports their numbers; after a kill, how many frames were reported meanwhile. Frames
    whose event was sent, but not logged before the kill, it reports again as in flight.
    """
    numbers: set[int] = set()
    frames = 0
    again: set[tuple[str | None, int | None]] = set()
    for head in events.heads:
        if head.kind == "recording" and head.boot_id == boot_id and head.first_seq and head.last_seq:
            numbers |= set(range(head.first_seq, head.last_seq + 1))
        elif head.kind == "unrecorded" and head.of_boot == boot_id:
            frames += head.events or 0
        elif head.reason == "dropped.crashed" and head.frame_id is not None:
            again |= {(head.camera, head.frame_id + further) for further in range(head.frames)}
    received = [head for head in events.live_only if head.boot_id == boot_id]
    counted = sum(head.seq in numbers for head in received)
    for head in received:
        if head.seq not in numbers and head.type == "verdict" and (head.camera, head.frame_id) not in again:
            counted += head.frames
    return len(numbers) + frames, counted


class Checked(msgspec.Struct, kw_only=True):
    """What a client received over all its lives."""

    events: int
    """Of a durable consumer, each counted once."""
    again: int = 0
    """Events that a durable consumer received before."""
    gaps: int = 0
    """Gaps that a live subscriber reported."""
    missed: int = 0
    """Known events in these gaps."""
    broken: list[str] = []


def check_durable(topics: tuple[str, ...], headers: Sequence[bytes], events: Events, through: int) -> Checked:
    """Check that a durable consumer got each stored event in order with its bytes, and again only what it had got.
    `through`: all events up to this one must have come."""
    of_header = {one.header: one for one in events.stored}
    firsts = list(dict.fromkeys(headers))
    found = Checked(events=len(firsts), again=len(headers) - len(firsts))
    if strange := [header for header in firsts if header not in of_header]:
        found.broken.append(f"{len(strange)} events came that are not stored like this: {strange[0][:80]!r}")
    came = [of_header[header] for header in firsts if header in of_header]
    if others := [one for one in came if not one.topic.startswith(topics)]:
        found.broken.append(f"{len(others)} events came without a subscription: {runs_of(others)}")
    if disordered := [after for before, after in pairwise(came) if after.seq < before.seq]:
        found.broken.append(f"{len(disordered)} events came after later ones: {runs_of(disordered)}")
    wanted = [one for one in events.stored if one.topic.startswith(topics) and one.seq <= through]
    if lost := sorted(set(wanted) - set(came)):
        found.broken.append(f"{len(lost)} of {len(wanted)} events did not come: {runs_of(lost)}")
    return found


def runs_of(stored: Iterable[Stored]) -> str:
    """Format the first runs of numbers."""
    runs: list[list[int]] = []
    for one in stored:
        if runs and runs[-1][1] == one.seq - 1:
            runs[-1][1] = one.seq
        else:
            runs.append([one.seq, one.seq])
    return ", ".join(f"{first} to {last}" for first, last in runs[:3]) + (" and more" if len(runs) > 3 else "")


def check_live(topics: tuple[str, ...], items: Iterable[Item], events: Events) -> Checked:
    """Check that a live subscriber reported each missing event of its topics, from its first to its last message."""
    found = Checked(events=0)
    life = _Life(topics, events, found)
    for item in items:
        match item:
            case Began():
                life.end()
                life = _Life(topics, events, found)
            case Got():
                life.got(bytes(item.header))
            case StatusReceived():
                life.status(item)
            case Missed():
                life.missed(item)
    life.end()
    return found


class _Life:
    """A live subscriber from a start to its end."""

    def __init__(self, topics: tuple[str, ...], events: Events, found: Checked) -> None:
        self._topics, self._events, self._found = topics, events, found
        self._first: dict[str, int] = {}
        """By count: numbers up to this may be from before the first message."""
        self._knows_counts = False
        """Whether a status has named the counts: others begin after the first message, and all their events count."""
        self._known: dict[tuple[str, str], int] = defaultdict(int)
        """Highest known number by count and topic."""
        self._covered: dict[tuple[str, str], set[int]] = defaultdict(set)
        """Numbers that came, or are in a reported gap."""
        self._newest: dict[str, int] = defaultdict(int)
        """Highest received number by count."""

    def got(self, header: bytes) -> None:
        head = head_of(header)
        of_topic = head.count, head.topic
        if self._events.headers.get((head.count, head.seq)) != header:
            self._broke(f"{head.key} came, and was not sent like this")
        if not head.topic.startswith(self._topics):
            self._broke(f"{head.key} came without a subscription to {head.topic}")
        if head.seq <= self._newest[head.count] or head.seq in self._covered[of_topic]:
            self._broke(f"{head.key} came again, or after a later event")
        self._newest[head.count] = max(self._newest[head.count], head.seq)
        self._covered[of_topic].add(head.seq)
        self._learn(head.count, {head.topic: head.seq}, head.seq - 1)
        self._found.events += 1

    def status(self, status: StatusReceived) -> None:
        counts = status.counts
        for count, lasts in ((status.boot_id, counts.unjournalled), (counts.journal_id, counts.journalled)):
            if count is not None:
                self._learn(count, lasts, max(lasts.values(), default=0))
        self._knows_counts |= counts.journal_id is not None

    def missed(self, gap: Missed) -> None:
        """Note a gap; of a journal, at least one of its events must exist and not have come."""
        of_topic = gap.count, gap.topic
        inside = {seq for seq in self._events.numbers[of_topic] if gap.after_seq < seq <= gap.through_seq}
        inside -= self._covered[of_topic]
        if not inside and gap.journal_id is not None:
            self._broke(f"it reported a gap of {gap.topic} up to {gap.through_seq}, but all of these events came")
        self._covered[of_topic] |= inside
        self._learn(gap.count, {gap.topic: gap.through_seq}, gap.through_seq)
        self._found.gaps += 1
        self._found.missed += len(inside)

    def end(self) -> None:
        """Check that all events up to the highest known ones came or are in a gap."""
        for (count, topic), known in self._known.items():
            wanted = {seq for seq in self._events.numbers[count, topic] if self._first.get(count, 0) < seq <= known}
            silent = wanted - self._covered[count, topic]
            if silent and topic.startswith(self._topics):
                self._broke(f"{len(silent)} events of {topic} up to {max(silent)} are missing, and it reported no gap")

    def _learn(self, count: str, lasts: Mapping[str, int], before: int) -> None:
        if not self._knows_counts:
            self._first.setdefault(count, before)
        for topic, seq in lasts.items():
            self._known[count, topic] = max(self._known[count, topic], seq)

    def _broke(self, what: str) -> None:
        self._found.broken.append(what)
