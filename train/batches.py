"""Which tiles and pictures each step trains on, augmented, and its learning rate."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from heatline.edge.errors import TrainingError
from heatline.train.config import AugmentConfig, RecipeConfig
from heatline.train.frames import FrameStore, TileRule, TileTable, cut, move_tile


def cosine(step: int, steps: int, warmup: float) -> float:
    """Return the factor on the highest learning rate: a linear warm-up, then half a cosine down to zero.

    Args:
        steps: total number of steps.
        warmup: share of the steps in which the factor rises.
    """
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise))) / 2


# Draws the samples of each batch as a pure function of seed and step.
#
# A sample is a tile, or a whole picture if only pictures are labelled. No state is kept between batches, so a training
# that is resumed at step k draws batches k, k + 1, ... as if it had never stopped.

_DRAWS, _DETAILS = 0, 1
"""Separate the random streams of one seed."""


@dataclass(frozen=True)
class _Pool:
    """Samples that fill a fixed number of places of each batch."""

    number: int
    samples: NDArray[np.int64]
    places: int

    def draw(self, seed: int, step: int) -> NDArray[np.int64]:
        """Draw pass after pass over the pool, each pass in a new random order, without a gap between passes."""
        size, positions = len(self.samples), step * self.places + np.arange(self.places)
        orders = [_order(seed, self.number, int(position) // size, size) for position in positions]
        return self.samples[[order[position % size] for order, position in zip(orders, positions, strict=True)]]


class BatchSampler:
    """Draws the samples of each batch, without replacement within a pass.

    With `defective_share`, defective and good samples come from separate pools: if 3 % of the tiles are defective, most
    randomly drawn batches of 32 would hold none or one. A model trained on such batches has the odds of the *batch*. By
    Bayes' rule, resampling by class multiplies the odds of every sample by the same factor, so a classifier trained on
    logit + shift with

        shift = log-odds(share in the batch) - log-odds(share among the samples)

    has, in its own logit, the odds of the samples as they come (the prior correction of King & Zeng 2001; the logit
    adjustment of Menon et al. 2021). Validation and the line use that logit unchanged; only the training loss adds the
    shift.

    Args:
        is_defective: bool [samples], label of each sample that the training may draw.
        batch: samples per batch.
        defective_share: wanted share of defective samples in each batch; None: samples come in their natural
            proportion.
        seed: seed of all draws.
    Raises:
        TrainingError: one class is missing.
    """

    def __init__(self, is_defective: NDArray[np.bool_], batch: int, defective_share: float | None, seed: int) -> None:
        self._seed = seed
        defective, good = np.flatnonzero(is_defective), np.flatnonzero(~is_defective)
        if not len(defective) or not len(good):
            raise TrainingError(
                f"the samples to train on are {len(defective)} defective and {len(good)} good ones; both classes are "
                "needed: choose other groups for split.val and split.test, or add pictures"
            )
        self.natural_log_odds = math.log(len(defective) / len(good))
        """Natural logarithm of the odds that a sample is defective."""
        self.shift = 0.0
        """Added to each logit in the training loss."""
        self.defective_share: float | None = None
        """Defective share of each batch; None: the natural proportion."""
        if defective_share is None:
            self._pools = [_Pool(0, np.arange(len(is_defective)), batch)]
        else:
            places = min(max(round(defective_share * batch), 1), batch - 1)
            self._pools = [_Pool(0, defective, places), _Pool(1, good, batch - places)]
            self.defective_share = places / batch
            self.shift = math.log(places / (batch - places)) - self.natural_log_odds

    def draw(self, step: int) -> NDArray[np.int64]:
        """Return the samples of batch number `step`, by index."""
        return np.concatenate([pool.draw(self._seed, step) for pool in self._pools])

    def details(self, step: int) -> np.random.Generator:
        """Return the random generator for other draws of that batch, such as augmentation."""
        return np.random.default_rng((self._seed, _DETAILS, step))


@lru_cache(maxsize=8)
def _order(seed: int, pool: int, pass_number: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, _DRAWS, pool, pass_number)).permutation(length)


# Augmentation of single training tiles; none of it changes whether a tile is defective.
#
# Flips and rotations cost one copy of the tile. Brightness, contrast and gain cost one lookup table of 256 values per
# channel. Noise and blur cost more, so each is applied to a quarter of the tiles.

_MIRRORED = (None, 0, 1, -1)
"""cv2.flip codes: none, vertical, horizontal, both."""
_ROTATED = (None, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)
_LEVELS = np.arange(256, dtype=np.float32)[:, None]


def augment(tile: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return an augmented tile uint8 [H, W, 3] (H == W if it may rotate); `rng` alone determines the result."""
    if config.flips:
        turn = _MIRRORED[int(rng.integers(4))]
        tile = tile if turn is None else np.asarray(cv2.flip(tile, turn), np.uint8)
    if config.rotate:
        tile = rotate(tile, int(rng.integers(4)))
    if config.brightness or config.contrast or config.gain:
        tile = _relight(tile, config, rng)
    choice = rng.random()
    if config.noise and choice < 0.25:
        deviation = np.float32(rng.uniform(0, config.noise * 255))
        noisy = tile + deviation * rng.standard_normal(tile.shape, np.float32)
        tile = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    elif config.blur and choice >= 0.75:
        tile = np.asarray(cv2.GaussianBlur(tile, (0, 0), rng.uniform(0.3, 1.0)), np.uint8)
    return tile


def rotate(tile: NDArray[np.uint8], turns: int) -> NDArray[np.uint8]:
    """Rotate a tile or a plane, uint8 [H, W, 3] or [H, W], clockwise by a number of quarter turns."""
    code = _ROTATED[turns % 4]
    return tile if code is None else np.asarray(cv2.rotate(tile, code), np.uint8)


def _relight(tile: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    gain = 1 + config.gain * rng.uniform(-1, 1, 3)
    contrast = 1 + config.contrast * rng.uniform(-1, 1)
    brightness = 255 * config.brightness * rng.uniform(-1, 1)
    table = (_LEVELS * gain - 127.5) * contrast + 127.5 + brightness  # (256, 3)
    return np.asarray(cv2.LUT(tile, np.clip(np.rint(table), 0, 255).astype(np.uint8)[None]), np.uint8)


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


# Multiple-instance training: for pictures larger than a tile of which only the label is known.
#
# The label does not say which tile of a defective picture is defective. So a picture is a bag of tiles, and the loss
# compares its label with a smooth maximum of its tiles' logits, the log-sum-exp
#
#     bag logit = log(sum over tiles of exp(tile logit)).
#
# The bag's odds are the sum of its tiles' odds. To first order these are the odds of "at least one tile is defective"
# for independent tiles (the noisy-or of Maron & Lozano-Perez 1998). So a bag of one tile has the tile's logit, and a
# tile's logit means the same in a bag of 2 and of 200. Each tile's gradient is weighted by its share of the sum, the
# softmax of the logits.
#
# A bag may hold more tiles than a step has memory for. Then all tiles are evaluated without gradient, and the tiles
# that get one are drawn by their share of the sum; the others are constants in the sum. Their part of the gradient is
# missing for both labels alike, so a model with correct odds does not drift; but a large bag whose sum is spread over
# many tiles trains more slowly than a small one. As always, batch normalisation differs between evaluation and
# training; its running averages are updated by the tiles that get a gradient.


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
