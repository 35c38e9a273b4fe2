"""Rows and columns of a frame that a lost or torn transfer leaves: lines that repeat the line before, and seams.

A sensor's noise makes each line differ from the line before. Where a transfer lost lines, they are black, of one
colour, or copies of the last line that came; where it mixed two frames, all pixels of a line step at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

LineMeasure = Literal["repeated_rows", "repeated_columns", "torn_rows", "torn_columns"]
BLOCKS, BLOCK_PX = 8, 16
"""Of a long line, only this many blocks of so many neighbouring pixels are compared: they lie close in memory."""
SAME = 2
"""Grey levels by which a repeated line may differ: JPEG compression changes it a little."""
FLAT = 0.5
"""Grey levels added to the steps around a seam, so that a seam in an even surface has no endless strength."""
QUANTILE = 0.99
MARGIN, SLACK = 1.25, {"repeated": 0.02, "torn": 2.0}
"""A limit is the good frames' quantile times the margin, plus the slack."""


@dataclass(frozen=True)
class Stretch:
    """The longest stretch of repeated lines in a frame, or its strongest seam."""

    value: float
    """Repeated lines: their share of the frame's height or width, in all stretches. Torn: the mean step to the next
    line, divided by the median of the steps around it."""
    first_px: int
    end_px: int


Lines = Mapping[LineMeasure, Stretch]


def measure_lines(rgb: NDArray[np.uint8]) -> Lines:
    """Measure an RGB uint8 frame [H, W, 3]."""
    lines: dict[LineMeasure, Stretch] = {}
    by_axis: tuple[tuple[LineMeasure, LineMeasure, NDArray[np.uint8]], ...] = (
        ("repeated_rows", "torn_rows", _grey(_sampled(rgb, 1))),
        ("repeated_columns", "torn_columns", np.ascontiguousarray(_grey(_sampled(rgb, 0)).T)),
    )
    for repeated, torn, grey in by_axis:
        steps = np.abs(np.diff(grey.astype(np.int16), axis=0))  # [lines - 1, sampled]
        lines[repeated] = _repeated(steps.max(axis=1, initial=0) <= SAME)
        lines[torn] = _strongest_seam(steps.mean(axis=1))
    return lines


def fit_lines(frames: Sequence[Lines]) -> dict[LineMeasure, float]:
    """Return the limit of each measure from good frames, at least one."""
    return {
        name: MARGIN * float(np.quantile([each[name].value for each in frames], QUANTILE)) + SLACK[name.split("_")[0]]
        for name in frames[0]
    }


def _sampled(rgb: NDArray[np.uint8], axis: int) -> NDArray[np.uint8]:
    """Return evenly spread blocks along an axis."""
    length = rgb.shape[axis]
    if length <= BLOCKS * BLOCK_PX:
        return rgb
    starts = np.linspace(0, length - BLOCK_PX, BLOCKS).astype(int).tolist()
    cuts = [slice(start, start + BLOCK_PX) for start in starts]
    return np.concatenate([rgb[:, cut] if axis else rgb[cut] for cut in cuts], axis=axis)


def _grey(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY), np.uint8)


def _repeated(same: NDArray[np.bool_]) -> Stretch:
    """Return how many lines repeat the line before, and the longest run; `same` starts with the frame's second line."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    starts, ends = ends[::2], ends[1::2]
    if not len(starts):
        return Stretch(0.0, 0, 0)
    longest = int((ends - starts).argmax())
    first, end = int(starts[longest]), int(ends[longest])
    return Stretch(int(same.sum()) / (len(same) + 1), first + 1, end + 1)


def _strongest_seam(steps: NDArray[np.float64]) -> Stretch:
    """Return the strongest seam of mean steps [lines - 1]."""
    if len(steps) < 5:
        return Stretch(0.0, 0, 0)
    around = np.sort([steps[:-4], steps[1:-3], steps[3:-1], steps[4:]], axis=0)[1:3].mean(axis=0)
    strength = steps[2:-2] / (around + FLAT)
    line = int(strength.argmax()) + 3  # the line after the step
    return Stretch(float(strength[line - 3]), line - 1, line + 1)
