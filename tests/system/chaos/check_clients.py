"""Checks that every client received its promised events, compared with the expected ones. Pure functions."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from tests.system.chaos.expected import Broken, Expected, Promise, runs_of
from tests.system.chaos.records import Began, Got, Item, Missed, StatusReceived, head_of

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


def check_bare(who: str, lines: Iterable[str], expected: Expected) -> Live:
    """Check that the client of docs/protocol.md reported each stored verdict that it missed, from the first of its
    topic to the last, by its output, which does not name the count of a number. The client has one life."""
    found = Live()
    got: dict[str, list[int]] = defaultdict(list)
    missed: dict[str, set[int]] = defaultdict(set)
    held_by_journals = {
        (head.topic, head.seq, str(head.frame_id))
        for (count, _), header in expected.headers.items()
        if count in expected.journals and (head := head_of(header)).type == "verdict"
    }
    for line in lines:
        match line.split():
            case ["missed:", topic, "after", after, "up", "to", through]:
                found.gaps += 1
                missed[topic] |= set(range(int(after) + 1, int(through) + 1))
            case [seq, camera, frame_id, "GOOD" | "DEFECT" | "NO_VERDICT" as verdict, *_]:
                topic = f"verdict.{camera}.{verdict}"
                found.events += 1
                if (topic, int(seq), frame_id) in held_by_journals:
                    got[topic].append(int(seq))
    for topic, numbers in got.items():
        held = [(journal_id, seq) for journal_id in expected.journals for seq in expected.topics[journal_id][topic]]
        came = set(numbers)
        gone = [key for key in held if min(came) < key[1] < max(came) and key[1] not in came]
        found.missed += len(gone)
        if silent := [key for key in gone if key[1] not in missed[topic]]:
            what = f"{len(silent)} events of {topic} did not come, and no gap was reported: {runs_of(silent)}"
            found.broken.append(Broken(who, "gap", what))
    return found
