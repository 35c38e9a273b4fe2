"""From maps to one heatmap: held to the slow oracle, and to what every stitcher must keep."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import GeometryError
from edge.geometry import AreaOfInterest, Stitcher, TileGrid
from tests.oracles import smoothed, stitched

# Tiles, overlaps, maps and cells that need not divide each other.
TILE_AND_OVERLAP = st.integers(4, 24).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1)))
POINT = st.tuples(st.integers(0, 59), st.integers(0, 59))
MAP_HW = st.tuples(st.integers(1, 6), st.integers(1, 6))


def random_maps(stitcher: Stitcher, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 5, (len(stitcher.grid), *stitcher.map_hw)).astype(np.float32)


def slow(stitcher: Stitcher, maps: NDArray[np.float32]) -> NDArray[np.float64]:
    grid = stitcher.grid
    return stitched(list(grid.origins_yx), maps.astype(np.float64), grid.tile_px, grid.frame_hw, stitcher.cell_px)


@pytest.mark.parametrize(
    ("frame_hw", "tile", "overlap", "map_hw", "cell"),
    [
        ((32, 32), 16, 2, (4, 4), 4),  # cells divide tiles
        ((33, 47), 16, 3, (4, 4), 4),  # odd sizes: the last cells stick out
        ((20, 50), 16, 5, (3, 5), 4),  # maps that are not square
        ((40, 40), 16, 15, (7, 7), 4),  # the largest overlap: many tiles over each cell
        ((64, 64), 16, 1, (1, 1), 4),  # one map cell per tile
        ((9, 11), 16, 2, (4, 4), 4),  # smaller than a tile, both ways
        ((9, 40), 16, 2, (4, 4), 4),  # smaller than a tile, one way
        ((1, 1), 16, 2, (4, 4), 4),  # one px
        ((40, 40), 16, 4, (4, 4), 1),  # a heatmap cell per px
        ((40, 40), 16, 4, (4, 4), 7),  # cells that divide nothing
        ((101, 150), 16, 3, (3, 5), 1),  # so many cells that they are mixed in bands, the last of them narrower
    ],
)
def test_the_heatmap_is_the_slow_one(
    frame_hw: tuple[int, int], tile: int, overlap: int, map_hw: tuple[int, int], cell: int
) -> None:
    stitcher = Stitcher(TileGrid(frame_hw, tile, overlap), map_hw, cell)
    maps = random_maps(stitcher)
    np.testing.assert_allclose(stitcher.stitch(maps), slow(stitcher, maps), atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    hw=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    sizes=TILE_AND_OVERLAP.filter(lambda sizes: sizes[1] > 0),  # at 0 the oracle knows no tile at a seam
    map_hw=MAP_HW,
    cell=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_the_heatmap_is_the_slow_one_for_any_grid(
    hw: tuple[int, int], sizes: tuple[int, int], map_hw: tuple[int, int], cell: int, seed: int
) -> None:
    stitcher = Stitcher(TileGrid(hw, *sizes), map_hw, cell)
    maps = random_maps(stitcher, seed)
    np.testing.assert_allclose(stitcher.stitch(maps), slow(stitcher, maps), atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(height=st.integers(1, 4000), width=st.integers(1, 4000), overlap=st.integers(0, 223), value=st.floats(-50, 50))
def test_a_constant_map_stitches_to_itself_for_any_frame_size(
    height: int, width: int, overlap: int, value: float
) -> None:
    # The two axes separate: long frames one row high keep this quick.
    for hw in ((height, 1), (1, width)):
        stitcher = Stitcher(TileGrid(hw, overlap_px=overlap), (7, 7), 16)
        maps = np.full((len(stitcher.grid), 7, 7), value, np.float32)
        np.testing.assert_allclose(stitcher.stitch(maps), np.float32(value), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    hw=st.tuples(st.integers(1, 60), st.integers(1, 60)), sizes=TILE_AND_OVERLAP, map_hw=MAP_HW, cell=st.integers(1, 12)
)
def test_a_constant_map_stitches_to_itself_for_any_grid(
    hw: tuple[int, int], sizes: tuple[int, int], map_hw: tuple[int, int], cell: int
) -> None:
    stitcher = Stitcher(TileGrid(hw, *sizes), map_hw, cell)
    heatmap = stitcher.stitch(np.ones((len(stitcher.grid), *map_hw), np.float32))
    np.testing.assert_allclose(heatmap, 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("tile", "cell"),
    [
        (224, 64),  # 224 = 32 + 3 * 64: a cell's centre lies exactly where two tiles meet
        (226, 4),
        (15, 2),
        (3, 6),
    ],
)
def test_a_cell_centre_on_the_seam_of_tiles_without_overlap_is_covered(tile: int, cell: int) -> None:
    stitcher = Stitcher(TileGrid((2 * tile, 2 * tile), tile, 0), (2, 2), cell)
    assert tile in stitcher.centres_y, "the case is not the one it claims to be"
    np.testing.assert_allclose(stitcher.stitch(np.full((4, 2, 2), 3, np.float32)), 3, rtol=1e-6)


def test_no_heatmap_value_lies_outside_what_the_maps_say() -> None:
    stitcher = Stitcher(TileGrid((500, 700)), (14, 14))
    maps = random_maps(stitcher)
    heatmap = stitcher.stitch(maps)
    assert maps.min() - 1e-4 <= heatmap.min() < heatmap.max() <= maps.max() + 1e-4


def axes_of(stitcher: Stitcher) -> list[tuple[NDArray[np.float64], tuple[int, ...]]]:
    return [(stitcher.centres_y, stitcher.grid.rows_y), (stitcher.centres_x, stitcher.grid.columns_x)]


def between_map_cells(
    centres: NDArray[np.float64], starts: tuple[int, ...], tile: int, half_cell: float
) -> NDArray[np.bool_]:
    offset = centres[:, None] - np.array(starts)
    seen = (offset > 0) & (offset < tile)
    between: NDArray[np.bool_] = (~seen | ((offset >= half_cell) & (offset <= tile - half_cell))).all(axis=1)
    return between


def test_a_linear_ramp_is_reproduced_in_the_interior() -> None:
    """Half-pixel correct: a map sampled from a ramp over the frame gives back that ramp, also across seams."""
    tile, cells, overlap = 224, 14, 32
    grid = TileGrid((500, 700), tile, overlap)
    stitcher = Stitcher(grid, (cells, cells))
    centres = (np.arange(cells) + 0.5) * tile / cells
    maps = np.stack([np.add.outer(2.0 * (y + centres), 3.0 * (x + centres)) for y, x in grid.origins_yx]).astype(
        np.float32
    )
    heatmap = stitcher.stitch(maps)
    ramp = np.add.outer(2.0 * stitcher.centres_y, 3.0 * stitcher.centres_x)
    # Only cells that lie between the centres of map cells in all tiles that see them: beyond, maps are held constant.
    sampled = np.outer(*(between_map_cells(*axis, tile, tile / cells / 2) for axis in axes_of(stitcher)))
    assert sampled.mean() > 0.2
    np.testing.assert_allclose(heatmap[sampled], ramp[sampled], rtol=1e-4)


@pytest.mark.parametrize(
    ("frame_hw", "cell", "expected"),
    [
        ((224, 224), 4, (56, 56)),  # divides
        ((225, 223), 4, (57, 56)),  # rounded up
        ((1, 1), 4, (1, 1)),  # less than a cell
        ((500, 700), 16, (32, 44)),
    ],
)
def test_the_heatmap_has_a_cell_for_every_so_many_pixels(
    frame_hw: tuple[int, int], cell: int, expected: tuple[int, int]
) -> None:
    stitcher = Stitcher(TileGrid(frame_hw), (7, 7), cell)
    assert stitcher.heatmap_hw == expected
    assert stitcher.stitch(random_maps(stitcher)).shape == expected
    assert stitcher.stitch(random_maps(stitcher)).dtype == np.float32


def test_all_tiles_present_is_the_default() -> None:
    stitcher = Stitcher(TileGrid((500, 700)), (7, 7))
    maps = random_maps(stitcher)
    everywhere = np.ones(len(stitcher.grid), bool)
    np.testing.assert_allclose(stitcher.stitch(maps, everywhere), stitcher.stitch(maps), atol=1e-4)


def test_cells_that_no_present_tile_covers_are_nan_and_the_others_come_from_present_tiles_alone() -> None:
    grid = TileGrid((224, 440), 224, 8)  # two tiles that share 8 px
    stitcher = Stitcher(grid, (7, 7))
    maps = np.stack([np.full((7, 7), 1), np.full((7, 7), np.nan)]).astype(np.float32)
    heatmap = stitcher.stitch(maps, np.array([True, False]))
    inside = stitcher.centres_x < 224
    assert (heatmap[:, inside] == 1).all()
    assert np.isnan(heatmap[:, ~inside]).all()


def test_a_frame_with_no_tile_present_is_nan_throughout() -> None:
    stitcher = Stitcher(TileGrid((300, 300)), (7, 7))
    assert np.isnan(stitcher.stitch(random_maps(stitcher), np.zeros(len(stitcher.grid), bool))).all()


def test_each_tile_adds_its_own_part_whatever_the_others_hold() -> None:
    """Stitching is linear: the order in which maps came can make no difference."""
    stitcher = Stitcher(TileGrid((400, 500)), (7, 7))
    maps = random_maps(stitcher)
    total = np.zeros(stitcher.heatmap_hw, np.float32)
    for tile in np.random.default_rng(3).permutation(len(maps)):
        alone = np.zeros_like(maps)
        alone[tile] = maps[tile]
        total += stitcher.stitch(alone)
    np.testing.assert_allclose(total, stitcher.stitch(maps), atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 7, 7), (4, 7, 8), (4, 8, 7), (4, 7), (5, 7, 7)])
def test_maps_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match=r"expected \(4, 7, 7\)"):
        Stitcher(TileGrid((400, 400)), (7, 7)).stitch(np.zeros(shape, np.float32))


@settings(deadline=None, max_examples=60)
@given(
    hw=st.tuples(st.integers(1, 90), st.integers(1, 90)), sizes=TILE_AND_OVERLAP, cell=st.integers(1, 4), data=st.data()
)
def test_the_cells_of_a_tile_are_those_whose_centres_lie_in_it(
    hw: tuple[int, int], sizes: tuple[int, int], cell: int, data: st.DataObject
) -> None:
    grid = TileGrid(hw, *sizes)
    stitcher = Stitcher(grid, (2, 2), cell)
    tile = data.draw(st.integers(0, len(grid) - 1))
    rows, columns = stitcher.tile_cells(tile)
    y, x = grid.origins_yx[tile]
    expected_rows = [row for row, centre in enumerate(stitcher.centres_y) if y <= centre < y + grid.tile_px]
    expected_columns = [column for column, centre in enumerate(stitcher.centres_x) if x <= centre < x + grid.tile_px]
    assert list(range(rows.start, rows.stop)) == expected_rows
    assert list(range(columns.start, columns.stop)) == expected_columns
    assert expected_rows, "a tile without cells would have no place for its defect"
    assert expected_columns, "a tile without cells would have no place for its defect"


def area_in(hw: tuple[int, int], corners: list[tuple[int, int]]) -> AreaOfInterest:
    """A polygon that lies in the frame."""
    return AreaOfInterest.of([[(x % hw[1], y % hw[0]) for x, y in corners]])


def covered(stitcher: Stitcher) -> NDArray[np.bool_]:
    """The cells whose centres lie in a tile of the grid."""
    cells = np.zeros(stitcher.heatmap_hw, bool)
    for tile in range(len(stitcher.grid)):
        cells[stitcher.tile_cells(tile)] = True
    return cells


def without_area(grid: TileGrid) -> TileGrid:
    return TileGrid(grid.frame_hw, grid.tile_px, grid.overlap_px)


def spread(grid: TileGrid, maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """The maps of a grid with an area among those of the whole frame: zeros in tiles that it does not look at."""
    whole = without_area(grid).origins_yx
    everywhere = np.zeros((len(whole), *maps.shape[1:]), np.float32)
    everywhere[[whole.index(origin) for origin in grid.origins_yx]] = maps
    return everywhere


def slow_total_and_weight(
    stitcher: Stitcher, maps: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What maps, and what ones in their place, come to over all tiles of the frame: their quotient is the mean."""
    whole = Stitcher(without_area(stitcher.grid), stitcher.map_hw, stitcher.cell_px)
    return slow(whole, spread(stitcher.grid, maps)), slow(whole, spread(stitcher.grid, np.ones_like(maps)))


AREAS = {
    "hw": st.tuples(st.integers(1, 60), st.integers(1, 60)),
    "sizes": TILE_AND_OVERLAP.filter(lambda sizes: sizes[1] > 0),  # at 0 the oracle knows no tile at a seam
    "corners": st.lists(POINT, min_size=1, max_size=4),
    "cell": st.integers(1, 4),
}


@pytest.mark.long
@settings(deadline=None, max_examples=25)
@given(**AREAS, map_hw=MAP_HW, seed=st.integers(0, 99))
def test_with_an_area_each_cell_is_the_mean_over_the_tiles_looked_at(
    hw: tuple[int, int],
    sizes: tuple[int, int],
    corners: list[tuple[int, int]],
    map_hw: tuple[int, int],
    cell: int,
    seed: int,
) -> None:
    stitcher = Stitcher(TileGrid(hw, *sizes, area_in(hw, corners)), map_hw, cell)
    maps = random_maps(stitcher, seed)
    total, weight = slow_total_and_weight(stitcher, maps)
    heatmap = stitcher.stitch(maps)
    assert heatmap.dtype == np.float32
    assert np.array_equal(np.isfinite(heatmap), covered(stitcher)), "NaN where no tile looked, and only there"
    mixed = weight > 0  # not so on a tile's very border
    np.testing.assert_allclose(heatmap[mixed], total[mixed] / weight[mixed], atol=1e-3)


@settings(deadline=None, max_examples=40)
@given(**AREAS, smoothing=st.sampled_from([0.0, 2.0, 9.0]))
def test_tiles_that_are_not_in_the_grid_count_as_tiles_that_are_not_present(
    hw: tuple[int, int], sizes: tuple[int, int], corners: list[tuple[int, int]], cell: int, smoothing: float
) -> None:
    whole = Stitcher(TileGrid(hw, *sizes), (3, 3), cell, smoothing)
    part = Stitcher(TileGrid(hw, *sizes, area_in(hw, corners)), (3, 3), cell, smoothing)
    maps = random_maps(part)
    present = np.isin(np.arange(len(whole.grid)), [whole.grid.origins_yx.index(yx) for yx in part.grid.origins_yx])
    np.testing.assert_allclose(part.stitch(maps), whole.stitch(spread(part.grid, maps), present), atol=1e-4)


def test_smoothing_takes_nothing_from_where_nobody_looked() -> None:
    """The Gaussian mean over what the tiles that are looked at say, each cell by how much they say of it."""
    grid = TileGrid((40, 56), 16, 2, AreaOfInterest.of([[(20, 4), (40, 4), (20, 30)]]))
    assert 2 < len(grid) < len(without_area(grid))
    stitcher = Stitcher(grid, (4, 4), smoothing_px=6.0)
    centres = stitcher.centres_y.tolist(), stitcher.centres_x.tolist()
    maps = random_maps(stitcher)
    total, weight = (smoothed(plain, centres, 6.0) for plain in slow_total_and_weight(stitcher, maps))
    expected = np.where(covered(stitcher), total / np.where(weight > 0, weight, 1), np.nan)
    np.testing.assert_allclose(stitcher.stitch(maps), expected, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(**AREAS | {"sizes": TILE_AND_OVERLAP}, map_hw=MAP_HW, smoothing=st.sampled_from([0.0, 7.0]))
def test_a_constant_map_stitches_to_itself_wherever_a_tile_looks(
    hw: tuple[int, int],
    sizes: tuple[int, int],
    corners: list[tuple[int, int]],
    cell: int,
    map_hw: tuple[int, int],
    smoothing: float,
) -> None:
    stitcher = Stitcher(TileGrid(hw, *sizes, area_in(hw, corners)), map_hw, cell, smoothing)
    heatmap = stitcher.stitch(np.full((len(stitcher.grid), *map_hw), 7, np.float32))
    np.testing.assert_allclose(heatmap, np.where(covered(stitcher), 7.0, np.nan), rtol=1e-5)


def test_between_two_areas_far_apart_nobody_looked() -> None:
    corner, side = [(0, 0), (9, 0), (9, 9)], 200  # wider apart than the bands in which cells are mixed
    far_corner = [(side - 1 - x, side - 1 - y) for x, y in corner]
    grid = TileGrid((side, side), 16, 2, AreaOfInterest.of([corner, far_corner]))
    stitcher = Stitcher(grid, (3, 3), 1)
    assert not covered(stitcher)[60:140].any()
    maps = random_maps(stitcher)
    total, weight = slow_total_and_weight(stitcher, maps)
    expected = np.where(covered(stitcher), total / np.where(weight > 0, weight, 1), np.nan)
    np.testing.assert_allclose(stitcher.stitch(maps), expected, atol=1e-4)


def test_smoothing_over_many_cells_is_the_slow_one() -> None:
    stitcher = Stitcher(TileGrid((90, 130), 16, 2), (4, 4), 1, smoothing_px=5.0)
    maps = random_maps(stitcher)
    centres = stitcher.centres_y.tolist(), stitcher.centres_x.tolist()
    np.testing.assert_allclose(stitcher.stitch(maps), smoothed(slow(stitcher, maps), centres, 5.0), atol=1e-4)


def test_of_the_tiles_looked_at_some_may_be_left_out_as_well() -> None:
    stitcher = Stitcher(TileGrid((224, 662), 224, 5, AreaOfInterest.of([[(0, 0), (300, 0), (300, 99)]])), (7, 7))
    maps = np.stack([np.full((7, 7), np.nan), np.full((7, 7), 3)]).astype(np.float32)
    heatmap = stitcher.stitch(maps, np.array([False, True]))
    inside = (stitcher.centres_x >= 219) & (stitcher.centres_x < 443)
    np.testing.assert_allclose(heatmap[:, inside], 3, rtol=1e-6)
    assert np.isnan(heatmap[:, ~inside]).all()


def test_with_an_area_maps_of_the_whole_frame_are_refused() -> None:
    stitcher = Stitcher(TileGrid((400, 400), area=AreaOfInterest.of([[(0, 0), (9, 0), (9, 9)]])), (7, 7))
    with pytest.raises(GeometryError, match=r"expected \(1, 7, 7\)"):
        stitcher.stitch(np.zeros((4, 7, 7), np.float32))
