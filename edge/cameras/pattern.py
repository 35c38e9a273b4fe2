"""A simulated camera whose pixels hold frame id and position; it fails on purpose, for rehearsals and tests."""

import threading
import time

import numpy as np
from numpy.typing import NDArray

from heatline.edge.cameras.base import HIGHEST_16_BIT_ID, EndOfFrames, FrameSource, Opened, Pace
from heatline.edge.cameras.settings import PatternSettings
from heatline.edge.frames import BadFrame, Frame, Stamp


def pattern(frame_id: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the picture of a frame, Mono8 [H, W]. Read row by row as 16-bit words, low byte first, it counts up from
    its frame id as ids do, so that pixels in the wrong place or of another frame are detected.
    """
    words = -(-hw[0] * hw[1] // 2)
    return _cut(_ramp(words), frame_id, hw)


def frame_id_of(image: NDArray[np.uint8]) -> int:
    """Return the frame id of a picture that `pattern` drew, of two pixels or more."""
    return int.from_bytes(image.ravel()[:2].tobytes(), "little")


def _ramp(words: int) -> NDArray[np.uint8]:
    """Return bytes that hold the picture of every frame id at its own offset, so that drawing is a view."""
    counting = np.arange(words + HIGHEST_16_BIT_ID, dtype=np.uint32) % HIGHEST_16_BIT_ID + 1
    ramp = counting.astype("<u2").view(np.uint8)
    ramp.flags.writeable = False
    return ramp


def _cut(ramp: NDArray[np.uint8], frame_id: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
    begin = 2 * (frame_id - 1)
    return ramp[begin : begin + hw[0] * hw[1]].reshape(hw)


class PatternCamera(FrameSource[PatternSettings]):
    """Shows pictures of `pattern`, which are never overwritten. A triggered camera ignores the rate."""

    def __init__(self, settings: PatternSettings) -> None:
        super().__init__(settings)
        self._lost, self._ignored_triggers = frozenset(settings.lose_frames), frozenset(settings.ignore_triggers)
        width, height = settings.draw_size
        self._hw = (height, width)
        self._ramp = _ramp(-(-width * height // 2))
        self._pace = Pace(settings.rate_fps, self.interrupted)
        self._triggers = 0
        self._waiting_triggers = threading.Semaphore(0)
        self._taken = 0
        self._opened_at_ns = 0

    def open(self) -> Opened:
        self._opened_at_ns = time.monotonic_ns()
        return Opened(
            found="drawn pictures of {}x{} px, Mono8".format(*self._settings.draw_size),
            ids_show_gaps=True,
            period_s=self._pace.period_s if self._settings.trigger == "free" else None,
        )

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        give_up = time.monotonic() + timeout_s
        while True:
            if self._settings.frames is not None and self._taken >= self._settings.frames:
                raise EndOfFrames
            if not self._await_frame(give_up - time.monotonic()):
                return None
            self._taken += 1
            if self._taken not in self._lost:
                return self._draw()

    def interrupt(self) -> None:
        super().interrupt()
        self._waiting_triggers.release()  # for a grab that waits for a trigger

    def trigger(self) -> None:
        self._triggers += 1
        if self._triggers not in self._ignored_triggers:
            self._waiting_triggers.release()

    def _await_frame(self, timeout_s: float) -> bool:
        if self._settings.trigger == "free":
            return self._pace.await_frame(self._taken, timeout_s)
        if self.interrupted.is_set():
            return False
        return self._waiting_triggers.acquire(timeout=max(timeout_s, 0.0)) and not self.interrupted.is_set()

    def _draw(self) -> Frame:
        shown = min(self._taken, self._settings.freeze_at or self._taken)
        stamp = Stamp(self.name, self._id(self._taken), camera_timestamp_ns=time.monotonic_ns() - self._opened_at_ns)
        return Frame(stamp, _cut(self._ramp, self._id(shown), self._hw), "Mono8")

    def _id(self, taken: int) -> int:
        return (self._settings.first_frame_id + taken - 2) % HIGHEST_16_BIT_ID + 1
