"""Changes of pictures as light, focus and position make them. Pictures are RGB uint8 [H, W, 3]."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def scaled(rgb: Pixels, factor: float, offset: float = 0) -> Pixels:
    """Return a picture in another light."""
    changed: Pixels = np.clip(rgb.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)
    return changed


def grain(rgb: NDArray[Any], rng: np.random.Generator, deviation: float) -> Pixels:
    """Return a picture with more noise."""
    noisy = np.asarray(rgb, np.float32) + rng.normal(0, deviation, rgb.shape).astype(np.float32)
    grained: Pixels = np.clip(noisy, 0, 255).astype(np.uint8)
    return grained


def blurred(rgb: Pixels, rng: np.random.Generator, px: float) -> Pixels:
    """Return a picture out of focus, with the noise of a sensor, which is not blurred."""
    return grain(np.asarray(cv2.GaussianBlur(rgb, (0, 0), px)), rng, 1)


def shifted(rgb: Pixels, px: int) -> Pixels:
    """Shift to the right and down; mirror at the border, where an edge would look like a defect."""
    moved = cv2.copyMakeBorder(rgb, px, 0, px, 0, cv2.BORDER_REFLECT_101)
    return np.asarray(moved[: rgb.shape[0], : rgb.shape[1]], np.uint8)


def in_size(rgb: Pixels, height_width: tuple[int, int]) -> Pixels:
    """Return a picture in a frame of another size and at the same scale: its middle, mirrored where it is too small."""
    missing = [max(0, wanted - side) for wanted, side in zip(height_width, rgb.shape[:2], strict=True)]
    (below, right), (height, width) = missing, height_width
    filled = cv2.copyMakeBorder(rgb, below // 2, below - below // 2, right // 2, right - right // 2, cv2.BORDER_REFLECT)
    top, left = (filled.shape[0] - height) // 2, (filled.shape[1] - width) // 2
    return np.asarray(filled[top : top + height, left : left + width], np.uint8)
