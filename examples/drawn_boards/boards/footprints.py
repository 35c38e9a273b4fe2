"""Component footprints, in grid cells.

Lengths are in cells of the routing grid (one cell is one track pitch) and positions are (row, column). A footprint is
therefore the same on boards that are photographed at different scales.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

PadShape = Literal["round", "oval", "square"]
OutlineShape = Literal["box", "chip", "circle", "body_and_leads", "none"]


@dataclass(frozen=True)
class Pad:
    """A pad with its centre on a grid node; `drill_cells` is 0 for a surface pad."""

    row: int
    column: int
    height_cells: float
    width_cells: float
    shape: PadShape
    drill_cells: float = 0.0


@dataclass(frozen=True)
class Footprint:
    """A component: its pads and the outline printed around it (`outline_cells`: top, left, bottom, right)."""

    prefix: str
    pads: tuple[Pad, ...]
    outline: OutlineShape
    outline_cells: tuple[float, float, float, float]

    def pad_nodes(self) -> list[tuple[int, int]]:
        """Return the (row, column) of every pad."""
        return [(pad.row, pad.column) for pad in self.pads]

    def transposed(self) -> "Footprint":
        """Return the component with rows and columns exchanged."""
        top, left, bottom, right = self.outline_cells
        pads = tuple(
            replace(pad, row=pad.column, column=pad.row, height_cells=pad.width_cells, width_cells=pad.height_cells)
            for pad in self.pads
        )
        return replace(self, pads=pads, outline_cells=(left, top, right, bottom))

    def moved(self, rows: int, columns: int) -> "Footprint":
        """Return the component shifted by whole cells."""
        top, left, bottom, right = self.outline_cells
        pads = tuple(replace(pad, row=pad.row + rows, column=pad.column + columns) for pad in self.pads)
        return replace(self, pads=pads, outline_cells=(top + rows, left + columns, bottom + rows, right + columns))

    def extent_cells(self) -> tuple[int, int]:
        """Return the rows and columns that the pad centres span; the footprint must start at (0, 0)."""
        return max(pad.row for pad in self.pads), max(pad.column for pad in self.pads)


@dataclass(frozen=True)
class PadFamily:
    """Shape and size of the through-hole pads of one board."""

    shape: PadShape
    diameter_cells: float
    drill_cells: float

    def pad(self, row: int, column: int, first: bool = False) -> Pad:
        """Return a through-hole pad; the pad of pin 1 (`first`) is square, as on real boards."""
        if first:
            return Pad(row, column, self.diameter_cells, self.diameter_cells, "square", self.drill_cells)
        height = self.diameter_cells * (1.35 if self.shape == "oval" else 1.0)
        return Pad(row, column, height, self.diameter_cells, self.shape, self.drill_cells)


def draw_footprint(rng: np.random.Generator, family: PadFamily, smd_share: float) -> Footprint:
    """Draw a random component in a random orientation; it starts at node (0, 0)."""
    surface = rng.random() < smd_share
    makers = (_chip, _chip, _soic, _sot) if surface else (_dip, _header, _header, _axial, _radial, _transistor, _screw)
    footprint = makers[int(rng.integers(len(makers)))](rng, family)
    return footprint.transposed() if rng.random() < 0.5 else footprint


def _dip(rng: np.random.Generator, family: PadFamily) -> Footprint:
    count, rows = int(rng.integers(4, 9)), int(rng.integers(5, 8))
    pads = [family.pad(row, 2 * i, first=row == rows and i == 0) for row in (0, rows) for i in range(count)]
    return Footprint("U", tuple(pads), "box", (1.1, -0.6, rows - 1.1, 2 * count - 1.4))


def _header(rng: np.random.Generator, family: PadFamily) -> Footprint:
    count, rows = int(rng.integers(4, 13)), int(rng.integers(1, 3))
    pads = [family.pad(2 * row, 2 * i, first=row == 0 and i == 0) for row in range(rows) for i in range(count)]
    return Footprint("J", tuple(pads), "box", (-1.1, -1.1, 2 * rows - 0.9, 2 * count - 0.9))


def _axial(rng: np.random.Generator, family: PadFamily) -> Footprint:
    span = int(rng.integers(5, 8))
    plain = replace(family, shape="round")
    return Footprint("R", (plain.pad(0, 0), plain.pad(0, span)), "body_and_leads", (-0.55, 1.2, 0.55, span - 1.2))


def _radial(rng: np.random.Generator, family: PadFamily) -> Footprint:
    span = int(rng.integers(2, 4))
    plain = replace(family, shape="round")
    half = span / 2 + 1.1
    return Footprint(
        "C",
        (plain.pad(0, 0, first=True), plain.pad(0, span)),
        "circle",
        (-half, span / 2 - half, half, span / 2 + half),
    )


def _transistor(rng: np.random.Generator, family: PadFamily) -> Footprint:
    pads = tuple(family.pad(0, 2 * i, first=i == 0) for i in range(3))
    return Footprint("Q", pads, "box", (-0.95, -1.0, 1.2, 5.0))


def _screw(rng: np.random.Generator, family: PadFamily) -> Footprint:
    count = int(rng.integers(2, 4))
    pads = tuple(Pad(0, 4 * i, 1.9, 1.9, "round", 0.85) for i in range(count))
    return Footprint("X", pads, "box", (-1.6, -1.7, 1.8, 4 * count - 2.3))


def _chip(rng: np.random.Generator, family: PadFamily) -> Footprint:
    prefix = str(rng.choice(["R", "C", "L", "D"]))
    size = float(rng.uniform(0.9, 1.2))
    return Footprint(
        prefix,
        (Pad(0, 0, size * 1.15, size * 0.9, "square"), Pad(0, 2, size * 1.15, size * 0.9, "square")),
        "chip",
        (-0.85, -0.75, 0.85, 2.75),
    )


def _soic(rng: np.random.Generator, family: PadFamily) -> Footprint:
    count = int(rng.integers(4, 11))
    pads = [Pad(row, i, 1.5, 0.52, "square") for row in (0, 5) for i in range(count)]
    return Footprint("U", tuple(pads), "box", (1.15, -0.5, 3.85, count - 0.5))


def _sot(rng: np.random.Generator, family: PadFamily) -> Footprint:
    pads = (Pad(0, 0, 0.9, 0.8, "square"), Pad(0, 2, 0.9, 0.8, "square"), Pad(2, 1, 0.9, 0.8, "square"))
    return Footprint("Q", pads, "box", (0.65, -0.4, 1.35, 2.4))
