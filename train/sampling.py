"""Which samples make up a batch, as a pure function of seed and step.

A sample is a tile, or a whole picture where only pictures are labelled.

Nothing is remembered between batches, so a training that is resumed at step k draws batch k, k + 1, ... as if it had
never stopped.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge.errors import TrainingError

_DRAWS, _DETAILS = 0, 1
"""Keep the streams of random numbers of one seed apart."""


@dataclass(frozen=True)
class _Pool:
    """Samples that take turns in a fixed number of places of each batch."""

    number: int
    samples: NDArray[np.int64]
    places: int

    def draw(self, seed: int, step: int) -> NDArray[np.int64]:
        """Pass after pass over the pool, each in its own order, without a gap between passes."""
        turns = step * self.places + np.arange(self.places)
        order = [_order(seed, self.number, int(turn) // len(self.samples), len(self.samples)) for turn in turns]
        return self.samples[[passed[turn % len(self.samples)] for passed, turn in zip(order, turns, strict=True)]]


class BatchSampler:
    """Draws the samples of each batch without replacement per pass.

    With `defective_share` (of the batch), defective and good samples come from pools of their own: where 3 % of the
    tiles are defective, most batches drawn blindly would hold none or one. Such batches teach the odds of the *batch*.
    By Bayes' rule, resampling by class multiplies the odds of every sample by one factor, so a classifier trained on
    logit + shift with

        shift = log-odds(share in the batch) - log-odds(share among the samples)

    has, in its own logit, the odds of the samples as they come (the prior correction of King & Zeng 2001; the logit
    adjustment of Menon et al. 2021). Validation and the line use that logit as it is; only the training loss adds the
    shift.

    Args:
        is_defective: bool [samples], of all that training may draw from.
        batch: samples per batch.
        defective_share: wanted share of defective samples, or None to draw them as they come.
        seed: of all draws.
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
        """Of a sample to be defective, natural logarithm."""
        self.shift = 0.0
        """What the training loss adds to each logit."""
        self.defective_share: float | None = None
        """Of each batch; None: as many as come."""
        if defective_share is None:
            self._pools = [_Pool(0, np.arange(len(is_defective)), batch)]
        else:
            places = min(max(round(defective_share * batch), 1), batch - 1)
            self._pools = [_Pool(0, defective, places), _Pool(1, good, batch - places)]
            self.defective_share = places / batch
            self.shift = math.log(places / (batch - places)) - self.natural_log_odds

    def draw(self, step: int) -> NDArray[np.int64]:
        """The samples of batch number `step`, by their number."""
        return np.concatenate([pool.draw(self._seed, step) for pool in self._pools])

    def details(self, step: int) -> np.random.Generator:
        """Random numbers for whatever else is drawn for that batch."""
        return np.random.default_rng((self._seed, _DETAILS, step))


@lru_cache(maxsize=8)
def _order(seed: int, pool: int, passed: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, _DRAWS, pool, passed)).permutation(length)
