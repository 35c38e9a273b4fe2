"""A board's design before anything is drawn: components, tracks and vias as numbers.

Tracks and pads sit on the nodes of a grid; sizes are in cells of this grid unless a name says pixels.
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
    """What OpenCV returns for a layer, whose stubs do not know that it keeps its type."""
    return picture.astype(np.uint8, copy=False)


@dataclass(frozen=True)
class Track:
    """A routed path with its width at every node, in cells; narrower where it squeezes past foreign pads."""

    nodes: tuple[Node, ...]
    widths_cells: tuple[float, ...]


@dataclass(frozen=True)
class Via:
    """A plated hole that joins layers; a tented one is covered by solder mask."""

    node: Node
    diameter_cells: float
    drill_cells: float
    tented: bool
    grounded: bool
    """Tied straight into the ground pour."""


@dataclass(frozen=True)
class Frame:
    """Where the board lies on the drawing plane: `edge_px` is the margin around it, None if it fills the picture."""

    plane_hw: tuple[int, int]
    edge_px: int | None
    corner_px: int
    mounting_hole_px: int


@dataclass(frozen=True)
class Design:
    """Everything that is etched, drilled and printed; `pixel_xy` turns grid positions into pixels."""

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
        """The pixel (x, y) of a grid position on the drawing plane."""
        x, y = self.origin_xy_px
        return round(x + column * self.pitch_px), round(y + row * self.pitch_px)

    def pads(self) -> list[Pad]:
        """The pads of all components."""
        return [pad for part in self.parts for pad in part.pads]
