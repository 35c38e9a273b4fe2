"""Chooses which tiles of a bag get a gradient: one half its highest-scoring, the other half at random.

Which tiles of a picture score highest changes slowly. So an evaluation of all its tiles is used for some steps, as it
takes longer than the gradient of a few tiles.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

USED_FOR = 0.05
"""Share of the training's steps for which an evaluation of a bag is used."""
Evaluate = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Returns the logits of tiles by index."""


class BagTiles:
    """The tiles of each bag in the order of their last evaluation.

    Args:
        most: number of tiles of a bag that get a gradient.
        steps: of the training.
    """

    def __init__(self, most: int, steps: int) -> None:
        self._most, self._used_for = most, USED_FOR * steps
        self._evaluated: dict[int, tuple[float, NDArray[np.int64]]] = {}

    def choose(
        self, bag: NDArray[np.int64], step: int, evaluate: Evaluate, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Choose the tiles of a bag, which its first tile identifies."""
        if len(bag) <= self._most:
            return bag
        key, others = int(bag[0]), self._most // 2
        evaluated_at, order = self._evaluated.get(key, (-math.inf, bag))
        if step - evaluated_at >= self._used_for:
            order = bag[np.argsort(-evaluate(bag), kind="stable")]
            self._evaluated[key] = step, order
        high, low = np.split(order, [self._most - others])
        return np.concatenate([high, rng.choice(low, others, replace=False)])
