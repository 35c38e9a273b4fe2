"""The mean of the calibration frames, reduced and grey: frames of the line are compared with it to measure a shift."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.arrays import Arrays

LONGEST_PX = 256
"""Longest side of a reduced picture. Phase correlation finds a shift to a fraction of one of its px."""
THINNED_PX = 3 * LONGEST_PX
"""Least longest side of a large frame when its pixels are averaged. To average all pixels of a frame of 20 MP takes
0.1 s, for which the verdict of the next frame would wait.
"""
Grey = NDArray[np.uint8]


class Shift(NamedTuple):
    """Where a frame shows what the reference picture shows."""

    x_px: float
    """Px of the frame; positive: further right."""
    y_px: float
    """Px of the frame; positive: further down."""
    match: float
    """Height of the correlation's peak: about 1 if both show the same, about 0 if they have nothing in common. The
    shift is then meaningless."""


def thin(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return each n-th pixel of each n-th row of a large RGB uint8 frame [H, W, 3], and a smaller frame as it is."""
    height, width = rgb.shape[:2]
    step = max(height, width) // THINNED_PX
    if step < 2:
        return rgb
    size = max(1, width // step), max(1, height // step)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def reduce(rgb: NDArray[np.uint8]) -> Grey:
    """Reduce an RGB uint8 frame [H, W, 3] to a grey picture whose longest side has at most `LONGEST_PX`."""
    height, width = rgb.shape[:2]
    scale = min(1.0, LONGEST_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = cv2.cvtColor(cv2.resize(thin(rgb), size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return np.asarray(grey, np.uint8)


def measure_shift(reference: NDArray[Any], reduced: Grey, frame_hw: tuple[int, int]) -> Shift:
    """Measure the shift of a reduced picture [h, w] against a reference picture [h, w] by phase correlation.

    Args:
        frame_hw: size of the frame, px.
    """
    one, other = ((each - each.mean()).astype(np.float32) for each in (reference, reduced))
    window = cv2.createHanningWindow((reduced.shape[1], reduced.shape[0]), cv2.CV_32F)
    (x, y), match = cv2.phaseCorrelate(one, other, window)
    if not np.isfinite((x, y, match)).all():  # of a flat picture
        return Shift(0.0, 0.0, 0.0)
    return Shift(x * frame_hw[1] / reduced.shape[1], y * frame_hw[0] / reduced.shape[0], match)


@dataclass(frozen=True, eq=False)
class ReferencePicture:
    """The reference picture of a bundle, or of one camera in a bundle."""

    grey: Grey
    """[h, w]"""
    frame_hw: tuple[int, int]
    """Size of the frames that it was made from, px."""

    @classmethod
    def load(cls, path: Path, picture_hw: tuple[int, int], frame_hw: tuple[int, int]) -> "ReferencePicture":
        """Read the picture in a file.

        Raises:
            BundleError: the file holds no picture of this size.
        """
        arrays = Arrays(path, "reference picture", picture_hw[0] * picture_hw[1])
        return cls(arrays.take("grey", picture_hw, np.uint8), frame_hw)

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, grey=self.grey)
        return buffer.getvalue()

    def shift_of(self, reduced: Grey, frame_hw: tuple[int, int]) -> Shift | None:
        """Return the shift of a frame, reduced by `reduce`; None: its size differs."""
        return measure_shift(self.grey, reduced, frame_hw) if frame_hw == self.frame_hw else None
