"""Positions and pixels of tiles: tables to check by eye, then properties for all sizes."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.errors import GeometryError
from heatline.edge.geometry import RegionOfInterest, TileGrid
from heatline.edge.geometry.tiling import tile_origins
from tests.oracles import starts, tiles_of

TILE_AND_OVERLAP = st.integers(1, 600).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1)))
SMALL_TILE_AND_OVERLAP = st.integers(1, 9).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1)))
IMAGE_HW = st.tuples(st.integers(1, 24), st.integers(1, 24))
POINT = st.tuples(st.integers(-3, 26), st.integers(-3, 26))
POLYGONS = st.lists(st.lists(POINT, min_size=3, max_size=5), max_size=2)
Polygon = list[tuple[int, int]]


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (256, 256, 0, [0]),  # exactly one tile
        (512, 256, 0, [0, 256]),  # two adjacent tiles
        (512, 256, 64, [0, 192, 256]),  # last tile moved back
        (448, 256, 64, [0, 192]),  # the overlap fits exactly: nothing is moved
        (257, 256, 64, [0, 1]),  # one px too many: a second tile, nearly on the first
        (100, 256, 64, [0]),  # shorter than a tile: one tile that extends beyond the frame
        (5, 1, 0, [0, 1, 2, 3, 4]),  # tiles of one px
        (6, 3, 2, [0, 1, 2, 3]),  # the largest overlap steps px by px
        (447, 224, 2, [0, 222, 223]),  # the default tile and overlap
    ],
)
def test_tiles_start_at(length: int, tile: int, overlap: int, expected: list[int]) -> None:
    assert tile_origins(length, tile, overlap) == expected


@given(length=st.integers(1, 4000), sizes=TILE_AND_OVERLAP)
def test_tiles_start_where_the_oracle_starts_them_and_leave_no_gap(length: int, sizes: tuple[int, int]) -> None:
    tile, overlap = sizes
    origins = tile_origins(length, tile, overlap)
    assert origins == starts(length, tile, overlap)
    assert all(0 < second - first <= tile - overlap for first, second in itertools.pairwise(origins))
    assert (origins[0], origins[-1] + tile) == (0, max(length, tile)), "the outer tiles end at the border"


@given(
    hw=IMAGE_HW,
    sizes=SMALL_TILE_AND_OVERLAP,
    roi=POLYGONS,
    exclude=POLYGONS,
    channels=st.sampled_from([1, 3]),
    batch=st.integers(1, 7),
)
def test_tiles_of_a_region_of_interest_equal_the_oracles_tiles(
    hw: tuple[int, int],
    sizes: tuple[int, int],
    roi: list[Polygon],
    exclude: list[Polygon],
    channels: int,
    batch: int,
) -> None:
    area, (tile, overlap) = RegionOfInterest.from_polygons(roi, exclude), sizes
    image = np.random.default_rng(1).integers(0, 256, (*hw, channels), np.uint8)
    before, mask = image.copy(), area.mask(hw)
    expected = [
        (y, x, pixels)
        for y, x, pixels in tiles_of(image, tile, overlap)
        if any(mask[row, column] for row, column in np.ndindex(hw) if 0 <= row - y < tile and 0 <= column - x < tile)
    ]
    if not expected:
        with pytest.raises(
            GeometryError, match=f"no pixel of a frame of {hw[1]}x{hw[0]} px is in the region of interest"
        ):
            TileGrid(hw, tile, overlap, area)
        return
    grid = TileGrid(hw, tile, overlap, area)
    assert list(grid.origins_yx) == [(y, x) for y, x, _ in expected], "row by row"
    assert grid.covers_whole_frame is (len(grid) == len(grid.rows_y) * len(grid.columns_x))
    for first in range(0, len(grid), batch):
        out = np.zeros((min(batch, len(grid) - first), tile, tile, channels), np.uint8)
        grid.cut(image, out, first)
        np.testing.assert_array_equal(out, [pixels for _, _, pixels in expected[first : first + batch]])
        out[:] = 0
    np.testing.assert_array_equal(image, before)


def test_a_frame_smaller_than_a_tile_is_padded_by_repeating_its_border() -> None:
    image = np.array([[[1], [2]], [[3], [4]]], np.uint8)
    out = np.zeros((1, 4, 4, 1), np.uint8)
    TileGrid((2, 2), 4, 0).cut(image, out)
    assert out[0, :, :, 0].tolist() == [[1, 2, 2, 2], [3, 4, 4, 4], [3, 4, 4, 4], [3, 4, 4, 4]]


def test_an_impossible_grid_is_refused() -> None:
    for frame_hw, tile, overlap, words in [
        ((0, 10), 4, 0, "at least 1x1"),
        ((10, -1), 4, 0, "at least 1x1"),
        ((10, 10), 4, 4, "expected 0 to 3"),  # no step between tiles
        ((10, 10), 4, -1, "expected 0 to 3"),  # gaps between tiles
        ((10, 10), 0, 0, "does not fit"),  # tiles without px
    ]:
        with pytest.raises(GeometryError, match=words):
            TileGrid(frame_hw, tile, overlap)


def test_an_image_or_output_that_does_not_fit_the_grid_is_refused() -> None:
    for hw in ((10, 11), (11, 10), (20, 20)):
        with pytest.raises(GeometryError, match="the grid was made for"):
            TileGrid((10, 10), 4, 0).cut(np.zeros((*hw, 3), np.uint8), np.zeros((9, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="zip"):  # an output larger than the tiles would keep old pixels
        TileGrid((4, 4), 4, 0).cut(np.zeros((4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8))
