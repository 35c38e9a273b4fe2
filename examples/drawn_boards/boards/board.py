"""One board: its design, its defects and its photograph."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from .defects import DefectKind, PlacedDefect, place_defects
from .layers import Layers, rasterise
from .layout import draw_design
from .look import draw_look, paint
from .photo import PLANE_MARGIN_PX, photograph

SIZE_HW = 1250, 1600
SMALLEST_SIDE_PX = 448
_DEFECT_BORDER_PX = 2 * PLANE_MARGIN_PX + 8
"""Defects keep this far from the plane's edge, which is enough for the tilted view not to cut one."""


@dataclass(frozen=True)
class DrawnDefect:
    """A defect in picture coordinates: `box_xyxy` is half-open, in pixels."""

    kind: DefectKind
    box_xyxy: tuple[int, int, int, int]
    area_px: int


@dataclass(frozen=True)
class DrawnBoard:
    """A photograph `image` (uint8 RGB [H, W, 3]) with `mask` (bool [H, W]), true where a defect changed the board.

    Every defect is one 8-connected component of the mask, at least 64 px away from any other.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    defects: tuple[DrawnDefect, ...]


def draw_board(
    seed: int | Sequence[int],
    *,
    size_hw: tuple[int, int] = SIZE_HW,
    defects: int | None = None,
) -> DrawnBoard:
    """Draw the board of a seed; the same arguments give the same bytes.

    Args:
        size_hw: height and width of the picture, px.
        defects: how many the board has, fewer if a small picture has no room for them, but at least one; None: 1 to 5.
            0: the same board as with None, in the same light and noise, without the defects.

    Raises:
        ValueError: a side of the picture is below 448 px, or `defects` is negative.
    """
    if min(size_hw) < SMALLEST_SIDE_PX:
        raise ValueError(
            f"the picture is {size_hw[0]} x {size_hw[1]} px; expected at least {SMALLEST_SIDE_PX} px a side"
        )
    if defects is not None and defects < 0:
        raise ValueError(f"defects is {defects}; expected 0 or more")
    design_rng, defect_rng, look_rng, camera_rng = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)
    )
    plane_hw = size_hw[0] + 2 * PLANE_MARGIN_PX, size_hw[1] + 2 * PLANE_MARGIN_PX
    count = defects or int(defect_rng.integers(1, 6))
    layers, placed = _populated_layers(design_rng, defect_rng, plane_hw, count)
    if defects == 0:
        placed = ()
    layers = _with_defects(layers, placed)
    reflectance = paint(look_rng, draw_look(look_rng), layers)
    image, numbers = photograph(camera_rng, size_hw, reflectance, _numbered(placed, plane_hw))
    return DrawnBoard(
        image=image,
        mask=numbers > 0,
        defects=tuple(_measured(defect.kind, numbers == i + 1) for i, defect in enumerate(placed)),
    )


def _populated_layers(
    design_rng: np.random.Generator, defect_rng: np.random.Generator, plane_hw: tuple[int, int], count: int
) -> tuple[Layers, tuple[PlacedDefect, ...]]:
    """The sound layers of a design that has a site for a defect; on a small picture the first may have none.

    Flawless boards are drawn this way too, so that they show the same design as their defective twin.
    """
    while True:
        layers = rasterise(draw_design(design_rng, plane_hw))
        placed = place_defects(defect_rng, layers, count, _DEFECT_BORDER_PX)
        if placed:
            return layers, placed


def _with_defects(layers: Layers, placed: Sequence[PlacedDefect]) -> Layers:
    """The layers with every defect's pixels flipped in the layer it concerns."""
    copper, drill = layers.copper.copy(), layers.drill.copy()
    for defect in placed:
        (drill if defect.kind == "missing_hole" else copper)[defect.region] ^= defect.pixels
    return replace(layers, copper=copper, drill=drill)


def _numbered(placed: Sequence[PlacedDefect], plane_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """The plane with the pixels of defect i numbered i + 1."""
    numbers = np.zeros(plane_hw, np.uint8)
    for i, defect in enumerate(placed):
        numbers[defect.region][defect.pixels > 0] = i + 1
    return numbers


def _measured(kind: DefectKind, mask: NDArray[np.bool_]) -> DrawnDefect:
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return DrawnDefect(kind, (x, y, x + width, y + height), int(np.count_nonzero(mask)))
