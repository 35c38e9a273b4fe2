"""What pytest-benchmark keeps of a run of the micro-benches, as far as a report reads it."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Of all rounds of a bench; times in seconds."""

    median: float
    q1: float
    q3: float
    rounds: int


class MicroBench(msgspec.Struct, frozen=True, kw_only=True):
    """One bench."""

    name: str
    stats: Stats
    extra_info: dict[str, Any] = {}
    """What it worked on."""


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """One bench, then and now."""

    name: str
    then_ms: float
    """Median, as the next."""
    now_ms: float
    ratio: float
    """Now over then."""
    apart: bool
    """Whether the middle halves of the samples do not meet: where they do, the ratio may be noise."""


class Micro(msgspec.Struct, frozen=True, kw_only=True):
    """A run of all benches, as `heatline bench micro` wrote it while it was there."""

    machine_info: dict[str, Any]
    commit_info: dict[str, Any]
    benchmarks: list[dict[str, Any]]
    datetime: str
    version: str
    """Of pytest-benchmark, as all of the above."""
    compared_with: str | None = None
    """The file of the run before."""
    ratios: list[Ratio] = []


def benches(benchmarks: Sequence[Mapping[str, Any]]) -> list[MicroBench]:
    """Each, of what a run keeps.

    Raises:
        ValueError: it is no run of pytest-benchmark.
    """
    return msgspec.convert(benchmarks, list[MicroBench])
