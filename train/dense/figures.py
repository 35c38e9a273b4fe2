"""Figures of a cross-validation, and the pooling that they choose."""

import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.pooling import pool
from heatline.train.dense.samples import Samples
from heatline.train.dense.tiles import DEFECTIVE_CELL, DenseTiles, LabelKind
from heatline.train.metrics import auroc, average_precision
from heatline.train.models.dense import TOP_CELLS

ROWS_AT_A_TIME = 1_000
"""Maps that are processed in float32 at once."""

FEWER_CELLS = (12, 8)
"""Numbers of highest cells that may score a tile in place of those of the training: where defects are small and the map
is sharp, the others are good cells."""
LEAST_GAIN = 0.005
"""What a figure of the cross-validation must gain by another pooling, or by a reference: less changes with the seed."""


def choose_pooling(tiles: DenseTiles, maps: NDArray[np.float16]) -> tuple[int, NDArray[np.float32]]:
    """Return the number of highest cells whose mean scores a tile, and the logits [N] of held-out maps [N, h, w].

    It is that of the training, or the one of `FEWER_CELLS` that separates pictures best.
    """
    blocks = np.array_split(maps, -(-len(maps) // ROWS_AT_A_TIME))
    by_cells = {
        cells: np.concatenate([pool(block.astype(np.float32), cells) for block in blocks])
        for cells in (TOP_CELLS, *FEWER_CELLS)
    }
    reached = {cells: _picture_auroc(tiles, logit) or 0.0 for cells, logit in by_cells.items()}
    reached[TOP_CELLS] += LEAST_GAIN
    chosen = max(reached, key=reached.__getitem__)
    return chosen, by_cells[chosen]


def measure_tiles(tiles: DenseTiles, logit: NDArray[np.float32], counted: NDArray[np.bool_]) -> dict[str, float]:
    """Measure how well held-out logits separate tiles and pictures; leave out figures that lack a class.

    Args:
        logit: [tiles].
        counted: [tiles], those of the pictures that count.
    """
    clear = np.isin(tiles.known, (LabelKind.GOOD, LabelKind.MASKED, LabelKind.BOXED)) & ~tiles.table.ambiguous & counted
    of_tiles = logit[clear].astype(np.float64), tiles.table.defective[clear], np.ones(clear.sum())
    figures = {
        "val_ap": average_precision(*of_tiles),
        "val_auroc": auroc(*of_tiles),
        "val_picture_auroc": _picture_auroc(tiles, logit, counted),
    }
    return {name: value for name, value in figures.items() if value is not None}


def _picture_auroc(
    tiles: DenseTiles, logit: NDArray[np.float32], counted: NDArray[np.bool_] | slice = slice(None)
) -> float | None:
    frames, number = np.unique(tiles.table.frame[counted], return_inverse=True)
    highest, defective = np.full(len(frames), -np.inf), np.zeros(len(frames), np.bool_)
    np.maximum.at(highest, number, logit[counted].astype(np.float64))
    np.logical_or.at(defective, number, tiles.known[counted] != LabelKind.GOOD)
    return auroc(highest, defective, np.ones(len(frames)))


def measure_cells(
    tiles: DenseTiles, samples: Samples, maps: NDArray[np.float16], counted: NDArray[np.bool_]
) -> dict[str, float]:
    """Measure the average precision of held-out maps' cells, where the defective px are known; empty if a class is
    missing.

    Args:
        maps: [tiles, h, w].
        counted: as in `measure_tiles`.
    """
    exact = np.isin(tiles.known, (LabelKind.GOOD, LabelKind.MASKED)) & counted
    share, level = samples.share[: len(tiles)][exact], maps[exact].view(np.uint16)
    counts = [np.bincount(level[chosen], minlength=1 << 16) for chosen in (share > DEFECTIVE_CELL, share == 0)]
    seen = np.flatnonzero(counts[0] + counts[1])
    value = np.tile(seen.astype(np.uint16).view(np.float16).astype(np.float64), 2)
    is_defective = np.repeat([True, False], len(seen))
    found = average_precision(value, is_defective, np.concatenate([each[seen] for each in counts]).astype(np.float64))
    return {} if found is None else {"val_cell_ap": found}
