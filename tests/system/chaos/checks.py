"""What a line and its clients must have received, and the checks of it. Pure functions."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Literal

import msgspec

from tests.system.chaos.clients import Began, Got, Head, Item, Missed, StatusReceived, head_of

Promise = Literal["journal", "lost", "order", "bytes", "unknown", "unsubscribed", "gap", "frames", "report"]


class Broken(msgspec.Struct, frozen=True):
    """A broken promise.

    `journal`: the journal contradicts itself. `lost`: a stored event did not come. `order`: events came in the wrong
    order. `bytes`: an event came with other bytes than stored. `unknown`: an event came that is not stored.
    `unsubscribed`: an event came of a topic without a subscription. `gap`: an event did not come, and its subscriber
    reported no gap, or it reported a gap, but all events came. `frames`: a frame has no event, or two. `report`: the
    journal does not report how many events it lacks.
    """

    who: str
    promise: Promise
    what: str


class Stored(msgspec.Struct, frozen=True):
    """An event as stored in the journal."""

    seq: int
    topic: str
    header: bytes


class Expected:
    """All events of a run.

    Args:
        journals: events of each journal in its order; journals in the order of their begin.
        received: headers of all events that were received live, the only source of those that no journal holds.
        boots: of the line, in their order.
    """

    def __init__(
        self, journals: Mapping[str, Sequence[Stored]], received: Iterable[bytes], boots: Sequence[str] = ()
    ) -> None:
        self.journals, self.boots = journals, boots
        self.received = list(received)
        self.headers: dict[tuple[str, int], bytes] = {}
        """Headers by count and number."""
        self.topics: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        """Numbers by count and topic, ascending."""
        self.reports_of: dict[str, list[tuple[str, int]]] = defaultdict(list)
        """By boot: events which report that no journal holds some events of that boot."""
        self.broken: list[Broken] = []
        """Events that were received with different bytes, or that no journal holds though they name one."""
        for journal_id, records in journals.items():
            for stored in records:
                self._add(journal_id, stored.seq, stored.topic, stored.header)
                if stored.topic == "journal" and (of_boot := head_of(stored.header).of_boot) is not None:
                    self.reports_of[of_boot].append((journal_id, stored.seq))
        for header in self.received:
            self._add_received(header)
        for topics in self.topics.values():
            for numbers in topics.values():
                numbers.sort()

    @property
    def unjournalled(self) -> list[bytes]:
        """Headers of the events that no journal holds and a subscriber received."""
        return [header for (count, _), header in self.headers.items() if count not in self.journals]

    def up_to(self, through: Mapping[str, int]) -> "Expected":
        """Return the expected events with each journal up to a number only."""
        return Expected(
            {
                journal_id: [stored for stored in records if stored.seq <= through.get(journal_id, 0)]
                for journal_id, records in self.journals.items()
            },
            [],
        )

    def wanted(self, topics: Collection[str]) -> list[tuple[str, int]]:
        """Return the events that a durable consumer of these topics must get, in order."""
        return [
            (journal_id, stored.seq)
            for journal_id, records in self.journals.items()
            for stored in records
            if stored.topic.startswith(tuple(topics))
        ]

    def _add_received(self, header: bytes) -> None:
        head = head_of(header)
        stored = self.headers.get((head.count, head.seq))
        if stored is None and head.journal_id is not None:
            self.broken.append(Broken("journal", "unknown", f"{head.key} was received live, and is not stored"))
        elif stored is None:
            self._add(head.count, head.seq, head.topic, header)
        elif stored != header:
            self.broken.append(Broken("live", "bytes", f"{head.key} was received with different bytes"))

    def _add(self, count: str, seq: int, topic: str, header: bytes) -> None:
        self.headers[count, seq] = header
        self.topics[count][topic].append(seq)


def runs_of(keys: Sequence[tuple[str, int]]) -> str:
    """Format the first runs of numbers, by their counts."""
    runs: list[list[tuple[str, int]]] = []
    for key in keys:
        if runs and runs[-1][-1] == (key[0], key[1] - 1):
            runs[-1].append(key)
        else:
            runs.append([key])
    shown = [f"{run[0][0]}-{run[0][1]}" + (f" to {run[-1][1]}" if len(run) > 1 else "") for run in runs[:3]]
    return ", ".join(shown) + (f" and {len(runs) - 3} more runs" if len(runs) > 3 else "")


_Topic = tuple[str, str]
"""Count and topic."""


class Durable(msgspec.Struct, kw_only=True):
    """Counts of a durable consumer."""

    wanted: int
    """Events of its topics in the journal."""
    events: int = 0
    """Events that came, each counted once."""
    duplicates: int = 0
    """Events that came again, with equal keys and bytes."""
    longest_lag_s: float | None = None
    """Greatest age of an event at its receipt; None: the client does not record the time."""
    broken: list[Broken] = []


def check_durable(who: str, topics: Collection[str], headers: Iterable[bytes], expected: Expected) -> Durable:
    """Check that all stored events came in order with their bytes, and that only earlier ones came again."""
    wanted = expected.wanted(topics)
    places = {key: place for place, key in enumerate(wanted)}
    came: set[int] = set()
    skipped: set[int] = set()
    found, reached = Durable(wanted=len(wanted)), -1

    def add_broken(promise: Promise, what: str) -> None:
        found.broken.append(Broken(who, promise, what))

    for header in headers:
        try:
            head = head_of(header)
        except msgspec.MsgspecError:
            add_broken("unknown", f"no event, but this came: {header[:80]!r}")
            continue
        held, place = expected.headers.get((head.count, head.seq)), places.get((head.count, head.seq))
        if held is None or head.journal_id is None:
            add_broken("unknown", f"{head.key} came, and is not stored")
        elif header != held:
            add_broken("bytes", f"{head.key} came with other bytes than stored")
        elif place is None:
            add_broken("unsubscribed", f"{head.key} came, of {head.topic}")
        else:
            if place in skipped:
                add_broken("order", f"{head.key} came after {'-'.join(map(str, wanted[reached]))}")
                skipped.remove(place)
            skipped |= set(range(reached + 1, place))
            found.duplicates += place in came
            came.add(place)
            reached = max(reached, place)
    found.events = len(came)
    if missing := [wanted[place] for place in range(len(wanted)) if place not in came]:
        add_broken("lost", f"{len(missing)} of {len(wanted)} events did not come: {runs_of(missing)}")
    return found


class Live(msgspec.Struct, kw_only=True):
    """Counts of a live subscriber."""

    events: int = 0
    gaps: int = 0
    """Reported gaps."""
    missed: int = 0
    """Known events in these gaps."""
    beyond: int = 0
    """Events that no journal holds, of a boot that was killed while the subscriber had no connection, if it does not
    subscribe to the events that report them."""
    broken: list[Broken] = []


def check_live(who: str, topics: Collection[str], items: Iterable[Item], expected: Expected) -> Live:
    """Check that a live subscriber reported each missing event of its topics, from its first to its last message."""
    found = Live()
    for life in _lives(items):
        _check_life(who, tuple(topics), life, expected, found)
    return found


def _lives(items: Iterable[Item]) -> Iterable[list[Item]]:
    life: list[Item] = []
    for item in items:
        if isinstance(item, Began):
            yield life
            life = []
        else:
            life.append(item)
    yield life


def _check_life(who: str, topics: tuple[str, ...], life: Sequence[Item], expected: Expected, found: Live) -> None:
    def add_broken(promise: Promise, what: str) -> None:
        found.broken.append(Broken(who, promise, what))

    first: dict[str, int] = {}
    """By count: numbers up to this may be from before the first message."""
    knows_counts = False
    """Whether a status has named the counts: others begin after the first message, and all their events are wanted."""
    known: dict[_Topic, int] = {}
    """Highest known number."""
    covered: dict[_Topic, set[int]] = defaultdict(set)
    """Numbers that came, or are in a reported gap."""
    youngest: dict[str, int] = {}
    """Highest received number by count."""
    boots: set[str] = set()
    for item in life:
        match item:
            case Got():
                header = bytes(item.header)
                head = head_of(header)
                key, held = (head.count, head.topic), expected.headers.get((head.count, head.seq))
                if held is None:
                    add_broken("unknown", f"{head.key} came, and is not expected")
                elif held != header:
                    add_broken("bytes", f"{head.key} came with other bytes than expected")
                if not head.topic.startswith(topics):
                    add_broken("unsubscribed", f"{head.key} came, of {head.topic}")
                if head.seq in covered[key]:
                    add_broken("order", f"{head.key} came again, or after it was reported as missing")
                elif head.seq < youngest.get(head.count, 0):
                    add_broken("order", f"{head.key} of {head.topic} came after {youngest[head.count]}")
                boots.add(head.boot_id)
                if not knows_counts:
                    first.setdefault(head.count, head.seq - 1)
                covered[key].add(head.seq)
                youngest[head.count] = max(youngest.get(head.count, 0), head.seq)
                known[key] = max(known.get(key, 0), head.seq)
                found.events += 1
            case StatusReceived():
                boots.add(item.boot_id)
                for count, lasts in _counts(item).items():
                    if not knows_counts:
                        first.setdefault(count, max(lasts.values(), default=0))
                    for topic, seq in lasts.items():
                        known[count, topic] = max(known.get((count, topic), 0), seq)
                knows_counts = knows_counts or item.counts.journal_id is not None
            case Missed():
                if not knows_counts:
                    first.setdefault(item.count, item.through_seq)
                _check_gap(who, topics, item, expected, covered, found)
                if item.topic is not None:
                    known[item.count, item.topic] = max(known.get((item.count, item.topic), 0), item.through_seq)
    for (count, topic), last in known.items():
        silent = [
            (count, seq)
            for seq in expected.topics[count][topic]
            if topic.startswith(topics) and first.get(count, 0) < seq <= last and seq not in covered[count, topic]
        ]
        if silent:
            add_broken(
                "gap", f"{len(silent)} events of {topic} did not come, and no gap was reported: {runs_of(silent)}"
            )
    for boot_id in _between(expected.boots, boots):
        count = f"boot {boot_id}"
        beyond = [
            (count, seq)
            for topic, numbers in expected.topics[count].items()
            for seq in numbers
            if topic.startswith(topics) and seq > max(known.get((count, topic), 0), first.get(count, 0))
        ]
        reported = any(seq in covered[journal_id, "journal"] for journal_id, seq in expected.reports_of[boot_id])
        if "journal".startswith(topics) and beyond and not reported:
            what = f"{len(beyond)} events of a killed boot did not come, and no event reported them"
            add_broken("gap", f"{what}: {runs_of(beyond)}")
        found.beyond += len(beyond)


def _between(all_boots: Sequence[str], received: Collection[str]) -> Sequence[str]:
    """Return the boots from the first received one to the one before the last."""
    places = [place for place, boot_id in enumerate(all_boots) if boot_id in received]
    return all_boots[places[0] : places[-1]] if places else []


def _counts(status: StatusReceived) -> dict[str, dict[str, int]]:
    """Return each topic's last number by count."""
    reported = {f"boot {status.boot_id}": status.counts.unjournalled}
    return (
        reported
        if status.counts.journal_id is None
        else {**reported, status.counts.journal_id: status.counts.journalled}
    )


def _check_gap(
    who: str,
    topics: tuple[str, ...],
    gap: Missed,
    expected: Expected,
    covered: Mapping[_Topic, set[int]],
    found: Live,
) -> None:
    """Check that at least one event in a gap exists and had not come."""
    found.gaps += 1
    missed = 0
    for topic, numbers in list(expected.topics[gap.count].items()):
        if topic == gap.topic or (gap.topic is None and topic.startswith(topics)):
            inside = {seq for seq in numbers if gap.after_seq < seq <= gap.through_seq} - covered[gap.count, topic]
            covered[gap.count, topic].update(inside)
            missed += len(inside)
    found.missed += missed
    if not missed and gap.journal_id is not None:  # other counts may have events that no subscriber received
        gone = f"{gap.topic or 'events'} after {gap.journal_id}-{gap.after_seq} up to {gap.through_seq}"
        what = f"it reported a gap of {gone}, but all of these came"
        found.broken.append(Broken(who, "gap", what))


HIGHEST_FRAME_ID = 65535
"""Highest frame id of the pattern camera, after which it begins at 1."""


def check_journal(expected: Expected) -> list[Broken]:
    """Check that each journal has no gap in its numbers, and that its events name their own number and topic."""
    broken = []

    def add_broken(journal_id: str, seq: int, what: str) -> None:
        broken.append(Broken("journal", "journal", f"{journal_id}-{seq} {what}"))

    for journal_id, records in expected.journals.items():
        last: dict[str, int] = {}
        for before, stored in zip([None, *records], records, strict=False):
            head = head_of(stored.header)
            if before is not None and stored.seq != before.seq + 1:
                add_broken(journal_id, stored.seq, f"follows {before.seq}")
            if (head.journal_id, head.seq, head.topic) != (journal_id, stored.seq, stored.topic):
                add_broken(journal_id, stored.seq, f"is {head.key} of {head.topic}, stored under {stored.topic}")
            previous = last.get(head.topic, 0)
            if records[0].seq == 1 and head.previous_seq != previous:
                add_broken(journal_id, stored.seq, f"names {head.previous_seq} as its predecessor, expected {previous}")
            last[head.topic] = stored.seq
    return broken


def check_frames(expected: Expected, unreceived: Mapping[str, int]) -> list[Broken]:
    """Check that the line reported every frame once: per boot and camera, numbers go on from 1 without a gap, and the
    frames in flight at a kill follow the last frame that was reported before it.

    Args:
        unreceived: by boot, the largest number of events that no journal holds and no subscriber received.
    """
    broken = []
    heads = [head_of(stored.header) for records in expected.journals.values() for stored in records]
    unjournalled = [head for head in map(head_of, expected.unjournalled) if head.type == "verdict"]
    verdicts = [head for head in heads if head.type == "verdict"]
    in_order = sorted([*verdicts, *unjournalled], key=lambda head: (head.boot_id, head.camera or "", head.frame_number))
    for (boot_id, camera), reported in groupby(in_order, key=lambda head: (head.boot_id, head.camera)):
        left, number = unreceived.get(boot_id, 0), 0
        for head in reported:
            if head.frame_number != number + 1:
                left -= 1
                if head.frame_number <= number or left < 0:
                    what = f"boot {boot_id}, camera {camera}: frame number {head.frame_number} follows {number}"
                    broken.append(Broken("line", "frames", what))
            number = head.frame_number + head.frames - 1
    not_all_stored = {head.boot_id for head in unjournalled} | {
        boot_id for boot_id, count in unreceived.items() if count
    }
    return broken + _check_twice(verdicts) + _check_twice(unjournalled) + _check_crashes(verdicts, not_all_stored)


def _check_twice(verdicts: Iterable[Head]) -> list[Broken]:
    """Check that no two events report one frame. Only a frame whose event was live only may be reported again as in
    flight, as a killed line cannot know of that event."""
    broken = []
    seen: dict[tuple[str | None, int | None, int], Head] = {}
    for head in verdicts:
        captured_ns = head.times.get("captured_at_ns")
        if not captured_ns or head.frame_id is None:
            continue  # it is not known which frame it was, or when
        before = seen.setdefault((head.camera, head.frame_id, captured_ns), head)
        if before is not head:
            what = f"camera {head.camera}: frame {head.frame_id} is reported by {before.key} and by {head.key}"
            broken.append(Broken("line", "frames", what))
    return broken


def _check_crashes(verdicts: Sequence[Head], not_all_stored: Collection[str]) -> list[Broken]:
    """Check that, in the journal's order, the frames in flight at a boot's end follow its frame ids."""
    broken = []
    by_camera: dict[str | None, list[Head]] = defaultdict(list)
    for head in verdicts:
        by_camera[head.camera].append(head)
    for camera, reported in by_camera.items():
        for before, head in pairwise(reported):
            if {before.boot_id, head.boot_id} & set(not_all_stored) or head.reason != "dropped.crashed":
                continue
            last = before.last_frame_id or before.frame_id
            if last is None or head.frame_id in (
                None,
                1,
                last % HIGHEST_FRAME_ID + 1,
            ):  # 1: no frame of the boot was reported
                continue
            what = f"camera {camera}: after reported frame {last}, {head.frame_id} is the first that was in flight"
            broken.append(Broken("line", "frames", what))
    return broken


def check_reports(expected: Expected) -> list[Broken]:
    """Check that the journal reports which events of each boot it lacks, or after a kill, of how many frames."""
    broken = []
    for boot_id, reported in _reported_as_not_held(expected).items():
        if reported.frames_received > reported.frames:
            what = f"events of {reported.frames_received} frames of boot {boot_id} were received that it does not hold"
            broken.append(Broken("journal", "report", f"{what}; it reports {reported.frames}"))
    return broken


def unreceived_events(expected: Expected) -> dict[str, int]:
    """Return by boot the largest number of events that no journal holds and no subscriber received, as it reports."""
    reported = {boot_id: reported.unreceived for boot_id, reported in _reported_as_not_held(expected).items()}
    return {boot_id: count for boot_id, count in reported.items() if count}


class _NotHeld(msgspec.Struct):
    """A journal's report of a boot's events that it does not hold."""

    numbers: set[int] = msgspec.field(default_factory=set)
    """Numbers in the boot's own count, of times after which events were stored again."""
    frames: int = 0
    """Other frames, which were reported before the line was killed."""
    frames_received: int = 0
    numbers_received: int = 0

    @property
    def unreceived(self) -> int:
        return len(self.numbers) - self.numbers_received + max(self.frames - self.frames_received, 0)


def _reported_as_not_held(expected: Expected) -> dict[str, _NotHeld]:
    """Return the reports by boot."""
    reported: dict[str, _NotHeld] = defaultdict(_NotHeld)
    heads = [head_of(stored.header) for records in expected.journals.values() for stored in records]
    reported_by: dict[str, str] = {}
    for head in heads:
        if head.kind == "recording" and head.first_seq is not None and head.last_seq is not None:
            reported[head.of_boot or head.boot_id].numbers |= set(range(head.first_seq, head.last_seq + 1))
        elif head.kind == "unrecorded" and head.of_boot is not None:
            reported[head.of_boot].frames += head.events or 0
            reported_by[head.of_boot] = head.boot_id
    crashed = {
        (head.boot_id, head.camera, frame_id)
        for head in heads
        if head.reason == "dropped.crashed"
        for frame_id in _frame_ids(head)
    }
    for head in map(head_of, expected.unjournalled):
        of_boot = reported[head.boot_id]
        if head.seq in of_boot.numbers:
            of_boot.numbers_received += 1
        elif head.type == "verdict":
            # A line that is killed between the event and its record reports these again as frames in flight.
            again = (reported_by.get(head.boot_id, ""), head.camera, head.frame_id) in crashed
            of_boot.frames_received += 0 if again else head.frames
    return reported


def _frame_ids(head: Head) -> Iterable[int]:
    """Return the ids of a frame, or of a run of frames."""
    if head.frame_id is None:
        return []
    return ((head.frame_id + further - 1) % HIGHEST_FRAME_ID + 1 for further in range(head.frames))
