"""A board's design as numbers, before it is drawn: components, tracks and vias.

Tracks and pads lie on the nodes of a grid. Sizes are in cells of this grid; names that end in `_px` are in pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .footprints import Footprint, Pad
from .routing import Node

Layer = NDArray[np.uint8]
"""A raster [H, W] of 0 and 1 on the drawing plane."""


def as_layer(picture: NDArray[Any]) -> Layer:
    """Return OpenCV's result as a layer: OpenCV keeps the type, but its stubs do not declare it."""
    return picture.astype(np.uint8, copy=False)


@dataclass(frozen=True)
class Track:
    """A routed path with its width at every node, in cells; it is narrower next to pads of other nets."""

    nodes: tuple[Node, ...]
    widths_cells: tuple[float, ...]


@dataclass(frozen=True)
class Via:
    """A plated hole that connects layers; solder mask covers a tented via."""

    node: Node
    diameter_cells: float
    drill_cells: float
    tented: bool
    grounded: bool
    """Whether the via is connected directly to the ground pour."""


@dataclass(frozen=True)
class Frame:
    """The board's place on the drawing plane; `edge_px` is its margin, None if the board fills the picture."""

    plane_hw: tuple[int, int]
    edge_px: int | None
    corner_px: int
    mounting_hole_px: int


@dataclass(frozen=True)
class Design:
    """Everything that is etched, drilled and printed on one board."""

    frame: Frame
    pitch_px: int
    origin_xy_px: tuple[int, int]
    parts: tuple[Footprint, ...]
    part_names: tuple[str, ...]
    ground_pads: frozenset[Node]
    tracks: tuple[Track, ...]
    vias: tuple[Via, ...]
    test_points: tuple[Node, ...]
    fiducials: tuple[Node, ...]
    poured: bool
    pour_clearance_px: int
    pour_meshed: bool
    teardrops: bool
    silk_line_px: int
    silk_text_px: int
    title: str
    etched_title_node: Node | None

    def pixel_xy(self, row: float, column: float) -> tuple[int, int]:
        """Return the pixel (x, y) of a grid position on the drawing plane."""
        x, y = self.origin_xy_px
        return round(x + column * self.pitch_px), round(y + row * self.pitch_px)

    def pads(self) -> list[Pad]:
        """Return the pads of all components."""
        return [pad for part in self.parts for pad in part.pads]
