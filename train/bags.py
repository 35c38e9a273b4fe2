"""Multiple-instance training: pictures larger than a tile that are only good or defective as a whole.

Nobody says which tile of a defective picture is the defective one. So a picture is a bag of tiles, and what is held
against its label is a smooth maximum of its tiles' logits, the log-sum-exp

    bag logit = log(sum over tiles of exp(tile logit)).

Its odds are the sum of its tiles' odds: to first order those of "at least one tile is defective" for independent tiles
(the noisy-or of Maron & Lozano-Perez 1998). So a bag of one tile is that tile, and a tile's logit means the same in a
bag of 2 and of 200. The gradient reaches each tile with its share of the sum, the softmax of the logits.

A bag may hold more tiles than a step has memory for. All its tiles are looked at without a gradient, and those that
get one are drawn by their share of the sum; the others stand in the sum as the constants they are. Their part of the
gradient is then missing, whatever the label is, so a model whose odds are right stays where it is; but a large bag
whose sum is spread over many tiles teaches more slowly than a small one. Batch normalisation differs between the two
looks, as everywhere between training and use; its running averages learn from the tiles that get a gradient.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from train.augment import augment
from train.batches import Batch, Steps
from train.config import RecipeConfig
from train.frames import FrameStore
from train.sampling import BatchSampler
from train.tiles import TileTable, cut


@dataclass(frozen=True)
class Bags:
    """Pictures as bags: bag `b` holds the rows `first[b]` to `first[b + 1]` of a tile table."""

    tiles: TileTable
    first: NDArray[np.int64]
    defective: NDArray[np.bool_]

    @classmethod
    def of(cls, store: FrameStore, tiles: TileTable) -> "Bags":
        """One bag per frame of the table, in its order."""
        frames, first = np.unique(tiles.frame, return_index=True)
        defective = np.array([store.images[frame].defective for frame in frames], np.bool_)
        return cls(tiles, np.append(first, len(tiles)).astype(np.int64), defective)

    def __len__(self) -> int:
        return len(self.defective)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Tiles of each bag."""
        return np.diff(self.first)

    def rows(self, bags: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the table that make up these bags, and for each the place of its bag among them."""
        rows = [np.arange(self.first[bag], self.first[bag + 1]) for bag in bags]
        places = [np.full(len(part), place) for place, part in enumerate(rows)]
        return np.concatenate(rows), np.concatenate(places)


def _cut_bags(
    store: FrameStore,
    bags: Bags,
    numbers: Sequence[int] | NDArray[np.int64],
    tile_px: int,
    alter: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
) -> Batch:
    rows, places = bags.rows(numbers)
    table = bags.tiles
    tiles = np.empty((len(rows), tile_px, tile_px, 3), np.uint8)
    for row, out in zip(rows, tiles, strict=True):
        cut(store, int(table.frame[row]), int(table.y[row]), int(table.x[row]), out)
        if alter is not None:
            out[:] = alter(out)
    labels = bags.defective[np.asarray(numbers)].astype(np.float32)
    return Batch(torch.from_numpy(tiles), torch.from_numpy(labels), torch.from_numpy(places))


class TrainingBags(IterableDataset[Batch]):
    """The batches of a multiple-instance training: whole bags, each tile augmented by itself.

    Tiles keep their places in the grid, which covers the picture: off it, a defect could fall between them.

    Args:
        store: where tiles are cut from.
        bags: what may be drawn.
        tile_px: side of a tile.
        sampler: which bags make up which batch.
        recipe: what is done to tiles.
        steps: which batches to make.
    """

    def __init__(
        self, store: FrameStore, bags: Bags, tile_px: int, sampler: BatchSampler, recipe: RecipeConfig, steps: Steps
    ) -> None:
        self._store, self._bags, self._tile_px = store, bags, tile_px
        self._sampler, self._recipe, self._steps = sampler, recipe, steps

    def __iter__(self) -> Iterator[Batch]:
        return map(self.batch, self._steps())

    def batch(self, step: int) -> Batch:
        """Batch number `step`, always the same."""
        rng = self._sampler.details(step)
        return _cut_bags(
            self._store,
            self._bags,
            self._sampler.draw(step),
            self._tile_px,
            lambda tile: augment(tile, self._recipe.augment, rng),
        )


class EvaluationBags(Dataset[Batch]):
    """All bags in their order as they are, a few whole ones at a time.

    Args:
        size: tiles per batch, unless one bag alone has more.
    """

    def __init__(self, store: FrameStore, bags: Bags, tile_px: int, size: int = 64) -> None:
        self._store, self._bags, self._tile_px = store, bags, tile_px
        self._batches: list[list[int]] = [[]]
        filled = 0
        for bag, tiles in enumerate(bags.sizes):
            if self._batches[-1] and filled + tiles > size:
                self._batches.append([])
                filled = 0
            self._batches[-1].append(bag)
            filled += int(tiles)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Batch:
        return _cut_bags(self._store, self._bags, self._batches[number], self._tile_px)


def log_sum_exp(logits: Tensor, bag: Tensor, bags: int) -> Tensor:
    """Bag logits [bags] of tile logits [N], where `bag` [N] tells each tile's bag; each bag holds at least one."""
    highest = logits.new_full((bags,), -torch.inf).scatter_reduce(0, bag, logits.detach(), "amax")
    summed = logits.new_zeros(bags).index_add(0, bag, (logits - highest[bag]).exp())
    return highest + summed.log()


def draw_tiles(logits: Tensor, bag: Tensor, bags: int, most: int) -> Tensor:
    """Which tiles get a gradient: at most `most` in all, and of each bag the same number where it has so many.

    Within a bag they are drawn without replacement by their share of its log-sum-exp (Gumbel-top-k; Kool, van Hoof &
    Welling 2019): while all logits are alike, any tile may come; later those that carry the bag.

    Args:
        logits: [N], of all tiles; drawn with torch's random numbers.
        bag: [N], of each tile.
    Returns:
        Their numbers [at most `most`], sorted.
    """
    noise = -torch.empty_like(logits).exponential_().log()  # of Gumbel's distribution
    order = torch.argsort(logits.detach() + noise, descending=True, stable=True)
    order = order[torch.argsort(bag[order], stable=True)]  # bag after bag, in each the drawn order
    sizes = torch.bincount(bag, minlength=bags)
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(order), device=order.device) - starts[bag[order]]
    each, counts = most, sizes.tolist()
    while each > 1 and sum(min(count, each) for count in counts) > most:
        each -= 1
    return order[rank < each].sort().values
