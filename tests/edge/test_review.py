"""The marks of several reviewers together."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.monitor.marks import Review, combine
from heatline.edge.wire.events import Mark, ReviewEvent
from tests.edge.wire_examples import GOLDEN


def event(by: str, kind: str, picture: str = "p", verdict: str = "DEFECT", **fields: Any) -> ReviewEvent:
    example = GOLDEN["review"].event
    assert isinstance(example, ReviewEvent)
    at_xy = fields.pop("at_xy", [(1, 2)] if kind == "missed" else [])
    mark = {**{name: getattr(example.mark, name) for name in Mark.__struct_fields__}, **fields}
    mark |= {"by": by, "kind": kind, "picture": picture, "verdict": verdict, "at_xy": at_xy}
    return ReviewEvent(boot_id="b", seq=0, at_ns=0, line="line1", mark=Mark(**mark), previous_seq=0)


def review_of(*events: ReviewEvent) -> Review:
    return combine(events)["p"]


def test_the_truth_follows_from_verdict_and_mark() -> None:
    assert review_of(event("A", "right")).truth == "defective"
    assert review_of(event("A", "right", verdict="GOOD")).truth == "good"
    assert review_of(event("A", "false_alarm")).truth == "good"
    assert review_of(event("A", "missed", verdict="GOOD")).truth == "defective"


def test_a_reviewer_may_change_or_withdraw_a_mark_and_others_keep_theirs() -> None:
    events = [event("A", "right"), event("B", "right"), event("A", "false_alarm")]
    assert [(mark.by, mark.kind) for mark in review_of(*events).marks] == [("B", "right"), ("A", "false_alarm")]
    assert review_of(*events, event("A", "withdrawn")).by == ["B"]
    assert combine([event("A", "right"), event("A", "withdrawn")]) == {}


def test_reviewers_who_contradict_each_other_leave_no_truth() -> None:
    review = review_of(event("A", "right"), event("B", "false_alarm"))
    assert (review.truth, review.kind) == (None, None)


def test_a_defect_that_one_calls_right_and_another_incomplete_has_missed_defects() -> None:
    review = review_of(
        event("A", "right"), event("B", "missed", at_xy=[(3, 4), (5, 6)]), event("C", "missed", at_xy=[(5, 6)])
    )
    assert (review.truth, review.kind, review.missed_xy) == ("defective", "missed", [(3, 4), (5, 6)])


EVENTS = st.lists(
    st.builds(
        event,
        st.sampled_from(["A", "B"]),
        st.sampled_from(["right", "false_alarm", "missed", "withdrawn"]),
        st.sampled_from(["p", "q"]),
    )
)


@given(EVENTS)
def test_the_last_mark_of_each_reviewer_of_each_picture_counts(events: list[ReviewEvent]) -> None:
    last = {(one.mark.picture, one.mark.by): one.mark.kind for one in events}
    counting = {key: kind for key, kind in last.items() if kind != "withdrawn"}
    found = {(picture, mark.by): mark.kind for picture, review in combine(events).items() for mark in review.marks}
    assert found == counting
