"""A mark has the facts of its verdict, and what cannot be marked is refused in one sentence."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.errors import InputError
from heatline.edge.monitor.marks import mark_of
from heatline.edge.wire.events import MOST_POINTS, Mark, VerdictEvent
from tests.edge.evidences import picture

DEFECT, GOOD = picture(1, "DEFECT").event, picture(2, "GOOD").event
HEIGHT, WIDTH = DEFECT.frame_hw or (0, 0)


def test_a_mark_has_the_facts_of_its_verdict() -> None:
    mark = mark_of(DEFECT, "missed", "  Ada L. ", [(3, 4), (WIDTH - 1, HEIGHT - 1)])
    assert (mark.picture, mark.camera, mark.verdict) == (DEFECT.picture, DEFECT.camera, "DEFECT")
    assert (mark.captured_at_ns, mark.bundle) == (DEFECT.times.captured_at_ns, DEFECT.bundle.digest)
    assert (mark.kind, mark.at_xy, mark.by) == ("missed", [(3, 4), (WIDTH - 1, HEIGHT - 1)], "Ada L.")
    assert mark.id != mark_of(DEFECT, "missed", "Ada L.", [(3, 4)]).id


@pytest.mark.parametrize(
    ("event", "kind", "by", "at_xy", "sentence"),
    [
        (picture(3, "NO_VERDICT").event, "right", "Ada", [], "has no verdict, so there is nothing to mark"),
        (msgspec.structs.replace(GOOD, picture=None), "right", "Ada", [], "has no verdict"),
        (GOOD, "false_alarm", "Ada", [], "is GOOD, which is not a false alarm; mark it as right or missed"),
        (GOOD, "missed", "Ada", [], "no position of the missed defect came; name at least one"),
        (GOOD, "missed", "Ada", [(0, 0)] * (MOST_POINTS + 1), "Expected `array` of length <= 64"),
        (GOOD, "right", "Ada", [(0, 0)], "Expected positions for `missed` only"),
        (GOOD, "missed", "Ada", [(WIDTH, 0)], f"({WIDTH}, 0) lies outside the frame, which is {WIDTH} px wide"),
        (GOOD, "missed", "Ada", [(0, HEIGHT)], f"(0, {HEIGHT}) lies outside the frame"),
        (GOOD, "missed", "Ada", [(-1, 0)], "(-1, 0) lies outside the frame"),
        (GOOD, "right", " ", [], "the name of the reviewer is empty; say who marks the picture"),
        (GOOD, "right", "A" * 65, [], "Expected `str` of length <= 64 - at `$.by`"),
        (GOOD, "right", "A\x1b[2J", [], "Expected printable characters"),
        (msgspec.structs.replace(GOOD, picture="../secret"), "right", "Ada", [], "'../secret' cannot be marked"),
    ],
)
def test_what_cannot_be_marked_is_refused(event: VerdictEvent, kind: Any, by: str, at_xy: Any, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        mark_of(event, kind, by, at_xy)
    assert sentence in str(refused.value)


@given(
    st.sampled_from([DEFECT, GOOD]),
    st.sampled_from(["right", "false_alarm", "missed", "withdrawn"]),
    st.text(max_size=70),
    st.lists(st.tuples(st.integers(-2, WIDTH + 1), st.integers(-2, HEIGHT + 1)), max_size=3),
)
def test_whatever_comes_gives_a_mark_that_the_line_accepts_or_a_refusal(
    event: VerdictEvent, kind: Any, by: str, at_xy: list[tuple[int, int]]
) -> None:
    try:
        mark = mark_of(event, kind, by, at_xy)
    except InputError:
        return
    assert msgspec.json.decode(msgspec.json.encode(mark), type=Mark) == mark
