"""The smoothed heatmap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.geometry import Stitcher, TileGrid
from tests.oracles import smoothed


def maps_of(stitcher: Stitcher, seed: int = 0) -> np.ndarray:
    shape = (len(stitcher.grid), *stitcher.map_hw)
    return np.random.default_rng(seed).normal(0, 10, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("frame_hw", "deviation"),
    [
        ((40, 56), 6.0),  # several tiles
        ((16, 16), 5.0),  # one tile
        ((9, 30), 3.0),  # smaller than a tile along one axis, the last cell sticks out
        ((40, 40), 100.0),  # wider than the frame: the mean of all
    ],
)
def test_smoothing_is_the_gaussian_mean_of_the_plain_heatmap(frame_hw: tuple[int, int], deviation: float) -> None:
    grid = TileGrid(frame_hw, 16, 2)
    plain, smooth = Stitcher(grid, (4, 4)), Stitcher(grid, (4, 4), smoothing_px=deviation)
    maps = maps_of(plain)
    centres = plain.centres_y.tolist(), plain.centres_x.tolist()
    np.testing.assert_allclose(
        smooth.stitch(maps), smoothed(plain.stitch(maps).astype(np.float64), centres, deviation), atol=1e-4
    )


@settings(deadline=None, max_examples=60)
@given(st.tuples(st.integers(1, 200), st.integers(1, 200)), st.floats(0.5, 300), st.floats(-100, 100, width=32))
def test_a_constant_map_stays_itself_and_extremes_are_never_exceeded(
    frame_hw: tuple[int, int], deviation: float, value: float
) -> None:
    stitcher = Stitcher(TileGrid(frame_hw, 64, 2), (4, 4), smoothing_px=deviation)
    shape = (len(stitcher.grid), 4, 4)
    np.testing.assert_allclose(stitcher.stitch(np.full(shape, value, np.float32)), value, rtol=1e-5, atol=1e-5)
    maps = maps_of(stitcher)
    heatmap = stitcher.stitch(maps)
    assert maps.min() - 1e-3 <= heatmap.min()
    assert heatmap.max() <= maps.max() + 1e-3


def test_cells_that_no_present_tile_covers_stay_nan() -> None:
    grid = TileGrid((16, 44), 16, 2)
    present = np.array([True, False, False])
    heatmap = Stitcher(grid, (4, 4), smoothing_px=8).stitch(np.ones((3, 4, 4), np.float32), present)
    assert np.isfinite(heatmap[:, :4]).all()
    np.testing.assert_allclose(heatmap[:, :4], 1, rtol=1e-5)
    assert np.isnan(heatmap[:, 4:]).all()


def test_a_flat_spot_with_a_higher_rim_peaks_in_its_middle() -> None:
    """What smoothing is there for."""
    tile_map = np.full((1, 14, 14), -8, np.float32)
    tile_map[0, 4:9, 4:9] = 90
    tile_map[0, 4, 4] = 100  # the rim
    grid = TileGrid((224, 224))
    middle = 6.5 * 16
    distances = []
    for smoothing_px in (0.0, 24.0):
        stitcher = Stitcher(grid, (14, 14), smoothing_px=smoothing_px)
        heatmap = stitcher.stitch(tile_map)
        row, column = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
        distances.append(float(np.hypot(stitcher.centres_y[row] - middle, stitcher.centres_x[column] - middle)))
    assert distances[0] > 32
    assert distances[1] < 8
