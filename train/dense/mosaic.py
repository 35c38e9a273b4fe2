"""Mosaics of tiles with synthetic defects: a window around the defect from each, four windows to a tile.

Only single cells enter the loss of such a tile, and most of them are good and far from the defect. A window of a
quarter of the tile has what matters, and a mosaic of four costs as much as one tile.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatline.train.dense.objective import DEFECTIVE_CELL

PER_SIDE = 2
"""Windows along each side of a mosaic."""
WINDOWS = PER_SIDE**2
FEWEST_CELLS = 16
"""Side of the smallest map whose tiles are divided, cells: smaller windows show little but the defect."""
NOT_COUNTED = DEFECTIVE_CELL / 2
"""Defective share that is neither a positive nor a negative."""
Corners = Sequence[tuple[int, int]]


def choose_windows(share: NDArray[np.float16], multiple: int, rng: np.random.Generator) -> Corners:
    """Choose a window of each tile that contains a defective cell; return its top left cells (y, x).

    Args:
        share: [n, cells, cells], defective share of each cell.
        multiple: corners are multiples of so many cells, so that they lie between the cells of all stages.
    """
    side = share.shape[1] // PER_SIDE
    corners = []
    for tile in share:
        cells = np.argwhere(tile >= min(DEFECTIVE_CELL, tile.max()))
        cell = cells[rng.integers(len(cells))]
        low, high = np.maximum(cell - side + 1, 0), np.minimum(cell, share.shape[1] - side)
        y, x = (rng.integers(-(-low // multiple), high // multiple + 1) * multiple).tolist()
        corners.append((y, x))
    return corners


def compose_mosaics(tiles: NDArray[Any], corners: Corners, cells: int) -> NDArray[Any]:
    """Return mosaics [n / 4, h, w, ...] of windows of tiles or their features [n, h, w, ...]; n is a multiple of 4.

    Args:
        corners: top left of each window, in cells of the map.
        cells: side of the map, cells.
    """
    size = tiles.shape[1]
    side = size // PER_SIDE
    mosaics = np.empty((len(tiles) // WINDOWS, *tiles.shape[1:]), tiles.dtype)
    for number, (tile, (y, x)) in enumerate(zip(tiles, corners, strict=True)):
        top, left = y * size // cells, x * size // cells
        row, column = divmod(number % WINDOWS, PER_SIDE)
        place = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
        mosaics[number // WINDOWS][place] = tile[top : top + side, left : left + side]
    return mosaics


def compose_shares(share: NDArray[np.float16], corners: Corners) -> NDArray[np.float16]:
    """Return the defective share of the cells of mosaics; those at seams do not count, as their neighbours differ."""
    cells = share.shape[1]
    mosaics = compose_mosaics(share, corners, cells)
    seam = slice(cells // PER_SIDE - 1, cells // PER_SIDE + 1)
    mosaics[:, seam] = mosaics[:, :, seam] = NOT_COUNTED
    return mosaics
