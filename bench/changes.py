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


def banded(rgb: Pixels, share: float, value: int | None, side: int) -> Pixels:
    """Return a picture of which one side was lost.

    Args:
        share: of its height or width.
        value: grey value of the lost pixels; None: the last line that came, again and again.
        side: 0 below, then counterclockwise.
    """
    turned = np.rot90(rgb, -side).copy()
    lost = max(1, round(share * turned.shape[0]))
    turned[-lost:] = turned[-lost - 1] if value is None else value
    return np.rot90(turned, side).copy()


def covered_by(rgb: Pixels, mask: NDArray[np.bool_], cover: Pixels | NDArray[np.floating[Any]]) -> Pixels:
    """Return a picture with the pixels of another in the mask, bool [H, W]."""
    changed = rgb.copy()
    changed[mask] = np.clip(cover, 0, 255)[mask]
    return changed


def hand(rgb: Pixels, rng: np.random.Generator, colour: tuple[int, int, int], deviation: float) -> Pixels:
    """Return a picture with a hand that reaches in from the right, in one colour, with soft shades and noise."""
    height, width = rgb.shape[:2]
    shape = np.zeros((height, width), np.uint8)
    for finger in range(4):
        ends = (width, int(height * (0.35 + 0.12 * finger))), (int(width * 0.55), int(height * (0.3 + 0.14 * finger)))
        cv2.line(shape, *ends, 1, max(4, int(height * 0.07)))
    cv2.ellipse(shape, (width, height // 2), (max(1, width // 5), max(1, height // 3)), 0, 0, 360, 1, -1)
    shades = cv2.GaussianBlur(rng.normal(0, deviation, (height, width)).astype(np.float32), (0, 0), 4)[..., None]
    return covered_by(rgb, shape > 0, np.array(colour) + shades + rng.normal(0, 3, (height, width, 1)))


def labelled(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Return a picture with a white label of four printed lines, on 12 % of it."""
    height, width = rgb.shape[:2]
    side_h, side_w = max(8, int(height * 0.3)), max(8, int(width * 0.4))
    label = np.full((side_h, side_w, 3), 235, np.uint8)
    for line in range(4):
        at, size = (3, int(side_h * (line + 1) / 4.5)), max(0.3, side_w / 220)
        cv2.putText(label, "LOT 4711-08", at, cv2.FONT_HERSHEY_SIMPLEX, size, (20, 20, 20), max(1, side_w // 150))
    changed, top, left = rgb.copy(), int(height * 0.4), int(width * 0.3)
    changed[top : top + side_h, left : left + side_w] = grain(label, rng, 2)
    return changed


def with_part(rgb: Pixels, other: Pixels) -> Pixels:
    """Return a picture with an ellipse of another, of the same size, on 10 % of it."""
    height, width = rgb.shape[:2]
    shape, axes = np.zeros((height, width), np.uint8), (max(1, int(width * 0.18)), max(1, int(height * 0.18)))
    cv2.ellipse(shape, (width // 2, height // 2), axes, 0, 0, 360, 1, -1)
    return covered_by(rgb, shape > 0, other)


def in_size(rgb: Pixels, height_width: tuple[int, int]) -> Pixels:
    """Return a picture in a frame of another size and at the same scale: its middle, mirrored where it is too small."""
    missing = [max(0, wanted - side) for wanted, side in zip(height_width, rgb.shape[:2], strict=True)]
    (below, right), (height, width) = missing, height_width
    filled = cv2.copyMakeBorder(rgb, below // 2, below - below // 2, right // 2, right - right // 2, cv2.BORDER_REFLECT)
    top, left = (filled.shape[0] - height) // 2, (filled.shape[1] - width) // 2
    return np.asarray(filled[top : top + height, left : left + width], np.uint8)
