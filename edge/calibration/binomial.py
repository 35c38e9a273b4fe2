"""Exact binomial tails, and Clopper and Pearson's bounds of a share.

C. J. Clopper and E. S. Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial,
Biometrika 26 (1934).
"""

import bisect
import math
import sys

CONFIDENCE = 0.95


def cdf(count: int, n: int, share: float) -> float:
    """P(X <= count) for X ~ Binomial(n, share).

    The sum starts at `count` and moves away from the mean: its terms only fall, so few of them matter for any n.
    """
    if count < 0:
        return 0.0
    if count >= n or share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    if count > n * share:  # the mean lies on this side, so sum the other tail
        return 1.0 - cdf(n - count - 1, n, 1.0 - share)
    ways = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    term = total = 1.0  # as multiples of the first term
    for k in range(count, 0, -1):
        term *= k * (1.0 - share) / ((n - k + 1) * share)
        total += term
        if term < 1e-18 * total:
            break
    return math.exp(ways + count * math.log(share) + (n - count) * math.log1p(-share)) * total


def upper_bound(count: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Return the one-sided upper bound of a share, after `count` of `n` were observed: with that share, so few would be
    observed with a probability of only 1 - confidence.

    >>> round(upper_bound(0, 100), 4)
    0.0295
    """
    if count >= n:
        return 1.0
    low, high = count / n, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if cdf(count, n, middle) > 1.0 - confidence else (low, middle)
    return high


def interval(count: int, n: int) -> tuple[float, float]:
    """Return the two-sided confidence interval, with half of the error probability on each side."""
    one_sided = (1.0 + CONFIDENCE) / 2
    return 1.0 - upper_bound(n - count, n, one_sided), upper_bound(count, n, one_sided)


def frames_to_show(share: float, count: int) -> int:
    """Return the smallest number of frames that show a share > 0 if `count` of them reach the threshold: the upper
    bound is then at most that share.

    >>> frames_to_show(0.01, 0), frames_to_show(0.01, 1)
    (299, 473)
    """
    candidates = range(count + 1, sys.maxsize)
    return candidates[bisect.bisect_left(candidates, CONFIDENCE - 1.0, key=lambda n: -cdf(count, n, share))]


def most_that_show(share: float, n: int) -> int | None:
    """Return the largest count of `n` frames that may reach the threshold if the frames must show a share; None if even
    a count of 0 does not show it.

    >>> most_that_show(0.01, 1000), most_that_show(0.01, 298)
    (4, None)
    """
    most = bisect.bisect_right(range(n), 1.0 - CONFIDENCE, key=lambda count: cdf(count, n, share)) - 1
    return None if most < 0 else most
