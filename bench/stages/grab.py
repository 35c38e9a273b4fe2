"""Grab: from the camera's picture in its own process, through shared memory, to a frame in the line's process."""

import select
import time

import numpy as np

from bench.stages.prepared import CAMERA
from bench.stages.stage import Moved, Stage
from edge.cameras.base import Opened
from edge.cameras.channel import Fired
from edge.cameras.host import Arrived, CameraProcess
from edge.cameras.pattern import pattern
from edge.cameras.settings import PatternSettings
from edge.colour import to_rgb
from edge.errors import BenchError

NEWS_WITHIN_SECONDS = 30.0
RGB = 3


class Grab(Stage):
    """A triggered `pattern` camera, whose pictures are drawn beforehand: what it takes is the way of the pixels.

    `timed` counts from the frame's capture, `run` lasts from its trigger. The pixels are not looked at.

    Raises:
        BenchError: its process does not do as it should.
    """

    name = "grab"

    def __init__(self, hw: tuple[int, int]) -> None:
        self._hw = hw
        self._camera = CameraProcess(
            PatternSettings(name=CAMERA, draw_size=(hw[1], hw[0]), rate_fps=None, trigger="software")
        )
        self.helpers = (self._camera.pid,)
        self._poll = select.poll()
        self._poll.register(self._camera.fileno(), select.POLLIN)
        self._fired = 0
        self._arrived: Arrived | None = None
        self._came_ns = 0
        try:
            while not isinstance(self._next(), Opened):
                pass
        except BaseException:
            self.close()
            raise

    def run(self) -> None:
        self._release()
        self._fired += 1
        self._camera.fire(self._fired, time.monotonic_ns() + round(NEWS_WITHIN_SECONDS * 1e9))
        while not isinstance(news := self._next(), Arrived):
            pass
        self._came_ns = time.monotonic_ns()
        self._arrived = news

    def timed(self) -> float:
        self.run()
        assert self._arrived is not None
        return (self._came_ns - self._arrived.frame.stamp.captured_monotonic_ns) / 1e9

    def check(self) -> None:
        self.require(self._arrived is not None, "that a frame came")
        assert self._arrived is not None
        image = self._arrived.frame.image
        drawn = to_rgb(pattern(self._frame_id(), self._hw), "Mono8")
        self.require(np.array_equal(image, drawn), "that the frame's pixels are those of the camera's picture")
        self.require(self._frame_id() == self._fired, "that the frame is the newest")
        self._release()

    def moved(self) -> Moved:
        assert self._arrived is not None
        return Moved(pattern(self._frame_id(), self._hw).nbytes, self._arrived.frame.image.nbytes)

    def close(self) -> None:
        self._arrived = None
        self._camera.kill()

    def _frame_id(self) -> int:
        assert self._arrived is not None
        frame_id = self._arrived.frame.stamp.frame_id
        assert frame_id is not None
        return frame_id

    def _next(self) -> object:
        """The next news of the camera.

        Raises:
            BenchError: there is none, or none that is wanted.
        """
        give_up = time.monotonic() + NEWS_WITHIN_SECONDS
        while (news := self._camera.receive()) is None:
            if not self._poll.poll(max(give_up - time.monotonic(), 0) * 1e3):
                raise BenchError(f"the camera's process said nothing for {NEWS_WITHIN_SECONDS:.0f} s")
        if isinstance(news, Fired) and news.error is not None:
            raise BenchError(f"the camera did not take its trigger: {news.error}")
        if not isinstance(news, Opened | Arrived | Fired):
            raise BenchError(f"the camera's process said {news}, where a frame was expected")
        return news

    def _release(self) -> None:
        if self._arrived is not None:
            self._arrived.frame.release()
            self._arrived = None
