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
"""Smallest distance of a defect from the plane's edge; the tilted view then cuts off no defect."""


@dataclass(frozen=True)
class DrawnDefect:
    """A defect in the picture: `box_xyxy` is half-open, in pixels."""

    kind: DefectKind
    box_xyxy: tuple[int, int, int, int]
    area_px: int


@dataclass(frozen=True)
class DrawnBoard:
    """A photograph `image` (uint8 RGB [H, W, 3]) and its `mask` (bool [H, W]), true where a defect changed the board.

    Every defect is one 8-connected component of the mask, at least 64 px away from all others.
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
        defects: number of defects; a small picture may have room for fewer, but always has one. None: 1 to 5.
            0: the same board as with None, in the same light and noise, without its defects.

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
    layers, placed = _draw_layers_with_sites(design_rng, defect_rng, plane_hw, count)
    if defects == 0:
        placed = ()
    layers = _add_defects(layers, placed)
    reflectance = paint(look_rng, draw_look(look_rng), layers)
    image, numbers = photograph(camera_rng, size_hw, reflectance, _number_defects(placed, plane_hw))
    return DrawnBoard(
        image=image,
        mask=numbers > 0,
        defects=tuple(_measure_defect(defect.kind, numbers == i + 1) for i, defect in enumerate(placed)),
    )


def _draw_layers_with_sites(
    design_rng: np.random.Generator, defect_rng: np.random.Generator, plane_hw: tuple[int, int], count: int
) -> tuple[Layers, tuple[PlacedDefect, ...]]:
    """Draw designs until one has a site for a defect; return its layers without defects, and the placed defects.

    On a small picture, the first design may have no site. Flawless boards take the same path, so that a flawless board
    shows the same design as its defective twin.
    """
    while True:
        layers = rasterise(draw_design(design_rng, plane_hw))
        placed = place_defects(defect_rng, layers, count, _DEFECT_BORDER_PX)
        if placed:
            return layers, placed


def _add_defects(layers: Layers, placed: Sequence[PlacedDefect]) -> Layers:
    """Return the layers with the pixels of every defect flipped in the drill or copper layer."""
    copper, drill = layers.copper.copy(), layers.drill.copy()
    for defect in placed:
        (drill if defect.kind == "missing_hole" else copper)[defect.region] ^= defect.pixels
    return replace(layers, copper=copper, drill=drill)


def _number_defects(placed: Sequence[PlacedDefect], plane_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a plane in which the pixels of defect i have the value i + 1."""
    numbers = np.zeros(plane_hw, np.uint8)
    for i, defect in enumerate(placed):
        numbers[defect.region][defect.pixels > 0] = i + 1
    return numbers


def _measure_defect(kind: DefectKind, mask: NDArray[np.bool_]) -> DrawnDefect:
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return DrawnDefect(kind, (x, y, x + width, y + height), int(np.count_nonzero(mask)))
