"""The gaps that a subscriber detects, compared with a record of all events."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.delivery.publisher import Count
from heatline.edge.delivery.subscriber import Gap, GapDetector
from heatline.edge.wire.events import CountedEvent, Counts
from tests.edge.wire_examples import ALARM, DEFECT, GOOD


def with_fields(event: Any, **fields: object) -> CountedEvent:
    changed: CountedEvent = msgspec.structs.replace(event, **fields)
    return changed


GOOD_OF_TOP = with_fields(GOOD.event, camera="top")
EVENTS = [
    GOOD_OF_TOP,
    with_fields(DEFECT.event, camera="top"),
    with_fields(DEFECT.event, camera="side"),
    with_fields(ALARM.event),
]


class Line:
    """Counts events as a line does: over restarts, without a journal, and with a new one."""

    def __init__(self) -> None:
        self.boots, self.journals = 1, 1
        self.journal: Count | None = Count("journal-1")
        self.newest_journal = self.journal
        self.boot = Count(None)

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    @property
    def counts(self) -> Counts:
        return Counts(
            journal_id=self.newest_journal.journal_id,
            journalled=dict(self.newest_journal.topics),
            unjournalled=dict(self.boot.topics),
        )

    def do(self, kind: str, index: int) -> CountedEvent | None:
        """Take one step; return the event that it sends, if any."""
        match kind:
            case "received" | "missed":
                return with_fields((self.journal or self.boot).next(EVENTS[index]), boot_id=self.boot_id)
            case "fails":
                self.journal = None
            case "works":
                self.journal = self.newest_journal
            case "new journal":
                self.journals += 1
                self.newest_journal = self.journal = Count(f"journal-{self.journals}")
            case "restart":
                self.boots += 1
                self.boot = Count(None)
        return None


def steps(most: int) -> st.SearchStrategy[list[tuple[str, int]]]:
    """Return a strategy for steps of the line, each with the index of an event."""
    kinds = ["received"] * 6 + ["missed"] * 4 + ["counts", "fails", "works", "new journal", "restart"]
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, len(EVENTS) - 1)), max_size=most)


@pytest.mark.parametrize("prefixes", [("",), ("verdict.side.DEFECT", "alarm")])
@given(before=steps(8), after=steps(40))
def test_gaps_cover_exactly_the_missed_events(
    prefixes: tuple[str, ...], before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    line = Line()
    for step in before:  # before the subscriber joins
        line.do(*step)
    gaps, found = GapDetector(prefixes), list[Gap]()
    found += gaps.counts(line.counts, line.boot_id)
    assert found == [], "events before the join are not a gap"
    received, missed = list[CountedEvent](), list[CountedEvent]()
    for kind, index in [*after, ("counts", 0)]:
        event = line.do(kind, index)
        if kind == "counts":
            found += gaps.counts(line.counts, line.boot_id)
        if event is None or not event.topic.startswith(prefixes):
            continue
        if kind == "missed":
            missed.append(event)
            continue
        gap = gaps.event(event)
        received.append(event)
        if gap is not None:
            found.append(gap)
    # The last events of a count that is not reported again stay unknown.
    current_counts = {line.newest_journal.journal_id, line.boot_id}
    known = [event for event in missed if (event.journal_id or event.boot_id) in current_counts]
    for event in known:
        assert sum(covers(gap, event) for gap in found) == 1, event
    assert not any(covers(gap, event) for gap in found for event in received)
    assert all(any(covers(gap, event) for event in missed) for gap in found)


def covers(gap: Gap, event: CountedEvent) -> bool:
    count = event.journal_id or event.boot_id
    same = (gap.journal_id or gap.boot_id) == count and gap.topic == event.topic
    return same and gap.after_seq < event.seq <= gap.through_seq


def numbered(seq: int, previous_seq: int, event: CountedEvent = GOOD_OF_TOP, **fields: object) -> CountedEvent:
    return with_fields(event, seq=seq, previous_seq=previous_seq, journal_id="j", **fields)


def test_without_counts_the_first_event_of_each_topic_is_no_gap() -> None:
    gaps = GapDetector([""])
    assert gaps.event(numbered(7, 5)) is None
    assert gaps.event(numbered(8, 6, ALARM.event)) is None
    assert gaps.event(numbered(12, 10)) == Gap("j", GOOD_OF_TOP.boot_id, "verdict.top.GOOD", 7, 10)


def test_events_counted_before_the_first_received_event_are_no_gap() -> None:
    gaps = GapDetector([""])
    assert gaps.event(numbered(7, 5)) is None
    counts = Counts(journal_id="j", journalled={"verdict.top.GOOD": 7, "alarm": 3}, unjournalled={"alarm": 2})
    assert gaps.counts(counts, GOOD_OF_TOP.boot_id) == []
    assert gaps.event(numbered(9, 3, ALARM.event)) is None


def test_events_counted_after_the_first_received_event_are_a_gap() -> None:
    gaps = GapDetector([""])
    assert gaps.event(numbered(7, 5)) is None
    counts = Counts(journal_id="j", journalled={"verdict.top.GOOD": 7, "alarm": 9})
    assert gaps.counts(counts, "another boot") == [Gap("j", "another boot", "alarm", 6, 9)]


def test_a_journal_unreadable_at_the_join_has_no_gaps_before_it() -> None:
    gaps = GapDetector([""])
    assert gaps.counts(Counts(unjournalled={"alarm": 1}), "boot") == []
    assert gaps.counts(Counts(journal_id="j", journalled={"alarm": 70}, unjournalled={"alarm": 1}), "boot") == []
    assert gaps.event(numbered(75, 70, ALARM.event)) is None
