"""Bounds of shares and of new values.

Exact binomial tails and bounds: C. J. Clopper and E. S. Pearson, The use of confidence or fiducial limits illustrated
in the case of the binomial, Biometrika 26 (1934). Student's t predicts the next value of a normal distribution from
few.
"""

import math
from collections.abc import Sequence
from statistics import fmean, variance

CONFIDENCE = 0.95


def cdf(count: int, n: int, share: float) -> float:
    """P(X <= count) for X ~ Binomial(n, share), 0 <= count < n and 0 < share < 1.

    The sum starts at `count` and moves away from the mean: its terms only fall, so few of them matter for any n.
    """
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


def share_of(count: int, of: int) -> dict[str, float] | None:
    """Return an observed share with its 95 % interval of Clopper and Pearson; None: nothing was observed."""
    if not of:
        return None
    low, high = interval(count, of)
    return {"count": count, "of": of, "share": count / of, "low": low, "high": high}


def frames_to_show(share: float) -> int:
    """Return the smallest number of frames that show a share > 0 if none of them reaches the threshold.

    >>> frames_to_show(0.01), frames_to_show(0.05)
    (299, 59)
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-share))


def t_cdf(t: float, degrees: int) -> float:
    """P(T <= t), by the finite sums of Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3-4."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine_squared = math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(3 if odd else 2, degrees + 1, 2):
        total += term
        term *= cosine_squared * (power - 1) / power
    between = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return (1 + between) / 2


def t_quantile(share: float, degrees: int) -> float:
    """Return the t below which `share` of the distribution lies, 0.5 <= share < 1.

    >>> round(t_quantile(0.99, 12), 3)
    2.681
    """
    low, high = 0.0, 1.0
    while t_cdf(high, degrees) < share:
        high *= 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if t_cdf(middle, degrees) < share else (low, middle)
    return high


def prediction_bound(groups: Sequence[Sequence[float]], beyond: float) -> float:
    """Return the bound that a value of a new group exceeds with a probability of about `beyond`, if the values of each
    group are normal, with the same deviation, and the groups' means are normal too.

    The variance of such a value about the mean of the k groups' means is 1 + 1 / k times the variance between groups,
    plus the variance within a group. The variance of the groups' means contains the first and, for a group of m values,
    1 / m of the second; the missing part is added from within the groups. Student's t has k - 1 degrees of freedom. The
    variance within the groups has more, so the bound is rather too high. If each value is a group of its own, the bound
    is that of a normal distribution. There are at least two groups, each of at least one value; 0 < `beyond` <= 0.5.
    """
    means, count = [fmean(group) for group in groups], len(groups)
    degrees = sum(len(group) - 1 for group in groups)
    squares = sum((value - mean) ** 2 for group, mean in zip(groups, means, strict=True) for value in group)
    within = squares / degrees if degrees else 0.0
    missing = 1 - fmean(1 / len(group) for group in groups)
    spread = math.sqrt((1 + 1 / count) * variance(means) + missing * within)
    return fmean(means) + t_quantile(1 - beyond, count - 1) * spread
