"""A stage of a frame's way, all by itself, ready to be done over and over; and what it costs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import msgspec
import numpy as np

from bench.processes import cpu_ns
from bench.spread import Spread
from edge.errors import BenchError

SETTLE_FRAMES = 3
AT_REST_SECONDS = 0.01
"""After a round, and of its processor time: a library's threads may look for work for a while."""


@dataclass(frozen=True)
class Stage:
    """One way to do one stage of one frame."""

    name: str
    run: Callable[[], Any]
    """Do it once, and return what was made."""
    check: Callable[[Any], None]
    """See that what the last run returned is all of its work.

    Raises:
        BenchError: it is not: its time would be no figure.
    """
    variant: str = ""
    """Which of the ways to do it; empty where there is but one."""
    helpers: Sequence[int] = ()
    """Ids of other processes that do a part of it."""
    seconds: Callable[[Any], float] | None = None
    """Of a run, by the stamps of what it returned; None: by a clock around it."""

    def __str__(self) -> str:
        return f"{self.name} ({self.variant})" if self.variant else self.name


def require(holds: bool, what: str) -> None:
    """Raise where a run did not do its work.

    Args:
        what: must hold.
    """
    if not holds:
        raise BenchError(f"{what} does not hold after a run of a stage, so its time says nothing; report this")


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Of a stage, per frame."""

    ms: Spread
    """Of the rounds' medians."""
    p99_ms: float
    """Of all runs."""
    cpu_ms: float
    """Processor time of all processes that have a part in it, also shortly after it is done: threads may spin."""


class Recorder:
    """Runs a stage in rounds, and notes what each of them cost.

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
        """A round of some frames that does not count."""
        self(SETTLE_FRAMES)
        self._rounds.clear()
        self._cpu_ns.clear()

    def __call__(self, frames: int) -> None:
        """A round of so many frames."""
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
        """Of the rounds, per frame."""
        return [median(seconds) * 1e3 for seconds in self._rounds]

    def cost(self) -> Cost:
        """What came of all rounds."""
        return Cost(
            ms=Spread.of(self.medians_ms),
            p99_ms=float(np.percentile(np.concatenate(self._rounds), 99)) * 1e3,
            cpu_ms=median(self._cpu_ns) / 1e6,
        )


def _cpu_ns(others: Sequence[int]) -> int:
    """Of this process and some others since they began."""
    return time.process_time_ns() + sum(map(cpu_ns, others))
