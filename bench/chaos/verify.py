"""Whether the promises of delivery were kept: what everybody got, held against the journal. Pure functions."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Literal

import msgspec

from bench.chaos.records import Began, Got, Head, Heard, Item, Missed, head_of

Promise = Literal["journal", "lost", "order", "bytes", "unknown", "unasked", "gap", "frames", "told"]
HIGHEST_FRAME_ID = 65535
"""Of the pattern camera; 1 follows."""


class Broken(msgspec.Struct, frozen=True):
    """A promise that was not kept.

    `journal`: the journal is at odds with itself. `lost`: an event that it holds did not come. `order`: one came before
    another that it should have come after. `bytes`: one came other than it is held. `unknown`: one came that nothing
    holds. `unasked`: one came of a topic that was not asked for. `gap`: one did not come, and its listener does not
    know; or it says so of one that came. `frames`: a frame was not told, or twice. `told`: the journal does not say how
    many events it does not hold.
    """

    who: str
    promise: Promise
    what: str


class Kept(msgspec.Struct, frozen=True):
    """An event as the journal holds it."""

    seq: int
    topic: str
    header: bytes


_Topic = tuple[str, str]
"""Of one count."""


class Truth:
    """All events that there were.

    Args:
        journals: each journal's, in its order; journals in the order in which they were begun.
        heard: headers of all events that anybody heard live. Those that no journal holds are known from them alone.
        boots: of the line, in their order.
    """

    def __init__(
        self, journals: Mapping[str, Sequence[Kept]], heard: Iterable[bytes], boots: Sequence[str] = ()
    ) -> None:
        self.journals, self.boots = journals, boots
        self.heard = list(heard)
        self.headers: dict[tuple[str, int], bytes] = {}
        """By whose count, and the number in it."""
        self.topics: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        """By whose count and topic: numbers, ascending."""
        self.told_of: dict[str, list[tuple[str, int]]] = defaultdict(list)
        """By boot: events that say that there are some of it that no journal holds."""
        self.broken: list[Broken] = []
        """Events that were heard in two ways, or that say that a journal holds them."""
        for journal_id, records in journals.items():
            for kept in records:
                self._add(journal_id, kept.seq, kept.topic, kept.header)
                if kept.topic == "journal" and (of_boot := head_of(kept.header).of_boot) is not None:
                    self.told_of[of_boot].append((journal_id, kept.seq))
        for header in self.heard:
            self._hear(header)
        for topics in self.topics.values():
            for numbers in topics.values():
                numbers.sort()

    @property
    def unjournalled(self) -> list[bytes]:
        """Headers of the events that no journal holds, as far as anybody heard them."""
        return [header for (count, _), header in self.headers.items() if count not in self.journals]

    def up_to(self, through: Mapping[str, int]) -> "Truth":
        """The same, of each journal only what it counted up to some number."""
        return Truth(
            {
                journal_id: [kept for kept in records if kept.seq <= through.get(journal_id, 0)]
                for journal_id, records in self.journals.items()
            },
            [],
        )

    def wanted(self, topics: Collection[str]) -> list[tuple[str, int]]:
        """What a durable consumer of these topics must get, in order."""
        return [
            (journal_id, kept.seq)
            for journal_id, records in self.journals.items()
            for kept in records
            if kept.topic.startswith(tuple(topics))
        ]

    def _hear(self, header: bytes) -> None:
        head = head_of(header)
        held = self.headers.get((head.count, head.seq))
        if held is None and head.journal_id is not None:
            self.broken.append(Broken("journal", "unknown", f"{_key(head)} was heard live, and the journal has it not"))
        elif held is None:
            self._add(head.count, head.seq, head.topic, header)
        elif held != header:
            self.broken.append(Broken("live", "bytes", f"{_key(head)} was heard in two ways"))

    def _add(self, count: str, seq: int, topic: str, header: bytes) -> None:
        self.headers[count, seq] = header
        self.topics[count][topic].append(seq)


def check_journal(truth: Truth) -> list[Broken]:
    """Whether each journal counts without a gap, and holds what it says it holds."""
    broken = []

    def say(journal_id: str, seq: int, what: str) -> None:
        broken.append(Broken("journal", "journal", f"{journal_id}-{seq} {what}"))

    for journal_id, records in truth.journals.items():
        last: dict[str, int] = {}
        for before, kept in zip([None, *records], records, strict=False):
            head = head_of(kept.header)
            if before is not None and kept.seq != before.seq + 1:
                say(journal_id, kept.seq, f"follows {before.seq}")
            if (head.journal_id, head.seq, head.topic) != (journal_id, kept.seq, kept.topic):
                say(journal_id, kept.seq, f"is {_key(head)} of {head.topic}, kept under {kept.topic}")
            previous = last.get(head.topic, 0)
            if records[0].seq == 1 and head.previous_seq != previous:
                say(journal_id, kept.seq, f"says that {head.previous_seq} came before it, not {previous}")
            last[head.topic] = kept.seq
    return broken


class Durable(msgspec.Struct, kw_only=True):
    """What a durable consumer got."""

    events: int = 0
    """Different ones."""
    duplicates: int = 0
    """That came again, with equal keys and bytes."""
    broken: list[Broken] = []


def check_durable(who: str, topics: Collection[str], headers: Iterable[bytes], truth: Truth) -> Durable:
    """Whether all that the journal holds came, as it is held, in order; again only what had come before."""
    wanted = truth.wanted(topics)
    places = {key: place for place, key in enumerate(wanted)}
    came: set[int] = set()
    skipped: set[int] = set()
    found, reached = Durable(), -1

    def say(promise: Promise, what: str) -> None:
        found.broken.append(Broken(who, promise, what))

    for header in headers:
        try:
            head = head_of(header)
        except msgspec.MsgspecError:
            say("unknown", f"what is no event came: {header[:80]!r}")
            continue
        held, place = truth.headers.get((head.count, head.seq)), places.get((head.count, head.seq))
        if held is None or head.journal_id is None:
            say("unknown", f"{_key(head)} came, and the journal has it not")
        elif header != held:
            say("bytes", f"{_key(head)} came other than it is in the journal")
        elif place is None:
            say("unasked", f"{_key(head)} came, of {head.topic}")
        else:
            if place in skipped:
                say("order", f"{_key(head)} came after {'-'.join(map(str, wanted[reached]))}")
                skipped.remove(place)
            skipped |= set(range(reached + 1, place))
            found.duplicates += place in came
            came.add(place)
            reached = max(reached, place)
    found.events = len(came)
    if missing := [wanted[place] for place in range(len(wanted)) if place not in came]:
        say("lost", f"{len(missing)} of {len(wanted)} events did not come: {_in_words(missing)}")
    return found


class Live(msgspec.Struct, kw_only=True):
    """What a live subscriber got."""

    events: int = 0
    gaps: int = 0
    """That it told of."""
    missed: int = 0
    """Events in them, as far as they are known."""
    late: int = 0
    """Events that came after younger ones of other topics: a gap had been closed with them."""
    beyond: int = 0
    """Events that no journal holds, of a boot that died while it had no contact, and it does not listen to what tells
    that there were such."""
    broken: list[Broken] = []


def check_live(who: str, topics: Collection[str], items: Iterable[Item], truth: Truth) -> Live:
    """Whether a live subscriber knows of each event of its topics that did not come, from its first contact to its
    last: whatever it was sent, or a status told it of."""
    found = Live()
    for life in _lives(items):
        _check_life(who, tuple(topics), life, truth, found)
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


def _check_life(who: str, topics: tuple[str, ...], life: Sequence[Item], truth: Truth, found: Live) -> None:
    def say(promise: Promise, what: str) -> None:
        found.broken.append(Broken(who, promise, what))

    first: dict[str, int] = {}
    """By count: what is not later than this may have been before the first contact."""
    knows_counts = False
    """A status has told which counts there are: others begin after the first contact, and all of them is wanted."""
    known: dict[_Topic, int] = {}
    """How far it was told of."""
    covered: dict[_Topic, set[int]] = defaultdict(set)
    """What came, or is known to be missing."""
    youngest: dict[_Topic, int] = {}
    youngest_of_all: dict[str, int] = {}
    boots: set[str] = set()
    for item in life:
        match item:
            case Got():
                header = bytes(item.header)
                head = head_of(header)
                key, held = (head.count, head.topic), truth.headers.get((head.count, head.seq))
                if held is None:
                    say("unknown", f"{_key(head)} came, and nobody else knows it")
                elif held != header:
                    say("bytes", f"{_key(head)} came other than others know it")
                if not head.topic.startswith(topics):
                    say("unasked", f"{_key(head)} came, of {head.topic}")
                if head.seq in covered[key]:
                    say("order", f"{_key(head)} came again, or after it had been given up")
                elif head.seq < youngest.get(key, 0):
                    say("order", f"{_key(head)} of {head.topic} came after {youngest[key]}")
                boots.add(head.boot_id)
                if not knows_counts:
                    first.setdefault(head.count, head.seq - 1)
                covered[key].add(head.seq)
                youngest[key] = max(youngest.get(key, 0), head.seq)
                known[key] = max(known.get(key, 0), head.seq)
                found.events += 1
                found.late += head.seq < youngest_of_all.get(head.count, 0)
                youngest_of_all[head.count] = max(youngest_of_all.get(head.count, 0), head.seq)
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
                _take_a_gap(who, topics, item, truth, covered, found)
                if item.topic is not None:
                    known[item.count, item.topic] = max(known.get((item.count, item.topic), 0), item.through_seq)
    for (count, topic), last in known.items():
        silent = [
            (count, seq)
            for seq in truth.topics[count][topic]
            if topic.startswith(topics) and first.get(count, 0) < seq <= last and seq not in covered[count, topic]
        ]
        if silent:
            say("gap", f"{len(silent)} events of {topic} did not come, and it does not know: {_in_words(silent)}")
    for boot_id in _between(truth.boots, boots):
        count = f"boot {boot_id}"
        beyond = [
            (count, seq)
            for topic, numbers in truth.topics[count].items()
            for seq in numbers
            if topic.startswith(topics) and seq > max(known.get((count, topic), 0), first.get(count, 0))
        ]
        told = any(seq in covered[journal_id, "journal"] for journal_id, seq in truth.told_of[boot_id])
        if "journal".startswith(topics) and beyond and not told:
            what = f"{len(beyond)} events of a boot that died did not come, and it was not told that there were any"
            say("gap", f"{what}: {_in_words(beyond)}")
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
    truth: Truth,
    covered: Mapping[_Topic, set[int]],
    found: Live,
) -> None:
    """A gap is one: at least one event in it exists and had not come."""
    found.gaps += 1
    missed = 0
    for topic, numbers in list(truth.topics[gap.count].items()):
        if topic == gap.topic or (gap.topic is None and topic.startswith(topics)):
            inside = {seq for seq in numbers if gap.after_seq < seq <= gap.through_seq} - covered[gap.count, topic]
            covered[gap.count, topic].update(inside)
            missed += len(inside)
    found.missed += missed
    if not missed and gap.journal_id is not None:  # of others, there may have been some that nobody heard
        gone = f"{gap.topic or 'events'} after {gap.journal_id}-{gap.after_seq} up to {gap.through_seq}"
        what = f"it says that it misses {gone}, and all of that came"
        found.broken.append(Broken(who, "gap", what))


def check_bare(who: str, said: Iterable[str], truth: Truth) -> Live:
    """Whether the client of docs/protocol.md knows of each verdict that the journal holds and that it did not get, from
    the first of its topic to the last; by what it prints. One life of it."""
    found = Live()
    got: dict[str, list[int]] = defaultdict(list)
    missed: dict[str, set[int]] = defaultdict(set)
    frame_ids = {
        (head.topic, head.seq, str(head.frame_id), count in truth.journals)
        for count, head in ((count, head_of(header)) for (count, _), header in truth.headers.items())
        if head.type == "verdict"
    }
    for line in said:
        match line.split():
            case ["missed:", topic, "after", after, "up", "to", through]:
                found.gaps += 1
                missed[topic] |= set(range(int(after) + 1, int(through) + 1))
            case [seq, camera, frame_id, "GOOD" | "DEFECT" | "NO_VERDICT" as verdict, *_]:
                topic = f"verdict.{camera}.{verdict}"
                found.events += 1
                if (topic, int(seq), frame_id, True) in frame_ids:
                    got[topic].append(int(seq))
                elif (topic, int(seq), frame_id, False) not in frame_ids:
                    found.broken.append(Broken(who, "unknown", f"{seq} of {topic} came, and nobody else knows it"))
    for topic, numbers in got.items():
        if numbers != sorted(set(numbers)):
            found.broken.append(Broken(who, "order", f"events of {topic} came twice, or late"))
        held = [(journal_id, seq) for journal_id in truth.journals for seq in truth.topics[journal_id][topic]]
        came = set(numbers)
        gone = [key for key in held if numbers[0] < key[1] < numbers[-1] and key[1] not in came]
        found.missed += len(gone)
        if silent := [key for key in gone if key[1] not in missed[topic]]:
            what = f"{len(silent)} events of {topic} did not come, and it does not know: {_in_words(silent)}"
            found.broken.append(Broken(who, "gap", what))
    return found


def check_frames(truth: Truth, unheard: Mapping[str, int]) -> list[Broken]:
    """Whether the line told of every frame once: per boot and camera, numbers go on from 1 without a gap; and what was
    in flight at a kill is what follows the last frame that was told before it.

    Args:
        unheard: by boot, how many events there may be that no journal holds and nobody heard.
    """
    broken = []
    heads = [head_of(kept.header) for records in truth.journals.values() for kept in records]
    unjournalled = [head for head in map(head_of, truth.unjournalled) if head.type == "verdict"]
    verdicts = [head for head in heads if head.type == "verdict"]
    in_order = sorted([*verdicts, *unjournalled], key=lambda head: (head.boot_id, head.camera or "", head.frame_number))
    for (boot_id, camera), told in groupby(in_order, key=lambda head: (head.boot_id, head.camera)):
        left, number = unheard.get(boot_id, 0), 0
        for head in told:
            if head.frame_number != number + 1:
                left -= 1
                if head.frame_number <= number or left < 0:
                    what = f"boot {boot_id}, camera {camera}: frame number {head.frame_number} follows {number}"
                    broken.append(Broken("line", "frames", what))
            number = head.frame_number + head.frames - 1
    not_all_kept = {head.boot_id for head in unjournalled} | {boot_id for boot_id, count in unheard.items() if count}
    return broken + _check_twice(verdicts) + _check_twice(unjournalled) + _check_crashes(verdicts, not_all_kept)


def _check_twice(verdicts: Iterable[Head]) -> list[Broken]:
    """No frame is told by two events, of one boot or of two. Only one that went out live alone may be told again as
    one that was in flight: killed meanwhile, a line cannot know."""
    broken = []
    seen: dict[tuple[str | None, int | None, int], Head] = {}
    for head in verdicts:
        captured_ns = head.times.get("captured_at_ns")
        if not captured_ns or head.frame_id is None:
            continue  # nobody knows any more when, or which frame it was
        before = seen.setdefault((head.camera, head.frame_id, captured_ns), head)
        if before is not head:
            what = f"camera {head.camera}: frame {head.frame_id} is told by {_key(before)} and by {_key(head)}"
            broken.append(Broken("line", "frames", what))
    return broken


def _check_crashes(verdicts: Sequence[Head], not_all_kept: Collection[str]) -> list[Broken]:
    """In the journal's order, the frame ids of a camera go on from a boot's frames to those in flight at its end."""
    broken = []
    by_camera: dict[str | None, list[Head]] = defaultdict(list)
    for head in verdicts:
        by_camera[head.camera].append(head)
    for camera, told in by_camera.items():
        for before, head in pairwise(told):
            if {before.boot_id, head.boot_id} & set(not_all_kept) or head.reason != "dropped.crashed":
                continue
            last = before.last_frame_id or before.frame_id
            if last is None or head.frame_id in (None, 1, last % HIGHEST_FRAME_ID + 1):  # 1: nothing of a boot was told
                continue
            what = f"camera {camera}: after frame {last} was told, {head.frame_id} is the first that was in flight"
            broken.append(Broken("line", "frames", what))
    return broken


def check_told(truth: Truth) -> list[Broken]:
    """Whether the journal says of each boot which events it does not hold, or after a kill, of how many frames."""
    broken = []
    for boot_id, told in _told_as_not_held(truth).items():
        if told.frames_heard > told.frames:
            what = f"events of {told.frames_heard} frames of boot {boot_id} were heard that it does not hold"
            broken.append(Broken("journal", "told", f"{what}; it says {told.frames}"))
    return broken


def unheard_events(truth: Truth) -> dict[str, int]:
    """By boot: at most how many events there may be that no journal holds and nobody heard, as the journal tells."""
    told = {boot_id: told.unheard for boot_id, told in _told_as_not_held(truth).items()}
    return {boot_id: count for boot_id, count in told.items() if count}


class _NotHeld(msgspec.Struct):
    """What a journal says of a boot's events that it does not hold."""

    numbers: set[int] = msgspec.field(default_factory=set)
    """In the boot's own count: of times after which events were kept again."""
    frames: int = 0
    """Beside those: told of before it was killed."""
    frames_heard: int = 0
    numbers_heard: int = 0

    @property
    def unheard(self) -> int:
        return len(self.numbers) - self.numbers_heard + max(self.frames - self.frames_heard, 0)


def _told_as_not_held(truth: Truth) -> dict[str, _NotHeld]:
    """By boot."""
    told: dict[str, _NotHeld] = defaultdict(_NotHeld)
    heads = [head_of(kept.header) for records in truth.journals.values() for kept in records]
    told_by: dict[str, str] = {}
    for head in heads:
        if head.what == "recording" and head.first_seq is not None and head.last_seq is not None:
            told[head.of_boot or head.boot_id].numbers |= set(range(head.first_seq, head.last_seq + 1))
        elif head.what == "unrecorded" and head.of_boot is not None:
            told[head.of_boot].frames += head.events or 0
            told_by[head.of_boot] = head.boot_id
    crashed = {
        (head.boot_id, head.camera, frame_id)
        for head in heads
        if head.reason == "dropped.crashed"
        for frame_id in _frame_ids(head)
    }
    for head in map(head_of, truth.unjournalled):
        of_boot = told[head.boot_id]
        if head.seq in of_boot.numbers:
            of_boot.numbers_heard += 1
        elif head.type == "verdict":
            # Killed between telling and noting that it had told, it tells of these again, as of frames in flight.
            again = (told_by.get(head.boot_id, ""), head.camera, head.frame_id) in crashed
            of_boot.frames_heard += 0 if again else head.frames
    return told


def _frame_ids(head: Head) -> Iterable[int]:
    """Of a frame, or of a run of them."""
    if head.frame_id is None:
        return []
    return ((head.frame_id + further - 1) % HIGHEST_FRAME_ID + 1 for further in range(head.frames))


def _key(head: Head) -> str:
    return f"{head.count}-{head.seq}"


def _in_words(keys: Sequence[tuple[str, int]]) -> str:
    """The first runs of numbers, by their counts."""
    runs: list[list[tuple[str, int]]] = []
    for key in keys:
        if runs and runs[-1][-1] == (key[0], key[1] - 1):
            runs[-1].append(key)
        else:
            runs.append([key])
    said = [f"{run[0][0]}-{run[0][1]}" + (f" to {run[-1][1]}" if len(run) > 1 else "") for run in runs[:3]]
    return ", ".join(said) + (f" and {len(runs) - 3} more runs" if len(runs) > 3 else "")
