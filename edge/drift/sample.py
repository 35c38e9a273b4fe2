"""What drift compares of a frame's picture: a few numbers, and the picture reduced and in grey."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.appearance import ImageStatistics
from heatline.edge.bundle.reference_picture import Grey, reduce, thin
from heatline.edge.reference.alignment import Pose


@dataclass(frozen=True, eq=False)
class PictureSample:
    """Measures of one frame's picture."""

    frame_hw: tuple[int, int]
    brightness: float
    """Mean grey value, 0 to 255."""
    sharpness: float
    """Of `ImageStatistics`."""
    saturation: float
    """0: grey, 1: pure colours. It does not depend on the brightness."""
    reduced: Grey
    pose: Pose | None = None
    """Of an aligned frame. None: there is no reference of the product."""

    @classmethod
    def of(cls, rgb: NDArray[np.uint8]) -> "PictureSample":
        """Measure an RGB uint8 frame [H, W, 3]."""
        grey = ImageStatistics.of(rgb)
        return cls((rgb.shape[0], rgb.shape[1]), grey.brightness, grey.sharpness, saturation_of(rgb), reduce(rgb))


def saturation_of(rgb: NDArray[np.uint8]) -> float:
    """Return the saturation of an RGB uint8 frame [H, W, 3]: the sum of each pixel's highest value minus its lowest, as
    a share of the sum of the highest.
    """
    size = min(64, rgb.shape[1]), min(64, rgb.shape[0])
    small = cv2.resize(thin(rgb), size, interpolation=cv2.INTER_AREA)
    highest, lowest = small.max(axis=2).astype(np.int64), small.min(axis=2)
    total = int(highest.sum())
    return float((highest - lowest).sum()) / total if total else 0.0
