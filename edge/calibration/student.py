"""Student's t distribution: where the next value lies of a normal distribution that few values show."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev, variance


def at_most(t: float, degrees: int) -> float:
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
    """The t of which `share` of the distribution lies below, 0.5 <= share < 1.

    >>> round(quantile(0.99, 12), 3)
    2.681
    """
    low, high = 0.0, 1.0
    while at_most(high, degrees) < share:
        high *= 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if at_most(middle, degrees) < share else (low, middle)
    return high


def prediction_bound(values: list[float], beyond: float) -> float:
    """What the next value exceeds with a chance of `beyond`, if it is of the same normal distribution.

    Args:
        values: at least two.
        beyond: above 0, at most 0.5.
    """
    count = len(values)
    spread = stdev(values) * math.sqrt(1 + 1 / count)
    return fmean(values) + quantile(1 - beyond, count - 1) * spread


def prediction_bound_of_groups(values: Mapping[str, Sequence[float]], beyond: float) -> float:
    """What a value of a new group exceeds with a chance of about `beyond`, if values are normal in each group, with one
    deviation, and the groups' means are normal too.

    The variance of such a value about the mean of the k groups' means is that between groups, 1 + 1 / k times, and that
    within a group. The variance of the groups' means has the first and, of a group of m values, 1 / m of the second;
    so what is missing is added from within the groups. Student's t has k - 1 degrees of freedom, which errs on the high
    side, as what comes from within has more.

    Args:
        values: of each group at least one; at least two groups.
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
