"""Frames through the line's own pipeline in this process: from capture to the event that would be handed over.

That is soon done, and enough to search by. What shares the cores with the engine on a line, the cameras' processes and
the sockets, comes in `on_the_line`.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench.tune.shown import Shown
from edge.bundle import Bundle
from edge.cameras.base import EndOfFrames
from edge.errors import BenchError
from edge.frames import BadFrame, Frame, Stamp
from edge.inference import Precision
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


class Answers:
    """What frames were judged by: settings that skip work would answer otherwise.

    That is the first score of each camera's picture in each precision, to which all others are held.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._scale, self._tolerances = bundle.golden().scale("logit"), bundle.manifest.tolerances
        self._scores: dict[tuple[Precision, str], float] = {}

    def check(self, precision: Precision, scores: Iterable[tuple[str, float]]) -> None:
        """See that scores are those of the others.

        Args:
            scores: each with its frame's camera.
        Raises:
            BenchError: one is not.
        """
        for camera, score in scores:
            first = self._scores.setdefault((precision, camera), score)
            # Both may be off as the golden tiles may be.
            most = 2 * self._tolerances[precision] * max(self._scale, abs(first))
            if not abs(score - first) <= most:
                raise BenchError(
                    f"with these settings the frame's score is {score:.4f}, with others in {precision} {first:.4f}; "
                    "nothing can be said of what is that far off"
                )


def paced(setup: Setup, shown: Sequence[Shown], seconds: float, answers: Answers) -> tuple[list[float], int]:
    """Show frames at their rates for so long, and for some frames at least.

    Returns:
        Latencies of those that were inspected, ms, and how many were not.
    Raises:
        BenchError: the pipeline does not end, or answers otherwise than with other settings.
    """
    frames = {one.camera: SETTLE_FRAMES + max(LEAST_FRAMES, round(one.rate_fps * seconds)) for one in shown}
    ends = _run(setup, shown, frames, answers, paced=True)
    counted = [one for one in ends if one.number > SETTLE_FRAMES]
    latencies_ms = [(one.told_ns - one.due_ns) / 1e6 for one in counted if one.score is not None]
    return latencies_ms, len(counted) - len(latencies_ms)


def rushed(setup: Setup, shown: Sequence[Shown], seconds: float, answers: Answers) -> float:
    """Show frames as fast as they go, with one always waiting: how many times as fast as is asked could they come?

    Args:
        seconds: about so long it takes, and some frames at least.
    Raises:
        BenchError: as above.
    """
    slowest_fps = min(one.rate_fps for one in shown)

    def run(at_rate_s: float) -> float:
        """Seconds for the frames that come within `at_rate_s` at the asked rates."""
        frames = {one.camera: max(1, round(one.rate_fps * at_rate_s)) for one in shown}
        began_ns = time.monotonic_ns()
        ends = _run(setup, shown, frames, answers, paced=False)
        return (max(one.told_ns for one in ends) - began_ns) / 1e9

    few_s = 1 / slowest_fps
    took_s = run(few_s)
    many_s = max(LEAST_AT_ONCE / slowest_fps, few_s * seconds / took_s)
    return many_s / run(many_s)


class _FrameEnd(NamedTuple):
    """The end of a frame's way."""

    camera: str
    number: int
    """Of its camera's frames, from 1."""
    due_ns: int
    """When it was captured, monotonic."""
    told_ns: int
    score: float | None
    """Its highest logit; None: it was not inspected."""


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


def _run(
    setup: Setup, shown: Sequence[Shown], frames: dict[str, int], answers: Answers, *, paced: bool
) -> list[_FrameEnd]:
    """Frames of all cameras, to the end of each frame's way."""
    ends = list[_FrameEnd]()
    all_told = threading.Event()
    in_all = sum(frames.values())

    def report(outcome: Outcome) -> None:
        verdict_message("tune", outcome)  # the event, with its heatmap where it has one
        stamp, judgement = outcome.stamp, outcome.judgement
        score = None if judgement is None else judgement.score
        now_ns = time.monotonic_ns()
        # A run of frames that were dropped is told as one.
        for number in range(stamp.number, stamp.number + stamp.frames):
            ends.append(_FrameEnd(stamp.camera, number, stamp.captured_monotonic_ns, now_ns, score))
        if len(ends) == in_all:
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
                raise BenchError(f"{in_all - len(ends)} of {in_all} frames did not come through the pipeline in time")
    finally:
        pipeline.stop(STOP_WITHIN_SECONDS)
    pipeline.check()
    answers.check(setup.proven.engine.precision, [(one.camera, one.score) for one in ends if one.score is not None])
    return ends
