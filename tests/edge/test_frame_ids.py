"""Missing frames between two frame ids, against an oracle that counts id by id."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.cameras.liveness import MAX_LOST_FRAMES, FrameIds

HIGHEST = 65535


def walk(after: int, steps: int, highest: int | None) -> list[int]:
    """Return the ids after one, counted as a camera counts: 1 follows the highest, and 0 never comes."""
    ids = []
    for _ in range(steps):
        after = 1 if after == highest else after + 1
        ids.append(after)
    return ids


@pytest.mark.parametrize("highest", [HIGHEST, None])
@given(data=st.data())
def test_every_lost_frame_is_named_once_and_no_other_across_the_wrap(highest: int | None, data: st.DataObject) -> None:
    lost = st.one_of(st.integers(0, 3), st.integers(0, 1000))
    pieces = data.draw(st.lists(st.tuples(lost, st.integers(1, 5)), max_size=8), "frames lost, frames that came as one")
    top = highest or 2**63
    last = data.draw(st.one_of(st.integers(max(top - 1000, 1), top), st.integers(1, top)), "first id")
    ids = FrameIds()
    assert ids.next(last) == [], "frames before the first one are unknown"
    for lost_frames, came in pieces:
        counted = walk(last, lost_frames + came, highest)
        first_of_run, last = counted[lost_frames], counted[-1]
        gap = ids.next(first_of_run, last if came > 1 else None)
        assert gap == counted[:lost_frames]


@given(start=st.integers(1, HIGHEST), back=st.integers(0, 1000), wraps=st.booleans())
def test_an_id_that_repeats_or_runs_back_is_an_error_also_at_the_wrap(start: int, back: int, wraps: bool) -> None:
    ids = FrameIds()
    ids.next(start)
    before = (start - back - 1) % HIGHEST + 1 if wraps else start - back
    with pytest.raises(ValueError, match=f"frame id {before} came after {start}"):
        ids.next(before)


@pytest.mark.parametrize("highest", [HIGHEST, None])
def test_a_step_of_more_than_half_of_16_bits_is_an_error(highest: int | None) -> None:
    ids = FrameIds()
    ids.next(30000)
    gap = ids.next(30000 + MAX_LOST_FRAMES)
    assert gap == list(range(30001, 30000 + MAX_LOST_FRAMES))
    assert len(gap) == 32766
    with pytest.raises(ValueError, match="came after"):
        ids.next((30000 + 2 * MAX_LOST_FRAMES + 1 - 1) % HIGHEST + 1 if highest else 30000 + 2 * MAX_LOST_FRAMES + 1)


def test_after_ids_ran_back_gaps_are_counted_from_the_new_id() -> None:
    ids = FrameIds()
    ids.next(700)
    with pytest.raises(ValueError, match="came after"):
        ids.next(1)
    assert ids.next(2) == []
    assert ids.next(5) == [3, 4]


@pytest.mark.parametrize(
    ("before", "after", "gap"),
    [
        (7, 8, []),
        (7, 9, [8]),
        (65534, 65535, []),
        (65535, 1, []),  # GigE Vision skips 0, which is not a lost frame
        (65535, 2, [1]),
        (65534, 1, [65535]),
        (65533, 3, [65534, 65535, 1, 2]),
    ],
)
def test_gaps_at_the_wrap(before: int, after: int, gap: list[int]) -> None:
    ids = FrameIds()
    ids.next(before)
    assert ids.next(after) == gap
