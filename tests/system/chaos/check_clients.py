"""Whether everybody got what was promised: what each client got, held against what there was. Pure functions."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from tests.system.chaos.expected import Broken, Expected, Promise, runs_of
from tests.system.chaos.records import Began, Got, Heard, Item, Missed, head_of

_Topic = tuple[str, str]
"""Of one count."""


class Durable(msgspec.Struct, kw_only=True):
    """What a durable consumer got."""

    wanted: int
    """Events of its topics in the journal."""
    events: int = 0
    """That came, each counted once."""
    duplicates: int = 0
    """That came again, with equal keys and bytes."""
    longest_lag_s: float | None = None
    """The greatest age of an event when it came; None: the client does not record when that was."""
    broken: list[Broken] = []


def check_durable(who: str, topics: Collection[str], headers: Iterable[bytes], expected: Expected) -> Durable:
    """Whether all that the journal holds came, as it is held, in order; again only what had come before."""
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
            add_broken("unknown", f"what is no event came: {header[:80]!r}")
            continue
        held, place = expected.headers.get((head.count, head.seq)), places.get((head.count, head.seq))
        if held is None or head.journal_id is None:
            add_broken("unknown", f"{head.key} came, and the journal has it not")
        elif header != held:
            add_broken("bytes", f"{head.key} came other than it is in the journal")
        elif place is None:
            add_broken("unasked", f"{head.key} came, of {head.topic}")
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
    """What a live subscriber got."""

    events: int = 0
    gaps: int = 0
    """That it told of."""
    missed: int = 0
    """Events in them, as far as they are known."""
    beyond: int = 0
    """Events that no journal holds, of a boot that died while it had no contact, and it does not listen to what tells
    that there were such."""
    broken: list[Broken] = []


def check_live(who: str, topics: Collection[str], items: Iterable[Item], expected: Expected) -> Live:
    """Whether a live subscriber knows of each event of its topics that did not come, from its first contact to its
    last: whatever it was sent, or a status told it of."""
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
    """By count: what is not later than this may have been before the first contact."""
    knows_counts = False
    """A status has told which counts there are: others begin after the first contact, and all of them is wanted."""
    known: dict[_Topic, int] = {}
    """How far it was told of."""
    covered: dict[_Topic, set[int]] = defaultdict(set)
    """What came, or is known to be missing."""
    youngest: dict[str, int] = {}
    """By count."""
    boots: set[str] = set()
    for item in life:
        match item:
            case Got():
                header = bytes(item.header)
                head = head_of(header)
                key, held = (head.count, head.topic), expected.headers.get((head.count, head.seq))
                if held is None:
                    add_broken("unknown", f"{head.key} came, and nobody else knows it")
                elif held != header:
                    add_broken("bytes", f"{head.key} came other than others know it")
                if not head.topic.startswith(topics):
                    add_broken("unasked", f"{head.key} came, of {head.topic}")
                if head.seq in covered[key]:
                    add_broken("order", f"{head.key} came again, or after it had been given up")
                elif head.seq < youngest.get(head.count, 0):
                    add_broken("order", f"{head.key} of {head.topic} came after {youngest[head.count]}")
                boots.add(head.boot_id)
                if not knows_counts:
                    first.setdefault(head.count, head.seq - 1)
                covered[key].add(head.seq)
                youngest[head.count] = max(youngest.get(head.count, 0), head.seq)
                known[key] = max(known.get(key, 0), head.seq)
                found.events += 1
            case Heard():
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
                _take_a_gap(who, topics, item, expected, covered, found)
                if item.topic is not None:
                    known[item.count, item.topic] = max(known.get((item.count, item.topic), 0), item.through_seq)
    for (count, topic), last in known.items():
        silent = [
            (count, seq)
            for seq in expected.topics[count][topic]
            if topic.startswith(topics) and first.get(count, 0) < seq <= last and seq not in covered[count, topic]
        ]
        if silent:
            add_broken("gap", f"{len(silent)} events of {topic} did not come, and it does not know: {runs_of(silent)}")
    for boot_id in _between(expected.boots, boots):
        count = f"boot {boot_id}"
        beyond = [
            (count, seq)
            for topic, numbers in expected.topics[count].items()
            for seq in numbers
            if topic.startswith(topics) and seq > max(known.get((count, topic), 0), first.get(count, 0))
        ]
        told = any(seq in covered[journal_id, "journal"] for journal_id, seq in expected.told_of[boot_id])
        if "journal".startswith(topics) and beyond and not told:
            what = f"{len(beyond)} events of a boot that died did not come, and it was not told that there were any"
            add_broken("gap", f"{what}: {runs_of(beyond)}")
        found.beyond += len(beyond)


def _between(all_boots: Sequence[str], heard: Collection[str]) -> Sequence[str]:
    """From the first boot that was heard to the one before the last."""
    places = [place for place, boot_id in enumerate(all_boots) if boot_id in heard]
    return all_boots[places[0] : places[-1]] if places else []


def _counts(heard: Heard) -> dict[str, dict[str, int]]:
    """By whose count: each topic's last number."""
    told = {f"boot {heard.boot_id}": heard.counts.unjournalled}
    return told if heard.counts.journal_id is None else {**told, heard.counts.journal_id: heard.counts.journalled}


def _take_a_gap(
    who: str,
    topics: tuple[str, ...],
    gap: Missed,
    expected: Expected,
    covered: Mapping[_Topic, set[int]],
    found: Live,
) -> None:
    """A gap is one: at least one event in it exists and had not come."""
    found.gaps += 1
    missed = 0
    for topic, numbers in list(expected.topics[gap.count].items()):
        if topic == gap.topic or (gap.topic is None and topic.startswith(topics)):
            inside = {seq for seq in numbers if gap.after_seq < seq <= gap.through_seq} - covered[gap.count, topic]
            covered[gap.count, topic].update(inside)
            missed += len(inside)
    found.missed += missed
    if not missed and gap.journal_id is not None:  # of others, there may have been some that nobody heard
        gone = f"{gap.topic or 'events'} after {gap.journal_id}-{gap.after_seq} up to {gap.through_seq}"
        what = f"it says that it misses {gone}, and all of that came"
        found.broken.append(Broken(who, "gap", what))


def check_bare(who: str, said: Iterable[str], expected: Expected) -> Live:
    """Whether the client of docs/protocol.md knows of each verdict that the journal holds and that it did not get, from
    the first of its topic to the last; by what it prints, which does not say of which count a number is. One life."""
    found = Live()
    got: dict[str, list[int]] = defaultdict(list)
    missed: dict[str, set[int]] = defaultdict(set)
    held_by_journals = {
        (head.topic, head.seq, str(head.frame_id))
        for (count, _), header in expected.headers.items()
        if count in expected.journals and (head := head_of(header)).type == "verdict"
    }
    for line in said:
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
            what = f"{len(silent)} events of {topic} did not come, and it does not know: {runs_of(silent)}"
            found.broken.append(Broken(who, "gap", what))
    return found
