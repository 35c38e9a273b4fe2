"""Whether two samples differ by more than chance: by how many of each were counted, and by their ranks.

Two-sided p-values are twice the smaller tail, so a p-value has a side: which sample is the higher one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Difference:
    """What a test says of a second sample against a first."""

    p: float
    """Two-sided: the chance of a difference as large or larger where there is none."""
    second_is: Literal["higher", "lower"]
    """On which side it lies; either, where there is no difference at all."""


def fisher_exact(first: int, first_n: int, second: int, second_n: int) -> Difference:
    """Fisher's exact test of two counts: `first` of `first_n` against `second` of `second_n`.

    It may be used where a threshold was set just above the (first + 1)-th highest of the first sample. That `second` or
    more lie above it then means that of the highest first + second of all, no more than `first` come from the first
    sample: the very tail of this test. The other tail can only be smaller than the test says.
    """
    counted, all_n = first + second, first_n + second_n
    least, most = max(0, counted - first_n), min(counted, second_n)
    of_all = _log_ways(all_n, counted)
    chances = [
        math.exp(_log_ways(second_n, k) + _log_ways(first_n, counted - k) - of_all) for k in range(least, most + 1)
    ]
    so_few, so_many = math.fsum(chances[: second - least + 1]), math.fsum(chances[second - least :])
    return _difference(so_few, so_many)


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Mann and Whitney's rank test, by the normal approximation with correction for ties and continuity.

    No permutations: it needs no seed and no time, and of small samples that lie wholly apart it claims less than the
    exact test.
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


def _difference(so_low: float, so_high: float) -> Difference:
    """From the chances that the second sample lies as low or lower, and as high or higher."""
    return Difference(min(1.0, 2 * min(so_low, so_high)), "higher" if so_high <= so_low else "lower")


def _log_ways(n: int, k: int) -> float:
    """The logarithm of the ways to choose k of n."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
