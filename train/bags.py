"""Multiple-instance training: for pictures larger than a tile of which only the label is known.

The label does not say which tile of a defective picture is defective. So a picture is a bag of tiles, and the loss
compares its label with a smooth maximum of its tiles' logits, the log-sum-exp

    bag logit = log(sum over tiles of exp(tile logit)).

The bag's odds are the sum of its tiles' odds. To first order these are the odds of "at least one tile is defective" for
independent tiles (the noisy-or of Maron & Lozano-Perez 1998). So a bag of one tile has the tile's logit, and a tile's
logit means the same in a bag of 2 and of 200. Each tile's gradient is weighted by its share of the sum, the softmax of
the logits.

A bag may hold more tiles than a step has memory for. Then all tiles are evaluated without gradient, and the tiles that
get one are drawn by their share of the sum; the others are constants in the sum. Their part of the gradient is missing
for both labels alike, so a model with correct odds does not drift; but a large bag whose sum is spread over many tiles
trains more slowly than a small one. As always, batch normalisation differs between evaluation and training; its running
averages are updated by the tiles that get a gradient.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from heatline.train.augment import augment
from heatline.train.batches import Batch, Steps
from heatline.train.config import RecipeConfig
from heatline.train.frames import FrameStore
from heatline.train.sampling import BatchSampler
from heatline.train.tiles import TileTable, cut


@dataclass(frozen=True)
class Bags:
    """Pictures as bags: bag `b` holds the rows from `first[b]` to before `first[b + 1]` of a tile table."""

    tiles: TileTable
    first: NDArray[np.int64]
    defective: NDArray[np.bool_]

    @classmethod
    def of(cls, store: FrameStore, tiles: TileTable) -> "Bags":
        """Make one bag per frame of the table, in its order."""
        frames, first = np.unique(tiles.frame, return_index=True)
        defective = np.array([store.images[frame].defective for frame in frames], np.bool_)
        return cls(tiles, np.append(first, len(tiles)).astype(np.int64), defective)

    def __len__(self) -> int:
        return len(self.defective)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of tiles of each bag."""
        return np.diff(self.first)

    def rows(self, bags: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the table rows of these bags, and for each row the index of its bag within `bags`."""
        rows = [np.arange(self.first[bag], self.first[bag + 1]) for bag in bags]
        indices = [np.full(len(part), index) for index, part in enumerate(rows)]
        return np.concatenate(rows), np.concatenate(indices)


def _cut_bags(
    store: FrameStore,
    bags: Bags,
    numbers: Sequence[int] | NDArray[np.int64],
    tile_px: int,
    alter: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
) -> Batch:
    rows, bag_of_row = bags.rows(numbers)
    table = bags.tiles
    tiles = np.empty((len(rows), tile_px, tile_px, 3), np.uint8)
    for row, out in zip(rows, tiles, strict=True):
        cut(store, int(table.frame[row]), int(table.y[row]), int(table.x[row]), out)
        if alter is not None:
            out[:] = alter(out)
    labels = bags.defective[np.asarray(numbers)].astype(np.float32)
    return Batch(torch.from_numpy(tiles), torch.from_numpy(labels), torch.from_numpy(bag_of_row))


class TrainingBags(IterableDataset[Batch]):
    """The batches of a multiple-instance training: complete bags; each tile is augmented independently.

    Tiles keep their places in the grid, which covers the picture: moved tiles could miss a defect.

    Args:
        store: the frames that tiles are cut from.
        bags: the bags that may be drawn.
        tile_px: side of a tile.
        sampler: chooses the bags of each batch.
        recipe: sets the augmentation.
        steps: numbers of the batches to make.
    """

    def __init__(
        self, store: FrameStore, bags: Bags, tile_px: int, sampler: BatchSampler, recipe: RecipeConfig, steps: Steps
    ) -> None:
        self._store, self._bags, self._tile_px = store, bags, tile_px
        self._sampler, self._recipe, self._steps = sampler, recipe, steps

    def __iter__(self) -> Iterator[Batch]:
        return map(self.batch, self._steps())

    def batch(self, step: int) -> Batch:
        """Return batch number `step`; the same number always gives the same batch."""
        rng = self._sampler.details(step)
        return _cut_bags(
            self._store,
            self._bags,
            self._sampler.draw(step),
            self._tile_px,
            lambda tile: augment(tile, self._recipe.augment, rng),
        )


class EvaluationBags(Dataset[Batch]):
    """All bags in order without augmentation, several complete bags per batch.

    Args:
        size: highest number of tiles per batch; a larger bag is a batch of its own.
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
    """Return bag logits [bags] = log(sum of exp(tile logits)) of tile logits [N].

    Args:
        bag: int64 [N], index of each tile's bag; no bag is empty.
        bags: number of bags.
    """
    highest = logits.new_full((bags,), -torch.inf).scatter_reduce(0, bag, logits.detach(), "amax")
    summed = logits.new_zeros(bags).index_add(0, bag, (logits - highest[bag]).exp())
    return highest + summed.log()


def draw_tiles(logits: Tensor, bag: Tensor, bags: int, most: int) -> Tensor:
    """Draw the tiles that get a gradient: at most `most` in all, the same number from each bag that has so many.

    Within a bag, tiles are drawn without replacement with probabilities proportional to exp(logit), by the
    Gumbel-top-k trick (Kool, van Hoof & Welling 2019): equal logits give equal chances, later the highest-scoring tiles
    dominate. The noise comes from torch's global random generator.

    Args:
        logits: [N], logit of each tile.
        bag: int64 [N], index of each tile's bag.
        bags: number of bags.
    Returns:
        Indices of the tiles [at most `most`], sorted.
    """
    noise = -torch.empty_like(logits).exponential_().log()  # standard Gumbel distribution
    order = torch.argsort(logits.detach() + noise, descending=True, stable=True)
    order = order[torch.argsort(bag[order], stable=True)]  # bag after bag, each in drawn order
    sizes = torch.bincount(bag, minlength=bags)
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(order), device=order.device) - starts[bag[order]]
    each, counts = most, sizes.tolist()
    while each > 1 and sum(min(count, each) for count in counts) > most:
        each -= 1
    return order[rank < each].sort().values
