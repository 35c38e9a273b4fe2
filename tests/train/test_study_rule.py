"""The study's map rule, held to loops over single pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tests.oracles import bilinear
from train.evaluation.study_rule import study_mask

TILE = 12
MAPS = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.integers(0, 9).map(np.float32))
"""Of whole numbers, so small that no enlarged value lies on the threshold, where rounding would decide."""
LOGITS = st.sampled_from([-3.0, 0.0, 1e-6, 2.0])


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
