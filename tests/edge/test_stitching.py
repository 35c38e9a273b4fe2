"""Stitching of maps to a heatmap, with and without smoothing, against the slow oracle and general properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.errors import GeometryError
from heatline.edge.geometry import RegionOfInterest, Stitcher, TileGrid
from tests.oracles import smoothed, stitched

# Tiles, overlaps, maps and cells that need not divide each other. The oracle has no tile at a seam without overlap.
HW = st.tuples(st.integers(1, 40), st.integers(1, 40))
SIZES = st.integers(4, 24).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(1, tile - 1)))
MAP_HW = st.tuples(st.integers(1, 6), st.integers(1, 6))
CORNERS = st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=4)
"""Polygons of the region of interest; empty: the whole frame."""


def random_maps(stitcher: Stitcher, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 5, (len(stitcher.grid), *stitcher.map_hw)).astype(np.float32)


def slow(stitcher: Stitcher, maps: NDArray[np.float32]) -> NDArray[np.float64]:
    grid = stitcher.grid
    return stitched(list(grid.origins_yx), maps.astype(np.float64), grid.tile_px, grid.frame_hw, stitcher.cell_px)


def grid_of(hw: tuple[int, int], sizes: tuple[int, int], corners: list[tuple[int, int]]) -> TileGrid:
    """A grid with a region of interest within the frame."""
    polygons = [[(x % hw[1], y % hw[0]) for x, y in corners]] if corners else []
    return TileGrid(hw, *sizes, RegionOfInterest.from_polygons(polygons))


def covered(stitcher: Stitcher) -> NDArray[np.bool_]:
    """Return the cells whose centres lie in a tile of the grid."""
    cells = np.zeros(stitcher.heatmap_hw, bool)
    for tile in range(len(stitcher.grid)):
        cells[stitcher.tile_cells(tile)] = True
    return cells


def without_area(grid: TileGrid) -> TileGrid:
    return TileGrid(grid.frame_hw, grid.tile_px, grid.overlap_px)


def spread(grid: TileGrid, maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the maps of all tiles of the frame: zeros in tiles that are not in the grid."""
    whole = without_area(grid).origins_yx
    everywhere = np.zeros((len(whole), *maps.shape[1:]), np.float32)
    everywhere[[whole.index(origin) for origin in grid.origins_yx]] = maps
    return everywhere


def slow_total_and_weight(
    stitcher: Stitcher, maps: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums of the maps and of ones over all tiles of the frame: their quotient is the mean."""
    whole = Stitcher(without_area(stitcher.grid), stitcher.map_hw, stitcher.cell_px)
    return slow(whole, spread(stitcher.grid, maps)), slow(whole, spread(stitcher.grid, np.ones_like(maps)))


@pytest.mark.parametrize(
    ("frame_hw", "overlap", "map_hw", "cell"),
    [
        ((33, 47), 3, (3, 5), 4),  # odd sizes: the last cells extend beyond the frame; maps that are not square
        ((40, 40), 15, (7, 7), 4),  # the largest overlap: many tiles over each cell
        ((9, 40), 2, (4, 4), 4),  # smaller than a tile along one axis
        ((1, 1), 2, (4, 4), 4),  # one px
        ((40, 40), 4, (4, 4), 7),  # cells that divide nothing
        ((40, 70), 3, (3, 5), 1),  # enough cells for several bands, the last one narrower
    ],
)
def test_the_heatmap_equals_the_oracle(
    frame_hw: tuple[int, int], overlap: int, map_hw: tuple[int, int], cell: int
) -> None:
    stitcher = Stitcher(TileGrid(frame_hw, 16, overlap), map_hw, cell)
    maps = random_maps(stitcher)
    np.testing.assert_allclose(stitcher.stitch(maps), slow(stitcher, maps), atol=1e-4)


@given(hw=HW, sizes=SIZES, corners=CORNERS, map_hw=MAP_HW, cell=st.integers(2, 4), seed=st.integers(0, 99))
def test_each_cell_equals_the_oracles_mean_over_inspected_tiles(
    hw: tuple[int, int],
    sizes: tuple[int, int],
    corners: list[tuple[int, int]],
    map_hw: tuple[int, int],
    cell: int,
    seed: int,
) -> None:
    stitcher = Stitcher(grid_of(hw, sizes, corners), map_hw, cell)
    maps = random_maps(stitcher, seed)
    total, weight = slow_total_and_weight(stitcher, maps)
    heatmap = stitcher.stitch(maps)
    assert heatmap.dtype == np.float32
    assert np.array_equal(np.isfinite(heatmap), covered(stitcher)), "NaN where no tile looked, and only there"
    mixed = weight > 0  # not exactly on a tile's border
    np.testing.assert_allclose(heatmap[mixed], total[mixed] / weight[mixed], atol=1e-3)


@given(
    hw=HW,
    sizes=SIZES | st.integers(4, 24).map(lambda tile: (tile, 0)),
    corners=CORNERS,
    map_hw=MAP_HW,
    cell=st.integers(1, 12),
    smoothing=st.sampled_from([0.0, 7.0, 300.0]),
)
def test_a_constant_map_stitches_to_itself_and_extremes_are_never_exceeded(
    hw: tuple[int, int],
    sizes: tuple[int, int],
    corners: list[tuple[int, int]],
    map_hw: tuple[int, int],
    cell: int,
    smoothing: float,
) -> None:
    stitcher = Stitcher(grid_of(hw, sizes, corners), map_hw, cell, smoothing)
    maps = random_maps(stitcher)
    np.testing.assert_allclose(
        stitcher.stitch(np.full_like(maps, 7)), np.where(covered(stitcher), 7.0, np.nan), rtol=1e-5
    )
    seen = stitcher.stitch(maps)[covered(stitcher)]  # none, if a tile lies between the centres of large cells
    assert ((maps.min() - 1e-3 <= seen) & (seen <= maps.max() + 1e-3)).all()


@pytest.mark.parametrize(("tile", "cell"), [(224, 64), (226, 4), (15, 2), (3, 6)])  # 224 = 32 + 3 * 64
def test_a_cell_centre_on_the_seam_of_tiles_without_overlap_is_covered(tile: int, cell: int) -> None:
    stitcher = Stitcher(TileGrid((2 * tile, 2 * tile), tile, 0), (2, 2), cell)
    assert tile in stitcher.centres_y, "the case is not the one it claims to be"
    np.testing.assert_allclose(stitcher.stitch(np.full((4, 2, 2), 3, np.float32)), 3, rtol=1e-6)


def test_a_linear_ramp_is_reproduced_in_the_interior() -> None:
    """Half-pixel correct: a map sampled from a ramp over the frame gives back that ramp, also across seams."""
    tile, cells = 224, 14
    grid = TileGrid((500, 700), tile, 32)
    stitcher = Stitcher(grid, (cells, cells))
    centres, half_cell = (np.arange(cells) + 0.5) * tile / cells, tile / cells / 2
    maps = np.stack([np.add.outer(2.0 * (y + centres), 3.0 * (x + centres)) for y, x in grid.origins_yx])

    def between_map_cells(on_axis: NDArray[np.float64], starts: tuple[int, ...]) -> NDArray[np.bool_]:
        offset = on_axis[:, None] - np.array(starts)
        seen = (offset > 0) & (offset < tile)
        between: NDArray[np.bool_] = (~seen | ((offset >= half_cell) & (offset <= tile - half_cell))).all(axis=1)
        return between

    # Only cells between the centres of map cells in all tiles that cover them: beyond, maps are held constant.
    sampled = np.outer(
        between_map_cells(stitcher.centres_y, grid.rows_y), between_map_cells(stitcher.centres_x, grid.columns_x)
    )
    assert sampled.mean() > 0.2
    ramp = np.add.outer(2.0 * stitcher.centres_y, 3.0 * stitcher.centres_x)
    np.testing.assert_allclose(stitcher.stitch(maps.astype(np.float32))[sampled], ramp[sampled], rtol=1e-4)


@pytest.mark.parametrize("smoothing_px", [0.0, 8.0])
def test_cells_without_a_present_tile_are_nan_and_others_use_present_tiles_only(
    smoothing_px: float,
) -> None:
    stitcher = Stitcher(TileGrid((224, 440), 224, 8), (7, 7), smoothing_px=smoothing_px)  # two tiles that share 8 px
    maps = np.stack([np.full((7, 7), 1), np.full((7, 7), np.nan)]).astype(np.float32)
    heatmap = stitcher.stitch(maps, np.array([True, False]))
    inside = stitcher.centres_x < 224
    np.testing.assert_allclose(heatmap[:, inside], 1, rtol=1e-5)
    assert np.isnan(heatmap[:, ~inside]).all()
    assert np.isnan(stitcher.stitch(maps, np.array([False, False]))).all()


def test_maps_of_another_shape_are_refused() -> None:
    whole, part = (
        TileGrid((400, 400)),
        TileGrid((400, 400), region_of_interest=RegionOfInterest.from_polygons([[(0, 0), (9, 0), (9, 9)]])),
    )
    for grid, tiles, shapes in [
        (whole, 4, [(3, 7, 7), (4, 7, 8), (4, 8, 7), (4, 7)]),
        (part, 1, [(4, 7, 7)]),  # all tiles of the frame
    ]:
        for shape in shapes:
            with pytest.raises(GeometryError, match=rf"expected \({tiles}, 7, 7\)"):
                Stitcher(grid, (7, 7)).stitch(np.zeros(shape, np.float32))


@given(hw=HW, sizes=SIZES, cell=st.integers(1, 4), data=st.data())
def test_the_cells_of_a_tile_are_those_whose_centres_lie_in_it(
    hw: tuple[int, int], sizes: tuple[int, int], cell: int, data: st.DataObject
) -> None:
    grid = TileGrid(hw, *sizes)
    stitcher = Stitcher(grid, (2, 2), cell)
    tile = data.draw(st.integers(0, len(grid) - 1))
    for cells, centres, start in zip(
        stitcher.tile_cells(tile), (stitcher.centres_y, stitcher.centres_x), grid.origins_yx[tile], strict=True
    ):
        expected = [cell for cell, centre in enumerate(centres) if start <= centre < start + grid.tile_px]
        assert list(range(cells.start, cells.stop)) == expected
        assert expected, "a tile without cells would have no place for its defect"


@given(hw=HW, sizes=SIZES, corners=CORNERS, cell=st.integers(1, 4), smoothing=st.sampled_from([0.0, 2.0, 9.0]))
def test_tiles_outside_the_grid_count_as_absent_tiles(
    hw: tuple[int, int], sizes: tuple[int, int], corners: list[tuple[int, int]], cell: int, smoothing: float
) -> None:
    part = Stitcher(grid_of(hw, sizes, corners), (3, 3), cell, smoothing)
    whole = Stitcher(without_area(part.grid), (3, 3), cell, smoothing)
    maps = random_maps(part)
    present = np.isin(np.arange(len(whole.grid)), [whole.grid.origins_yx.index(yx) for yx in part.grid.origins_yx])
    np.testing.assert_allclose(part.stitch(maps), whole.stitch(spread(part.grid, maps), present), atol=1e-4)


def test_cells_between_two_distant_areas_are_nan() -> None:
    corner, width = [(0, 0), (9, 0), (9, 9)], 200  # wider apart than the bands in which cells are mixed
    grid = TileGrid(
        (20, width), 16, 2, RegionOfInterest.from_polygons([corner, [(width - 1 - x, y) for x, y in corner]])
    )
    stitcher = Stitcher(grid, (3, 3), 1)
    assert not covered(stitcher)[:, 60:140].any()
    maps = random_maps(stitcher)
    total, weight = slow_total_and_weight(stitcher, maps)
    expected = np.where(covered(stitcher), total / np.where(weight > 0, weight, 1), np.nan)
    np.testing.assert_allclose(stitcher.stitch(maps), expected, atol=1e-4)


# Smoothing.


@pytest.mark.parametrize(
    ("frame_hw", "cell", "deviation"),
    [
        ((40, 56), 4, 6.0),  # several tiles
        ((9, 30), 4, 3.0),  # smaller than a tile along one axis, the last cell extends beyond the frame
        ((40, 40), 4, 100.0),  # wider than the frame: the mean of all cells
        ((20, 70), 1, 2.0),  # enough cells for several bands
    ],
)
def test_smoothing_is_the_gaussian_mean_of_the_plain_heatmap(
    frame_hw: tuple[int, int], cell: int, deviation: float
) -> None:
    stitcher = Stitcher(TileGrid(frame_hw, 16, 2), (4, 4), cell, smoothing_px=deviation)
    centres, maps = (stitcher.centres_y.tolist(), stitcher.centres_x.tolist()), random_maps(stitcher)
    np.testing.assert_allclose(stitcher.stitch(maps), smoothed(slow(stitcher, maps), centres, deviation), atol=1e-4)


def test_smoothing_uses_inspected_cells_only() -> None:
    """The result is the Gaussian mean over the inspected tiles, each cell by its weight."""
    grid = TileGrid((40, 56), 16, 2, RegionOfInterest.from_polygons([[(20, 4), (40, 4), (20, 30)]]))
    assert 2 < len(grid) < len(without_area(grid))
    stitcher = Stitcher(grid, (4, 4), smoothing_px=6.0)
    centres = stitcher.centres_y.tolist(), stitcher.centres_x.tolist()
    maps = random_maps(stitcher)
    total, weight = (smoothed(plain, centres, 6.0) for plain in slow_total_and_weight(stitcher, maps))
    expected = np.where(covered(stitcher), total / np.where(weight > 0, weight, 1), np.nan)
    np.testing.assert_allclose(stitcher.stitch(maps), expected, atol=1e-4)


def test_a_flat_spot_with_a_higher_rim_peaks_in_its_middle() -> None:
    """This is the purpose of smoothing."""
    tile_map = np.full((1, 14, 14), -8, np.float32)
    tile_map[0, 4:9, 4:9] = 90
    tile_map[0, 4, 4] = 100  # the rim
    middle, distances = 6.5 * 16, []
    for smoothing_px in (0.0, 24.0):
        stitcher = Stitcher(TileGrid((224, 224)), (14, 14), smoothing_px=smoothing_px)
        heatmap = stitcher.stitch(tile_map)
        row, column = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
        distances.append(float(np.hypot(stitcher.centres_y[row] - middle, stitcher.centres_x[column] - middle)))
    assert distances[0] > 32
    assert distances[1] < 8
