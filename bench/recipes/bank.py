"""A memory bank: the distance of a tile's features to those of good tiles, as a reference without defects.

Its features are those of strides 8 and 16 of the same trunk, pooled to the cells of stride 16 and whitened on good
cells of the training folds. The bank is 256 prototypes of these cells by k-means; a map's cell is the distance to the
nearest prototype, a tile's logit the mean of its highest cells, over the same area as that of a dense head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from heatline.bench.recipes.one_fold import grid_features
from heatline.bench.recipes.rows import Training
from heatline.bench.recipes.truth import Truth
from heatline.edge.bundle.pooling import pool
from heatline.train.config import DenseRecipeConfig, TrainConfig
from heatline.train.dense.cross_validation import divide_groups
from heatline.train.dense.out_of_fold import OutOfFold
from heatline.train.models.build import build_model
from heatline.train.models.dense import MAP_STRIDE, TOP_CELLS, DenseClassifier
from heatline.train.models.explained import MOST_CELLS, Prototypes

BATCH = 64
Floats = NDArray[np.float32]


def cross_validate_bank(
    config: TrainConfig, truth: Truth, work: Path, report_line: Callable[[str], None]
) -> tuple[OutOfFold, Training]:
    """Answer every fold by a bank of the good tiles of the others.

    Args:
        config: of the recipe `heatline`, for trunk and folds.
        work: folder for temporary files, 100 kB per tile.
    Raises:
        WeightsError, TrainingError: trunk or features cannot be used.
    """
    recipe = config.recipe
    assert isinstance(recipe, DenseRecipeConfig), "the caller composes it"
    began, tiles = monotonic(), truth.tiles
    fold_of = divide_groups(tiles, recipe, config.seed)
    fold = fold_of[tiles.group]
    with _cells(config, truth, work, report_line) as (cells, tiles_per_s):
        count = cells.shape[1]
        side, top_cells = round(count**0.5), max(1, TOP_CELLS * count // (config.tiles.tile_px // MAP_STRIDE) ** 2)
        maps = np.zeros((len(tiles), side, side), np.float32)
        for number in range(int(fold_of.max()) + 1):
            rng = np.random.default_rng((config.seed, number))
            good = rng.permutation(np.flatnonzero(truth.is_clean & (fold != number)))[:MOST_CELLS]
            drawn = rng.integers(count, size=(len(good), min(count, -(-MOST_CELLS // len(good)))))
            bank = Prototypes.of(
                cells[good[:, None], drawn].reshape(-1, cells.shape[2]).astype(np.float32), config.seed
            )
            mine = np.flatnonzero(fold == number)
            for rows in np.array_split(mine, -(-len(mine) // BATCH)):
                maps[rows] = bank.distance(cells[rows].reshape(-1, cells.shape[2])).reshape(-1, side, side)
    _, first = np.unique(tiles.table.frame, return_index=True)
    found = OutOfFold(np.array(tiles.pictures), fold[first], pool(maps, top_cells), maps.astype(np.float16))
    return found, Training(seed=config.seed, fold=None, seconds=monotonic() - began, tiles_per_s=tiles_per_s)


@contextmanager
def _cells(
    config: TrainConfig, truth: Truth, work: Path, report_line: Callable[[str], None]
) -> Iterator[tuple[NDArray[np.float16], float | None]]:
    """Give features [tiles, cells, c] of all grid tiles, and tiles extracted per second; None: all were cached."""
    tiles = truth.tiles
    model, _ = build_model(config.model, config.tiles.tile_px)
    assert isinstance(model, DenseClassifier), "the recipe made the model one with a dense head"
    with (
        grid_features(model, config, truth, np.arange(len(tiles)), report_line) as found,
        TemporaryDirectory(dir=work) as temporary,
    ):
        all_cells = None
        for start in range(0, len(tiles), BATCH):
            rows = np.arange(start, min(start + BATCH, len(tiles)))
            part = pooled(found.features.exact(rows))
            if all_cells is None:
                shape = (len(tiles), *part.shape[1:])
                all_cells = np.memmap(Path(temporary) / "cells.f16", np.float16, "w+", shape=shape)
            all_cells[rows] = part
        assert all_cells is not None, "there are tiles"
        yield all_cells, found.tiles_per_s


def pooled(stages: Sequence[NDArray[np.float16]]) -> Floats:
    """Pool stages [n, h, w, c] of strides 8 and 16 to cells [n, h * w, all c] of the coarser; leave others out."""
    side = min(stage.shape[1] for stage in stages)
    parts = [
        stage.reshape(len(stage), side, step, side, step, -1).mean(axis=(2, 4), dtype=np.float32)
        for stage in stages
        if (step := stage.shape[1] // side) <= 2
    ]
    return np.concatenate(parts, axis=3).reshape(len(stages[0]), side * side, -1)
