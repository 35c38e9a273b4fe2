"""Holding what was found against what is true."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edge.geometry import Region
from tests.oracles import bilinear
from train.evaluation.scoring import FrameScore, label_defects, peak_distance_px, score_frame, share_on_truth

CELL = 16


def region(x: int, y: int) -> Region:
    return Region((x, y, x + 1, y + 1), [(x, y)], 1, (x, y), 1.0)


def mask(*squares: tuple[int, int, int], side: int = 400) -> NDArray[np.bool_]:
    """True in squares given as (y, x, side)."""
    marked = np.zeros((side, side), np.bool_)
    for y, x, length in squares:
        marked[y : y + length, x : x + length] = True
    return marked


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        ([], FrameScore(1, 0, 0)),  # nothing found: missed
        ([(110, 110)], FrameScore(1, 1, 0)),  # on the defect
        ([(100 - CELL, 110)], FrameScore(1, 1, 0)),  # exactly one cell beside it
        ([(100 - CELL - 1, 110)], FrameScore(1, 0, 1)),  # one px too far
        ([(100 - 12, 100 - 12)], FrameScore(1, 0, 1)),  # 12 px in both directions are 17 px
        ([(110, 110), (111, 111)], FrameScore(1, 1, 0)),  # two regions on one defect: one hit, none false
        ([(110, 110), (300, 300)], FrameScore(1, 1, 1)),
        ([(0, 0), (399, 399)], FrameScore(1, 0, 2)),  # peaks at the frame's corners
    ],
)
def test_a_defect_is_hit_by_a_peak_within_a_cell_of_it(peaks: list[tuple[int, int]], expected: FrameScore) -> None:
    assert score_frame([region(*peak) for peak in peaks], mask((100, 100, 20)), CELL) == expected


def test_one_peak_between_two_defects_hits_both() -> None:
    assert score_frame([region(130, 110)], mask((100, 100, 20), (100, 140, 20)), CELL) == FrameScore(2, 2, 0)


def test_a_flawless_frame_has_only_false_regions() -> None:
    assert score_frame([region(5, 5)], mask(), CELL) == FrameScore(0, 0, 1)


@pytest.mark.parametrize(("gap", "defects"), [(4, 1), (CELL, 1), (CELL + 2, 2), (100, 2)])
def test_pieces_closer_than_a_cell_are_one_defect(gap: int, defects: int) -> None:
    pieces = mask((100, 100, 10), (100, 110 + gap, 10))
    labels = label_defects(pieces, CELL)
    assert labels.max() == defects
    assert ((labels > 0) == pieces).all()


@given(
    st.lists(st.tuples(st.integers(0, 399), st.integers(0, 399)), max_size=6), st.integers(0, 380), st.integers(0, 380)
)
def test_every_region_either_hits_or_is_false(peaks: list[tuple[int, int]], y: int, x: int) -> None:
    truth = mask((y, x, 20))
    score = score_frame([region(*peak) for peak in peaks], truth, CELL)
    rows, columns = np.nonzero(truth)
    far = [bool(((rows - peak[1]) ** 2 + (columns - peak[0]) ** 2).min() > CELL**2) for peak in peaks]
    assert score == FrameScore(1, int(not all(far)), sum(far))


def test_the_peak_of_a_map_lies_at_the_centre_of_its_cell() -> None:
    tile_map = np.zeros((14, 14), np.float32)
    tile_map[3, 10] = 1
    truth = np.zeros((224, 224), np.bool_)
    truth[3 * 16 + 8, 10 * 16 + 8] = True  # centre of that cell
    assert peak_distance_px(tile_map, truth) < 1.5  # the centre lies between four px
    assert peak_distance_px(tile_map, np.roll(truth, 30, axis=1)) == pytest.approx(30, abs=1.5)


def test_no_peak_is_looked_for_in_the_padding_of_a_small_frame() -> None:
    tile_map = np.zeros((14, 14), np.float32)
    tile_map[2, 2], tile_map[13, 13] = 1, 9
    truth = mask((40, 40, 1), side=224)
    assert peak_distance_px(tile_map, truth) > 200
    assert peak_distance_px(tile_map, truth, (100, 200)) < 1.5


@given(
    arrays(np.float32, (3, 4), elements=st.integers(-9, 9).map(np.float32)),
    arrays(np.bool_, (12, 12)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_the_share_on_the_truth_is_that_of_the_positive_evidence_pixel_by_pixel(
    tile_map: NDArray[np.float32], truth: NDArray[np.bool_], inside_hw: tuple[int, int]
) -> None:
    all_of_it = on_truth = 0.0
    for y in range(inside_hw[0]):
        for x in range(inside_hw[1]):
            value = max(bilinear(tile_map.astype(np.float64), (y + 0.5) * 3 / 12, (x + 0.5) * 4 / 12), 0.0)
            all_of_it += value
            on_truth += value * bool(truth[y, x])
    expected = on_truth / all_of_it if all_of_it else 0.0
    assert share_on_truth(tile_map, truth, inside_hw) == pytest.approx(expected, abs=1e-5)


def test_evidence_against_a_defect_has_no_share() -> None:
    """A map as fine as its tile, so each pixel weighs what its cell does."""
    tile_map = np.full((20, 20), -5, np.float32)
    tile_map[3, 3], tile_map[8, 8] = 3, 1
    truth = mask((0, 0, 5), side=20)
    assert share_on_truth(tile_map, truth) == 0.75
    assert share_on_truth(tile_map, truth, (6, 6)) == 1
    assert share_on_truth(np.full((20, 20), -5, np.float32), truth) == 0
