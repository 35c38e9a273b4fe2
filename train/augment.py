"""What is done to a training tile, each by itself: none of it changes whether the tile is defective.

Geometry costs one copy of the tile; brightness, contrast and gain are one table of 256 values per channel, whatever
they are; noise and blur, which cost more, touch a quarter of the tiles each.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from train.config import AugmentConfig

_MIRRORED = (None, 0, 1, -1)
"""Not at all, up for down, left for right, both."""
_ROTATED = (None, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)
_LEVELS = np.arange(256, dtype=np.float32)[:, None]


def augment(tile: NDArray[np.uint8], how: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Another tile uint8 [H, W, 3] (H == W where it rotates), drawn from `rng` alone."""
    if how.flips:
        turn = _MIRRORED[int(rng.integers(4))]
        tile = tile if turn is None else np.asarray(cv2.flip(tile, turn), np.uint8)
    if how.rotate:
        turn = _ROTATED[int(rng.integers(4))]
        tile = tile if turn is None else np.asarray(cv2.rotate(tile, turn), np.uint8)
    if how.brightness or how.contrast or how.gain:
        tile = _relight(tile, how, rng)
    either = rng.random()
    if how.noise and either < 0.25:
        deviation = np.float32(rng.uniform(0, how.noise * 255))
        noisy = tile + deviation * rng.standard_normal(tile.shape, np.float32)
        tile = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    elif how.blur and either >= 0.75:
        tile = np.asarray(cv2.GaussianBlur(tile, (0, 0), rng.uniform(0.3, 1.0)), np.uint8)
    return tile


def _relight(tile: NDArray[np.uint8], how: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    gain = 1 + how.gain * rng.uniform(-1, 1, 3)
    contrast = 1 + how.contrast * rng.uniform(-1, 1)
    brightness = 255 * how.brightness * rng.uniform(-1, 1)
    table = (_LEVELS * gain - 127.5) * contrast + 127.5 + brightness  # (256, 3)
    return np.asarray(cv2.LUT(tile, np.clip(np.rint(table), 0, 255).astype(np.uint8)[None]), np.uint8)
