"""A board's look: the colours and surfaces that turn its layers into a reflectance picture.

Colours are float32 RGB reflectances; 1.0 is white.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .design import Layer, as_layer
from .layers import Layers

Picture = NDArray[np.float32]
"""A colour picture [H, W, 3] or a single plane [H, W]."""
Colour = NDArray[np.float32]

# Share of boards, and 8-bit RGB of the solder mask over bare substrate and over copper.
_MASKS: tuple[tuple[float, tuple[int, int, int], tuple[int, int, int]], ...] = (
    (0.30, (6, 76, 20), (10, 138, 40)),
    (0.20, (14, 70, 44), (30, 124, 74)),
    (0.12, (26, 74, 16), (70, 138, 40)),
    (0.14, (10, 34, 88), (26, 78, 158)),
    (0.12, (98, 14, 20), (172, 38, 36)),
    (0.12, (22, 23, 26), (68, 68, 70)),
)
# Share of boards, and 8-bit RGB of the pad finish: tin, gold, bare copper.
_FINISHES: tuple[tuple[float, tuple[int, int, int]], ...] = (
    (0.6, (178, 178, 172)),
    (0.25, (214, 176, 104)),
    (0.15, (196, 130, 92)),
)
_SUBSTRATE = (126, 116, 74)


@dataclass(frozen=True)
class Look:
    """The materials of one board."""

    mask_on_substrate: Colour
    mask_on_copper: Colour
    metal: Colour
    silk: Colour
    table: Colour
    hole: float
    weave_px: float
    weave_strength: float
    light_angle: float
    relief: float
    gloss: float


def draw_look(rng: np.random.Generator) -> Look:
    """Draw random materials, each a variation of a common one."""
    weights = np.array([entry[0] for entry in _MASKS])
    _, dark, light = _MASKS[int(rng.choice(len(_MASKS), p=weights / weights.sum()))]
    _, metal = _FINISHES[int(rng.choice(len(_FINISHES), p=[entry[0] for entry in _FINISHES]))]
    tone = rng.normal(0, 0.06, 3) + rng.normal(0, 0.12)
    contrast = float(rng.uniform(0.8, 1.15))
    base = _colour(dark) * (1 + tone)
    return Look(
        mask_on_substrate=base.astype(np.float32),
        mask_on_copper=(base + (_colour(light) - _colour(dark)) * contrast * (1 + tone)).astype(np.float32),
        metal=(_colour(metal) * rng.uniform(0.9, 1.1)).astype(np.float32),
        silk=(_colour((232, 232, 224)) * rng.uniform(0.86, 1.0)).astype(np.float32),
        table=(_colour((176, 174, 172)) * rng.uniform(0.5, 1.1) * (1 + rng.normal(0, 0.03, 3))).astype(np.float32),
        hole=float(rng.uniform(0.03, 0.12)),
        weave_px=float(rng.uniform(7, 12)),
        weave_strength=float(rng.uniform(0.01, 0.05)),
        light_angle=float(rng.uniform(0, 2 * np.pi)),
        relief=float(rng.uniform(0.5, 1.0)),
        gloss=float(rng.uniform(0.0, 0.1)),
    )


def paint(rng: np.random.Generator, look: Look, layers: Layers) -> Picture:
    """Return the board's reflectance [H, W, 3]. The numbers drawn from `rng` do not depend on the layers' content."""
    height, width = layers.copper.shape
    mottle = smooth_noise(rng, (height, width), 90)
    grain = smooth_noise(rng, (height, width), 4)
    tarnish = smooth_noise(rng, (height, width), 14)
    specks = _specks(rng, (height, width))
    scratches = _scratches(rng, (height, width))

    copper = _soft(layers.copper, 1.0)
    slope_x, slope_y = _slopes(layers.copper, 2.0)
    facing = slope_x * np.float32(np.cos(look.light_angle)) + slope_y * np.float32(np.sin(look.light_angle))
    steepness = np.sqrt(slope_x * slope_x + slope_y * slope_y)

    shade = 1 + look.relief * (0.9 * facing - 0.45 * steepness) + 0.05 * mottle + 0.03 * grain
    shade += look.weave_strength * _weave(look.weave_px, (height, width)) * (1 - 0.7 * copper)
    shade += 0.22 * scratches
    picture = _mix(look.mask_on_substrate, look.mask_on_copper, copper) * on_channels(shade)
    dimple = _soft(layers.dimple, 1.5)
    picture *= on_channels(1 - 0.4 * dimple)

    picture += on_channels(look.gloss * _glare(rng, (height, width)))
    picture = _print_silk(picture, look, layers.silk, grain)
    picture = _open_mask(picture, look, layers, copper, tarnish, grain)
    drill = on_channels(_soft(layers.drill, 0.7))
    picture = picture * (1 - drill) + _bore(look, layers.drill) * drill
    if not layers.board.all():
        picture = _lay_on_table(picture, look, layers.board, grain)
    dusty: Picture = picture * on_channels(1 - specks)
    return dusty


def smooth_noise(rng: np.random.Generator, size_hw: tuple[int, int], scale_px: float) -> Picture:
    """Return random relief [H, W] of about unit variance, with features of `scale_px`."""
    height, width = (max(2, round(side / scale_px)) for side in size_hw)
    coarse = rng.standard_normal((height, width), dtype=np.float32)
    return cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_CUBIC).astype(np.float32, copy=False)


def on_channels(plane: Picture) -> Picture:
    """Return a plane [H, W] three times, as [H, W, 3]: NumPy is slow at broadcasting over so short an axis."""
    return merge((plane, plane, plane))


def merge(planes: Iterable[Picture]) -> Picture:
    """Return three planes [H, W] as one picture [H, W, 3]."""
    return cv2.merge(tuple(planes)).astype(np.float32, copy=False)


def _colour(rgb: tuple[int, int, int]) -> Colour:
    return np.array(rgb, np.float32) / np.float32(255)


def _soft(layer: Layer, sigma_px: float) -> Picture:
    return cv2.GaussianBlur(layer.astype(np.float32), (0, 0), sigma_px).astype(np.float32, copy=False)


def _slopes(layer: Layer, sigma_px: float) -> tuple[Picture, Picture]:
    """Return the slopes of a layer's rounded edges along x and y; their maximum is about 1."""
    relief = _soft(layer, sigma_px)
    x = cv2.Sobel(relief, cv2.CV_32F, 1, 0, scale=sigma_px / 4)
    y = cv2.Sobel(relief, cv2.CV_32F, 0, 1, scale=sigma_px / 4)
    return x.astype(np.float32, copy=False), y.astype(np.float32, copy=False)


def _mix(low: Colour, high: Colour, share: Picture) -> Picture:
    return merge(low[i] + (high[i] - low[i]) * share for i in range(3))


def _cover(picture: Picture, colour: Colour, share: Picture) -> Picture:
    """Paint a share [H, W] of each pixel in a colour."""
    return merge(picture[..., i] + (colour[i] - picture[..., i]) * share for i in range(3))


def _weave(period_px: float, size_hw: tuple[int, int]) -> Picture:
    """Return the pattern [H, W] of the glass cloth that shows through the substrate."""
    rows, columns = (np.sin(np.arange(side, dtype=np.float32) * np.float32(2 * np.pi / period_px)) for side in size_hw)
    weave: Picture = rows[:, None] + columns[None, :]
    return weave


def _glare(rng: np.random.Generator, size_hw: tuple[int, int]) -> Picture:
    """Return a broad reflection [H, W] of the lamp in the glossy solder mask."""
    centre, spread = rng.uniform(0, 1, 2), rng.uniform(0.2, 0.5, 2)
    rows, columns = (
        np.exp(-(((np.linspace(0, 1, side) - centre[i]) / spread[i]) ** 2)).astype(np.float32)
        for i, side in enumerate(size_hw)
    )
    glare: Picture = rows[:, None] * columns[None, :]
    return glare


def _print_silk(picture: Picture, look: Look, printed: Layer, grain: Picture) -> Picture:
    cover: Picture = _soft(printed, 0.8) * np.clip(0.92 + 0.06 * grain, 0, 1)
    return _cover(picture, look.silk, cover)


def _open_mask(
    picture: Picture, look: Look, layers: Layers, copper: Picture, tarnish: Picture, grain: Picture
) -> Picture:
    """Paint bare metal or bare substrate in the openings of the solder mask."""
    metal_layer = layers.copper & layers.opening
    slope_x, slope_y = _slopes(metal_layer, 5.0)
    facing = slope_x * np.float32(np.cos(look.light_angle)) + slope_y * np.float32(np.sin(look.light_angle))
    shine = 0.95 + 1.1 * look.relief * facing + 0.07 * tarnish + 0.03 * grain
    bare = _mix(_colour(_SUBSTRATE) * np.float32(0.55), look.metal, copper) * on_channels(shine)
    share = on_channels(_soft(layers.opening, 0.8))
    opened: Picture = picture + (bare - picture) * share
    return opened


def _bore(look: Look, drill: Layer) -> Picture:
    """Return the colours [H, W, 3] of drilled holes: dark, with a lit plated wall."""
    dx, dy = 3 * np.cos(look.light_angle), 3 * np.sin(look.light_angle)
    shifted = cv2.warpAffine(_soft(drill, 1.0), np.array([[1, 0, -dx], [0, 1, -dy]], np.float32), drill.shape[::-1])
    wall = np.clip(1 - shifted, 0, 1).astype(np.float32, copy=False)
    return _mix(np.full(3, look.hole, np.float32), look.metal * np.float32(0.55), wall)


def _lay_on_table(picture: Picture, look: Look, board: Layer, grain: Picture) -> Picture:
    """Paint the board's pale cut edge, and a plain table with a soft shadow around the board."""
    share = _soft(board, 0.8)
    inner = as_layer(cv2.erode(board, np.ones((7, 7), np.uint8)))
    cut: Picture = (share - _soft(inner, 0.8)).clip(0, 1)
    shadow = _soft(board, 14.0)
    table = merge(look.table[i] * (1 - 0.5 * shadow) * (1 + 0.02 * grain) for i in range(3))
    edged = _cover(picture, _colour(_SUBSTRATE), np.float32(0.7) * cut)
    laid: Picture = table + (edged - table) * on_channels(share)
    return laid


def _specks(rng: np.random.Generator, size_hw: tuple[int, int]) -> Picture:
    """Return dust [H, W]: positive where a pixel is darker, negative where it is brighter."""
    height, width = size_hw
    specks = np.zeros(size_hw, np.float32)
    for _ in range(int(rng.integers(20, 120))):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        tone = float(rng.uniform(-0.5, 0.5))
        axes = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        cv2.ellipse(specks, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, tone, -1)
    for _ in range(int(rng.integers(0, 6))):
        cv2.polylines(specks, [_wandering_line(rng, size_hw, 9, 8.0)], False, float(rng.uniform(-0.35, 0.3)), 1)
    return cv2.GaussianBlur(specks, (0, 0), 0.8).astype(np.float32, copy=False)


def _scratches(rng: np.random.Generator, size_hw: tuple[int, int]) -> Picture:
    """Return fine bright lines [H, W] in the surface of the solder mask."""
    scratches = np.zeros(size_hw, np.float32)
    for _ in range(int(rng.integers(0, 9))):
        cv2.polylines(
            scratches, [_wandering_line(rng, size_hw, 5, 26.0)], False, float(rng.uniform(0.3, 1.0)), 1, cv2.LINE_AA
        )
    return cv2.GaussianBlur(scratches, (0, 0), 0.7).astype(np.float32, copy=False)


def _wandering_line(
    rng: np.random.Generator, size_hw: tuple[int, int], count: int, step_px: float
) -> NDArray[np.int32]:
    """Return a line of `count` points that wanders in one direction."""
    start = rng.uniform(0, 1, 2) * size_hw[::-1]
    headings = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.25, count))
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * step_px
    points: NDArray[np.int32] = np.rint(start + np.cumsum(steps, axis=0)).astype(np.int32)
    return points
