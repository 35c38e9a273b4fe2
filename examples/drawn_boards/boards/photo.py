"""Photographs of a board: a slightly tilted view, uneven light, a soft lens, sensor noise and some compression."""

import cv2
import numpy as np
from numpy.typing import NDArray

from .design import Layer
from .look import Picture, merge, on_channels, smooth_noise

PLANE_MARGIN_PX = 32
"""Width of the drawing plane beyond the picture on each side, so that a tilted view shows no empty area."""


def photograph(
    rng: np.random.Generator, size_hw: tuple[int, int], reflectance: Picture, labels: Layer
) -> tuple[NDArray[np.uint8], Layer]:
    """Take a picture of the drawing plane with a random camera.

    Args:
        size_hw: height and width of the picture, px; the plane is larger by `PLANE_MARGIN_PX` on each side.
        reflectance: of the plane, [h, w, 3].
        labels: of the plane's pixels, [h, w].

    Returns:
        The photograph, uint8 RGB [H, W, 3], and the labels as the camera sees them, [H, W].
    """
    height, width = size_hw
    view = _draw_view(rng, size_hw)
    light = _draw_light(rng, size_hw)
    blur_px, shot_noise, read_noise = rng.uniform(0.6, 1.2), rng.uniform(0.0002, 0.0008), rng.uniform(0.003, 0.008)
    jpeg_quality = int(rng.integers(82, 96)) if rng.random() < 0.5 else None
    exposed = cv2.warpPerspective(
        reflectance, view, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    exposed = cv2.GaussianBlur(exposed, (0, 0), blur_px) * light
    luminance = rng.standard_normal((height, width, 1), dtype=np.float32)
    chroma = rng.standard_normal((height // 2, width // 2, 3), dtype=np.float32)
    noise = on_channels(luminance) + 0.7 * cv2.resize(chroma, (width, height), interpolation=cv2.INTER_LINEAR)
    np.clip(exposed, 0, 1, out=exposed)
    exposed += noise * np.sqrt(shot_noise * exposed + read_noise**2)
    photo = np.clip(exposed * 255 + 0.5, 0, 255).astype(np.uint8)
    if jpeg_quality is not None:
        photo = _compress_as_jpeg(photo, jpeg_quality)
    seen_labels = cv2.warpPerspective(labels, view, (width, height), flags=cv2.INTER_NEAREST)  # does not mix labels
    return photo, np.asarray(seen_labels, np.uint8)


def _compress_as_jpeg(photo: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return the photo with the artefacts of JPEG compression."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), settings)
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    if decoded is None:
        raise RuntimeError("OpenCV cannot decode the JPEG that it encoded")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _draw_view(rng: np.random.Generator, size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Return a random view, as a 3x3 matrix: turned by up to about one degree and tilted by a few pixels.

    The drawing plane's margin fills the corners.
    """
    height, width = size_hw
    angle = np.deg2rad(rng.uniform(-0.9, 0.9))
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    middle = np.array([width, height]) / 2
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners_on_plane = (corners - middle) @ rotation + middle + rng.uniform(-0.004, 0.004, (4, 2)) * size_hw[::-1]
    view = cv2.getPerspectiveTransform(
        (corners_on_plane + PLANE_MARGIN_PX).astype(np.float32), corners.astype(np.float32)
    )
    return np.asarray(view, np.float64)


def _draw_light(rng: np.random.Generator, size_hw: tuple[int, int]) -> Picture:
    """Return uneven light with a colour cast, as a factor [H, W, 3]."""
    rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) for side in size_hw)
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.22)
    gradient = fall * (np.float32(np.sin(angle)) * rows[:, None] + np.float32(np.cos(angle)) * columns[None, :])
    vignette = rng.uniform(0.05, 0.2) * (rows[:, None] ** 2 + columns[None, :] ** 2) / 2
    uneven = 0.03 * smooth_noise(rng, size_hw, min(size_hw) / 3)
    exposure = rng.uniform(0.85, 1.2)
    cast = (1 + rng.normal(0, 0.025, 3)).astype(np.float32)
    factor = (exposure * (1 + gradient - vignette + uneven)).astype(np.float32)
    return merge(factor * cast[i] for i in range(3))
