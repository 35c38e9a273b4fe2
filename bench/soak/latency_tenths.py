"""How late events are at the beginning of a long run and at its end, in memory that does not grow with it."""

import math

import numpy as np
from numpy.typing import NDArray

PIECES = 100
"""A run is counted in so many: of one that ends early, the tenths are those of what came."""
LOWEST_MS, HIGHEST_MS = 0.01, 1e5
STEP = 1.01
"""From one bin to the next: a percentile is told at most 1 % too high."""
BINS = math.ceil(math.log(HIGHEST_MS / LOWEST_MS, STEP)) + 1


class LatencyTenths:
    """Counts latencies in the order of their frames.

    Args:
        frames: how many are planned; what comes after them counts as the last.
    """

    def __init__(self, frames: int) -> None:
        self._frames, self._came = frames, 0
        self._counts = np.zeros((PIECES, BINS), np.int64)

    def add(self, latency_ms: float) -> None:
        """The next frame's."""
        piece = min(self._came * PIECES // self._frames, PIECES - 1)
        place = math.ceil(math.log(max(latency_ms / LOWEST_MS, 1.0), STEP))
        self._counts[piece, min(place, BINS - 1)] += 1
        self._came += 1

    def p99_ms(self) -> tuple[float, float] | None:
        """Of the first tenth of what came and of the last; None where too little came to have tenths."""
        begun = min((self._came - 1) * PIECES // self._frames, PIECES - 1) + 1
        tenth = begun // 10
        if tenth < 1:
            return None
        return _p99_ms(self._counts[:tenth]), _p99_ms(self._counts[begun - tenth : begun])


def _p99_ms(counts: NDArray[np.int64]) -> float:
    """The upper end of the bin of the lowest latency that 99 % do not exceed."""
    below = np.cumsum(counts.sum(axis=0))
    return float(LOWEST_MS * STEP ** int(np.searchsorted(below, 0.99 * below[-1])))
