"""A stage of a frame, ready to run repeatedly without the others, and its cost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import msgspec
import numpy as np

from heatline.bench.processes import cpu_ns
from heatline.bench.spread import Spread
from heatline.edge.errors import BenchError

SETTLE_FRAMES = 3
AT_REST_SECONDS = 0.01
"""Pause after a round, which counts to its processor time: a library's threads may spin for a while."""


@dataclass(frozen=True)
class Stage:
    """One variant of a stage for one frame."""

    name: str
    run: Callable[[], Any]
    """Runs the stage once, and returns its result."""
    check: Callable[[Any], None]
    """Checks the result of the last run.

    Raises:
        BenchError: the run did not do all of its work.
    """
    variant: str = ""
    """Empty if the stage has one variant."""
    helpers: Sequence[int] = ()
    """Ids of other processes that do a part of the stage."""
    seconds: Callable[[Any], float] | None = None
    """Returns the time of a run by the timestamps of its result; None: a clock around the run counts."""

    def __str__(self) -> str:
        return f"{self.name} ({self.variant})" if self.variant else self.name


def require(holds: bool, condition: str) -> None:
    """Raise if a run did not do its work.

    Args:
        condition: a clause that begins with "that", for the message.
    """
    if not holds:
        raise BenchError(
            f"the result of a stage is wrong, expected {condition}, so its time counts for nothing; report this"
        )


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of a stage per frame."""

    ms: Spread
    """Over the rounds' medians."""
    p99_ms: float
    """Over all runs."""
    cpu_ms: float
    """Processor time of all processes that take part, also shortly after the stage, because threads may spin."""


class Recorder:
    """Runs a stage in rounds, and records the cost of each round.

    Args:
        done: called after each round.
    """

    def __init__(self, stage: Stage, done: Callable[[], None]) -> None:
        self.stage, self._done = stage, done
        self._rounds: list[list[float]] = []
        """Seconds of each run."""
        self._cpu_ns: list[float] = []
        """Processor time per frame, of each round."""

    def settle(self) -> None:
        """Run a warm-up round."""
        self(SETTLE_FRAMES)
        self._rounds.clear()
        self._cpu_ns.clear()

    def __call__(self, frames: int) -> None:
        """Run a round of some frames."""
        stage, seconds = self.stage, list[float]()
        before_ns = _cpu_ns(stage.helpers)
        for _ in range(frames):
            began = perf_counter()
            made = stage.run()
            took = perf_counter() - began
            seconds.append(took if stage.seconds is None else stage.seconds(made))
        rests_ns = time.thread_time_ns()
        time.sleep(AT_REST_SECONDS)
        rests_ns = time.thread_time_ns() - rests_ns
        after_ns = _cpu_ns(stage.helpers)
        stage.check(made)
        self._rounds.append(seconds)
        self._cpu_ns.append((after_ns - before_ns - rests_ns) / frames)
        self._done()

    @property
    def medians_ms(self) -> list[float]:
        """Median of each round, per frame."""
        return [median(seconds) * 1e3 for seconds in self._rounds]

    def cost(self) -> Cost:
        """Summarise all rounds."""
        return Cost(
            ms=Spread.of(self.medians_ms),
            p99_ms=float(np.percentile(np.concatenate(self._rounds), 99)) * 1e3,
            cpu_ms=median(self._cpu_ns) / 1e6,
        )


def _cpu_ns(others: Sequence[int]) -> int:
    """Return the processor time of this process and some others since their start."""
    return time.process_time_ns() + sum(map(cpu_ns, others))
