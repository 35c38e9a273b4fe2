"""Connected defect areas, against a flood fill and against their heatmap."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from heatline.edge.geometry import Region, RegionOfInterest, Stitcher, TileGrid, find_regions
from heatline.edge.geometry.regions import found_cells
from tests.oracles import components

EVIDENCE = 5.0


@st.composite
def frames(draw: st.DrawFn) -> tuple[Stitcher, NDArray[np.float32], NDArray[np.bool_]]:
    """A small grid, a heatmap of it with few distinct values, and which tiles are defective.

    The grid may have a region of interest; where no tile is inspected, the heatmap is NaN.
    """
    hw = draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
    tile = draw(st.integers(8, 24))
    point = st.tuples(st.integers(0, hw[1] - 1), st.integers(0, hw[0] - 1))
    roi = draw(st.lists(st.lists(point, min_size=1, max_size=4), max_size=2))
    grid = TileGrid(hw, tile, draw(st.integers(0, tile - 1)) // 2, RegionOfInterest.from_polygons(roi))
    stitcher = Stitcher(grid, (2, 2), draw(st.integers(1, 5)))
    values = st.sampled_from([0.0, 1.0, 4.5, 5.0, 6.0, 7.25, 9.0])
    heatmap = draw(
        arrays(np.float32, stitcher.heatmap_hw, elements=values.map(np.float32), fill=st.just(np.float32(0)))
    )
    defective = draw(arrays(np.bool_, len(grid)))
    heatmap[~looked_at(stitcher, np.ones(len(grid), bool))] = np.nan
    return stitcher, heatmap, defective


def looked_at(stitcher: Stitcher, defective: NDArray[np.bool_]) -> NDArray[np.bool_]:
    mask = np.zeros(stitcher.heatmap_hw, bool)
    for tile in np.flatnonzero(defective):
        mask[stitcher.tile_cells(int(tile))] = True
    return mask


def cells_of(region: Region, stitcher: Stitcher) -> tuple[slice, slice]:
    left, top, right, bottom = region.box_xyxy
    cell = stitcher.cell_px
    return slice(top // cell, -(-bottom // cell)), slice(left // cell, -(-right // cell))


def peak_cell(region: Region, stitcher: Stitcher) -> tuple[int, int]:
    x, y = region.peak_xy
    return min(y // stitcher.cell_px, stitcher.heatmap_hw[0] - 1), min(
        x // stitcher.cell_px, stitcher.heatmap_hw[1] - 1
    )


@given(frames())
def test_regions_equal_a_flood_fill_and_every_defective_tile_has_one(
    case: tuple[Stitcher, NDArray[np.float32], NDArray[np.bool_]],
) -> None:
    stitcher, heatmap, defective = case
    regions = find_regions(heatmap, stitcher, defective, EVIDENCE)
    looked = looked_at(stitcher, defective)
    inside = looked & (heatmap >= EVIDENCE)
    marked = np.zeros(stitcher.heatmap_hw, bool)
    for region in regions:
        assert looked[peak_cell(region, stitcher)]
        marked[cells_of(region, stitcher)] = True
    tiles = [stitcher.tile_cells(int(tile)) for tile in np.flatnonzero(defective)]
    assert all(marked[cells].any() for cells in tiles)
    assert bool(regions) == bool(tiles)
    if all(inside[cells].any() for cells in tiles):  # otherwise a tile counts with its peak
        areas = [
            (float(max(heatmap[cell] for cell in area)), min(i for i, _ in area), min(j for _, j in area))
            for area in components(inside)
        ]
        found = [(region.score, *(cells.start for cells in cells_of(region, stitcher))) for region in regions]
        assert sorted(found) == sorted(areas)


@given(frames(), st.sampled_from([5.0, 6.0, 9.0]))
def test_other_tiles_of_a_defective_frame_have_the_areas_with_strong_evidence(
    case: tuple[Stitcher, NDArray[np.float32], NDArray[np.bool_]], strong: float
) -> None:
    stitcher, heatmap, defective = case
    found = found_cells(heatmap, stitcher, defective, EVIDENCE, strong)
    expected = found_cells(heatmap, stitcher, defective, EVIDENCE) & (heatmap >= EVIDENCE)
    if defective.any():
        for area in components(heatmap >= EVIDENCE):
            if max(heatmap[cell] for cell in area) >= strong:
                expected[tuple(np.array(list(area)).T)] = True
    # A defective tile without any of these counts with its peak.
    peaks = found & ~expected
    assert not (expected & ~found).any()
    assert not (heatmap[peaks] >= EVIDENCE).any()
    assert peaks.sum() <= sum(not expected[stitcher.tile_cells(int(tile))].any() for tile in np.flatnonzero(defective))
    assert all(found[stitcher.tile_cells(int(tile))].any() for tile in np.flatnonzero(defective))
    assert bool(find_regions(heatmap, stitcher, defective, EVIDENCE, strong)) == bool(defective.any())


@given(frames())
def test_box_peak_area_and_contour_agree_and_lie_in_the_frame(
    case: tuple[Stitcher, NDArray[np.float32], NDArray[np.bool_]],
) -> None:
    stitcher, heatmap, defective = case
    frame_h, frame_w = stitcher.grid.frame_hw
    regions = find_regions(heatmap, stitcher, defective, EVIDENCE)
    assert [region.score for region in regions] == sorted((region.score for region in regions), reverse=True)
    for region in regions:
        left, top, right, bottom = region.box_xyxy
        assert 0 <= left < right <= frame_w
        assert 0 <= top < bottom <= frame_h
        assert all(left <= x < right and top <= y < bottom for x, y in [region.peak_xy, *region.contour_xy])
        assert region.score == float(heatmap[peak_cell(region, stitcher)])
        assert 0 < region.area_px <= (right - left) * (bottom - top)


def grid_of_two() -> Stitcher:
    """Two adjacent tiles of 224 px that overlap by 2 px."""
    return Stitcher(TileGrid((224, 446), 224, 2), (14, 14))


def heatmap_with(stitcher: Stitcher, *spots: tuple[tuple[slice, slice], float]) -> NDArray[np.float32]:
    heatmap = np.zeros(stitcher.heatmap_hw, np.float32)
    for place, value in spots:
        heatmap[place] = value
    return heatmap


def test_a_region_has_its_box_area_contour_peak_and_score_in_pixels() -> None:
    stitcher = grid_of_two()
    heatmap = heatmap_with(stitcher, (np.s_[2:4, 5:8], 6.0), (np.s_[3:4, 6:7], 9.0))
    (region,) = find_regions(heatmap, stitcher, np.array([True, False]), EVIDENCE)
    assert region == Region(
        box_xyxy=(20, 8, 32, 16),
        contour_xy=[(20, 8), (20, 15), (31, 15), (31, 8)],
        area_px=2 * 3 * 16,
        peak_xy=(26, 14),
        score=9.0,
    )


def test_only_defective_tiles_have_regions_and_a_defect_across_a_seam_is_one() -> None:
    stitcher = grid_of_two()
    across = heatmap_with(stitcher, (np.s_[10:20, 50:60], 8.0))
    beside = heatmap_with(stitcher, (np.s_[10:20, 80:90], 50.0), (np.s_[1:2, 1:2], 6.0))
    for heatmap, defective, boxes in [
        (across, [True, True], [(200, 40, 240, 80)]),
        (across, [True, False], [(200, 40, 224, 80)]),  # ends where the next tile is good
        (beside, [True, False], [(4, 4, 8, 8)]),
        (beside, [False, False], []),
    ]:
        regions = find_regions(heatmap, stitcher, np.array(defective), EVIDENCE)
        assert [region.box_xyxy for region in regions] == boxes


def test_strong_evidence_is_a_region_in_any_tile_of_a_defective_frame_and_weak_evidence_beside_it_is_not() -> None:
    stitcher = grid_of_two()
    heatmap = heatmap_with(
        stitcher,
        (np.s_[5:6, 5:6], 6.0),  # in the defective tile
        (np.s_[10:12, 80:90], 6.0),  # a small defect in the other tile: one strong cell, and weaker ones around it
        (np.s_[10:11, 85:86], 9.0),
        (np.s_[30:31, 80:90], 8.9),
    )
    for strong, defective, boxes in [
        (9.0, [True, False], [(320, 40, 360, 48), (20, 20, 24, 24)]),
        (None, [True, False], [(20, 20, 24, 24)]),
        (float(np.nextafter(9.0, np.inf)), [True, False], [(20, 20, 24, 24)]),  # float32 would round it to 9
        (9.0, [False, False], []),  # the frame is good
    ]:
        regions = find_regions(heatmap, stitcher, np.array(defective), EVIDENCE, strong)
        assert [region.box_xyxy for region in regions] == boxes


def test_a_weak_defective_tile_gets_its_peak_next_to_a_strong_defect() -> None:
    stitcher = grid_of_two()
    heatmap = heatmap_with(stitcher, (np.s_[7:8, 9:10], 1.0), (np.s_[7:8, 100:101], 50.0))
    strong, weak = find_regions(heatmap, stitcher, np.array([True, True]), EVIDENCE)
    assert (strong.score, weak.peak_xy, weak.score, weak.area_px) == (50.0, (38, 30), 1.0, 16)


def test_cells_that_touch_at_a_corner_are_one_region_with_one_outline() -> None:
    stitcher = grid_of_two()
    heatmap = heatmap_with(stitcher, (np.s_[4:5, 4:5], 6.0), (np.s_[5:6, 5:6], 7.0))
    (region,) = find_regions(heatmap, stitcher, np.array([True, False]), EVIDENCE)
    assert region.area_px == 32
    mask = np.zeros((224, 446), np.uint8)
    cv2.fillPoly(mask, [np.array(region.contour_xy, np.int32)], 1)
    assert mask[17, 17] == 1, "the outline leaves out the first cell"
    assert mask[22, 22] == 1, "the outline leaves out the second cell"


def test_evidence_at_the_threshold_counts_and_the_next_lower_value_does_not() -> None:
    """This includes a threshold that float32 cannot represent: rounded to float32, it would equal that value."""
    stitcher = grid_of_two()
    heatmap = heatmap_with(
        stitcher, (np.s_[4:6, 4:6], EVIDENCE), (np.s_[20:21, 20:21], np.nextafter(np.float32(5), np.float32(0)))
    )
    (region,) = find_regions(heatmap, stitcher, np.array([True, False]), EVIDENCE)
    assert region.area_px == 64
    heatmap = heatmap_with(stitcher, (np.s_[4:6, 4:6], EVIDENCE), (np.s_[20:21, 20:21], 6.0))
    (region,) = find_regions(heatmap, stitcher, np.array([True, False]), float(np.nextafter(EVIDENCE, np.inf)))
    assert region.score == 6.0


@pytest.mark.parametrize(("frame_hw", "cell"), [((225, 225), 4), ((1, 1), 4), ((3, 500), 4), ((226, 227), 7)])
def test_a_region_in_the_last_cells_ends_with_the_frame(frame_hw: tuple[int, int], cell: int) -> None:
    stitcher = Stitcher(TileGrid(frame_hw), (14, 14), cell)
    heatmap = heatmap_with(stitcher, (np.s_[-1:, -1:], 8.0))
    defective = np.zeros(len(stitcher.grid), bool)
    defective[-1] = True
    (region,) = find_regions(heatmap, stitcher, defective, EVIDENCE)
    left, top, right, bottom = region.box_xyxy
    assert (bottom, right) == frame_hw
    assert region.area_px == (right - left) * (bottom - top)
    assert region.peak_xy[0] < right
    assert region.peak_xy[1] < bottom
