"""Several ways to do one thing, timed in turns: what else the machine does then hits all of them alike."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import TypeVar

SETTLE_BATCHES = 3

Name = TypeVar("Name")
Run = Callable[[int], None]
"""Infers that many batches, and returns when all are answered."""


def turns(names: Iterable[Name], rounds: int) -> Iterator[list[Name]]:
    """The order of each round: every other one the other way round, so that what grows or wears off favours nobody.

    >>> list(turns("ab", 3))
    [['b', 'a'], ['a', 'b'], ['b', 'a']]
    """
    order = list(names)
    for number in range(rounds):
        yield order[:: 1 if number % 2 else -1]


def in_turns(runs: Mapping[Name, Run], rounds: int, batches: int) -> dict[Name, list[float]]:
    """Seconds of each run in each round, after one of a few batches that lets things settle."""
    for run in runs.values():
        run(SETTLE_BATCHES)
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    for order in turns(runs, rounds):
        for name in order:
            began = perf_counter()
            runs[name](batches)
            seconds[name].append(perf_counter() - began)
    return seconds
