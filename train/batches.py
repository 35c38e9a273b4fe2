"""Which tiles and pictures each step trains on, augmented, and its learning rate."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from heatline.edge.errors import TrainingError
from heatline.train.config import AugmentConfig, RecipeConfig, TilesConfig
from heatline.train.frames import FrameStore, TileTable, cut, is_defective, move_tile


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


_DRAWS, _DETAILS = 0, 1
"""Separate the random streams of one seed."""


class BatchSampler:
    """Draws the samples of each batch as a function of seed and step, without replacement within a pass.

    With `defective_share`, defective and good samples come from separate pools. A model trained on such batches has the
    odds of the *batch*. By Bayes' rule, resampling by class multiplies the odds of every sample by the same factor, so
    a classifier trained on logit + shift with

        shift = log-odds(share in the batch) - log-odds(share among the samples)

    has, in its own logit, the odds of the samples as they come (the prior correction of King & Zeng 2001; the logit
    adjustment of Menon et al. 2021). Validation and the line use that logit unchanged.

    Args:
        is_defective: bool [samples], label of each sample that the training may draw.
        defective_share: wanted share of defective samples in each batch; None: their natural proportion.
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
        self._pools = [(np.arange(len(is_defective)), batch)]
        """Samples, and how many of them each batch has."""
        if defective_share is not None:
            places = min(max(round(defective_share * batch), 1), batch - 1)
            self._pools = [(defective, places), (good, batch - places)]
            self.shift = math.log(places / (batch - places)) - self.natural_log_odds

    def draw(self, step: int) -> NDArray[np.int64]:
        """Return the samples of batch number `step`, by index."""
        return np.concatenate([self._draw(number, *pool, step) for number, pool in enumerate(self._pools)])

    def _draw(self, number: int, samples: NDArray[np.int64], places: int, step: int) -> NDArray[np.int64]:
        """Draw pass after pass over a pool, each pass in a new random order, without a gap between passes."""
        size, positions = len(samples), step * places + np.arange(places)
        orders = [_order(self._seed, number, int(position) // size, size) for position in positions]
        return samples[[order[position % size] for order, position in zip(orders, positions, strict=True)]]

    def details(self, step: int) -> np.random.Generator:
        """Return the random generator for other draws of that batch, such as augmentation."""
        return np.random.default_rng((self._seed, _DETAILS, step))


@lru_cache(maxsize=8)
def _order(seed: int, pool: int, pass_number: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, _DRAWS, pool, pass_number)).permutation(length)


# Augmentation of single training tiles; none of it changes whether a tile is defective. Noise and blur cost most, so
# each is applied to a quarter of the tiles.

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
    """Tiles and their labels."""

    tiles: Tensor
    """uint8 [N, H, W, 3], RGB."""
    labels: Tensor
    """float32 [N]: 1 for defective."""


class TrainingBatches(IterableDataset[Batch]):
    """The batches of a training.

    Args:
        tiles: the tiles that may be drawn.
        rule: labels moved tiles.
        steps: returns the numbers of the batches to make, when iteration starts; a number always gives the same batch.
    """

    def __init__(
        self,
        store: FrameStore,
        tiles: TileTable,
        rule: TilesConfig,
        sampler: BatchSampler,
        recipe: RecipeConfig,
        steps: Callable[[], Sequence[int]],
    ) -> None:
        self._store, self._table, self._rule = store, tiles, rule
        self._sampler, self._recipe, self._steps = sampler, recipe, steps

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()  # workers take steps in turn
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return map(self._batch, self._steps()[first::stride])

    def _batch(self, step: int) -> Batch:
        rows, rng = self._sampler.draw(step), self._sampler.details(step)
        tiles = np.empty((len(rows), self._rule.tile_px, self._rule.tile_px, 3), np.uint8)
        for row, out in zip(rows.tolist(), tiles, strict=True):
            cut(self._store, int(self._table.frame[row]), *self.place(row, rng), out)
            out[:] = augment(out, self._recipe.augment, rng)
        return Batch(torch.from_numpy(tiles), torch.from_numpy(self._table.defective[rows].astype(np.float32)))

    def place(self, row: int, rng: np.random.Generator) -> tuple[int, int]:
        """Draw the top left corner (y, x) of a tile with jitter, px; its class by the exact px stays the same."""

        def keeps_class(defect_px: int) -> bool:
            defective = bool(is_defective(np.array(defect_px), self._rule))
            is_ambiguous = defect_px > 0 and not defective
            return defective == self._table.defective[row] and not (is_ambiguous and self._recipe.skip_ambiguous)

        frame, y, x = self._table.place(row)
        return move_tile(self._store, frame, (y, x), self._rule.tile_px, self._recipe.jitter_px, rng, keeps_class)


def whole_tiles(store: FrameStore, table: TileTable, tile_px: int, rows: Sequence[int]) -> Batch:
    """Return tiles of a table as they are."""
    tiles = np.empty((len(rows), tile_px, tile_px, 3), np.uint8)
    for row, out in zip(rows, tiles, strict=True):
        cut(store, *table.place(row), out)
    return Batch(torch.from_numpy(tiles), torch.from_numpy(table.defective[rows].astype(np.float32)))


def log_sum_exp(logits: Tensor, bag: Tensor, bags: int) -> Tensor:
    """Return bag logits [bags] = log(sum of exp(tile logits)) of tile logits [N].

    A picture of which only the label is known is a bag of its tiles. Its odds are the sum of its tiles' odds: to first
    order those of "at least one tile is defective" for independent tiles (the noisy-or of Maron & Lozano-Perez 1998).
    So a tile's logit means the same in a bag of 2 and of 200.

    Args:
        bag: int64 [N], index of each tile's bag; no bag is empty.
    """
    highest = logits.new_full((bags,), -torch.inf).scatter_reduce(0, bag, logits.detach(), "amax")
    return highest + logits.new_zeros(bags).index_add(0, bag, (logits - highest[bag]).exp()).log()
