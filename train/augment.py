"""Augmentation of single training tiles; none of it changes whether a tile is defective.

Flips and rotations cost one copy of the tile. Brightness, contrast and gain cost one lookup table of 256 values per
channel. Noise and blur cost more, so each is applied to a quarter of the tiles.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.train.config import AugmentConfig

_MIRRORED = (None, 0, 1, -1)
"""cv2.flip codes: none, vertical, horizontal, both."""
_ROTATED = (None, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)
_LEVELS = np.arange(256, dtype=np.float32)[:, None]


def augment(tile: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return an augmented tile uint8 [H, W, 3] (H == W if it may rotate); `rng` alone determines the result."""
    if config.flips:
        turn = _MIRRORED[int(rng.integers(4))]
        tile = tile if turn is None else np.asarray(cv2.flip(tile, turn), np.uint8)
    if config.rotate:
        tile = rotate(tile, int(rng.integers(4)))
    if config.brightness or config.contrast or config.gain:
        tile = _relight(tile, config, rng)
    choice = rng.random()
    if config.noise and choice < 0.25:
        deviation = np.float32(rng.uniform(0, config.noise * 255))
        noisy = tile + deviation * rng.standard_normal(tile.shape, np.float32)
        tile = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    elif config.blur and choice >= 0.75:
        tile = np.asarray(cv2.GaussianBlur(tile, (0, 0), rng.uniform(0.3, 1.0)), np.uint8)
    return tile


def rotate(tile: NDArray[np.uint8], turns: int) -> NDArray[np.uint8]:
    """Rotate a tile or a plane, uint8 [H, W, 3] or [H, W], clockwise by a number of quarter turns."""
    code = _ROTATED[turns % 4]
    return tile if code is None else np.asarray(cv2.rotate(tile, code), np.uint8)


def _relight(tile: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    gain = 1 + config.gain * rng.uniform(-1, 1, 3)
    contrast = 1 + config.contrast * rng.uniform(-1, 1)
    brightness = 255 * config.brightness * rng.uniform(-1, 1)
    table = (_LEVELS * gain - 127.5) * contrast + 127.5 + brightness  # (256, 3)
    return np.asarray(cv2.LUT(tile, np.clip(np.rint(table), 0, 255).astype(np.uint8)[None]), np.uint8)
