"""Which pixels of a frame are to be inspected: polygons to look at, less polygons to look away from."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]
"""(x, y), px of the frame: the pixel in column x and row y."""


@dataclass(frozen=True)
class RegionOfInterest:
    """The union of `roi` less the union of `exclude`, for frames of any size.

    A pixel belongs to a polygon if the point (x, y) of its column x and row y lies in it or on its border. So
    (0, 0), (223, 0), (223, 223), (0, 223) are the corners of the first 224 x 224 px. Where a polygon crosses itself,
    the even-odd rule says what lies in it. What sticks out of the frame is cut off.

    Args:
        roi: polygons; none: the whole frame.
        exclude: polygons; they win.
    """

    roi: tuple[tuple[Point, ...], ...] = ()
    exclude: tuple[tuple[Point, ...], ...] = ()

    @classmethod
    def of(cls, roi: Iterable[Iterable[Point]] = (), exclude: Iterable[Iterable[Point]] = ()) -> "RegionOfInterest":
        """From any lists of polygons."""
        return cls(_frozen(roi), _frozen(exclude))

    def box(self, frame_hw: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the smallest rectangle that holds what is looked at of a frame, whatever is looked away
        from.
        """
        if not self.roi:
            return slice(0, frame_hw[0]), slice(0, frame_hw[1])
        x, y = zip(*(point for polygon in self.roi for point in polygon), strict=True)
        return slice(max(min(y), 0), max(max(y) + 1, 0)), slice(max(min(x), 0), max(max(x) + 1, 0))

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """The pixels that belong to it, bool [H, W]."""
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
    """The pixels of a polygon, bool [H, W]: those that have an odd number of edges to their left, and those on an edge.

    Computed in whole numbers, so that it is exact. An edge counts for the rows from its upper end to just above its
    lower one: a row through a corner then meets both edges of it, or neither, where it only touches the polygon there,
    and one of them where it passes through.
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
        across, left_over = np.divmod((rows - top) * (bottom_x - top_x), bottom - top)
        column = top_x + across + (left_over > 0)  # the first that does not lie left of the edge
        met = (left_over == 0) & (column >= 0) & (column < width)
        on_edge[rows[met], column[met]] = True
        counts = rows < bottom
        crossed[rows[counts], np.clip(column[counts], 0, width)] ^= True
    return np.logical_xor.accumulate(crossed[:, :width], axis=1) | on_edge
