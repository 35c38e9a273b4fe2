"""What a stage costs: time, processor time, fresh pages; and, in a run that is not timed, what it allocates."""

import resource
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np

from bench.processes import cpu_ns, page_faults
from bench.spread import Spread
from bench.stages.rest import rest
from bench.stages.stage import Stage

SETTLE_FRAMES = 3
LOOKS_AT_MEMORY = 3
"""Of which the least counts: other threads may allocate meanwhile."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Per frame, or per event."""

    ms: Spread
    """Of the rounds' medians."""
    p99_ms: float
    """Of all runs."""
    cpu_ms: float
    """Processor time of all processes that have a part in it, also after it is done: threads may spin for a while."""
    bytes_read: int
    """Of what it is given."""
    bytes_written: int
    """Of what it makes."""
    allocated_bytes: int | None
    """For arrays in the line's process, all of them added up, however short they live; None: not known."""
    allocations: int | None
    """How many arrays these are; None: not known, as this numpy does not tell."""
    peak_bytes: int
    """Most that was allocated at once in the line's process, beyond what was before: arrays and Python's objects."""
    page_faults: float
    """Pages that the kernel had to map meanwhile, in all processes that have a part in it: fresh memory, mostly."""


@dataclass(frozen=True)
class Round:
    """Of one stage."""

    seconds: list[float]
    """Per frame, of each run."""
    cpu_s: float
    """Per frame, as the next."""
    page_faults: float


class Recorder:
    """Runs a stage in rounds, and notes what each of them cost.

    Args:
        done: called after each round.
    """

    def __init__(self, stage: Stage, done: Callable[[], None]) -> None:
        self.stage, self._done = stage, done
        self.rounds: list[Round] = []

    def settle(self) -> None:
        """A round of some frames that does not count."""
        self(SETTLE_FRAMES)
        self.rounds.clear()

    def __call__(self, frames: int) -> None:
        """A round of so many frames, or one run where that does more. Each run begins at rest, as on a line, where
        the next frame is a while to come; what goes on after it is of its cost.
        """
        stage = self.stage
        runs = max(1, frames // stage.frames)
        seconds, waiting_ns = [], 0
        before = _Used.now(stage.helpers)
        for _ in range(runs):
            seconds.append(stage.timed() / stage.frames)
            waiting_ns += rest()
        after = _Used.now(stage.helpers)
        stage.check()
        rest()
        in_all = runs * stage.frames
        self.rounds.append(
            Round(
                seconds,
                (after.cpu_ns - before.cpu_ns - waiting_ns) / 1e9 / in_all,
                (after.page_faults - before.page_faults) / in_all,
            )
        )
        self._done()

    @property
    def medians_ms(self) -> list[float]:
        """Of the rounds, per frame."""
        return [float(np.median(one.seconds)) * 1e3 for one in self.rounds]

    def cost(self) -> Cost:
        """What came of all rounds, and of some runs more, that are looked at for memory."""
        frames = self.stage.frames
        memory = [_memory_of(self.stage) for _ in range(LOOKS_AT_MEMORY)]
        arrays = min((one.arrays for one in memory if one.arrays is not None), default=None)
        array_bytes = min((one.array_bytes for one in memory if one.array_bytes is not None), default=None)
        self.stage.run()
        moved = self.stage.moved()
        return Cost(
            ms=Spread.of(self.medians_ms),
            p99_ms=float(np.percentile([one for each in self.rounds for one in each.seconds], 99)) * 1e3,
            cpu_ms=float(np.median([one.cpu_s for one in self.rounds])) * 1e3,
            bytes_read=round(moved.read / frames),
            bytes_written=round(moved.written / frames),
            allocated_bytes=None if array_bytes is None else round(array_bytes / frames),
            allocations=None if arrays is None else round(arrays / frames),
            peak_bytes=round(min(one.peak_bytes for one in memory) / frames),
            page_faults=float(np.median([one.page_faults for one in self.rounds])),
        )


class _Used(NamedTuple):
    """By this process and some others since they began."""

    cpu_ns: int
    page_faults: int

    @classmethod
    def now(cls, others: Sequence[int]) -> "_Used":
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt + sum(map(page_faults, others))
        return cls(time.process_time_ns() + sum(map(cpu_ns, others)), faults)


class _Memory(NamedTuple):
    """Of one run."""

    arrays: int | None
    """None: not known."""
    array_bytes: int | None
    peak_bytes: int


def _memory_of(stage: Stage) -> _Memory:
    stage.run()
    arrays, array_bytes = _arrays_of(stage)
    tracemalloc.start()
    try:
        stage.run()  # what the last run left is no longer unknown to it
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        stage.run()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return _Memory(arrays, array_bytes, peak - before)


def _arrays_of(stage: Stage) -> tuple[int | None, int | None]:
    """How many one run makes, and their bytes; None where this numpy does not tell."""
    try:
        from bench.stages.array_allocations import counted_arrays
    except ImportError:
        return None, None
    with counted_arrays() as arrays:
        stage.run()
    return arrays.count, arrays.bytes
