"""Where tiles lie: a table to check by eye, then properties for all sizes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import GeometryError
from edge.geometry import TileGrid
from edge.geometry.tiling import tile_origins
from tests.oracles import starts, tiles_of

AXIS = st.integers(1, 4000)
TILE_AND_OVERLAP = st.integers(1, 600).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1)))
IMAGE_HW = st.tuples(st.integers(1, 24), st.integers(1, 24))
SMALL_TILE_AND_OVERLAP = st.integers(1, 9).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1)))


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (256, 256, 0, [0]),  # exactly one tile
        (512, 256, 0, [0, 256]),  # two tiles side by side
        (512, 256, 64, [0, 192, 256]),  # last tile moved back
        (448, 256, 64, [0, 192]),  # the overlap fits exactly: nothing is moved
        (257, 256, 64, [0, 1]),  # one px too many: a second tile, nearly on the first
        (100, 256, 64, [0]),  # shorter than a tile: one tile that sticks out
        (1, 1, 0, [0]),  # the smallest of all
        (5, 1, 0, [0, 1, 2, 3, 4]),  # tiles of one px
        (6, 3, 2, [0, 1, 2, 3]),  # the largest overlap steps px by px
        (446, 224, 2, [0, 222]),  # the default tile and overlap, two tiles
        (447, 224, 2, [0, 222, 223]),  # and one px more
    ],
)
def test_tiles_start_at(length: int, tile: int, overlap: int, expected: list[int]) -> None:
    assert tile_origins(length, tile, overlap) == expected


@settings(deadline=None, max_examples=300)
@given(length=AXIS, sizes=TILE_AND_OVERLAP)
def test_every_pixel_of_an_axis_is_covered_and_neighbours_share_the_overlap(
    length: int, sizes: tuple[int, int]
) -> None:
    tile, overlap = sizes
    origins = tile_origins(length, tile, overlap)
    covered = np.zeros(length, bool)
    for start in origins:
        covered[start : start + tile] = True
    assert covered.all()
    assert all(second - first <= tile - overlap for first, second in itertools.pairwise(origins))
    assert origins == sorted(set(origins)), "a tile lies twice in one place"
    assert origins[-1] + tile == max(length, tile), "the last tile ends at the border"


@settings(deadline=None, max_examples=200)
@given(length=AXIS, sizes=TILE_AND_OVERLAP)
def test_tiles_start_where_the_slow_walk_puts_them(length: int, sizes: tuple[int, int]) -> None:
    tile, overlap = sizes
    assert tile_origins(length, tile, overlap) == starts(length, tile, overlap)


@settings(deadline=None, max_examples=40)
@given(height=AXIS, width=AXIS)
def test_a_grid_of_any_frame_size_numbers_its_tiles_row_by_row(height: int, width: int) -> None:
    grid = TileGrid((height, width))
    assert grid.origins_yx == tuple((y, x) for y in starts(height, 224, 2) for x in starts(width, 224, 2))
    assert len(grid) == len(grid.origins_yx) == len(grid.rows_y) * len(grid.columns_x)


@settings(deadline=None, max_examples=80)
@given(hw=IMAGE_HW, sizes=SMALL_TILE_AND_OVERLAP, channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_tiles_hold_what_the_slow_cut_holds(
    hw: tuple[int, int], sizes: tuple[int, int], channels: int, seed: int
) -> None:
    tile, overlap = sizes
    image = np.random.default_rng(seed).integers(0, 256, (*hw, channels), np.uint8)
    grid = TileGrid(hw, tile, overlap)
    out = np.zeros((len(grid), tile, tile, channels), np.uint8)
    grid.cut(image, out)
    slow = tiles_of(image, tile, overlap)
    assert list(grid.origins_yx) == [(y, x) for y, x, _ in slow]
    for came, (_, _, expected) in zip(out, slow, strict=True):
        np.testing.assert_array_equal(came, expected)


@settings(deadline=None, max_examples=60)
@given(hw=IMAGE_HW, sizes=SMALL_TILE_AND_OVERLAP, batch=st.integers(1, 7))
def test_cutting_in_batches_gives_the_tiles_of_one_cut(hw: tuple[int, int], sizes: tuple[int, int], batch: int) -> None:
    tile, overlap = sizes
    image = np.random.default_rng(1).integers(0, 256, (*hw, 3), np.uint8)
    grid = TileGrid(hw, tile, overlap)
    whole = np.zeros((len(grid), tile, tile, 3), np.uint8)
    grid.cut(image, whole)
    for first in range(0, len(grid), batch):
        part = np.zeros((min(batch, len(grid) - first), tile, tile, 3), np.uint8)
        grid.cut(image, part, first)
        np.testing.assert_array_equal(part, whole[first : first + batch])


def test_a_frame_smaller_than_a_tile_is_padded_by_repeating_its_border() -> None:
    image = np.array([[[1], [2]], [[3], [4]]], np.uint8)
    out = np.zeros((1, 4, 4, 1), np.uint8)
    TileGrid((2, 2), 4, 0).cut(image, out)
    assert out[0, :, :, 0].tolist() == [[1, 2, 2, 2], [3, 4, 4, 4], [3, 4, 4, 4], [3, 4, 4, 4]]


def test_cutting_leaves_the_frame_as_it_is() -> None:
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    before = image.copy()
    out = np.zeros((1, 9, 9, 3), np.uint8)
    TileGrid((5, 7), 9, 0).cut(image, out)
    out[:] = 0
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("frame_hw", "tile", "overlap", "words"),
    [
        ((0, 10), 4, 0, "at least 1x1"),  # no rows
        ((10, 0), 4, 0, "at least 1x1"),  # no columns
        ((-1, 10), 4, 0, "at least 1x1"),  # negative
        ((10, 10), 4, 4, "expected 0 to 3"),  # no step between tiles
        ((10, 10), 4, 5, "expected 0 to 3"),  # steps backwards
        ((10, 10), 4, -1, "expected 0 to 3"),  # gaps between tiles
        ((10, 10), 0, 0, "does not fit"),  # tiles without px
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(frame_hw: tuple[int, int], tile: int, overlap: int, words: str) -> None:
    with pytest.raises(GeometryError, match=words):
        TileGrid(frame_hw, tile, overlap)


@pytest.mark.parametrize("hw", [(10, 11), (11, 10), (20, 20)])
def test_an_image_of_another_size_is_refused(hw: tuple[int, int]) -> None:
    with pytest.raises(GeometryError, match="the grid was made for"):
        TileGrid((10, 10), 4, 0).cut(np.zeros((*hw, 3), np.uint8), np.zeros((9, 4, 4, 3), np.uint8))


def test_room_for_more_tiles_than_there_are_is_an_error_and_not_old_pixels() -> None:
    with pytest.raises(ValueError, match="zip"):
        TileGrid((4, 4), 4, 0).cut(np.zeros((4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8))
