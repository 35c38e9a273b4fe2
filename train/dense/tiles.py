"""What is known of each tile of a training: labels of pictures are enough, and all that says more is used."""

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


def label_tiles(store: FrameStore, rule: TileRule) -> DenseTiles:
    """Cut all frames into tiles, and say what is known of each.

    Pictures that are labelled defective and mark nothing are bags, as those without an annotation are.
    """
    frames, images = range(len(store)), store.images
    table = grid_tiles(store, frames, rule)
    bagged = np.array([images[at].defective and (images[at].labels_only or store.is_unplaced(at)) for at in frames])
    exact = np.array([image.has_exact_mask() for image in images])
    groups, group = np.unique([str(image.group) for image in images], return_inverse=True)
    marked = np.where(exact[table.frame], Known.MASKED, Known.BOXED)
    known = np.where(table.defect_px > 0, marked, Known.GOOD)
    known = np.where(bagged[table.frame], Known.BAGGED, known)
    return DenseTiles(
        table,
        known.astype(np.int8),
        group[table.frame],
        tuple(groups.tolist()),
        tuple(image.name_in_folder for image in images),
    )


def defective_share(mask: NDArray[np.bool_], cells: int) -> NDArray[np.float32]:
    """The share of each map cell that is defective, [cells, cells], of a tile's mask [tile, tile]."""
    side = len(mask) // cells
    share: NDArray[np.float32] = mask.reshape(cells, side, cells, side).mean(axis=(1, 3), dtype=np.float32)
    return share
