"""Several ways to do one thing, timed in turns: what else the machine does then hits all of them alike."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TypeVar

SETTLE_BATCHES = 3

Name = TypeVar("Name", bound=str)
Run = Callable[[int], None]
"""Infers that many batches, and returns when all are answered."""


def in_turns(runs: Mapping[Name, Run], rounds: int, batches: int) -> dict[Name, list[float]]:
    """Seconds of each run in each round; every other round the other way round."""
    for run in runs.values():
        run(SETTLE_BATCHES)
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: 1 if number % 2 else -1]:
            began = perf_counter()
            runs[name](batches)
            seconds[name].append(perf_counter() - began)
    return seconds
