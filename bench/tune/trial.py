"""Frames through the inspector in this process: soon done, and enough to search by.

What shares the cores with the engine on a line, the cameras' processes, the journal and the sockets, comes in
`on_the_line`.
"""

import time
from collections.abc import Iterable, Sequence

from bench.pipelined import inspect_pipelined
from bench.tune.shown import Shown
from edge.bundle import Bundle
from edge.errors import BenchError
from edge.frames import Frame, Stamp
from edge.geometry.region_of_interest import WHOLE_FRAME
from edge.inference import Precision
from edge.inspection.inspector import PendingFrame
from edge.inspection.setup import Setup

LEAST_FRAMES = 4
"""Of each camera, one at a time."""
LEAST_AT_ONCE = 2
"""The same, as fast as it goes: of frames that take so long that there are few, two tell as much."""


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


class Trial:
    """Settings of the engine, and the line's pictures to try them on.

    Args:
        shown: what the cameras show.
        answers: to which all scores are held.
    """

    def __init__(self, setup: Setup, shown: Sequence[Shown], answers: Answers) -> None:
        self._setup, self._shown, self._answers = setup, shown, answers

    def alone_ms(self, seconds: float) -> list[float]:
        """Latencies of frames one at a time, for so long, and of some of each camera at least.

        Raises:
            BenchError: the answers are not those of other settings.
        """
        self._inspect(self._shown)  # caches fill
        taken_ms: list[float] = []
        ends = time.monotonic() + seconds
        while time.monotonic() < ends or len(taken_ms) < LEAST_FRAMES * len(self._shown):
            for one in self._shown:
                began = time.perf_counter()
                self._inspect([one])
                taken_ms.append((time.perf_counter() - began) * 1e3)
        return taken_ms

    def times_as_fast(self, seconds: float) -> float:
        """How many times as fast as is asked frames could come, with one always waiting.

        Args:
            seconds: about so long it takes, and some frames at least.
        Raises:
            BenchError: the answers are not those of other settings.
        """
        few_s = 1 / min(one.rate_fps for one in self._shown)
        many_s = max(LEAST_AT_ONCE * few_s, few_s * seconds / self._seconds_for(few_s))
        return many_s / self._seconds_for(many_s)

    def _seconds_for(self, at_rate_s: float) -> float:
        """How long the frames take that come within `at_rate_s` at the asked rates."""
        due = [
            (number / one.rate_fps, place)
            for place, one in enumerate(self._shown)
            for number in range(max(1, round(one.rate_fps * at_rate_s)))
        ]
        began = time.perf_counter()
        self._inspect([self._shown[place] for _, place in sorted(due)])
        return time.perf_counter() - began

    def _inspect(self, shown: Sequence[Shown]) -> None:
        """A frame of each, from its capture to its verdict, as the pipeline does it."""
        setup = self._setup

        def start(frame: Frame) -> PendingFrame:
            return setup.inspector.start(frame, setup.areas.get(frame.stamp.camera, WHOLE_FRAME))

        def finish(pending: PendingFrame) -> tuple[str, float]:
            return pending.frame.stamp.camera, setup.inspector.finish(pending).score

        frames = (Frame(Stamp(one.camera, 1, number=1), one.picture, "RGB8") for one in shown)
        engine = setup.verified.engine
        self._answers.check(engine.precision, inspect_pipelined(engine, start, frames, finish))
