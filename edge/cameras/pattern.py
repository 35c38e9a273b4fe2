"""A drawn camera whose pixels tell frame id and position, and that fails on purpose: for rehearsals and tests."""

import threading
import time

import numpy as np
from numpy.typing import NDArray

from edge.cameras.base import EndOfFrames, FrameSource, Opened
from edge.cameras.pacing import Pace
from edge.cameras.settings import PatternSettings
from edge.errors import CameraError
from edge.frames import BadFrame, Frame, Stamp

HIGHEST_FRAME_ID = 65535
"""As GigE Vision cameras count: 16 bits, and 1 follows."""


def pattern(frame_id: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture of a frame, Mono8 [H, W].

    Read row by row as 16-bit words, low byte first, it counts on from its frame id as frame ids do: the first word is
    the frame id, and 1 follows 65535. So a row, a part or another frame's pixels in the wrong place are seen, the more
    so as 65535 is odd: no power of two takes it back to the same words.
    """
    words = -(-hw[0] * hw[1] // 2)
    return _cut(_ramp(words), frame_id, hw)


def frame_id_of(image: NDArray[np.uint8]) -> int:
    """The frame id that a picture of `pattern` tells, of two pixels or more."""
    return int.from_bytes(image.ravel()[:2].tobytes(), "little")


def _ramp(words: int) -> NDArray[np.uint8]:
    """Bytes in which the picture of every frame id begins at its place: to draw one is to look at it."""
    counting = np.arange(words + HIGHEST_FRAME_ID, dtype=np.uint32) % HIGHEST_FRAME_ID + 1
    ramp = counting.astype("<u2").view(np.uint8)
    ramp.flags.writeable = False
    return ramp


def _cut(ramp: NDArray[np.uint8], frame_id: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
    begin = 2 * (frame_id - 1)
    return ramp[begin : begin + hw[0] * hw[1]].reshape(hw)


class PatternCamera(FrameSource):
    """Draws pictures by `pattern`, which are never drawn over; a triggered one heeds no rate."""

    def __init__(self, settings: PatternSettings) -> None:
        super().__init__(settings.name)
        self._settings = settings
        self._lost, self._unheard = frozenset(settings.lose_frames), frozenset(settings.ignore_triggers)
        width, height = settings.draw_size
        self._hw = (height, width)
        self._ramp = _ramp(-(-width * height // 2))
        self._pace = Pace(settings.rate_fps)
        self._triggers = 0
        self._heard = threading.Semaphore(0)
        """Triggers that wait for their frame."""
        self._taken = 0
        """Frames, with those that are lost."""
        self._opened_at_ns = 0

    def open(self) -> Opened:
        self._opened_at_ns = time.monotonic_ns()
        return Opened(
            found="drawn pictures of {}x{} px, Mono8".format(*self._settings.draw_size),
            highest_frame_id=HIGHEST_FRAME_ID,
            ids_show_gaps=True,
            period_s=self._pace.period_s if self._settings.trigger == "free" else None,
            can_be_asked=True,
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
        self._pace.interrupt()
        self._heard.release()  # for a grab that waits for a trigger

    def close(self) -> None:
        """There is nothing to let go of."""

    def trigger(self) -> None:
        if self._settings.trigger == "free":
            raise CameraError(f"camera {self.name} runs freely; set its trigger to software to trigger it")
        self._triggers += 1
        if self._triggers not in self._unheard:
            self._heard.release()

    def _await_frame(self, timeout_s: float) -> bool:
        """Wait until the next frame can be taken; whether it can."""
        if self._settings.trigger == "free":
            return self._pace.await_frame(self._taken, timeout_s)
        if self._pace.interrupted or not self._heard.acquire(timeout=max(timeout_s, 0.0)):
            return False
        return not self._pace.interrupted

    def _draw(self) -> Frame:
        shown = min(self._taken, self._settings.freeze_at or self._taken)
        stamp = Stamp(self.name, self._id(self._taken), camera_timestamp_ns=time.monotonic_ns() - self._opened_at_ns)
        return Frame(stamp, _cut(self._ramp, self._id(shown), self._hw), "Mono8")

    def _id(self, taken: int) -> int:
        return (self._settings.first_frame_id + taken - 2) % HIGHEST_FRAME_ID + 1
