"""The pixels of a frame to inspect: polygons to include, minus polygons to exclude."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]
"""(x, y), px of the frame: the pixel in column x and row y."""


@dataclass(frozen=True)
class RegionOfInterest:
    """The union of `roi` minus the union of `exclude`, for frames of any size.

    A pixel belongs to a polygon if the point (x, y) of its column x and row y lies in it or on its border. So
    (0, 0), (223, 0), (223, 223), (0, 223) are the corners of the first 224 x 224 px. For a polygon that crosses itself,
    the even-odd rule applies. Parts outside the frame are cut off.

    Args:
        roi: polygons; an empty tuple: the whole frame.
        exclude: polygons; they take precedence.
    """

    roi: tuple[tuple[Point, ...], ...] = ()
    exclude: tuple[tuple[Point, ...], ...] = ()

    @classmethod
    def from_polygons(
        cls, roi: Iterable[Iterable[Point]] = (), exclude: Iterable[Iterable[Point]] = ()
    ) -> "RegionOfInterest":
        """Create a region from any iterables of polygons."""
        return cls(_frozen(roi), _frozen(exclude))

    def box(self, frame_hw: tuple[int, int]) -> tuple[slice, slice]:
        """Return rows and columns of the smallest rectangle around the `roi` polygons; `exclude` is ignored."""
        if not self.roi:
            return slice(0, frame_hw[0]), slice(0, frame_hw[1])
        x, y = zip(*(point for polygon in self.roi for point in polygon), strict=True)
        return slice(max(min(y), 0), max(max(y) + 1, 0)), slice(max(min(x), 0), max(max(x) + 1, 0))

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the pixels of the region, bool [H, W]."""
        inside = np.full(frame_hw, not self.roi, np.bool_)
        for polygon in self.roi:
            inside |= _pixels(polygon, frame_hw)
        for polygon in self.exclude:
            inside &= ~_pixels(polygon, frame_hw)
        return inside


WHOLE_FRAME = RegionOfInterest()


def _frozen(polygons: Iterable[Iterable[Point]]) -> tuple[tuple[Point, ...], ...]:
    return tuple(tuple((x, y) for x, y in polygon) for polygon in polygons)


def _pixels(polygon: tuple[Point, ...], frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels of a polygon, bool [H, W]: those with an odd number of edges to their left or on an edge.

    The computation is exact, in integers. An edge counts for the rows from its upper end to just above its lower end.
    So a row that only touches the polygon at a corner meets both edges or neither, and a row that passes through the
    corner meets one.
    """
    height, width = frame_hw
    crossed = np.zeros((height, width + 1), np.bool_)  # the last column is for edges beyond the frame
    on_edge = np.zeros((height, width), np.bool_)
    for (x, y), (next_x, next_y) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        (top, top_x), (bottom, bottom_x) = sorted([(y, x), (next_y, next_x)])
        if top == bottom:
            if 0 <= top < height:
                on_edge[top, max(top_x, 0) : max(bottom_x + 1, 0)] = True
            continue
        rows = np.arange(max(top, 0), min(bottom, height - 1) + 1)
        across, remainder = np.divmod((rows - top) * (bottom_x - top_x), bottom - top)
        column = top_x + across + (remainder > 0)  # the first column that is not left of the edge
        met = (remainder == 0) & (column >= 0) & (column < width)
        on_edge[rows[met], column[met]] = True
        counts = rows < bottom
        crossed[rows[counts], np.clip(column[counts], 0, width)] ^= True
    return np.logical_xor.accumulate(crossed[:, :width], axis=1) | on_edge
