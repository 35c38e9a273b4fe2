"""Tests whether two samples differ by more than chance: one test for counts, one for ranks.

A two-sided p-value is twice the smaller tail, so each result also states which sample is higher.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Difference:
    """The result of a test that compares a second sample with a first."""

    p: float
    """Two-sided: the probability of a difference at least as large if the samples do not differ."""
    second_is: Literal["higher", "lower"]
    """Whether the second sample is higher or lower; without any difference, either value."""


def fisher_exact(first: int, first_n: int, second: int, second_n: int) -> Difference:
    """Fisher's exact test of two counts: `first` of `first_n` compared with `second` of `second_n`.

    The test is valid even if a threshold was set just above the (first + 1)-th highest value of the first sample. If
    `second` or more values lie above it, then at most `first` of the highest first + second values of all come from the
    first sample, which is exactly this test's tail. The other tail can only be smaller than the test says.
    """
    counted, all_n = first + second, first_n + second_n
    least, most = max(0, counted - first_n), min(counted, second_n)
    total = _log_binomial(all_n, counted)
    probabilities = [
        math.exp(_log_binomial(second_n, k) + _log_binomial(first_n, counted - k) - total)
        for k in range(least, most + 1)
    ]
    lower, upper = math.fsum(probabilities[: second - least + 1]), math.fsum(probabilities[second - least :])
    return _difference(lower, upper)


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Mann and Whitney's rank test, by the normal approximation with corrections for ties and continuity.

    It uses no permutations, so it needs no seed and little time. For small samples without any overlap, its p-value is
    larger than that of the exact test.
    """
    m, n = len(first), len(second)
    _, place, tied = np.unique(np.array([*first, *second], np.float64), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(tied) - (tied - 1) / 2)[place]
    above_the_mean = float(ranks[m:].sum()) - n * (n + 1) / 2 - m * n / 2
    ties = float((tied.astype(np.float64) ** 3 - tied).sum())
    variance = m * n / 12 * (m + n + 1 - ties / ((m + n) * (m + n - 1)))
    if variance <= 0:  # all are the same
        return Difference(1.0, "higher")
    tail = [0.5 * math.erfc((side * above_the_mean - 0.5) / math.sqrt(2 * variance)) for side in (-1, 1)]
    return _difference(*tail)


def _difference(lower: float, upper: float) -> Difference:
    """Combine the tails: the probabilities that the second sample is at most as high, and at least as high."""
    return Difference(min(1.0, 2 * min(lower, upper)), "higher" if upper <= lower else "lower")


def _log_binomial(n: int, k: int) -> float:
    """Return the logarithm of the binomial coefficient of n and k."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
