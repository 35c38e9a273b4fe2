"""Batches of tiles as tensors."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from heatline.train.augment import augment
from heatline.train.config import RecipeConfig
from heatline.train.frames import FrameStore
from heatline.train.sampling import BatchSampler
from heatline.train.tiles import TileRule, TileTable, cut, move_tile


class Batch(NamedTuple):
    """Tiles and their labels, or pictures as bags of tiles and the pictures' labels."""

    tiles: Tensor
    """uint8 [N, H, W, 3], RGB."""
    labels: Tensor
    """float32 [N], or [bags]: 1 for defective."""
    bag: Tensor | None = None
    """int64 [N], index of each tile's bag; None: the tiles themselves are labelled."""


Steps = Callable[[], Iterable[int]]
"""Returns the numbers of the batches to make; called when iteration starts."""


class TrainingBatches(IterableDataset[Batch]):
    """The batches of a training.

    Args:
        store: the frames that tiles are cut from.
        tiles: the tiles that may be drawn.
        rule: labels moved tiles.
        sampler: chooses the tiles of each batch.
        recipe: sets jitter and augmentation.
        steps: numbers of the batches to make.
    """

    def __init__(
        self,
        store: FrameStore,
        tiles: TileTable,
        rule: TileRule,
        sampler: BatchSampler,
        recipe: RecipeConfig,
        steps: Steps,
    ) -> None:
        self._store, self._table, self._rule = store, tiles, rule
        self._sampler, self._recipe, self._steps = sampler, recipe, steps

    def __iter__(self) -> Iterator[Batch]:
        return map(self.batch, self._steps())

    def batch(self, step: int) -> Batch:
        """Return batch number `step`; the same number always gives the same batch."""
        rows = self._sampler.draw(step)
        rng = self._sampler.details(step)
        tiles = np.empty((len(rows), self._rule.tile_px, self._rule.tile_px, 3), np.uint8)
        for row, out in zip(rows, tiles, strict=True):
            cut(self._store, int(self._table.frame[row]), *self.place(int(row), rng), out)
            out[:] = augment(out, self._recipe.augment, rng)
        return Batch(torch.from_numpy(tiles), torch.from_numpy(self._table.defective[rows].astype(np.float32)))

    def place(self, row: int, rng: np.random.Generator) -> tuple[int, int]:
        """Draw the top left corner (y, x) of a tile with jitter, px.

        The tile stays in its frame and keeps its class by the exact count of defective px at the new place: a good tile
        must not move onto a defect, nor a defective one off it. So each batch keeps its defective share.
        """
        frame, yx = int(self._table.frame[row]), (int(self._table.y[row]), int(self._table.x[row]))
        reach_px = self._recipe.jitter_px
        return move_tile(self._store, frame, yx, self._rule.tile_px, reach_px, rng, partial(self._keeps_class, row))

    def _keeps_class(self, row: int, defect_px: int) -> bool:
        defective = bool(self._rule.is_defective(np.array(defect_px)))
        if self._recipe.skip_ambiguous and not defective and defect_px > 0:
            return False
        return defective == bool(self._table.defective[row])


class EvaluationBatches(Dataset[Batch]):
    """All tiles of a table in order, without augmentation.

    Args:
        size: tiles per batch; the last batch may be smaller.
    """

    def __init__(self, store: FrameStore, tiles: TileTable, tile_px: int, size: int = 64) -> None:
        self._store, self._table, self._tile_px, self._size = store, tiles, tile_px, size

    def __len__(self) -> int:
        return -(-len(self._table) // self._size)

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(number)
        rows = range(number * self._size, min((number + 1) * self._size, len(self._table)))
        tiles = np.empty((len(rows), self._tile_px, self._tile_px, 3), np.uint8)
        for row, out in zip(rows, tiles, strict=True):
            cut(self._store, int(self._table.frame[row]), int(self._table.y[row]), int(self._table.x[row]), out)
        labels = self._table.defective[rows.start : rows.stop].astype(np.float32)
        return Batch(torch.from_numpy(tiles), torch.from_numpy(labels))
