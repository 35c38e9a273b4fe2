"""What a listener knows of what it missed, held against somebody who saw all of it."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.delivery.gaps import COUNTS_KEPT, TOPICS_KEPT, Gap, Gaps
from edge.delivery.messages import AlarmEvent, CountedEvent, Counts, VerdictEvent
from edge.delivery.numbering import Count
from tests.edge.wire_examples import ALARM, DEFECT, GOOD

assert isinstance(GOOD.event, VerdictEvent)
assert isinstance(DEFECT.event, VerdictEvent)
assert isinstance(ALARM.event, AlarmEvent)
GOOD_OF_TOP = msgspec.structs.replace(GOOD.event, camera="top")
DEFECT_OF_TOP = msgspec.structs.replace(DEFECT.event, camera="top")
DEFECT_OF_SIDE = msgspec.structs.replace(DEFECT.event, camera="side")
EVENTS: list[CountedEvent] = [GOOD_OF_TOP, DEFECT_OF_TOP, DEFECT_OF_SIDE, ALARM.event]


class Line:
    """Counts as a line does, through restarts, without a journal and with a new one."""

    def __init__(self) -> None:
        self.boots, self.journals = 1, 1
        self.journal: Count | None = Count("journal-1")
        self.kept = self.journal
        self.boot = Count(None)
        self.told: list[CountedEvent] = []

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    @property
    def counts(self) -> Counts:
        return Counts(
            journal_id=self.kept.journal_id, journalled=dict(self.kept.topics), unjournalled=dict(self.boot.topics)
        )

    def tell(self, event: CountedEvent) -> CountedEvent:
        count = self.journal or self.boot
        self.told.append(msgspec.structs.replace(count.next(event), boot_id=self.boot_id))
        return self.told[-1]

    def disk_fails(self) -> None:
        self.journal = None

    def disk_works(self) -> None:
        self.journal = self.kept

    def begin_another_journal(self) -> None:
        self.journals += 1
        self.kept = self.journal = Count(f"journal-{self.journals}")

    def start_again(self) -> None:
        self.boots += 1
        self.boot = Count(None)


def step() -> st.SearchStrategy[tuple[str, int]]:
    """What the line does, and which event it is of."""
    kinds = ["heard"] * 6 + ["missed"] * 4 + ["counts", "fails", "works", "another", "again"]
    return st.tuples(st.sampled_from(kinds), st.integers(0, len(EVENTS) - 1))


@pytest.mark.parametrize("prefixes", [("",), ("verdict.top.",), ("verdict.side.DEFECT", "alarm")])
@settings(max_examples=300, deadline=None)
@given(before=st.lists(step(), max_size=8), after=st.lists(step(), max_size=40))
def test_a_listener_knows_of_each_event_that_it_missed_and_of_no_other(
    prefixes: tuple[str, ...], before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    line = Line()
    for kind, which in before:  # nobody listens yet
        happen(line, kind, which)
    gaps, found = Gaps(prefixes), list[Gap]()
    found += gaps.counts(line.counts, line.boot_id)
    assert found == [], "what was before concerns nobody who joins"
    heard, missed = list[CountedEvent](), list[CountedEvent]()
    for kind, which in [*after, ("counts", 0)]:
        event = happen(line, kind, which)
        if kind == "counts":
            found += gaps.counts(line.counts, line.boot_id)
        if event is None or not event.topic.startswith(prefixes):
            continue
        if kind == "missed":
            missed.append(event)
            continue
        new, gap = gaps.event(event)
        assert new
        assert gaps.event(event) == (False, None), "the second time it is known"
        heard.append(event)
        if gap is not None:
            found.append(gap)
    # Where a count ended before anything more was said of it, its last events are known to nobody.
    going_on = {line.kept.journal_id, line.boot_id}
    known = [event for event in missed if (event.journal_id or event.boot_id) in going_on]
    for event in known:
        assert sum(covers(gap, event) for gap in found) == 1, event
    assert not any(covers(gap, event) for gap in found for event in heard)
    assert all(any(covers(gap, event) for event in missed) for gap in found)


def happen(line: Line, kind: str, which: int) -> CountedEvent | None:
    match kind:
        case "heard" | "missed":
            return line.tell(EVENTS[which])
        case "fails":
            line.disk_fails()
        case "works":
            line.disk_works()
        case "another":
            line.begin_another_journal()
        case "again":
            line.start_again()
    return None


def covers(gap: Gap, event: CountedEvent) -> bool:
    count = event.journal_id or event.boot_id
    same = (gap.journal_id or gap.boot_id) == count and gap.topic == event.topic
    return same and gap.after_seq < event.seq <= gap.through_seq


def test_who_hears_no_counts_takes_the_first_event_of_each_topic_as_it_is() -> None:
    gaps = Gaps([""])
    assert gaps.event(numbered(GOOD_OF_TOP, 7, 5)) == (True, None)
    assert gaps.event(numbered(DEFECT_OF_TOP, 8, 6)) == (True, None)
    new, gap = gaps.event(numbered(GOOD_OF_TOP, 12, 10))
    assert new
    assert gap == Gap("j", GOOD_OF_TOP.boot_id, "verdict.top.GOOD", 7, 10)


def test_a_line_that_counts_no_topics_has_no_gaps() -> None:
    gaps = Gaps([""])
    for seq in (3, 9, 9):
        assert gaps.event(msgspec.structs.replace(GOOD_OF_TOP, seq=seq, previous_seq=None)) == (True, None)


def test_a_journal_that_could_not_be_read_when_we_joined_has_no_gaps_before_its_first_event() -> None:
    gaps = Gaps([""])
    assert gaps.counts(Counts(unjournalled={"alarm": 1}), "boot") == []
    assert gaps.counts(Counts(journal_id="j", journalled={"alarm": 70}, unjournalled={"alarm": 1}), "boot") == []
    assert gaps.event(numbered(ALARM.event, 75, 70)) == (True, None)


def test_what_is_kept_of_old_counts_is_bounded() -> None:
    gaps = Gaps([""])
    for number in range(3 * COUNTS_KEPT):
        gaps.counts(Counts(unjournalled={"alarm": 1}), f"boot-{number}")
    assert len(gaps._heard) == COUNTS_KEPT


def numbered(event: CountedEvent, seq: int, previous_seq: int) -> CountedEvent:
    return msgspec.structs.replace(event, seq=seq, previous_seq=previous_seq, journal_id="j")


def test_a_line_of_endlessly_many_topics_is_not_remembered_for_ever() -> None:
    gaps = Gaps([""])
    gaps.counts(Counts(journal_id="j", journalled={}), "boot")
    for number in range(3 * TOPICS_KEPT):
        event = msgspec.structs.replace(GOOD_OF_TOP, camera=f"top{number}", journal_id="j", seq=2, previous_seq=1)
        known = number < TOPICS_KEPT
        assert gaps.event(event) == (True, Gap("j", event.boot_id, event.topic, 0, 1) if known else None)
    topics = {f"of{number}": 9 for number in range(TOPICS_KEPT)}
    assert all(gap.went_back for gap in gaps.counts(Counts(journal_id="j", journalled=topics), "boot"))
    assert sum(len(count.topics) for count in gaps._heard.values()) == TOPICS_KEPT
    first = msgspec.structs.replace(GOOD_OF_TOP, camera="top0", journal_id="j", seq=4, previous_seq=3)
    assert gaps.event(first)[1] == Gap("j", first.boot_id, first.topic, 0, 3), "those that are known are as ever"


def test_a_line_that_starts_over_and_over_makes_nobody_forget_its_journal() -> None:
    gaps = Gaps([""])
    for boot in range(3 * COUNTS_KEPT):
        topics = {"verdict.top.GOOD": 1_000_000, "alarm": 5}
        assert gaps.counts(Counts(journal_id="j", journalled=topics, unjournalled={}), f"boot-{boot}") == []


def test_a_journal_that_is_an_older_one_than_it_was_is_told_and_its_numbers_are_taken_anew() -> None:
    gaps = Gaps(["verdict."])
    gaps.counts(Counts(journal_id="j", journalled={"verdict.top.GOOD": 5000, "alarm": 4999}), "boot-1")
    found = gaps.counts(Counts(journal_id="j", journalled={"verdict.top.GOOD": 100}), "boot-2")
    assert found == [Gap("j", "boot-2", "verdict.top.GOOD", 100, 5000, went_back=True)]
    assert gaps.event(numbered(GOOD_OF_TOP, 101, 100)) == (True, None)
