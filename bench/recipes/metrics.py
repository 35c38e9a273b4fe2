"""Figures of tiles, pixels and defects, as docs/recipes.md defines them."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.calibration.statistics import CONFIDENCE
from heatline.train.evaluation.figures import average_precision

LEAST_DEFECT_PX = 30
"""Smaller areas of a mask do not count as defects, as masks that are derived from pictures have noise."""
_LEVELS = 2**16


class PixelRanking:
    """Pixels by their evidence: how many defective and good ones there are at each value of float16."""

    def __init__(self) -> None:
        self._defective, self._good = np.zeros(_LEVELS), np.zeros(_LEVELS)

    def add(self, evidence: NDArray[np.float32], defective_px: NDArray[np.int64], good_px: NDArray[np.int64]) -> None:
        """Count the pixels of some cells; arrays of one shape."""
        level = evidence.astype(np.float16).view(np.uint16).ravel()
        np.add.at(self._defective, level, defective_px.ravel())
        np.add.at(self._good, level, good_px.ravel())

    def average_precision(self) -> float | None:
        """Return the average precision of pixels ranked by evidence; None if there are no good or no defective ones."""
        seen = np.flatnonzero(self._defective + self._good)
        value = seen.astype(np.uint16).view(np.float16).astype(np.float64)
        is_defective = np.repeat([True, False], len(seen))
        weight = np.concatenate([self._defective[seen], self._good[seen]])
        return average_precision(np.concatenate([value, value]), is_defective, weight)


def count_in_cells(mask: NDArray[np.bool_], cell_px: int) -> NDArray[np.int64]:
    """Count the true pixels in each cell [h, w] of a mask [H, W]; the last cells may extend beyond it."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % cell_px), (0, -width % cell_px)))
    rows, columns = padded.shape[0] // cell_px, padded.shape[1] // cell_px
    return padded.reshape(rows, cell_px, columns, cell_px).sum(axis=(1, 3))  # type: ignore[no-any-return]


def label_defects(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Return the number of the defect at each pixel, from 1, 0 elsewhere, and the number of defects.

    A defect is a connected area (8 neighbours) of `LEAST_DEFECT_PX` or more.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    is_defect = stats[:, cv2.CC_STAT_AREA] >= LEAST_DEFECT_PX
    is_defect[0] = False
    number = np.where(is_defect, np.cumsum(is_defect), 0).astype(np.int32)
    return number[labels[: mask.shape[0]]] if count > 1 else np.zeros(mask.shape, np.int32), int(is_defect.sum())


def count_hit(labels: NDArray[np.int32], found: NDArray[np.bool_], cell_px: int) -> int:
    """Count the defects of `label_defects` [H, W] that have a pixel in a found cell [h, w]."""
    height, width = labels.shape
    pixels = found.repeat(cell_px, axis=0).repeat(cell_px, axis=1)[:height, :width]
    return len(set(np.unique(labels[pixels]).tolist()) - {0})


def count_false(mask: NDArray[np.bool_], found: NDArray[np.bool_], cell_px: int, near_px: int) -> int:
    """Count the connected areas of found cells [h, w] that have no cell near a defective pixel of a mask [H, W].

    Near is a distance of at most `near_px` along both axes, rounded up to whole cells.
    """
    defective = (count_in_cells(mask, cell_px) > 0).astype(np.uint8)
    near = cv2.dilate(defective, np.ones((2 * -(-near_px // cell_px) + 1,) * 2, np.uint8)) > 0
    count, areas = cv2.connectedComponents(found.astype(np.uint8), connectivity=8)
    return int(count - 1 - len(set(np.unique(areas[near]).tolist()) - {0}))


def most_beyond(allowed: int, known: int, new: int, confidence: float = CONFIDENCE) -> int:
    """Return the most of `new` values that exceed a limit that `allowed` of `known` values exceed.

    If all values are independent and alike, every order of them is equally probable, so the count of new values beyond
    the limit has a negative hypergeometric distribution, whatever that of the values is.

    Args:
        allowed: fewer than `known`.
        confidence: probability that no more exceed it.

    >>> most_beyond(0, 5, 1), most_beyond(0, 99, 1), most_beyond(0, 99, 100)
    (1, 0, 4)
    """
    orders, so_far = math.comb(known + new, new), 0
    for count in range(new + 1):
        so_far += math.comb(allowed + count, count) * math.comb(known - allowed - 1 + new - count, new - count)
        if so_far / orders >= confidence:
            return count
    return new
