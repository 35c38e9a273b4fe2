"""Frames through the line's own pipeline in this process: from capture to the event that would be handed over.

That is soon done, and enough to search by. What shares the cores with the engine on a line, the cameras' processes and
the sockets, comes in `on_the_line`.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.tune.shown import Shown
from edge.cameras.base import EndOfFrames
from edge.errors import BenchError
from edge.frames import BadFrame, Frame, Stamp
from edge.inspection.frame_rule import FrameRule
from edge.inspection.handoff import Lane
from edge.inspection.ledger import Ledger
from edge.inspection.outcome import Outcome
from edge.inspection.pipeline import Camera, Pipeline
from edge.inspection.setup import Setup
from edge.service.events import verdict_message

SETTLE_FRAMES = 2
"""Of each camera, the first ones, which do not count: caches fill, and the first inference is slow."""
LEAST_FRAMES = 4
"""Of each camera, that count."""
LEAST_AT_ONCE = 2
"""The same, as fast as it goes: of frames that take so long that there are few, two tell as much."""
WAITING_FRAMES = 2
WITHIN_SECONDS = 120.0
STOP_WITHIN_SECONDS = 15.0


class Told(NamedTuple):
    """A frame's end."""

    camera: str
    number: int
    """Of its camera's frames, from 1."""
    due_ns: int
    """When it was captured, monotonic."""
    told_ns: int
    score: float | None
    """Its highest logit; None: it was not inspected."""


@dataclass(frozen=True)
class Paced:
    """Frames at the rate that was asked for."""

    latencies_ms: list[float]
    lost: int
    """Frames that were not inspected."""
    scores: list[tuple[str, float]]
    """Of all frames that were inspected, with their cameras."""


@dataclass(frozen=True)
class Rushed:
    """Frames as fast as they go, with one always waiting."""

    times_as_fast: float
    """How many times as fast as is asked they could come."""
    scores: list[tuple[str, float]]
    """As above."""


def paced(setup: Setup, shown: Sequence[Shown], seconds: float) -> Paced:
    """Show frames at their rates for so long, and for some frames at least.

    Raises:
        BenchError: the pipeline does not end.
    """
    frames = {one.camera: SETTLE_FRAMES + max(LEAST_FRAMES, round(one.rate_fps * seconds)) for one in shown}
    told = _run(setup, shown, frames, paced=True)
    counted = [one for one in told if one.number > SETTLE_FRAMES]
    inspected = [one for one in counted if one.score is not None]
    return Paced(
        latencies_ms=[(one.told_ns - one.due_ns) / 1e6 for one in inspected],
        lost=len(counted) - len(inspected),
        scores=_scores(told),
    )


def rushed(setup: Setup, shown: Sequence[Shown], seconds: float) -> Rushed:
    """Show frames as fast as they go.

    Args:
        seconds: about so long it takes, and some frames at least.
    Raises:
        BenchError: the pipeline does not end.
    """
    slowest_fps = min(one.rate_fps for one in shown)

    scores = list[tuple[str, float]]()

    def run(at_rate_s: float) -> float:
        """Seconds for the frames that come within `at_rate_s` at the asked rates."""
        frames = {one.camera: max(1, round(one.rate_fps * at_rate_s)) for one in shown}
        began_ns = time.monotonic_ns()
        told = _run(setup, shown, frames, paced=False)
        scores.extend(_scores(told))
        return (max(one.told_ns for one in told) - began_ns) / 1e9

    few_s = 1 / slowest_fps
    took_s = run(few_s)
    many_s = max(LEAST_AT_ONCE / slowest_fps, few_s * seconds / took_s)
    return Rushed(many_s / run(many_s), scores)


def _scores(told: Sequence[Told]) -> list[tuple[str, float]]:
    return [(one.camera, one.score) for one in told if one.score is not None]


class _Source:
    """A camera in this process that shows one picture a number of times: at its rate, or whenever it is asked."""

    def __init__(self, shown: Shown, frames: int, began_ns: int | None) -> None:
        self._shown, self._frames, self._began_ns = shown, frames, began_ns
        self._count = 0
        self._interrupted = threading.Event()

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        if self._count == self._frames or self._interrupted.is_set():
            raise EndOfFrames
        due_ns = time.monotonic_ns()
        if self._began_ns is not None:
            # Of when it was due, not of when there was time to look: else a line that is late would seem to be early.
            due_ns = self._began_ns + round(self._count * 1e9 / self._shown.rate_fps)
            wait_s = (due_ns - time.monotonic_ns()) / 1e9
            if wait_s > 0 and (self._interrupted.wait(min(wait_s, timeout_s)) or wait_s > timeout_s):
                return None
        self._count += 1
        stamp = Stamp(self._shown.camera, self._count, captured_monotonic_ns=due_ns)
        return Frame(stamp, self._shown.picture, "RGB8")

    def interrupt(self) -> None:
        self._interrupted.set()


def _run(setup: Setup, shown: Sequence[Shown], frames: dict[str, int], *, paced: bool) -> list[Told]:
    """Frames of all cameras, to the end of each frame's way."""
    told = list[Told]()
    all_told = threading.Event()
    in_all = sum(frames.values())

    def report(outcome: Outcome) -> None:
        verdict_message("tune", outcome)  # the event, with its heatmap where it has one
        stamp, judgement = outcome.stamp, outcome.judgement
        score = None if judgement is None else judgement.score
        now_ns = time.monotonic_ns()
        # A run of frames that were dropped is told as one.
        for number in range(stamp.number, stamp.number + stamp.frames):
            told.append(Told(stamp.camera, number, stamp.captured_monotonic_ns, now_ns, score))
        if len(told) == in_all:
            all_told.set()

    began_ns = time.monotonic_ns() if paced else None
    lane = Lane(WAITING_FRAMES, "drop_oldest" if paced else "block")
    cameras = {
        one.camera: Camera(_Source(one, frames[one.camera], began_ns), lane, FrameRule("any", "any")) for one in shown
    }
    pipeline = Pipeline(cameras, setup, Ledger(list(cameras)), report)
    pipeline.start()
    try:
        pipeline.begin()
        give_up_s = time.monotonic() + WITHIN_SECONDS + (max(frames.values()) / min(one.rate_fps for one in shown))
        while not all_told.wait(0.05):
            pipeline.check()
            if time.monotonic() > give_up_s:
                raise BenchError(f"{in_all - len(told)} of {in_all} frames did not come through the pipeline in time")
    finally:
        pipeline.stop(STOP_WITHIN_SECONDS)
    pipeline.check()
    return told
