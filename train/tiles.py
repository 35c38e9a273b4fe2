"""Labelled tiles, cut by the line's own geometry.

A tile is defective if more than a certain share (the study: 1 %) of its area is defective. Tiles with a smaller share
above 0 are ambiguous: the study's rule and evaluation count them as good; the recipe `finetune` does not train on them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatline.edge.geometry.tiling import TileGrid, cut_tile
from heatline.train.frames import FrameStore

DEFECTIVE_SHARE = 0.01
"""A tile is defective if more than this share of its area is (the study's rule)."""

_TRIES = 8
"""Number of random places that are tried before a tile stays at its own."""


@dataclass(frozen=True)
class TileRule:
    """Size and overlap of tiles, and the share of defective area above which a tile is defective."""

    tile_px: int
    overlap_px: int
    defective_share: float

    def is_defective(self, defect_px: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Label tiles by their defective px; 1 % of 224x224 px are 501.76, so 501 is good and 502 defective."""
        return np.asarray(defect_px > self.defective_share * self.tile_px**2)


@dataclass(frozen=True)
class TileTable:
    """All grid tiles of some frames, as columns of equal length."""

    frame: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    defect_px: NDArray[np.int64]
    defective: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def ambiguous(self) -> NDArray[np.bool_]:
        """Which tiles have defective px, but too few to be defective."""
        return np.asarray((self.defect_px > 0) & ~self.defective)

    def drop_ambiguous(self) -> "TileTable":
        """Return the table without ambiguous tiles."""
        keep = ~self.ambiguous
        return TileTable(self.frame[keep], self.y[keep], self.x[keep], self.defect_px[keep], self.defective[keep])

    def counts(self) -> dict[str, int]:
        """Count the good, ambiguous and defective tiles."""
        defective, ambiguous = int(self.defective.sum()), int(self.ambiguous.sum())
        return {"good": len(self) - defective - ambiguous, "ambiguous": ambiguous, "defective": defective}


def grid_tiles(store: FrameStore, frames: Iterable[int], rule: TileRule) -> TileTable:
    """Return the grid tiles of those frames, frame by frame in the grid's order.

    All tiles of a defective picture without annotation count as defective.
    """
    rows = []
    for frame in frames:
        grid = TileGrid(store.frame_hw(frame), rule.tile_px, rule.overlap_px)
        rows += [(frame, y, x, store.defect_px(frame, y, x, rule.tile_px)) for y, x in grid.origins_yx]
    frame_, y_, x_, defect_px = np.asarray(rows, np.int64).reshape(-1, 4).T
    return TileTable(frame_, y_, x_, defect_px, rule.is_defective(defect_px))


def move_tile(
    store: FrameStore,
    frame: int,
    yx: tuple[int, int],
    tile_px: int,
    reach_px: int,
    rng: np.random.Generator,
    accepts: Callable[[int], bool],
) -> tuple[int, int]:
    """Move a tile at random within its frame; return its new top left corner (y, x), or its own if none is accepted.

    Args:
        reach_px: maximum shift in each direction.
        accepts: whether the tile may lie at a place, by the number of defective px that it covers there.
    """
    (low_y, high_y), (low_x, high_x) = (
        (max(0, start - reach_px), max(0, min(length - tile_px, start + reach_px)))
        for start, length in zip(yx, store.frame_hw(frame), strict=True)
    )
    if (low_y, low_x) == (high_y, high_x):
        return yx
    for _ in range(_TRIES):
        corner = int(rng.integers(low_y, high_y + 1)), int(rng.integers(low_x, high_x + 1))
        if accepts(store.defect_px(frame, *corner, tile_px)):
            return corner
    return yx


def cut(store: FrameStore, frame: int, y: int, x: int, out: NDArray[np.uint8]) -> None:
    """Copy the tile at (y, x) into `out` [tile, tile, 3], exactly as the line cuts it."""
    cut_tile(store.pixels(frame), y, x, out)
