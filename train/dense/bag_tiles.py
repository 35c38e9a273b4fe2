"""Chooses which tiles of a bag get a gradient: one half its hottest, the other half at random.

Which tiles of a picture are hottest changes slowly. So all its tiles are evaluated only at some of its draws, as this
takes longer than the gradient of a few.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

DRAWS_PER_EVALUATION = 4
"""A bag's tiles are all evaluated at its first draw, and again after so many draws of it."""
Evaluate = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Returns the logits of tiles by index."""


class BagTiles:
    """The hottest tiles of each bag, as they were evaluated last.

    Args:
        most: number of tiles of a bag that get a gradient.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._draws: dict[int, int] = {}
        self._order: dict[int, NDArray[np.int64]] = {}

    def choose(self, bag: NDArray[np.int64], evaluate: Evaluate, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose tiles of a bag; bags are told apart by their first tile."""
        if len(bag) <= self._most:
            return bag
        key, others = int(bag[0]), self._most // 2
        draws = self._draws[key] = self._draws.get(key, -1) + 1
        if draws % DRAWS_PER_EVALUATION == 0:
            self._order[key] = bag[np.argsort(-evaluate(bag), kind="stable")]
        hot, cold = np.split(self._order[key], [self._most - others])
        return np.concatenate([hot, rng.choice(cold, others, replace=False)])
