"""Frames through the inspector in this process: fast, and accurate enough for a search.

The cameras' processes, the journal and the sockets, which share the cores with the engine on a line, are in
`on_the_line`.
"""

import time
from collections.abc import Iterable, Sequence

from heatline.bench.pipelined import inspect_pipelined
from heatline.bench.tune.shown import Shown
from heatline.edge.bundle import Bundle
from heatline.edge.errors import BenchError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry.region_of_interest import WHOLE_FRAME
from heatline.edge.inference import Precision
from heatline.edge.inspection.inspector import PendingFrame
from heatline.edge.inspection.setup import Setup

LEAST_FRAMES = 4
"""Frames of each camera, one at a time."""
LEAST_AT_ONCE = 2
"""The same at the highest rate: two frames suffice if they take long."""


class Answers:
    """The first score of each camera's picture in each precision, with which all others are compared.

    Settings that skip work would have other scores.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._scale, self._tolerances = bundle.golden().scale("logit"), bundle.manifest.tolerances
        self._scores: dict[tuple[Precision, str], float] = {}

    def check(self, precision: Precision, scores: Iterable[tuple[str, float]]) -> None:
        """Check that scores are those with other settings.

        Args:
            scores: each with its frame's camera.
        Raises:
            BenchError: one is not.
        """
        for camera, score in scores:
            first = self._scores.setdefault((precision, camera), score)
            # Both may have the error that golden tiles may have.
            most = 2 * self._tolerances[precision] * max(self._scale, abs(first))
            if not abs(score - first) <= most:
                raise BenchError(
                    f"with these settings the frame's score is {score:.4f}, with others in {precision} {first:.4f}; "
                    "report this"
                )


class Trial:
    """Settings of the engine, and the line's pictures to try them on.

    Args:
        shown: frames of the cameras.
        answers: with which all scores are compared.
    """

    def __init__(self, setup: Setup, shown: Sequence[Shown], answers: Answers) -> None:
        self._setup, self._shown, self._answers = setup, shown, answers

    def alone_ms(self, seconds: float) -> list[float]:
        """Return the latencies of frames one at a time.

        Args:
            seconds: length of the run, which has some frames of each camera at least.
        Raises:
            BenchError: a score is not that with other settings.
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
        """Return the highest rate over the line's rate, with a frame always waiting.

        Args:
            seconds: about the length of the run, which has some frames at least.
        Raises:
            BenchError: a score is not that with other settings.
        """
        few_s = 1 / min(one.rate_fps for one in self._shown)
        many_s = max(LEAST_AT_ONCE * few_s, few_s * seconds / self._seconds_for(few_s))
        return many_s / self._seconds_for(many_s)

    def _seconds_for(self, at_rate_s: float) -> float:
        """Return how long the frames take that come within `at_rate_s` at the line's rates."""
        due = [
            (number / one.rate_fps, place)
            for place, one in enumerate(self._shown)
            for number in range(max(1, round(one.rate_fps * at_rate_s)))
        ]
        began = time.perf_counter()
        self._inspect([self._shown[place] for _, place in sorted(due)])
        return time.perf_counter() - began

    def _inspect(self, shown: Sequence[Shown]) -> None:
        """Inspect a frame of each, as the pipeline does."""
        setup = self._setup

        def start(frame: Frame) -> PendingFrame:
            return setup.inspector.start(frame, setup.areas.get(frame.stamp.camera, WHOLE_FRAME))

        def finish(pending: PendingFrame) -> tuple[str, float]:
            return pending.frame.stamp.camera, setup.inspector.finish(pending).score

        frames = (Frame(Stamp(one.camera, 1, number=1), one.picture, "RGB8") for one in shown)
        engine = setup.verified.engine
        self._answers.check(engine.precision, inspect_pipelined(engine, start, frames, finish))
