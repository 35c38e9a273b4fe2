"""A choice of few items among many."""

import numpy as np


def evenly(count: int, most: int) -> list[int]:
    """Return at most `most` indices of `count` items, at equal distances, the first and the last included.

    >>> evenly(9, 3), evenly(2, 3), evenly(0, 3)
    ([0, 4, 8], [0, 1], [])
    """
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()  # type: ignore[no-any-return]
