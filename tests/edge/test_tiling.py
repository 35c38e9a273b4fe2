"""Where tiles lie: a table to check by eye, then properties for all sizes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import GeometryError
from edge.geometry import AreaOfInterest, TileGrid
from edge.geometry.tiling import tile_origins
from tests.oracles import starts, tiles_of

AXIS = st.integers(1, 4000)
TILE_AND_OVERLAP = st.integers(1, 600).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1)))
IMAGE_HW = st.tuples(st.integers(1, 24), st.integers(1, 24))
POINT = st.tuples(st.integers(-3, 26), st.integers(-3, 26))
POLYGONS = st.lists(st.lists(POINT, min_size=3, max_size=5), max_size=2)
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


def rectangle(left: int, top: int, right: int, bottom: int) -> list[tuple[int, int]]:
    """From the first to the last px."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


@pytest.mark.parametrize(
    ("look_at", "look_away", "expected"),
    [
        # Three by two tiles of 100 px that share 10: columns begin at 0, 90 and 160, rows at 0 and 60.
        ([rectangle(0, 0, 259, 159)], [], [(0, 0), (0, 90), (0, 160), (60, 0), (60, 90), (60, 160)]),
        ([rectangle(0, 0, 0, 0)], [], [(0, 0)]),
        ([rectangle(89, 0, 89, 0)], [], [(0, 0)]),  # the last px that no other tile shows
        ([rectangle(90, 59, 90, 59)], [], [(0, 0), (0, 90)]),  # shared by two
        ([rectangle(95, 70, 96, 71)], [], [(0, 0), (0, 90), (60, 0), (60, 90)]),  # shared by four
        ([rectangle(259, 159, 300, 300)], [], [(60, 160)]),  # the rest of it lies outside the frame
        ([rectangle(0, 0, 5, 5), rectangle(250, 150, 255, 155)], [], [(0, 0), (60, 160)]),
        ([], [rectangle(0, 0, 189, 159)], [(0, 160), (60, 160)]),
        ([], [rectangle(0, 0, 258, 159)], [(0, 160), (60, 160)]),  # a column of pixels is left
        ([rectangle(0, 0, 259, 10)], [rectangle(0, 0, 99, 20)], [(0, 90), (0, 160)]),
    ],
)
def test_tiles_that_show_any_of_the_area_are_looked_at(
    look_at: list[list[tuple[int, int]]],
    look_away: list[list[tuple[int, int]]],
    expected: list[tuple[int, int]],
) -> None:
    grid = TileGrid((160, 260), 100, 10, AreaOfInterest.of(look_at, look_away))
    assert list(grid.origins_yx) == expected
    assert len(grid) == len(expected)
    assert grid.looks_everywhere is (len(expected) == 6)


@settings(deadline=None, max_examples=150)
@given(hw=IMAGE_HW, sizes=SMALL_TILE_AND_OVERLAP, look_at=POLYGONS, look_away=POLYGONS)
def test_a_tile_is_looked_at_if_and_only_if_one_of_its_pixels_belongs_to_the_area(
    hw: tuple[int, int],
    sizes: tuple[int, int],
    look_at: list[list[tuple[int, int]]],
    look_away: list[list[tuple[int, int]]],
) -> None:
    area, (tile, overlap) = AreaOfInterest.of(look_at, look_away), sizes
    pixels = [(int(y), int(x)) for y, x in np.argwhere(area.mask(hw))]
    if not pixels:
        with pytest.raises(GeometryError, match=f"no pixel of a frame of {hw[1]}x{hw[0]} px is to be looked at"):
            TileGrid(hw, tile, overlap, area)
        return
    assert list(TileGrid(hw, tile, overlap, area).origins_yx) == [
        (top, left)
        for top in starts(hw[0], tile, overlap)
        for left in starts(hw[1], tile, overlap)
        if any(top <= y < top + tile and left <= x < left + tile for y, x in pixels)
    ]


@settings(deadline=None, max_examples=60)
@given(hw=IMAGE_HW, sizes=SMALL_TILE_AND_OVERLAP, point=st.tuples(*[st.integers(0, 23)] * 2), batch=st.integers(1, 7))
def test_tiles_are_cut_with_an_area_as_without_it(
    hw: tuple[int, int], sizes: tuple[int, int], point: tuple[int, int], batch: int
) -> None:
    tile, overlap = sizes
    image = np.random.default_rng(2).integers(0, 256, (*hw, 3), np.uint8)
    slow = {(y, x): pixels for y, x, pixels in tiles_of(image, tile, overlap)}
    corner = point[0] % hw[1], point[1] % hw[0]
    grid = TileGrid(hw, tile, overlap, AreaOfInterest.of([[corner, (hw[1] // 2, hw[0] // 2), (hw[1] - 1, 0)]]))
    for first in range(0, len(grid), batch):
        out = np.zeros((min(batch, len(grid) - first), tile, tile, 3), np.uint8)
        grid.cut(image, out, first)
        for came, origin in zip(out, grid.origins_yx[first : first + batch], strict=True):
            np.testing.assert_array_equal(came, slow[origin])


def test_an_area_in_all_tiles_gives_the_tiles_of_the_whole_frame() -> None:
    whole, area = TileGrid((500, 700)), AreaOfInterest.of([], [rectangle(300, 300, 310, 310)])
    assert TileGrid((500, 700), area=area).origins_yx == whole.origins_yx
    assert TileGrid((500, 700), area=area).looks_everywhere
    assert whole.looks_everywhere


@pytest.mark.parametrize(
    ("look_at", "look_away"),
    [
        ([rectangle(700, 0, 900, 499)], []),  # beside a frame of 700x500 px
        ([rectangle(0, 500, 699, 900)], []),  # below it
        ([], [rectangle(0, 0, 699, 499)]),  # nothing is left
        ([rectangle(10, 10, 20, 20)], [rectangle(0, 0, 30, 30)]),
    ],
)
def test_an_area_that_shows_nothing_of_the_frame_is_refused(
    look_at: list[list[tuple[int, int]]], look_away: list[list[tuple[int, int]]]
) -> None:
    with pytest.raises(GeometryError, match="no pixel of a frame of 700x500 px is to be looked at"):
        TileGrid((500, 700), area=AreaOfInterest.of(look_at, look_away))


def test_grids_of_the_same_area_are_one_key() -> None:
    grids = [TileGrid((500, 700), area=AreaOfInterest.of([rectangle(0, 0, 9, 9)])) for _ in range(2)]
    assert len({*grids, TileGrid((500, 700))}) == 2
