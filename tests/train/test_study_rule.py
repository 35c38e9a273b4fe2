"""The study's map rule, held to loops over single pixels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tests.oracles import bilinear
from train.study_rule import PixelCounts, count_pixels, study_figures, study_mask

TILE = 12
MAPS = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.integers(0, 9).map(np.float32))
"""Of whole numbers, so small that no enlarged value lies on the threshold, where rounding would decide."""
LOGITS = st.sampled_from([-3.0, 0.0, 1e-6, 2.0])
COUNTS = st.builds(PixelCounts, *[st.integers(0, 10**12)] * 4)


@st.composite
def tiles(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Maps, logits and true masks of a few tiles."""
    count = draw(st.integers(1, 4))
    maps = draw(arrays(np.float32, (count, 3, 3), elements=st.integers(0, 9).map(np.float32)))
    masks = draw(arrays(np.bool_, (count, TILE, TILE)))
    return maps, np.array(draw(st.lists(LOGITS, min_size=count, max_size=count)), np.float32), masks


def mask_by_loops(tile_map: NDArray[np.float32], logit: float, tile_px: int) -> NDArray[np.bool_]:
    mask = np.zeros((tile_px, tile_px), np.bool_)
    if 1 / (1 + np.exp(-logit)) <= 0.5:
        return mask
    grid = tile_map.astype(np.float64)
    centres_y, centres_x = ([(i + 0.5) * cells / tile_px for i in range(tile_px)] for cells in grid.shape)
    values = [[bilinear(grid, y, x) for x in centres_x] for y in centres_y]
    low, high = min(map(min, values)), max(map(max, values))
    for y in range(tile_px):
        for x in range(tile_px):
            mask[y, x] = high > low and (values[y][x] - low) / (high - low) * 255 > 127
    return mask


def counts_by_loops(
    maps: NDArray[np.float32], logits: NDArray[np.float32], masks: NDArray[np.bool_], inside_hw: tuple[int, int]
) -> PixelCounts:
    hit = false = missed = rest = 0
    for tile_map, logit, mask in zip(maps, logits, masks, strict=True):
        found = mask_by_loops(tile_map, float(logit), TILE)
        for y in range(inside_hw[0]):
            for x in range(inside_hw[1]):
                hit += bool(found[y, x] and mask[y, x])
                false += bool(found[y, x] and not mask[y, x])
                missed += bool(not found[y, x] and mask[y, x])
                rest += bool(not found[y, x] and not mask[y, x])
    return PixelCounts(hit, false, missed, rest)


def figures(pixels: PixelCounts) -> Any:
    return study_figures(pixels, np.array([True]), np.array([1.0]))


@given(MAPS, LOGITS)
def test_a_mask_is_that_of_the_rule_pixel_by_pixel(tile_map: NDArray[np.float32], logit: float) -> None:
    assert (study_mask(tile_map, logit, TILE) == mask_by_loops(tile_map, logit, TILE)).all()


def test_the_level_is_127_of_255_and_is_itself_not_above_it() -> None:
    """A map as fine as its tile, so nothing lies between its values."""
    tile_map = np.array([[0, 126, 127], [127.5, 128, 255], [0, 0, 0]], np.float32)
    above = [[False, False, False], [True, True, True], [False, False, False]]
    assert study_mask(tile_map, 1.0, 3).tolist() == above
    assert study_mask(tile_map * 0.5 - 300, 1.0, 3).tolist() == above  # stretched, whatever its unit


def test_a_tile_of_probability_one_half_or_less_has_no_mask() -> None:
    tile_map = np.eye(3, dtype=np.float32)
    for logit in (-5.0, -1e-6, 0.0):
        assert not study_mask(tile_map, logit, TILE).any()
    assert study_mask(tile_map, 1e-6, TILE).any()


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e20])
def test_a_map_that_is_the_same_everywhere_has_no_mask(value: float) -> None:
    """Also where rounding in the enlargement would leave differences to stretch."""
    assert not study_mask(np.full((7, 7), value, np.float32), 3.0, 224).any()


@given(tiles(), st.integers(1, TILE), st.integers(1, TILE))
def test_pixels_are_counted_one_by_one_within_the_frame(
    some: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]], height: int, width: int
) -> None:
    counted = count_pixels(*some, (height, width))
    assert counted == counts_by_loops(*some, (height, width))
    pixels = (counted.true_positive, counted.false_positive, counted.false_negative, counted.true_negative)
    assert sum(pixels) == len(some[0]) * height * width


@given(tiles(), st.data())
def test_neither_the_order_of_tiles_nor_their_frames_change_what_is_pooled(
    some: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]], data: st.DataObject
) -> None:
    together = count_pixels(*some, (TILE, TILE))
    order = data.draw(st.permutations(range(len(some[0]))))
    assert count_pixels(*(column[order] for column in some), (TILE, TILE)) == together
    one_by_one = [count_pixels(*(column[[tile]] for column in some), (TILE, TILE)) for tile in order]
    assert sum(one_by_one, PixelCounts()) == together


@given(COUNTS.filter(lambda counts: counts.true_positive > 0))
def test_f1_and_jaccard_agree_with_precision_and_recall(counts: PixelCounts) -> None:
    found = figures(counts)
    assert found.f1 == pytest.approx(2 * found.precision * found.recall / (found.precision + found.recall))
    assert found.jaccard == pytest.approx(found.f1 / (2 - found.f1))
    assert 0 < found.jaccard <= found.f1 <= 1
    assert (found.true_positive_px, found.false_positive_px) == (counts.true_positive, counts.false_positive)
    assert (found.false_negative_px, found.true_negative_px) == (counts.false_negative, counts.true_negative)


def test_figures_of_counts_by_hand() -> None:
    found = figures(PixelCounts(true_positive=30, false_positive=10, false_negative=20, true_negative=940))
    assert (found.precision, found.recall, found.accuracy) == (0.75, 0.6, 0.97)
    assert (found.f1, found.jaccard) == (pytest.approx(2 / 3), 0.5)


def test_where_nothing_was_found_or_nothing_is_true_ratios_are_zero() -> None:
    nothing = figures(PixelCounts(true_negative=100))
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.jaccard, nothing.accuracy) == (0, 0, 0, 0, 1)
    missed = figures(PixelCounts(false_negative=100))
    assert (missed.precision, missed.recall, missed.f1, missed.jaccard, missed.accuracy) == (0, 0, 0, 0, 0)


def test_pointing_counts_defective_tiles_and_the_gate_takes_those_that_were_called_good() -> None:
    found = study_figures(PixelCounts(), np.array([True, True, True, False]), np.array([2.0, 0.0, -1.0, 2.0]))
    assert (found.pointing, found.pointing_gated_at_half) == (0.75, 0.25)
