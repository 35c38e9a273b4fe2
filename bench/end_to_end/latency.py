"""How long after its capture a frame's event is heard, over many frames."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

STEP = 1.05
"""From one bin to the next."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Of many frames, ms from capture to the receipt of the event."""

    p50: float
    p95: float
    p99: float
    most: float
    bins: list[tuple[float, int]]
    """Upper ends, each 5 % above the one before, and how many frames lie in each; those without any are left out."""

    @classmethod
    def of(cls, ms: Sequence[float]) -> "Latency":
        """
        >>> latency = Latency.of([1.0, 1.01, 2.0])
        >>> latency.p50, latency.most, [count for _, count in latency.bins]
        (1.01, 2.0, [1, 1, 1])
        """
        p50, p95, p99, most = np.percentile(ms, (50, 95, 99, 100)).tolist()
        places = [math.ceil(math.log(max(one, 1e-3), STEP) - 1e-9) for one in ms]
        bins = [(STEP**place, places.count(place)) for place in sorted(set(places))]
        return cls(p50=p50, p95=p95, p99=p99, most=most, bins=bins)

    def __str__(self) -> str:
        return f"p50 {self.p50:.1f} ms, p95 {self.p95:.1f}, p99 {self.p99:.1f}, at most {self.most:.1f}"
