"""Repeated measurements: their order, their spread, and the percentiles of latencies."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

SETTLE_BATCHES = 3

Name = TypeVar("Name")
Run = Callable[[int], None]
"""Infers a number of batches, and returns when all are answered."""


class Spread(msgspec.Struct, frozen=True):
    """Median and extremes of one figure over all repetitions."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of the latencies of many frames or events, ms."""

    p50: float
    p90: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, latencies_ms: Sequence[float] | NDArray[np.float64]) -> "Latency":
        """Return the percentiles of some latencies, ms."""
        p50, p90, p95, p99, most = np.percentile(latencies_ms, (50, 90, 95, 99, 100)).tolist()
        return cls(p50=p50, p90=p90, p95=p95, p99=p99, most=most)

    def __str__(self) -> str:
        return f"p50 {self.p50:.1f} ms, p95 {self.p95:.1f}, p99 {self.p99:.1f}, at most {self.most:.1f}"


def interleaved(names: Iterable[Name], rounds: int) -> Iterator[list[Name]]:
    """Yield the order of each round; every other round is reversed, so that drift favours none.

    >>> list(interleaved("ab", 3))
    [['b', 'a'], ['a', 'b'], ['b', 'a']]
    """
    order = list(names)
    for number in range(rounds):
        yield order[:: 1 if number % 2 else -1]


def time_interleaved(runs: Mapping[Name, Run], rounds: int, batches: int) -> dict[Name, list[float]]:
    """Return the seconds of each run in each round, after a few batches of each as a warm-up."""
    for run in runs.values():
        run(SETTLE_BATCHES)
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    for order in interleaved(runs, rounds):
        for name in order:
            began = perf_counter()
            runs[name](batches)
            seconds[name].append(perf_counter() - began)
    return seconds
