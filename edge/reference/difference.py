"""What a tile shows beyond the range of the reference: the second input of a graph that was trained with a reference.

Edges of a good part move by a fraction of a px from frame to frame, so a px is compared with the range of the
reference's grey values around it, within 1 and within 3 px: only what is brighter than the highest or darker than the
lowest of them counts. This is computed here and not in the graph: as MaxPool and AveragePool of OpenVINO it took half
the time of the whole network (3.3 of 6.6 ms per tile in f32, one core), with OpenCV 0.13 ms.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.geometry.tiling import cut_tile

CELL_PX = 8
"""Side of a cell, px."""
TOLERANCES_PX = (1, 3)
CHANNELS = 4 * len(TOLERANCES_PX)
"""Mean and highest excess over a cell's px: brighter and darker, for each tolerance."""
MOST_GAIN = 1.43
"""Contrast of a tile is matched to the reference's by at most this factor, or its inverse."""
FLAT = 8.0
"""Standard deviation of grey below which the contrast of a reference tile is not matched: it would enlarge noise."""

Grey = NDArray[np.uint8]


def to_grey(rgb: NDArray[np.uint8]) -> Grey:
    """Return the grey values [H, W] of an RGB uint8 picture [H, W, 3]."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


class GreyRange:
    """The range of a reference's grey values around each px.

    Args:
        grey: the reference, uint8 [H, W].
        unknown: px of which it is not known what a good part shows, bool [H, W]; None: none.
    """

    def __init__(self, grey: Grey, unknown: NDArray[np.bool_] | None = None) -> None:
        self.grey, self._unknown = grey, unknown

    @cached_property
    def planes(self) -> list[tuple[Grey, Grey]]:
        """The lowest and the highest value [H, W] around each px, for each tolerance."""
        planes = []
        for px in TOLERANCES_PX:
            kernel = np.ones((2 * px + 1, 2 * px + 1), np.uint8)
            low, high = (np.asarray(grow(self.grey, kernel), np.uint8) for grow in (cv2.erode, cv2.dilate))
            if self._unknown is not None:
                near = cv2.dilate(self._unknown.view(np.uint8), kernel) > 0
                low[near], high[near] = 0, 255
            planes.append((low, high))
        return planes

    def difference(self, tile: Grey, corner_yx: tuple[int, int], out: NDArray[np.uint8]) -> None:
        """Write what a tile has beyond this range into `out`, [cells, cells, CHANNELS].

        Px that the reference does not show, or does not know, do not differ.

        Args:
            tile: grey [side, side]; the side is a multiple of `CELL_PX`.
            corner_yx: where the reference shows what the tile's top left px shows; may lie outside the reference.
        """
        side = len(tile)
        shown, inside = _overlap(corner_yx, side, self.grey.shape)
        out[:] = 0
        if inside is None:
            return
        # Mean and contrast of the tile become those of the reference, by the part of it that the reference shows.
        mean, deviation = (float(each[0, 0]) for each in cv2.meanStdDev(tile[inside]))
        target, spread = (float(each[0, 0]) for each in cv2.meanStdDev(self.grey[shown]))
        gain = min(max(spread / max(deviation, 1.0), 1 / MOST_GAIN), MOST_GAIN) if spread > FLAT else 1.0
        matched = cv2.addWeighted(tile, gain, tile, 0, target - gain * mean)
        excess = np.zeros((2 * len(TOLERANCES_PX), side, side), np.uint8)
        for number, (low, high) in enumerate(self.planes):
            excess[2 * number][inside] = cv2.subtract(matched[inside], high[shown])
            excess[2 * number + 1][inside] = cv2.subtract(low[shown], matched[inside])
        cells = side // CELL_PX
        stacked = excess.reshape(-1, side)
        halved = cv2.resize(stacked, (side // 2, len(stacked) // 2), interpolation=cv2.INTER_AREA)  # half the time
        means = cv2.resize(halved, (cells, len(stacked) // CELL_PX), interpolation=cv2.INTER_AREA)
        rows = stacked.reshape(-1, CELL_PX, side).max(axis=1)
        highest = cv2.dilate(rows, np.ones((1, CELL_PX), np.uint8), anchor=(0, 0))[:, ::CELL_PX]
        out[..., 0::2] = means.reshape(-1, cells, cells).transpose(1, 2, 0)
        out[..., 1::2] = highest.reshape(-1, cells, cells).transpose(1, 2, 0)


def differences(
    grey: Grey, reference: GreyRange, origins_yx: Sequence[tuple[int, int]], corners_yx: NDArray[np.int32], tile_px: int
) -> NDArray[np.uint8]:
    """Return the differences of a frame's tiles, uint8 [tiles, cells, cells, CHANNELS].

    Args:
        grey: the frame [H, W].
        origins_yx: top left corner of each tile, px of the frame.
        corners_yx: [tiles, 2], the same places in the reference.
    """
    cells = tile_px // CELL_PX
    found = np.empty((len(origins_yx), cells, cells, CHANNELS), np.uint8)
    tile = np.empty((tile_px, tile_px), np.uint8)
    for (y, x), corner, out in zip(origins_yx, corners_yx.tolist(), found, strict=True):
        cut_tile(grey, y, x, tile)
        reference.difference(tile, (corner[0], corner[1]), out)
    return found


def reduce_difference(difference: NDArray[np.uint8], cells: int) -> NDArray[np.uint8]:
    """Reduce differences to a reference [N, h, h, channels] to this number of cells a side: each is the highest of
    those that it overlaps.
    """
    for axis in (1, 2):
        side = difference.shape[axis]
        split = math.lcm(side, cells)
        grown = difference.repeat(split // side, axis)
        difference = grown.reshape(*grown.shape[:axis], cells, -1, *grown.shape[axis + 1 :]).max(axis=axis + 1)
    return difference


def _overlap(
    corner_yx: tuple[int, int], side: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...] | None]:
    """Return the part of the reference that a tile at this corner shows, and the same px of the tile; None: no px."""
    shown, inside = [], []
    for corner, length in zip(corner_yx, shape, strict=True):
        low, high = max(corner, 0), min(corner + side, length)
        if low >= high:
            return (), None
        shown.append(slice(low, high))
        inside.append(slice(low - corner, high - corner))
    return tuple(shown), tuple(inside)
