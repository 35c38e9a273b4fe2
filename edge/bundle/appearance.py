"""What is measured of a frame to see whether it shows the product."""

from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.lines import Lines, measure_lines
from heatline.edge.geometry import TileGrid

SAMPLED_PX = 1 << 16
"""How many pixels of a frame give its statistics."""
TILES_OF_FRAME = 16
"""How many tiles of a frame give the features that describe the product."""
FAR_PX, FLAT = 8, 0.1
"""For sharpness and detail: the distance of the pixels that neighbours are compared with, and the mean square step of
a flat surface."""
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


@dataclass(frozen=True, eq=False)
class Appearance:
    """The appearance of a frame."""

    frame_hw: tuple[int, int]
    statistics: ImageStatistics
    features: Floats | None
    """[tiles, c], of the inspected tiles; None: the graph gives none."""
    lines: Lines | None = None
    """None: not measured."""
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
        seen = rgb if box is None else rgb[box]
        xyxy = None
        if box is not None:
            top, left = box[0].start, box[1].start
            xyxy = (left, top, left + seen.shape[1], top + seen.shape[0])
        measured = cls(grid.frame_hw, ImageStatistics.of(seen), None, measure_lines(seen), None, grid, xyxy)
        return measured.with_features(features)

    def with_features(self, features: Floats | None) -> "Appearance":
        """Return a copy with the features of its tiles, as in `of`."""
        if features is None or features.ndim == 2:
            return replace(self, features=features)
        return replace(self, features=features.mean(axis=(1, 2)), cells=features)

    def thinned(self, keep_cells: bool = False) -> "Appearance":
        """Return a copy with the features of a few, evenly chosen tiles: enough if many frames describe a product.

        Args:
            keep_cells: whether to keep all cells, in half precision.
        """
        cells: Cells | None = None
        if keep_cells and self.cells is not None:
            cells = self.cells.astype(np.float16)
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
