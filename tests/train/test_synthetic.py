"""Synthetic defects are visible inside their mask, and the rest of the tile does not change."""

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.train.synthetic import VISIBLE, draw_defect, draw_shape, move, transplant

seeds = st.integers(0, 2**32 - 1)
sides = st.sampled_from([32, 64, 96, 224])


def tile_of(seed: int, side: int, low: int = 60, high: int = 190) -> NDArray[np.uint8]:
    """Noise around a grey level between `low` and `high`."""
    rng = np.random.default_rng(seed)
    grey = rng.uniform(low, high, 3)
    return np.clip(rng.normal(grey, 8, (side, side, 3)), 0, 255).astype(np.uint8)


def mask_of(seed: int, side: int) -> NDArray[np.bool_]:
    """A disc within the tile."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    centre, radius = rng.uniform(0.3, 0.7, 2) * side, rng.uniform(0.06, 0.2) * side
    return np.asarray((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2)


def far_from(mask: NDArray[np.bool_], px: int) -> NDArray[np.bool_]:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * px + 1, 2 * px + 1))) == 0


def change(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.int_]:
    """Change of each pixel, in the channel that changes most."""
    return np.abs(after.astype(int) - before).max(axis=2)


@given(seeds, sides)
def test_a_shape_covers_its_mask_and_fades_at_its_edge(seed: int, side: int) -> None:
    cover, mask = draw_shape(np.random.default_rng(seed), side)
    assert (cover.shape, cover.dtype, mask.shape, mask.dtype) == ((side, side), np.float32, (side, side), np.bool_)
    assert cover.min() >= 0
    assert cover.max() <= 1 + 1e-6
    assert mask.any()
    assert cover[mask].min() > 0
    assert not cover[far_from(mask, 10)].any()


@given(seeds, seeds, sides)
def test_a_defect_is_drawn_where_its_shape_is_and_nowhere_else(seed: int, picture: int, side: int) -> None:
    tile, donor = tile_of(picture, side), tile_of(picture + 1, side)
    drawn, mask = draw_defect(tile, donor, np.random.default_rng(seed))
    assert (drawn.shape, drawn.dtype) == (tile.shape, np.uint8)
    assert np.array_equal(mask, draw_shape(np.random.default_rng(seed), side)[1])
    assert not change(tile, drawn)[far_from(mask, 10)].any()
    again, _ = draw_defect(tile, donor, np.random.default_rng(seed))
    assert np.array_equal(drawn, again)


@given(seeds, seeds, st.sampled_from([(60, 190), (0, 1), (254, 255), (120, 135)]))
def test_a_defect_is_visible_on_dark_light_and_grey_tiles(seed: int, picture: int, greys: tuple[int, int]) -> None:
    tile, donor = tile_of(picture, 64, *greys), tile_of(picture + 1, 64, *greys)
    drawn, mask = draw_defect(tile, donor, np.random.default_rng(seed))
    assert np.abs(drawn.astype(int) - tile)[mask].mean() >= VISIBLE


def test_all_shapes_and_fillings_occur() -> None:
    areas = np.array([draw_shape(np.random.default_rng(seed), 64)[1].mean() for seed in range(300)])
    assert (areas < 0.01).mean() > 0.1
    assert (areas > 0.05).mean() > 0.05
    shades = []
    for seed in range(300):
        tile = tile_of(seed, 64)
        drawn, mask = draw_defect(tile, tile, np.random.default_rng(seed))
        shades.append(float(drawn[mask].mean() - tile[mask].mean()))
    assert np.mean(np.array(shades) < -5) > 0.2
    assert np.mean(np.array(shades) > 5) > 0.15


@given(seeds, seeds, sides)
def test_a_transplant_lies_in_its_moved_mask(seed: int, picture: int, side: int) -> None:
    tile, donor, mask = tile_of(picture, side), tile_of(picture + 1, side), mask_of(picture, side)
    drawn, moved = transplant(tile, donor, mask, np.random.default_rng(seed))
    assert (drawn.shape, drawn.dtype, moved.dtype) == (tile.shape, np.uint8, np.bool_)
    assert np.array_equal(moved, move(mask, np.random.default_rng(seed)))
    assert not change(tile, drawn)[far_from(moved, 10)].any()
    again, _ = transplant(tile, donor, mask, np.random.default_rng(seed))
    assert np.array_equal(drawn, again)


@given(seeds)
def test_a_transplanted_defect_keeps_its_contrast(seed: int) -> None:
    """The defect keeps either its contrast to the surroundings or its own grey level."""
    mask = mask_of(seed, 96)
    donor = np.full((96, 96, 3), 140, np.uint8)
    donor[mask] = 60
    tile = np.full((96, 96, 3), 200, np.uint8)
    drawn, moved = transplant(tile, donor, mask, np.random.default_rng(seed))
    core = cv2.erode(moved.astype(np.uint8), np.ones((5, 5))) > 0
    if core.any():
        assert min(abs(float(drawn[core].mean()) - level) for level in (200 - 80, 60)) < 4


@given(seeds)
def test_a_moved_defect_keeps_about_its_size(seed: int) -> None:
    mask = np.zeros((96, 96), np.bool_)
    mask[40:56, 44:52] = True  # in the middle, so that no shift moves it out
    moved = move(mask, np.random.default_rng(seed))
    assert 0.7**2 * mask.sum() < moved.sum() < 1.4**2 * mask.sum()


def test_a_mask_moved_out_of_the_tile_leaves_the_tile_unchanged() -> None:
    tile, donor = tile_of(0, 64), tile_of(1, 64)
    drawn, moved = transplant(tile, donor, np.zeros((64, 64), np.bool_), np.random.default_rng(0))
    assert not moved.any()
    assert np.array_equal(drawn, tile)
