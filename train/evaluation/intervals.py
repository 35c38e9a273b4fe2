"""How sure figures are: a bootstrap over groups (Efron & Tibshirani 1993, percentile intervals).

Tiles and pictures of one group show the same thing, so they are no independent draws: whole groups are drawn, with
replacement. Where there are few groups the interval itself is not to be trusted, and none is given.
"""

from collections.abc import Callable, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from train.evaluation.figures import Figures, Weights

FEWEST_GROUPS = 10
RESAMPLES = 1000
FEWEST_KNOWN = 0.95 * RESAMPLES
"""A figure that fewer of the resamples have, for want of a class, gets no interval."""
_TAIL = (1 - 0.95) / 2
ENDS = (_TAIL, 1 - _TAIL)
"""Of a 95 % interval, as quantiles."""
SEED = 0


def intervals(figures: Callable[[Weights], Figures], groups: int) -> tuple[dict[str, tuple[float, float]], str]:
    """95 % intervals of all rates, by dotted name, and in words what they rest on.

    A figure that is the same in all resamples gets none: none of four frames rejected is not sure to be none.

    Args:
        figures: from weights [groups] to the figures.
        groups: how many there are; 0 where pictures tell none.
    """
    if groups == 0:
        return {}, "no intervals: the pictures tell no groups, and only whole groups are independent"
    if groups < FEWEST_GROUPS:
        return {}, f"no intervals: a bootstrap needs at least {FEWEST_GROUPS} groups, and there are {groups}"
    drawn: dict[str, list[float]] = {}
    for weights in draw_groups(groups):
        for name, value in rates(figures(weights)):
            drawn.setdefault(name, []).append(value)
    ends = {
        name: tuple(np.quantile(values, ENDS).tolist()) for name, values in drawn.items() if len(values) >= FEWEST_KNOWN
    }
    said = f"95 % intervals by a bootstrap over {groups} groups, {RESAMPLES} resamples, percentiles"
    return {name: (low, high) for name, (low, high) in ends.items() if low < high}, said


def draw_groups(groups: int) -> NDArray[np.float64]:
    """How often each resample draws each group, [resamples, groups]; always the same."""
    drawn = np.random.default_rng(SEED).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES)
    return drawn.astype(np.float64)


def rates(figures: Figures) -> Iterator[tuple[str, float]]:
    """All figures that are rates (not counts) and known, by dotted name, as `study.f1`."""
    for part, values in msgspec.structs.asdict(figures).items():
        if values is None:
            continue
        for name, value in msgspec.structs.asdict(values).items():
            if isinstance(value, float):
                yield f"{part}.{name}", value
