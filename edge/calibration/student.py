"""Student's t distribution, which predicts the next value of a normal distribution from few values."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev, variance


def cdf(t: float, degrees: int) -> float:
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


def quantile(share: float, degrees: int) -> float:
    """Return the t below which `share` of the distribution lies, 0.5 <= share < 1.

    >>> round(quantile(0.99, 12), 3)
    2.681
    """
    low, high = 0.0, 1.0
    while cdf(high, degrees) < share:
        high *= 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if cdf(middle, degrees) < share else (low, middle)
    return high


def prediction_bound(values: list[float], beyond: float) -> float:
    """Return the bound that the next value exceeds with a probability of `beyond`, if it comes from the same normal
    distribution.

    Args:
        values: at least two.
        beyond: above 0, at most 0.5.
    """
    count = len(values)
    spread = stdev(values) * math.sqrt(1 + 1 / count)
    return fmean(values) + quantile(1 - beyond, count - 1) * spread


def prediction_bound_of_groups(values: Mapping[str, Sequence[float]], beyond: float) -> float:
    """Return the bound that a value of a new group exceeds with a probability of about `beyond`, if the values of each
    group are normal, with the same deviation, and the groups' means are normal too.

    The variance of such a value about the mean of the k groups' means is 1 + 1 / k times the variance between groups,
    plus the variance within a group. The variance of the groups' means contains the first and, for a group of m values,
    1 / m of the second; the missing part is added from within the groups. Student's t has k - 1 degrees of freedom. The
    variance within the groups has more, so the bound is rather too high.

    Args:
        values: at least one value of each group; at least two groups.
        beyond: above 0, at most 0.5.
    """
    groups = list(values.values())
    means, count = [fmean(group) for group in groups], len(groups)
    degrees = sum(len(group) - 1 for group in groups)
    squares = sum((value - mean) ** 2 for group, mean in zip(groups, means, strict=True) for value in group)
    within = squares / degrees if degrees else 0.0
    missing = 1 - fmean(1 / len(group) for group in groups)
    spread = math.sqrt((1 + 1 / count) * variance(means) + missing * within)
    return fmean(means) + quantile(1 - beyond, count - 1) * spread
