"""A choice of few among many: evenly spread indices, parts of whole groups, and k-means."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
"""Parts of good frames, each judged by what the others show."""


def divide(groups: Sequence[str]) -> list[int]:
    """Divide frames into at most `FOLDS` parts of whole groups, in their order, as neighbours are alike.

    >>> divide(["a", "a", "b", "c", "d", "e", "f"])
    [0, 0, 0, 1, 2, 3, 4]
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    return [names[group] * FOLDS // len(names) for group in groups]


def evenly(count: int, most: int) -> list[int]:
    """Return at most `most` indices of `count` items, at equal distances, the first and the last included.

    >>> evenly(9, 3), evenly(2, 3), evenly(0, 3)
    ([0, 4, 8], [0, 1], [])
    """
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()  # type: ignore[no-any-return]


Floats = NDArray[np.float32]


def k_means(points: Floats, count: int, seed: int) -> Floats:
    """Return k-means centres [count, c] of points [n, c], by Lloyd's algorithm; at most n centres."""
    centres = points[np.random.default_rng(seed).permutation(len(points))[:count]]
    for _ in range(15):
        nearest = ((centres**2).sum(axis=1) - 2 * points @ centres.T).argmin(axis=1)
        is_of = (nearest == np.arange(len(centres))[:, None]).astype(np.float32)
        size = is_of.sum(axis=1, keepdims=True)
        centres = np.where(size > 0, is_of @ points / np.maximum(size, 1), centres)
    return centres
