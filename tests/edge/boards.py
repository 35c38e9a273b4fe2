"""Drawn boards that are compared with a reference."""

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.inspection.verdict import Thresholds

THRESHOLDS = Thresholds(score=13.0, evidence=40.0, strong=None)
"""For the small bundle's graph: the boards' own darkness is below, a black square's is above."""


def board(hw: tuple[int, int] = (446, 560), seed: int = 0) -> NDArray[np.uint8]:
    """A light board, RGB, with rectangles everywhere."""
    rng = np.random.default_rng(seed)
    picture = np.full((*hw, 3), 230, np.uint8)
    for _ in range(hw[0] * hw[1] // 2000):
        y, x = (int(rng.integers(side)) for side in hw)
        h, w = (int(side) for side in rng.integers(4, 40, 2))
        picture[y : y + h, x : x + w] = rng.integers(170, 256)
    return picture


def moved(rgb: NDArray[np.uint8], right: float = 0, down: float = 0, degrees: float = 0) -> NDArray[np.uint8]:
    """The board where it lies further right and down, and is turned clockwise around the middle; grey beside it."""
    height, width = rgb.shape[:2]
    motion = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1)
    motion[:, 2] += right, down
    return np.asarray(cv2.warpAffine(rgb, motion, (width, height), borderValue=(230, 230, 230)), np.uint8)
