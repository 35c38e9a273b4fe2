"""Pixels of a region of interest, against a slow test of each single pixel in exact arithmetic."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest

Polygon = list[tuple[int, int]]
FRAME_HW = st.tuples(st.integers(1, 14), st.integers(1, 14))
COORDINATE = st.integers(-5, 18) | st.sampled_from([-65535, 65535])  # in the frame, around it, and far away
POLYGON = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=1, max_size=7)
POLYGONS = st.lists(POLYGON, max_size=3)


def edges(polygon: Polygon) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    return list(itertools.pairwise([*polygon, polygon[0]]))


def lies_on(point: tuple[int, int], start: tuple[int, int], end: tuple[int, int]) -> bool:
    (x, y), (x0, y0), (x1, y1) = point, start, end
    in_box = min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1)
    return in_box and (x - x0) * (y1 - y0) == (y - y0) * (x1 - x0)


def belongs(x: int, y: int, polygon: Polygon) -> bool:
    """Return whether a point is on an edge, or has an odd number of edges above it."""
    if any(lies_on((x, y), start, end) for start, end in edges(polygon)):
        return True
    above = 0
    for (x0, y0), (x1, y1) in edges(polygon):
        if (x0 <= x) != (x1 <= x):
            above += y0 + Fraction((x - x0) * (y1 - y0), x1 - x0) < y
    return above % 2 == 1


def slow_mask(roi: list[Polygon], exclude: list[Polygon], frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(frame_hw, bool)
    for y, x in np.ndindex(frame_hw):
        seen = not roi or any(belongs(x, y, polygon) for polygon in roi)
        mask[y, x] = seen and not any(belongs(x, y, polygon) for polygon in exclude)
    return mask


def drawn(mask: NDArray[np.bool_]) -> list[str]:
    return ["".join("#" if pixel else "." for pixel in row) for row in mask]


@pytest.mark.parametrize(
    ("polygon", "expected"),
    [
        ([(1, 1), (3, 1), (3, 2), (1, 2)], ["......", ".###..", ".###..", "......", "......"]),  # the border too
        ([(0, 0), (5, 0), (5, 4), (0, 4)], ["######"] * 5),  # the first and the last pixel: the frame
        ([(0, 0), (4, 0), (0, 4)], ["#####.", "####..", "###...", "##....", "#....."]),  # a triangle
        ([(0, 0), (3, 1), (0, 1)], ["#.....", "####..", "......", "......", "......"]),  # an edge between pixels
        ([(0, 0), (2, 2), (4, 0), (4, 4), (0, 4)], ["#...#.", "##.##.", "#####.", "#####.", "#####."]),  # a notch
        ([(0, 0), (4, 4), (4, 0), (0, 4)], ["#...#.", "##.##.", "#####.", "##.##.", "#...#."]),  # crosses itself
        (
            [(4, 2), (9, 0), (9, 4)],
            ["......", "......", "....##", "......", "......"],
        ),  # extends to the right
        ([(1, 1), (4, 1), (2, 1)], ["......", ".####.", "......", "......", "......"]),  # only a line
        ([(2, 3), (2, 3), (2, 3)], ["......", "......", "......", "..#...", "......"]),  # only a point
        ([(6, 0), (9, 0), (9, 4)], ["......"] * 5),  # outside the frame
    ],
)
def test_the_pixels_of_a_polygon_are(polygon: Polygon, expected: list[str]) -> None:
    assert drawn(RegionOfInterest.from_polygons([polygon]).mask((5, 6))) == expected
    assert drawn(~RegionOfInterest.from_polygons((), [polygon]).mask((5, 6))) == expected


@given(roi=POLYGONS, exclude=POLYGONS, frame_hw=FRAME_HW, first=st.integers(0, 6))
def test_a_region_equals_a_test_of_each_single_pixel(
    roi: list[Polygon], exclude: list[Polygon], frame_hw: tuple[int, int], first: int
) -> None:
    """A polygon may begin at any corner and go in either direction."""
    expected = slow_mask(roi, exclude, frame_hw)
    np.testing.assert_array_equal(RegionOfInterest.from_polygons(roi, exclude).mask(frame_hw), expected)
    turned = [(polygon[first:] + polygon[:first])[::-1] for polygon in roi]
    np.testing.assert_array_equal(RegionOfInterest.from_polygons(turned, exclude).mask(frame_hw), expected)


def test_exclude_takes_precedence_and_without_polygons_the_region_is_the_whole_frame() -> None:
    square, dot = [(0, 0), (2, 0), (2, 2), (0, 2)], [(1, 1)] * 3
    assert drawn(RegionOfInterest.from_polygons([square, dot], [dot]).mask((4, 4))) == ["###.", "#.#.", "###.", "...."]
    assert WHOLE_FRAME.mask((3, 4)).all()
    assert RegionOfInterest.from_polygons([], []) == WHOLE_FRAME


def test_regions_of_equal_polygons_are_one_key() -> None:
    from_lists = RegionOfInterest.from_polygons([[(0, 0), (2, 0), (2, 2)]], [[(1, 1), (2, 1), (2, 2)]])
    from_tuples = RegionOfInterest((((0, 0), (2, 0), (2, 2)),), (((1, 1), (2, 1), (2, 2)),))
    assert {from_lists: "kept"}[from_tuples] == "kept"
    assert from_lists != RegionOfInterest.from_polygons(from_lists.exclude, from_lists.roi)


@given(POLYGONS, POLYGONS, FRAME_HW)
def test_the_box_contains_every_pixel_of_the_region(
    roi: list[Polygon], exclude: list[Polygon], frame_hw: tuple[int, int]
) -> None:
    area = RegionOfInterest.from_polygons(roi, exclude)
    outside = area.mask(frame_hw)
    outside[area.box(frame_hw)] = False
    assert not outside.any()


def test_the_box_is_not_larger_than_the_polygons() -> None:
    area = RegionOfInterest.from_polygons(
        [[(1, 1), (3, 2), (2, 2)], [(5, 0), (5, 0), (5, 0)]], [[(0, 0), (9, 0), (9, 9)]]
    )
    assert area.box((10, 10)) == (slice(0, 3), slice(1, 6))
    assert WHOLE_FRAME.box((10, 20)) == (slice(0, 10), slice(0, 20))
