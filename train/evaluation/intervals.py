"""Confidence intervals of figures, by a bootstrap over groups (`heatline.edge.calibration.group_bootstrap`)."""

from collections.abc import Callable, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.calibration.group_bootstrap import ENDS, FEWEST_GROUPS, FEWEST_KNOWN, RESAMPLES, SEED, describe_basis
from heatline.train.evaluation.figures import Figures, Weights


def compute_intervals(figures: Callable[[Weights], Figures], groups: int) -> tuple[dict[str, tuple[float, float]], str]:
    """Return 95 % intervals of all rates, by dotted name, and a description of their basis.

    A figure that is equal in all resamples gets none: with 0 of 4 frames rejected, the rate is not certain to be 0.

    Args:
        figures: returns the figures for weights [groups].
        groups: number of groups; 0 if the pictures have none.
    """
    if groups == 0:
        return {}, "no intervals: the pictures have no groups, and only whole groups are independent"
    if groups < FEWEST_GROUPS:
        return {}, describe_basis(groups)
    drawn: dict[str, list[float]] = {}
    for weights in draw_groups(groups):
        for name, value in rates(figures(weights)):
            drawn.setdefault(name, []).append(value)
    ends = {
        name: tuple(np.quantile(values, ENDS).tolist()) for name, values in drawn.items() if len(values) >= FEWEST_KNOWN
    }
    return {name: (low, high) for name, (low, high) in ends.items() if low < high}, describe_basis(groups)


def draw_groups(groups: int) -> NDArray[np.float64]:
    """Return how often each resample draws each group, [resamples, groups]; the seed is fixed."""
    drawn = np.random.default_rng(SEED).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES)
    return drawn.astype(np.float64)


def rates(figures: Figures) -> Iterator[tuple[str, float]]:
    """Yield all known figures that are rates and not counts, by dotted name, as `study.f1`."""
    for part, values in msgspec.structs.asdict(figures).items():
        if values is None:
            continue
        for name, value in msgspec.structs.asdict(values).items():
            if isinstance(value, float):
                yield f"{part}.{name}", value
