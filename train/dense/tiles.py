"""What is known of each tile of a training: labels of pictures are enough, and all that says more is used."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from train.frames import FrameStore
from train.tiles import TileRule, TileTable, grid_tiles


class Known(IntEnum):
    """What a tile is known to be."""

    GOOD = 0
    """No pixel of it is defective."""
    MASKED = 1
    """Which pixels are defective is known exactly."""
    BOXED = 2
    """Its defects lie somewhere in boxes; what lies outside is good."""
    BAGGED = 3
    """Its picture is defective as a whole: at least one tile of it is."""


@dataclass(frozen=True)
class DenseTiles:
    """All grid tiles of a training, as columns of equal length."""

    table: TileTable
    known: NDArray[np.int8]
    """[N], of `Known`."""
    group: NDArray[np.int64]
    """[N], number of the picture's group."""
    groups: tuple[str, ...]
    """Their names."""
    pictures: tuple[str, ...]
    """Names of the pictures, in the order of their tiles."""

    def __len__(self) -> int:
        return len(self.table)

    def of(self, *known: Known) -> NDArray[np.int64]:
        """The rows of which this is known."""
        return np.flatnonzero(np.isin(self.known, known))

    @property
    def located(self) -> NDArray[np.int64]:
        """The rows with marked defects, however small they are: an ambiguous tile has a defect too."""
        return self.of(Known.MASKED, Known.BOXED)


def know_tiles(store: FrameStore, rule: TileRule, frames: Iterable[int] | None = None) -> DenseTiles:
    """Cut frames into tiles, and say what is known of each.

    Pictures that are labelled defective and mark nothing are bags, as those without an annotation are.

    Args:
        frames: default all of the store.
    """
    chosen = range(len(store)) if frames is None else list(frames)
    table = grid_tiles(store, chosen, rule)
    images = store.images
    bagged = np.zeros(len(images), np.bool_)
    exact = np.zeros(len(images), np.bool_)
    names = sorted({str(images[frame].group) for frame in chosen})
    number = {name: place for place, name in enumerate(names)}
    group = np.zeros(len(images), np.int64)
    for frame in chosen:
        image = images[frame]
        bagged[frame] = image.defective and (image.labels_only or store.is_unplaced(frame))
        exact[frame] = image.has_exact_mask()
        group[frame] = number[str(image.group)]
    marked = np.where(exact[table.frame], Known.MASKED, Known.BOXED)
    known = np.where(table.defect_px > 0, marked, Known.GOOD)
    known = np.where(bagged[table.frame], Known.BAGGED, known)
    return DenseTiles(
        table,
        known.astype(np.int8),
        group[table.frame],
        tuple(names),
        tuple(images[frame].name_in_folder for frame in chosen),
    )


def defective_share(mask: NDArray[np.bool_], cells: int) -> NDArray[np.float32]:
    """The share of each map cell that is defective, [cells, cells], of a tile's mask [tile, tile]."""
    side = len(mask) // cells
    share: NDArray[np.float32] = mask.reshape(cells, side, cells, side).mean(axis=(1, 3), dtype=np.float32)
    return share
