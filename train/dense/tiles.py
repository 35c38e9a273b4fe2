"""The tiles of a training: how precisely their defects are known, and their predictions by a cross-validation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.monitor.marks import Missed
from heatline.edge.wire.events import Stroke
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
    """People marked a missed defect within; see `share_of_marks`."""
    UNKNOWN = 5
    """A tile of a picture whose marks lie in other tiles; it is not trained on."""


DEFECTIVE_CELL = 0.12
"""A cell with a larger defective share is a positive, a cell without defect a negative; others do not count."""
NOT_COUNTED = DEFECTIVE_CELL / 2
"""Defective share that is neither a positive nor a negative."""
POINT_MARGIN = 1 / 14
"""Least distance of a point or stroke from the border of a POINTED tile, as a share of the tile's side (16 px of 224):
people click beside small defects, and a defect at the border may lie in the neighbouring tile. The frame's own border
needs no distance."""


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

    Defective pictures whose annotation marks nothing are bags, like those without annotation, and like reviewed ones of
    which `is_marked` no tile.
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
        reviewed, hw = images[frame].reviewed, store.frame_hw(frame)
        if reviewed and images[frame].defective:
            rows = np.flatnonzero(table.frame == frame)
            corners = zip(table.y[rows].tolist(), table.x[rows].tolist(), strict=True)
            marked = np.array([is_marked(reviewed, yx, rule.tile_px, hw) for yx in corners])
            if marked.any():
                known[rows] = np.where(marked, LabelKind.POINTED, LabelKind.UNKNOWN)
    return DenseTiles(
        table,
        known.astype(np.int8),
        group[table.frame],
        tuple(groups.tolist()),
        tuple(image.name_in_folder for image in images),
        np.array([image.reviewed is not None for image in images])[table.frame],
    )


def is_marked(missed: Missed, yx: tuple[int, int], tile_px: int, frame_hw: tuple[int, int]) -> bool:
    """Whether a point or a part of a stroke lies well within the tile at (y, x), see `POINT_MARGIN`, or at least half
    of a box lies in it."""
    margin, (y, x) = tile_px * POINT_MARGIN, yx
    for left, top, width, height in missed.boxes_xywh:
        shared_hw = min(top + height, y + tile_px) - max(top, y), min(left + width, x + tile_px) - max(left, x)
        if min(shared_hw) > 0 and 2 * shared_hw[0] * shared_hw[1] >= width * height:
            return True
    inner = tuple(
        slice(math.ceil(margin) if low else 0, math.ceil(tile_px - margin) if low + tile_px < size else tile_px)
        for low, size in zip(yx, frame_hw, strict=True)
    )
    return bool(_draw([*missed.strokes, *(Stroke((xy,), 1) for xy in missed.missed_xy)], yx, tile_px)[inner].any())


def share_of_marks(missed: Missed, yx: tuple[int, int], tile_px: int, cells: int) -> NDArray[np.float32]:
    """Return the defective share of each map cell, 0..1 [cells, cells], of a tile by people's marks.

    What a stroke covers is defective, and so is what is at most a cell's side away from a point. Other cells of a tile
    with a point do not count, nor do cells in a box or at most a cell's side away from a stroke; the rest is good.
    """
    cell_px, inside = tile_px // cells, slice(tile_px // cells, -(tile_px // cells))
    corner = yx[0] - cell_px, yx[1] - cell_px  # strokes around the tile count too
    discs = [Stroke((xy,), 2 * cell_px) for xy in missed.missed_xy]
    drawn = _draw([*missed.strokes, *discs], corner, tile_px + 2 * cell_px)
    near = np.asarray(cv2.dilate(drawn, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * cell_px + 1,) * 2)))
    for x, y, width, height in missed.boxes_xywh:
        top, left = y - corner[0], x - corner[1]
        near[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = 1
    if _draw([Stroke((xy,), 1) for xy in missed.missed_xy], yx, tile_px).any():
        near[:] = 1
    share, uncounted = (defective_share(each[inside, inside].view(np.bool_), cells) for each in (drawn, near))
    return np.where(share > 0, share, np.where(uncounted > 0, np.float32(NOT_COUNTED), share))


def _draw(strokes: Sequence[Stroke], yx: tuple[int, int], side_px: int) -> NDArray[np.uint8]:
    """Draw the parts of strokes in the square at (y, x) of a frame: 1 where they are, uint8 [side, side]."""
    drawn = np.zeros((side_px, side_px), np.uint8)
    for stroke in strokes:
        way = np.array([stroke.points_xy[0], *stroke.points_xy], np.int32) - (yx[1], yx[0])  # one alone is not drawn
        cv2.polylines(drawn, [way.astype(np.int32)], False, 1, stroke.width_px)
    return drawn


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
