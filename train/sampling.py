"""Draws the samples of each batch as a pure function of seed and step.

A sample is a tile, or a whole picture if only pictures are labelled. No state is kept between batches, so a training
that is resumed at step k draws batches k, k + 1, ... as if it had never stopped.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import TrainingError

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
