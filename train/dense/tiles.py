"""The tiles of a training: how precisely their defects are known, and their predictions by a cross-validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.train.config import TilesConfig
from heatline.train.files import write_atomically
from heatline.train.frames import FrameStore, TileTable, grid_tiles


class LabelKind(IntEnum):
    """How precisely the defects of a tile are known."""

    GOOD = 0
    """No pixel is defective."""
    MASKED = 1
    """The defective pixels are known exactly."""
    BOXED = 2
    """The defects lie somewhere in boxes; pixels outside are good."""
    BAGGED = 3
    """Only the picture is labelled: at least one of its tiles is defective."""
    POINTED = 4
    """A defect of unknown extent lies at a point within; nothing is known of the other pixels."""
    UNKNOWN = 5
    """A tile of a picture whose points lie in other tiles; it is not trained on."""


POINT_MARGIN = 1 / 14
"""Least distance of a point from the border of a POINTED tile, as a share of the tile's side (16 px of 224): people
click beside small defects, and a defect at the border may lie in the neighbouring tile. The frame's own border needs no
distance."""


@dataclass(frozen=True)
class DenseTiles:
    """All grid tiles of a training, as columns of equal length."""

    table: TileTable
    known: NDArray[np.int8]
    """[N], of `LabelKind`."""
    group: NDArray[np.int64]
    """[N], index of the picture's group in `groups`."""
    groups: tuple[str, ...]
    """Names of the groups."""
    pictures: tuple[str, ...]
    """Names of the pictures, in the order of their tiles."""
    reviewed: NDArray[np.bool_]
    """[N], whether the tile is of a reviewed frame."""

    def __len__(self) -> int:
        return len(self.table)

    def of(self, *known: LabelKind) -> NDArray[np.int64]:
        """Return the rows whose `known` is one of these."""
        return np.flatnonzero(np.isin(self.known, known))

    @property
    def located(self) -> NDArray[np.int64]:
        """Rows with marked defects of any size, ambiguous tiles included."""
        return self.of(LabelKind.MASKED, LabelKind.BOXED, LabelKind.POINTED)


def label_tiles(store: FrameStore, rule: TilesConfig) -> DenseTiles:
    """Divide all frames into grid tiles, and label each with what is known of it.

    Defective pictures whose annotation marks nothing are bags, like those without annotation, and like those with
    points of which none lies well within a tile.
    """
    frames, images = range(len(store)), store.images
    table = grid_tiles(store, frames, rule)
    bagged = np.array([images[i].defective and (images[i].labels_only or store.is_unplaced(i)) for i in frames])
    exact = np.array([image.has_exact_mask() for image in images])
    groups, group = np.unique([str(image.group) for image in images], return_inverse=True)
    marked = np.where(exact[table.frame], LabelKind.MASKED, LabelKind.BOXED)
    known = np.where(table.defect_px > 0, marked, LabelKind.GOOD)
    known = np.where(bagged[table.frame], LabelKind.BAGGED, known)
    for frame in frames:
        if images[frame].points_xy:
            rows = np.flatnonzero(table.frame == frame)
            corners = np.stack([table.y[rows], table.x[rows]], axis=1)
            pointed = tiles_of_points(images[frame].points_xy, corners, rule.tile_px, store.frame_hw(frame))
            if pointed.any():
                known[rows] = np.where(pointed, LabelKind.POINTED, LabelKind.UNKNOWN)
    return DenseTiles(
        table,
        known.astype(np.int8),
        group[table.frame],
        tuple(groups.tolist()),
        tuple(image.name_in_folder for image in images),
        np.array([image.reviewed for image in images])[table.frame],
    )


def tiles_of_points(
    points_xy: Sequence[tuple[int, int]], corners_yx: NDArray[np.int64], tile_px: int, frame_hw: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return which tiles [N] have a point well within, see `POINT_MARGIN`.

    Args:
        corners_yx: [N, 2], top left corner of each tile, px.
    """
    found = np.zeros(len(corners_yx), np.bool_)
    size, margin = np.array(frame_hw), tile_px * POINT_MARGIN
    low = np.where(corners_yx == 0, 0, corners_yx + margin)
    end = corners_yx + tile_px
    high = np.where(end >= size, size, end - margin)
    for x, y in points_xy:
        found |= ((low <= (y, x)) & ((y, x) < high)).all(axis=1)
    return found


def defective_share(mask: NDArray[np.bool_], cells: int) -> NDArray[np.float32]:
    """Return the defective share of each map cell, 0..1 [cells, cells], of a tile's mask bool [tile, tile]."""
    side = len(mask) // cells
    share: NDArray[np.float32] = mask.reshape(cells, side, cells, side).mean(axis=(1, 3), dtype=np.float32)
    return share


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of tiles by heads that were not trained on the tiles' groups."""

    frames: NDArray[np.str_]
    """Names of the pictures, in the order of their tiles."""
    fold: NDArray[np.int64]
    """Fold of each picture."""
    logit: NDArray[np.float32]
    """[N], logit of each grid tile, frame by frame in the grid's order."""
    map: NDArray[np.float16]
    """[N, h, w], map of each grid tile, in logits."""

    def write(self, file: Path) -> None:

        def write(path: Path) -> None:
            with path.open("wb") as opened:
                np.savez(opened, frames=self.frames, fold=self.fold, logit=self.logit, map=self.map)

        write_atomically(file, write)

    @classmethod
    def read(cls, file: Path) -> "OutOfFold":
        """Read the file; an InputError if it does not exist, or is damaged."""
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                return cls(arrays["frames"], arrays["fold"], arrays["logit"], arrays["map"])
        except Exception as error:  # a damaged archive may raise anything
            raise InputError(f"{file} cannot be read ({error}); train again") from error
