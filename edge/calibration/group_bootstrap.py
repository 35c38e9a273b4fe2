"""The rules of the bootstrap over groups (Efron & Tibshirani 1993, percentile intervals), and the interval of a ratio.

Pictures of one group show the same thing and are not independent, so whole groups are drawn, with replacement. With few
groups an interval is not reliable, and none is given.
"""

import numpy as np
from numpy.typing import NDArray

FEWEST_GROUPS = 10
RESAMPLES = 1000
FEWEST_KNOWN = 0.95 * RESAMPLES
"""A figure gets no interval if fewer resamples have it, because others lack a class."""
_TAIL = (1 - 0.95) / 2
ENDS = (_TAIL, 1 - _TAIL)
"""Quantiles at the ends of a 95 % interval."""
SEED = 0


def describe_basis(groups: int) -> str:
    """Describe what intervals over so many groups rest on, or why there are none."""
    if groups < FEWEST_GROUPS:
        return f"no intervals: a bootstrap needs at least {FEWEST_GROUPS} groups, and there are {groups}"
    return f"95 % intervals by a bootstrap over {groups} groups, {RESAMPLES} resamples, percentiles"


def ratio_interval(counts: NDArray[np.int64], totals: NDArray[np.int64]) -> tuple[float, float] | None:
    """Return the 95 % interval of the sum of the counts [groups], divided by the sum of the totals [groups].

    Groups with equal values are drawn together, so the memory grows with the number of different values only. None:
    there are too few groups, too many resamples have a total of 0, or the ratio is equal in all resamples: with 0 of
    4 pictures counted, it is not certain to be 0.
    """
    groups = len(counts)
    if groups < FEWEST_GROUPS:
        return None
    values, alike = np.unique(np.stack([counts, totals], axis=1), axis=0, return_counts=True)
    rng = np.random.default_rng(SEED)
    sums = np.array([rng.multinomial(groups, alike / groups) @ values for _ in range(RESAMPLES)])
    known = sums[sums[:, 1] > 0]
    if len(known) < FEWEST_KNOWN:
        return None
    low, high = np.quantile(known[:, 0] / known[:, 1], ENDS).tolist()
    return (low, high) if low < high else None
