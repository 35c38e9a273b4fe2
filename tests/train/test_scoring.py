"""Comparison with the truth: pixels, the study's mask, peaks and regions, each checked against plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from heatline.edge.geometry import Region
from heatline.train.evaluation.scoring import (
    FrameScore,
    count_pixels,
    label_defects,
    match_regions,
    peak_distance_px,
    pixel_rates,
    study_mask,
)
from tests.oracles import bilinear

CELL, TILE = 16, 12
MAPS = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.integers(0, 9).map(np.float32))
"""Small maps of whole numbers, so that no enlarged value lies on the threshold, where rounding would decide."""


def region(x: int, y: int) -> Region:
    return Region((x, y, x + 1, y + 1), [(x, y)], 1, (x, y), 1.0)


def mask(*squares: tuple[int, int, int], side: int = 400) -> NDArray[np.bool_]:
    """Return a mask that is true in squares (y, x, side)."""
    marked = np.zeros((side, side), np.bool_)
    for y, x, length in squares:
        marked[y : y + length, x : x + length] = True
    return marked


# Pixels.


@given(arrays(np.bool_, (2, 5, 7)))
def test_pixels_are_counted_one_by_one(masks: NDArray[np.bool_]) -> None:
    pairs = [(bool(found), bool(true)) for found, true in zip(masks[0].ravel(), masks[1].ravel(), strict=True)]
    kinds = (True, True), (True, False), (False, True), (False, False)
    assert count_pixels(*masks) == tuple(pairs.count(kind) for kind in kinds)


@pytest.mark.parametrize(
    ("counts", "rates"),
    [
        ((30, 10, 20, 940), (0.75, 0.6, 2 / 3, 0.5, 0.97)),
        ((0, 0, 0, 100), (0, 0, 0, 0, 1)),
        ((0, 0, 100, 0), (0, 0, 0, 0, 0)),
        ((0, 0, 0, 0), (0, 0, 0, 0, 0)),
    ],
)
def test_rates_of_counts_match_a_hand_calculation(counts: tuple[int, ...], rates: tuple[float, ...]) -> None:
    names = "precision", "recall", "f1", "jaccard", "accuracy"
    assert pixel_rates(counts) == pytest.approx(dict(zip(names, rates, strict=True)))


# The study's mask.


@given(MAPS, st.sampled_from([-3.0, 0.0, 1e-6, 2.0]))
def test_a_mask_is_that_of_the_studys_rule_pixel_by_pixel(tile_map: NDArray[np.float32], logit: float) -> None:
    expected = np.zeros((TILE, TILE), np.bool_)
    if 1 / (1 + np.exp(-logit)) > 0.5:
        ys, xs = ([(i + 0.5) * cells / TILE for i in range(TILE)] for cells in tile_map.shape)
        values = np.array([[bilinear(tile_map.astype(np.float64), y, x) for x in xs] for y in ys])
        spread = values.max() - values.min()
        expected = (values - values.min()) / spread * 255 > 127 if spread else expected
    assert (study_mask(tile_map, logit, TILE) == expected).all()


def test_pixels_above_level_127_of_255_are_in_the_mask() -> None:
    """The map has the resolution of its tile, so there are no interpolated values."""
    tile_map = np.array([[0, 126, 127], [127.5, 128, 255], [0, 0, 0]], np.float32)
    above = [[False, False, False], [True, True, True], [False, False, False]]
    assert study_mask(tile_map, 1.0, 3).tolist() == above
    assert study_mask(tile_map * 0.5 - 300, 1.0, 3).tolist() == above  # the stretch removes scale and offset


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e20])
def test_a_constant_map_has_an_empty_mask(value: float) -> None:
    """Also if rounding in the enlargement would leave differences to stretch."""
    assert not study_mask(np.full((7, 7), value, np.float32), 3.0, 224).any()


# Regions and defects.


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        ([], FrameScore(1, 0, 0)),  # nothing found: missed
        ([(100 - CELL, 110)], FrameScore(1, 1, 0)),  # exactly one cell beside it
        ([(100 - CELL - 1, 110)], FrameScore(1, 0, 1)),  # one px too far
        ([(100 - 12, 100 - 12)], FrameScore(1, 0, 1)),  # 12 px in both directions are 17 px
        ([(110, 110), (111, 111)], FrameScore(1, 1, 0)),  # two regions on one defect: one hit, none false
        ([(0, 0), (399, 399)], FrameScore(1, 0, 2)),  # peaks at the frame's corners
    ],
)
def test_a_defect_is_hit_by_a_peak_within_a_cell_of_it(peaks: list[tuple[int, int]], expected: FrameScore) -> None:
    assert match_regions([region(*peak) for peak in peaks], mask((100, 100, 20)), CELL).score == expected


def test_one_peak_hits_two_near_defects_and_a_good_frame_has_false_regions() -> None:
    two = match_regions([region(130, 110)], mask((100, 100, 20), (100, 140, 20)), CELL)
    assert two.score == FrameScore(2, 2, 0)
    assert match_regions([region(5, 5)], mask(), CELL).score == FrameScore(0, 0, 1)


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
    score = match_regions([region(*peak) for peak in peaks], truth, CELL).score
    rows, columns = np.nonzero(truth)
    far = [bool(((rows - peak[1]) ** 2 + (columns - peak[0]) ** 2).min() > CELL**2) for peak in peaks]
    assert score == FrameScore(1, int(not all(far)), sum(far))


# Maps and their peaks.


def test_the_peak_of_a_map_lies_at_the_centre_of_its_cell_and_not_in_the_padding() -> None:
    tile_map = np.zeros((14, 14), np.float32)
    tile_map[3, 10] = 1
    truth = mask((3 * 16 + 8, 10 * 16 + 8, 1), side=224)  # centre of that cell
    assert peak_distance_px(tile_map, truth) < 1.5  # the centre lies between four px
    assert peak_distance_px(tile_map, np.roll(truth, 30, axis=1)) == pytest.approx(30, abs=1.5)
    tile_map[13, 13] = 9
    assert peak_distance_px(tile_map, truth) > 100
    assert peak_distance_px(tile_map, truth, (100, 200)) < 1.5
