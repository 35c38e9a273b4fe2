"""Tiles, regions of interest, stitched heatmaps and regions, each against a slow and obvious version."""

import itertools
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from heatline.edge.errors import GeometryError
from heatline.edge.geometry import Region, RegionOfInterest, Stitcher, TileGrid, find_regions
from heatline.edge.geometry.tiling import tile_origins
from tests.oracles import components, smoothed, starts, stitched, tiles_of

Polygon = list[tuple[int, int]]

FRAME_HW = st.tuples(st.integers(1, 14), st.integers(1, 14))
COORDINATE = st.integers(-5, 18) | st.sampled_from([-65535, 65535])  # in the frame, around it, and far away
POLYGON = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=1, max_size=7)
POLYGONS = st.lists(POLYGON, max_size=3)


def belongs(x: int, y: int, polygon: Polygon) -> bool:
    """Return in exact arithmetic whether a point is on an edge, or has an odd number of edges above it."""
    above = 0
    for (x0, y0), (x1, y1) in itertools.pairwise([*polygon, polygon[0]]):
        in_box = min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1)
        if in_box and (x - x0) * (y1 - y0) == (y - y0) * (x1 - x0):
            return True
        if (x0 <= x) != (x1 <= x):
            above += y0 + Fraction((x - x0) * (y1 - y0), x1 - x0) < y
    return above % 2 == 1


def slow_mask(roi: list[Polygon], exclude: list[Polygon], frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(frame_hw, bool)
    for y, x in np.ndindex(frame_hw):
        seen = not roi or any(belongs(x, y, polygon) for polygon in roi)
        mask[y, x] = seen and not any(belongs(x, y, polygon) for polygon in exclude)
    return mask


@given(roi=POLYGONS, exclude=POLYGONS, frame_hw=FRAME_HW, first=st.integers(0, 6))
def test_a_region_of_interest_equals_a_test_of_each_single_pixel(
    roi: list[Polygon], exclude: list[Polygon], frame_hw: tuple[int, int], first: int
) -> None:
    """A polygon may begin at any corner and go in either direction."""
    expected = slow_mask(roi, exclude, frame_hw)
    area = RegionOfInterest.from_polygons(roi, exclude)
    np.testing.assert_array_equal(area.mask(frame_hw), expected)
    turned = [(polygon[first:] + polygon[:first])[::-1] for polygon in roi]
    np.testing.assert_array_equal(RegionOfInterest.from_polygons(turned, exclude).mask(frame_hw), expected)
    expected[area.box(frame_hw)] = False
    assert not expected.any(), "the box contains every pixel"


TILE_AND_OVERLAP = st.integers(1, 600).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1)))
SMALL_TILE_AND_OVERLAP = st.integers(1, 9).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1)))


@given(length=st.integers(1, 4000), sizes=TILE_AND_OVERLAP)
def test_tiles_start_where_the_oracle_starts_them_and_leave_no_gap(length: int, sizes: tuple[int, int]) -> None:
    tile, overlap = sizes
    origins = tile_origins(length, tile, overlap)
    assert origins == starts(length, tile, overlap)
    assert all(0 < second - first <= tile - overlap for first, second in itertools.pairwise(origins))
    assert (origins[0], origins[-1] + tile) == (0, max(length, tile)), "the outer tiles end at the border"


@given(
    hw=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    sizes=SMALL_TILE_AND_OVERLAP,
    roi=POLYGONS,
    exclude=POLYGONS,
    channels=st.sampled_from([1, 3]),
    batch=st.integers(1, 7),
)
def test_tiles_of_a_region_of_interest_equal_the_oracles_tiles(
    hw: tuple[int, int], sizes: tuple[int, int], roi: list[Polygon], exclude: list[Polygon], channels: int, batch: int
) -> None:
    area, (tile, overlap) = RegionOfInterest.from_polygons(roi, exclude), sizes
    image = np.random.default_rng(1).integers(0, 256, (*hw, channels), np.uint8)
    before, mask = image.copy(), area.mask(hw)
    expected = [each for each in tiles_of(image, tile, overlap) if mask[each[0] :, each[1] :][:tile, :tile].any()]
    if not expected:
        with pytest.raises(GeometryError, match=f"{hw[1]}x{hw[0]} px is in the region of interest"):
            TileGrid(hw, tile, overlap, area)
        return
    grid = TileGrid(hw, tile, overlap, area)
    assert list(grid.origins_yx) == [(y, x) for y, x, _ in expected], "row by row"
    for first in range(0, len(grid), batch):
        out = np.zeros((min(batch, len(grid) - first), tile, tile, channels), np.uint8)
        grid.cut(image, out, first)
        np.testing.assert_array_equal(out, [pixels for _, _, pixels in expected[first : first + batch]])
    np.testing.assert_array_equal(image, before)


def test_impossible_grids_and_pictures_are_refused() -> None:
    for frame_hw, tile, overlap, words in (
        ((0, 10), 4, 0, "at least 1x1"),
        ((10, 10), 4, 4, "expected 0 to 3"),  # no step between tiles
        ((10, 10), 4, -1, "expected 0 to 3"),  # gaps between tiles
        ((10, 10), 0, 0, "does not fit"),
    ):
        with pytest.raises(GeometryError, match=words):
            TileGrid(frame_hw, tile, overlap)
    with pytest.raises(GeometryError, match="the grid was made for"):
        TileGrid((10, 10), 4, 0).cut(np.zeros((10, 11, 3), np.uint8), np.zeros((9, 4, 4, 3), np.uint8))


# Stitching. Tiles, maps and cells need not divide each other; the oracle has no tile at a seam without overlap.

HW = st.tuples(st.integers(1, 40), st.integers(1, 40))
SIZES = st.integers(4, 24).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(1, tile - 1)))
CORNERS = st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=4)
"""A polygon of the region of interest; empty: the whole frame."""
TRIANGLES = [[(0, 0), (9, 0), (9, 9)], [(199, 0), (190, 0), (190, 9)]]


def random_maps(stitcher: Stitcher, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 5, (len(stitcher.grid), *stitcher.map_hw)).astype(np.float32)


def grid_of(hw: tuple[int, int], sizes: tuple[int, int], corners: Polygon) -> TileGrid:
    """A grid with a region of interest within the frame."""
    polygons = [[(x % hw[1], y % hw[0]) for x, y in corners]] if corners else []
    return TileGrid(hw, *sizes, RegionOfInterest.from_polygons(polygons))


def cells_in(stitcher: Stitcher, tiles: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Return the cells whose centres lie in these tiles of the grid, or in any."""
    cells = np.zeros(stitcher.heatmap_hw, bool)
    for tile in range(len(stitcher.grid)) if tiles is None else np.flatnonzero(tiles):
        cells[stitcher.tile_cells(int(tile))] = True
    return cells


def slow_heatmap(stitcher: Stitcher, maps: NDArray[np.float32], smoothing_px: float = 0.0) -> NDArray[np.float64]:
    """Compute the mean over inspected tiles as a quotient of sums over all tiles, with ones for maps and zeros."""
    grid = stitcher.grid
    whole = TileGrid(grid.frame_hw, grid.tile_px, grid.overlap_px).origins_yx
    sums = []
    for values in (maps, np.ones_like(maps)):
        everywhere = np.zeros((len(whole), *maps.shape[1:]))
        everywhere[[whole.index(origin) for origin in grid.origins_yx]] = values
        total = stitched(list(whole), everywhere, grid.tile_px, grid.frame_hw, stitcher.cell_px)
        centres = stitcher.centres_y.tolist(), stitcher.centres_x.tolist()
        sums.append(smoothed(total, centres, smoothing_px) if smoothing_px else total)
    # NaN where no tile looked, or exactly on the border of the only one, where its weight is 0.
    return np.divide(sums[0], sums[1], where=sums[1] > 0, out=np.full_like(sums[0], np.nan))


def assert_equals_oracle(stitcher: Stitcher, maps: NDArray[np.float32], smoothing_px: float = 0.0) -> None:
    heatmap, expected = stitcher.stitch(maps), slow_heatmap(stitcher, maps, smoothing_px)
    assert heatmap.dtype == np.float32
    assert np.array_equal(np.isfinite(heatmap), cells_in(stitcher)), "NaN where no tile looked, and only there"
    mixed = cells_in(stitcher) & np.isfinite(expected)
    np.testing.assert_allclose(heatmap[mixed], expected[mixed], atol=1e-3)


@given(
    hw=HW, sizes=SIZES, corners=CORNERS, map_hw=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    cell=st.integers(2, 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_each_cell_equals_the_oracles_mean_over_inspected_tiles(
    hw: tuple[int, int], sizes: tuple[int, int], corners: Polygon, map_hw: tuple[int, int], cell: int, seed: int
) -> None:
    stitcher = Stitcher(grid_of(hw, sizes, corners), map_hw, cell)
    assert_equals_oracle(stitcher, random_maps(stitcher, seed))
    extremes = random_maps(stitcher, seed)
    seen = Stitcher(stitcher.grid, map_hw, cell, 7.0).stitch(extremes)[cells_in(stitcher)]
    assert ((extremes.min() - 1e-3 <= seen) & (seen <= extremes.max() + 1e-3)).all()
    for tile, origin in enumerate(stitcher.grid.origins_yx):
        cells, centres = stitcher.tile_cells(tile), (stitcher.centres_y, stitcher.centres_x)
        for on_axis, places, start in zip(cells, centres, origin, strict=True):
            inside = np.flatnonzero((start <= places) & (places < start + sizes[0]))
            assert list(range(on_axis.start, on_axis.stop)) == inside.tolist()


@pytest.mark.parametrize(
    ("frame_hw", "cell", "deviation", "polygons"),
    [
        ((12, 70), 1, 0.0, []),  # enough cells for several bands, the last one narrower
        ((12, 200), 1, 0.0, TRIANGLES),  # further apart than a band
        ((9, 30), 4, 3.0, []),  # smaller than a tile along one axis, the last cell extends beyond the frame
        ((40, 40), 4, 100.0, []),  # wider than the frame: the mean of all cells
        ((8, 70), 1, 2.0, []),
        ((40, 56), 4, 6.0, [[(20, 4), (40, 4), (20, 30)]]),  # the mean of inspected cells only
    ],
)
def test_smoothing_is_the_gaussian_mean_of_the_plain_heatmap_in_bands_too(
    frame_hw: tuple[int, int], cell: int, deviation: float, polygons: list[Polygon]
) -> None:
    grid = TileGrid(frame_hw, 16, 2, RegionOfInterest.from_polygons(polygons))
    stitcher = Stitcher(grid, (4, 4), cell, smoothing_px=deviation)
    assert_equals_oracle(stitcher, random_maps(stitcher), deviation)


@pytest.mark.parametrize(("tile", "cell"), [(224, 64), (226, 4), (3, 6)])  # 224 = 32 + 3 * 64
def test_a_cell_centre_on_the_seam_of_tiles_without_overlap_is_covered(tile: int, cell: int) -> None:
    stitcher = Stitcher(TileGrid((2 * tile, 2 * tile), tile, 0), (2, 2), cell)
    assert tile in stitcher.centres_y, "the case is not the one it claims to be"
    np.testing.assert_allclose(stitcher.stitch(np.full((4, 2, 2), 3, np.float32)), 3, rtol=1e-6)


@pytest.mark.parametrize("smoothing_px", [0.0, 8.0])
def test_cells_without_a_present_tile_are_nan_and_others_use_present_tiles_only(smoothing_px: float) -> None:
    stitcher = Stitcher(TileGrid((224, 440), 224, 8), (7, 7), smoothing_px=smoothing_px)  # two tiles that share 8 px
    maps = np.stack([np.full((7, 7), 1), np.full((7, 7), np.nan)]).astype(np.float32)
    expected = np.where(stitcher.centres_x < 224, 1, np.nan)
    np.testing.assert_allclose(stitcher.stitch(maps, np.array([True, False]))[0], expected, rtol=1e-5)
    assert np.isnan(stitcher.stitch(maps, np.array([False, False]))).all()


EVIDENCE = 5.0
Case = tuple[Stitcher, NDArray[np.float32], NDArray[np.bool_]]


@st.composite
def frames(draw: st.DrawFn) -> Case:
    """A small grid with any region of interest, a heatmap with few distinct values, and which tiles are defective."""
    tile = draw(st.integers(8, 24))
    grid = grid_of(draw(HW), (tile, draw(st.integers(0, tile - 1)) // 2), draw(CORNERS))
    stitcher = Stitcher(grid, (2, 2), draw(st.integers(1, 5)))
    values = st.sampled_from([0.0, 1.0, 4.5, 5.0, 6.0, 7.25, 9.0]).map(np.float32)
    heatmap = draw(arrays(np.float32, stitcher.heatmap_hw, elements=values, fill=st.just(np.float32(0))))
    heatmap[~cells_in(stitcher)] = np.nan
    return stitcher, heatmap, draw(arrays(np.bool_, len(grid)))


def cells_of(region: Region, stitcher: Stitcher) -> tuple[slice, slice]:
    left, top, right, bottom = (edge / stitcher.cell_px for edge in region.box_xyxy)
    return slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))


@given(frames())
def test_regions_equal_a_flood_fill_and_every_defective_tile_has_one(case: Case) -> None:
    stitcher, heatmap, defective = case
    (frame_h, frame_w), cell_px = stitcher.grid.frame_hw, stitcher.cell_px
    regions = find_regions(heatmap, stitcher, defective, EVIDENCE)
    looked = cells_in(stitcher, defective)
    inside, marked = looked & (heatmap >= EVIDENCE), np.zeros(stitcher.heatmap_hw, bool)
    scores = [region.score for region in regions]
    assert scores == sorted(scores, reverse=True)
    for region in regions:
        left, top, right, bottom = region.box_xyxy
        assert (0 <= left < right <= frame_w, 0 <= top < bottom <= frame_h) == (True, True)
        assert all(left <= x < right and top <= y < bottom for x, y in [region.peak_xy, *region.contour_xy])
        assert 0 < region.area_px <= (right - left) * (bottom - top)
        x, y = region.peak_xy
        peak = min(y // cell_px, looked.shape[0] - 1), min(x // cell_px, looked.shape[1] - 1)
        assert (looked[peak], heatmap[peak]) == (True, region.score)
        marked[cells_of(region, stitcher)] = True
    tiles = [stitcher.tile_cells(int(tile)) for tile in np.flatnonzero(defective)]
    assert all(marked[cells].any() for cells in tiles)
    assert bool(regions) == bool(tiles)
    if all(inside[cells].any() for cells in tiles):  # otherwise a tile counts with its peak
        expected = [
            (max(heatmap[cell] for cell in area), min(i for i, _ in area), min(j for _, j in area))
            for area in components(inside)
        ]
        found = [(region.score, *(cells.start for cells in cells_of(region, stitcher))) for region in regions]
        assert sorted(found) == sorted(expected)


def two_tiles(*spots: tuple[tuple[slice, slice], float]) -> tuple[NDArray[np.float32], Stitcher]:
    """A heatmap of two adjacent tiles of 224 px that overlap by 2 px."""
    stitcher = Stitcher(TileGrid((224, 446), 224, 2), (14, 14))
    heatmap = np.zeros(stitcher.heatmap_hw, np.float32)
    for place, value in spots:
        heatmap[place] = value
    return heatmap, stitcher


def test_a_region_has_its_box_area_contour_peak_and_score_in_pixels() -> None:
    spots = two_tiles((np.s_[2:4, 5:8], 6.0), (np.s_[3:4, 6:7], 9.0))
    outline = [(20, 8), (20, 15), (31, 15), (31, 8)]
    expected = Region(box_xyxy=(20, 8, 32, 16), contour_xy=outline, area_px=2 * 3 * 16, peak_xy=(26, 14), score=9.0)
    assert find_regions(*spots, np.array([True, False]), EVIDENCE) == [expected]
    (diagonal,) = find_regions(*two_tiles((np.s_[4:5, 4:5], 6.0), (np.s_[5:6, 5:6], 7.0)), np.array([1, 0], bool), 5.0)
    mask = np.zeros((224, 446), np.uint8)
    cv2.fillPoly(mask, [np.array(diagonal.contour_xy, np.int32)], 1)
    assert (diagonal.area_px, mask[17, 17], mask[22, 22]) == (32, 1, 1), "the outline contains both cells"


BELOW = float(np.nextafter(np.float32(5), np.float32(0)))
NEXT = float(np.nextafter(9.0, np.inf))  # float32 would round it to 9
ACROSS, WEAK = (np.s_[10:20, 50:60], 8.0), (np.s_[7:8, 9:10], 1.0)
SMALL = [(np.s_[5:6, 5:6], 6.0), (np.s_[10:12, 80:90], 6.0), (np.s_[10:11, 85:86], 9.0), (np.s_[30:31, 80:90], 8.9)]
FIRST = (20, 20, 24, 24)
"""The box of the only region of `SMALL` in the first tile."""


@pytest.mark.parametrize(
    ("spots", "evidence", "strong", "defective", "boxes"),
    [
        ([ACROSS], 5.0, None, [1, 1], [(200, 40, 240, 80)]),  # a defect across a seam is one
        ([ACROSS], 5.0, None, [1, 0], [(200, 40, 224, 80)]),  # it ends where the next tile is good
        ([(np.s_[4:6, 4:6], 5.0), (np.s_[20:21, 20:21], BELOW)], 5.0, None, [1, 0], [(16, 16, 24, 24)]),
        ([(np.s_[4:6, 4:6], 9.0), (np.s_[20:21, 20:21], 9.5)], NEXT, None, [1, 0], [(80, 80, 84, 84)]),
        ([WEAK, ACROSS], 5.0, None, [1, 1], [(200, 40, 240, 80)]),
        ([WEAK, (np.s_[7:8, 90:91], 8.0)], 5.0, None, [1, 1], [(360, 28, 364, 32), (36, 28, 40, 32)]),
        (SMALL, 5.0, 9.0, [1, 0], [(320, 40, 360, 48), FIRST]),  # strong evidence in the other tile
        (SMALL, 5.0, NEXT, [1, 0], [FIRST]),
        (SMALL, 5.0, 9.0, [0, 0], []),  # the frame is good
    ],
)
def test_the_boxes_of_drawn_heatmaps_are_these(
    spots: list[tuple[tuple[slice, slice], float]],
    evidence: float,
    strong: float | None,
    defective: list[int],
    boxes: list[tuple[int, int, int, int]],
) -> None:
    regions = find_regions(*two_tiles(*spots), np.array(defective, bool), evidence, strong)
    assert [region.box_xyxy for region in regions] == boxes
