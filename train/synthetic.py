"""Synthetic defects on good tiles, drawn or copied from other tiles, with exact masks.

Textures are cut and pasted as in CutPaste (Li et al. 2021, https://arxiv.org/abs/2104.04015), in regions shaped by
noise as in DRAEM (Zavrtanik et al. 2021, https://arxiv.org/abs/2108.07610); here with three shapes (blobs, cracks,
spots) and four fillings (another texture, darker or brighter, one colour, blurred or noisy). The shape is drawn before
and independently of the pixels, so that the mask of a copy is known without them.
"""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SHAPES = {"blob": 0.4, "crack": 0.35, "spots": 0.25}
"""Shapes, and the probability of each."""
VISIBLE = 10.0
"""Minimum mean change of a defect's pixel values, 0..255: a network cannot find an invisible defect."""
_SUBPIXEL_BITS = 3

Field = NDArray[np.float32]
Box = tuple[slice, slice]


def draw_shape(rng: np.random.Generator, side: int) -> tuple[Field, NDArray[np.bool_]]:
    """Draw a defect's coverage of each pixel, float32 [side, side] in 0..1, and its mask, bool [side, side]."""
    kind = rng.choice(list(SHAPES), p=list(SHAPES.values()))
    hard = {"blob": _blob, "crack": _crack, "spots": _spots}[str(kind)](rng, side)
    if hard.max() == 0:
        hard = _spots(rng, side)
    thin = kind == "crack"
    soft = cv2.GaussianBlur(hard, (0, 0), rng.uniform(0.4, 0.9 if thin else 1.8)) if rng.random() < 0.8 else hard
    if thin:
        soft = soft / soft.max()  # a blur lowers the contrast of a line of 1 px
    return np.asarray(soft, np.float32), hard > (0.25 if thin else 0.5)


def draw_defect(
    tile: NDArray[np.uint8], donor: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a defect on a good tile.

    Args:
        tile: RGB uint8 [side, side, 3].
        donor: another good tile of the same product, same shape; its texture may fill the defect.
    Returns:
        The tile with the defect, and the mask bool [side, side], which `draw_shape` returns for the same `rng`.
    """
    cover, mask = draw_shape(rng, len(tile))
    box = _box_of(cover > 0)
    pixels = tile[box].astype(np.float32)
    change = (_fill(rng, tile, donor, box) - pixels) * (cover[box] * rng.uniform(0.5, 1.0))[..., None]
    drawn = tile.copy()
    drawn[box] = _visible(pixels, np.asarray(change, np.float32), cover[box], mask[box])
    return drawn, mask


def move(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Rotate, mirror, scale and shift a mask bool [side, side], as `transplant` does for the same `rng`."""
    return np.asarray(_warp(mask.astype(np.uint8) * 255, _draw_move(rng, len(mask))) > 127)


def transplant(
    tile: NDArray[np.uint8], donor: NDArray[np.uint8], mask: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Copy the defects of another tile to a good one, in most cases with their contrast to the surroundings.

    Args:
        tile, donor: RGB uint8 [side, side, 3].
        mask: the donor's defects, bool [side, side].
    Returns:
        The tile with the defects, and the mask bool [side, side], which `move` returns for the same `rng`.
    """
    matrix = _draw_move(rng, len(tile))
    moved = _warp(mask.astype(np.uint8) * 255, matrix) > 127
    if not moved.any():  # the shift moved it out of the tile
        return tile, moved
    spread = moved.astype(np.uint8)
    near = cv2.dilate(spread, np.ones((15, 15))) > 0
    box = _box_of(near)
    pixels, pasted, spread = tile[box].astype(np.float32), _warp(donor, matrix)[box].astype(np.float32), spread[box]
    around = near[box] & (cv2.dilate(spread, np.ones((5, 5))) == 0)
    edge = cv2.GaussianBlur(cv2.dilate(spread, np.ones((3, 3))).astype(np.float32), (0, 0), rng.uniform(0.6, 1.6))
    if around.any() and rng.random() < 0.7:  # keep the contrast
        pasted = pasted - pasted[around].mean(axis=0) + pixels[around].mean(axis=0)
    drawn = tile.copy()
    drawn[box] = np.clip(np.rint(pixels + (pasted - pixels) * edge[..., None]), 0, 255)
    return drawn, moved


def _box_of(mask: NDArray[np.bool_]) -> Box:
    """Return the bounding box of a mask with at least one pixel. Only its pixels change, and it is small."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _draw_move(rng: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Draw an affine matrix [2, 3] about the tile's centre, px: a multiple of 90 degrees, a flip, a scale, a shift."""
    angle, scale = rng.integers(4) * math.pi / 2, math.exp(rng.uniform(math.log(0.75), math.log(1.3)))
    linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear[:, 0] *= rng.choice([-1, 1])
    centre = np.full(2, (side - 1) / 2)
    shift = centre - linear @ centre + rng.uniform(-0.22, 0.22, 2) * side
    return np.asarray(np.column_stack([linear, shift]), np.float64)


def _warp(image: NDArray[Any], matrix: NDArray[np.float64]) -> NDArray[Any]:
    size = image.shape[1], image.shape[0]
    return np.asarray(cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def _visible(pixels: Field, change: Field, cover: Field, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Apply the change to pixels; if its mean is below `VISIBLE`, change the brightness by twice `VISIBLE` instead.

    Args:
        pixels, change: float32 [h, w, 3], grey values.
        cover, mask: [h, w], as of `draw_shape`.
    Returns:
        uint8 [h, w, 3].
    """
    drawn = np.clip(np.rint(pixels + change), 0, 255)
    mean_change = float(np.abs(drawn - pixels)[mask].mean()) if mask.any() else VISIBLE
    if mean_change < VISIBLE:
        room_below = float(pixels[mask].mean()) > 127
        shade = np.float32((-2 if room_below else 2) * VISIBLE / cover[mask].mean())
        drawn = np.clip(np.rint(pixels + shade * cover[..., None]), 0, 255)
    return np.asarray(drawn, np.uint8)


def _fill(rng: np.random.Generator, tile: NDArray[np.uint8], donor: NDArray[np.uint8], box: Box) -> Field:
    """Draw the filling of all pixels in the box of a defect, float32 [h, w, 3]."""
    side, pixels = len(tile), tile[box].astype(np.float32)
    some = tile[::4, ::4]  # enough for the contrast and the colours of a tile
    match rng.choice(4, p=(0.3, 0.45, 0.13, 0.12)):
        case 0:  # another texture
            if rng.random() < 0.6:
                texture = donor
            else:
                texture = np.roll(tile, rng.integers(side // 10, side - side // 10, 2).tolist(), (0, 1))
            texture, mean = np.rot90(texture, int(rng.integers(4))), texture.mean()
            filling = (texture[box] - mean) * rng.uniform(0.6, 1.5) + mean + rng.normal(0, 12)
        case 1:  # darker or brighter
            shift = rng.choice([-1, -1, 1]) * rng.uniform(0.5, 3) * max(6.0, float(some.std()))
            filling = pixels + shift + _noise(rng, pixels.shape, 3.0)
        case 2:  # one colour that occurs
            level = np.quantile(some, rng.choice([0.0, 0.02, 0.5, 0.98, 1.0]), axis=(0, 1))
            filling = level + _noise(rng, pixels.shape, 4.0)
        case _ if rng.random() < 0.5:  # out of focus
            filling = cv2.GaussianBlur(tile, (0, 0), rng.uniform(2, 6))[box]
        case _:  # noisy
            filling = pixels + _noise(rng, (*pixels.shape[:2], 1), float(rng.uniform(12, 40)))
    return np.asarray(filling, np.float32)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> Field:
    return rng.standard_normal(shape, np.float32) * np.float32(deviation)


def _blob(rng: np.random.Generator, side: int) -> Field:
    """Draw a blob: smooth noise above a quantile, within a rotated ellipse."""
    grain = int(rng.choice([3, 5, 8, 14]))
    noise = _smooth(rng, grain, side)
    if rng.random() < 0.5:
        noise = noise + 0.5 * _smooth(rng, 3 * grain, side)
    centre = rng.uniform(0.09, 0.91, 2) * side
    radius = math.exp(rng.uniform(math.log(0.035), math.log(0.27))) * side
    angle, stretch = rng.uniform(0, math.pi), math.sqrt(rng.uniform(1, 3))
    reach = radius * stretch
    (left, right), (top, bottom) = ((int(max(0, at - reach)), int(min(side, at + reach + 1))) for at in centre)
    y, x = np.ogrid[top:bottom, left:right]
    along = (x - centre[0]) * math.cos(angle) + (y - centre[1]) * math.sin(angle)
    across = (y - centre[1]) * math.cos(angle) - (x - centre[0]) * math.sin(angle)
    inside = (along / reach) ** 2 + (across * stretch / radius) ** 2 < 1
    drawn = np.zeros((side, side), np.float32)
    if inside.any():
        noise = noise[top:bottom, left:right]
        drawn[top:bottom, left:right] = inside & (noise >= np.quantile(noise[inside], rng.uniform(0, 0.6)))
    return drawn


def _crack(rng: np.random.Generator, side: int) -> Field:
    """Draw a crack: a thin random walk, of constant width or wider towards its middle."""
    joints = int(rng.integers(6, 24))
    step = math.exp(rng.uniform(math.log(0.09), math.log(0.9))) * side / joints
    angles = rng.normal(0, rng.uniform(0.1, 0.6), joints).cumsum() + rng.uniform(0, 2 * math.pi)
    walk = np.stack([np.cos(angles), np.sin(angles)], axis=1).cumsum(axis=0) * step
    points = np.concatenate([np.zeros((1, 2)), walk]) + rng.uniform(0.03, 0.97, 2) * side
    corners = np.rint(points * 2**_SUBPIXEL_BITS).astype(np.int32)
    if rng.random() < 0.6:
        widths = np.full(joints, rng.choice([1, 1, 1, 2, 2, 3]))
    else:
        swell = np.sin(np.linspace(0, math.pi, joints)) + rng.normal(0, 0.2, joints)
        widths = np.clip(np.rint(rng.uniform(1, 6) * swell), 1, None)
    drawn = np.zeros((side, side), np.float32)
    for start, end, width in zip(corners[:-1], corners[1:], widths, strict=True):
        cv2.line(drawn, start.tolist(), end.tolist(), 1.0, int(width), cv2.LINE_AA, _SUBPIXEL_BITS)
    return drawn


def _spots(rng: np.random.Generator, side: int) -> Field:
    """Draw one to three ellipses."""
    drawn = np.zeros((side, side), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        centre = np.rint(rng.uniform(0.04, 0.96, 2) * side).astype(int).tolist()
        axes = np.maximum(1, np.exp(rng.uniform(math.log(0.009), math.log(0.09), 2)) * side).astype(int).tolist()
        cv2.ellipse(drawn, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1, cv2.LINE_AA)
    return drawn


def _smooth(rng: np.random.Generator, grain: int, side: int) -> Field:
    coarse = rng.random((grain, grain), np.float32)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)
