"""What is measured of a frame to see whether it shows the product: statistics, features, and lost or torn lines.

A sensor's noise makes each line, a row or a column, differ from the line before. Where a transfer lost lines, they are
black, of one colour, or copies of the last line that came; where it mixed two frames, all pixels of a line step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.geometry import TileGrid

SAMPLED_PX = 1 << 16
"""How many pixels of a frame give its statistics."""
TILES_OF_FRAME = 16
"""How many tiles of a frame give the features that describe the product."""
FAR_PX, FLAT = 8, 0.1
"""For sharpness and detail: the distance of the pixels that neighbours are compared with, and the mean square step of
a flat surface."""
LineMeasure = Literal["repeated_rows", "repeated_columns", "torn_rows", "torn_columns"]
BLOCKS, BLOCK_PX = 8, 16
"""Of a long line, only this many blocks of so many neighbouring pixels are compared: they lie close in memory."""
SAME = 2
"""Grey levels by which a repeated line may differ: JPEG compression changes it a little."""
SEAM_FLAT = 0.5
"""Grey levels added to the steps around a seam, so that a seam in an even surface has no endless strength."""
LINE_QUANTILE = 0.99
LINE_MARGIN, LINE_SLACK = 1.25, {"repeated": 0.02, "torn": 2.0}
"""A limit is the good frames' quantile times the margin, plus the slack."""

Floats = NDArray[np.float32]
Cells = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of a frame's grey values, 0 to 255."""

    brightness: float
    """Mean."""
    contrast: float
    """Standard deviation."""
    sharpness: float
    """Mean square difference of neighbours in a row, divided by that of pixels 8 px apart: 1 for noise, 1/8 for sharp
    edges, 1/64 for smooth surfaces. It depends neither on the contrast nor on the number of edges.
    """
    detail: float
    """Sharpness without white noise: 0 for noise, 1/24 for sharp edges, 1/64 for smooth surfaces. White noise adds the
    same to the mean square step at any distance; so a third of the difference between those of 2 px and 1 px, which is
    the whole step of 1 px on a slope, takes the place of the step of 1 px. Noise whose neighbours are alike, as after
    demosaicing or JPEG compression, counts as detail.
    """

    @classmethod
    def of(cls, rgb: NDArray[np.uint8]) -> "ImageStatistics":
        """Measure an RGB uint8 frame [H, W, 3]; for a large frame, some of its rows."""
        rows = rgb[:: max(1, rgb.shape[0] * rgb.shape[1] // SAMPLED_PX)]
        grey = cv2.cvtColor(np.ascontiguousarray(rows), cv2.COLOR_RGB2GRAY)
        mean, deviation = (float(each[0, 0]) for each in cv2.meanStdDev(grey))
        over_1_px, over_2_px, far = (_mean_square_step(grey, px) for px in (1, 2, FAR_PX))
        without_noise = max(0.0, (over_2_px - over_1_px) / 3)
        scale = far + FLAT * FAR_PX**2
        return cls(mean, deviation, (over_1_px + FLAT) / scale, (without_noise + FLAT) / scale)


STATISTICS = tuple(each.name for each in fields(ImageStatistics))


@dataclass(frozen=True)
class Stretch:
    """The longest stretch of repeated lines in a frame, or its strongest seam."""

    value: float
    """Repeated lines: their share of the frame's height or width, in all stretches. Torn: the mean step to the next
    line, divided by the median of the steps around it."""
    first_px: int
    end_px: int


Lines = Mapping[LineMeasure, Stretch]


@dataclass(frozen=True, eq=False)
class Appearance:
    """The appearance of a frame."""

    frame_hw: tuple[int, int]
    statistics: ImageStatistics
    features: Floats | None
    """[tiles, c], of the inspected tiles; None: the graph gives none."""
    lines: Lines = field(default_factory=dict)
    cells: Cells | None = None
    """[tiles, h, w, c]; None: the graph gives none, or only whole frames are compared."""
    grid: TileGrid | None = None
    """Where the tiles lie."""
    measured_xyxy: tuple[int, int, int, int] | None = None
    """The box of the frame whose pixels were measured, px; None: all."""

    @classmethod
    def of(
        cls, rgb: NDArray[np.uint8], grid: TileGrid, features: Floats | None, box: tuple[slice, slice] | None = None
    ) -> "Appearance":
        """Measure an RGB uint8 frame [H, W, 3].

        Args:
            features: [tiles, h, w, c] or [tiles, c].
            box: rows and columns whose pixels are measured; None: all.
        """
        rows, columns = box or (slice(0, rgb.shape[0]), slice(0, rgb.shape[1]))
        seen, top, left = rgb[rows, columns], rows.start, columns.start
        xyxy = (left, top, left + seen.shape[1], top + seen.shape[0])
        measured = cls(grid.frame_hw, ImageStatistics.of(seen), None, measure_lines(seen), None, grid, xyxy)
        return measured.with_features(features)

    def with_features(self, features: Floats | None) -> "Appearance":
        """Return a copy with the features of its tiles, as in `of`."""
        if features is None or features.ndim == 2:
            return replace(self, features=features)
        return replace(self, features=features.mean(axis=(1, 2)), cells=features)

    def thinned(self, keep_cells: bool = False) -> "Appearance":
        """Return a copy with the features of a few, evenly chosen tiles: enough if many frames describe a product. It
        has no cells, or with `keep_cells` all of them, in half precision.
        """
        cells = self.cells.astype(np.float16) if keep_cells and self.cells is not None else None
        if self.features is None or len(self.features) <= TILES_OF_FRAME:
            return replace(self, cells=cells)
        some = np.linspace(0, len(self.features) - 1, TILES_OF_FRAME).astype(int)
        return replace(self, features=self.features[some], cells=cells)


def _mean_square_step(grey: NDArray[Any], px: int) -> float:
    """Return the mean square difference of grey values [h, w] that lie `px` apart in a row."""
    if grey.shape[1] <= px:
        return 0.0
    mean, deviation = cv2.meanStdDev(cv2.absdiff(grey[:, px:], grey[:, :-px]))
    return float(mean[0, 0] ** 2 + deviation[0, 0] ** 2)


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
        name: LINE_MARGIN * float(np.quantile([each[name].value for each in frames], LINE_QUANTILE))
        + LINE_SLACK[name.split("_")[0]]
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
    strength = steps[2:-2] / (around + SEAM_FLAT)
    line = int(strength.argmax()) + 3  # the line after the step
    return Stretch(float(strength[line - 3]), line - 1, line + 1)
