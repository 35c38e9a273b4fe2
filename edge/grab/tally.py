"""What one camera's frames were like, and which of them did not come."""

from collections import Counter

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.cameras.settings import CameraSettings
from edge.colour import PixelFormat
from edge.frames import BadFrame, Frame, Stamp
from edge.grab.report import Clock, Format, Loss
from edge.inspection.frame_rule import FrameRule


class Arrivals:
    """Takes the stamps of one camera's frames, in the order in which they came."""

    def __init__(self) -> None:
        self.frames = 0
        self._first_ns = self._last_ns = 0
        self._intervals_ns: list[int] = []
        self._in_a_row = False
        self._clocks: list[Stamp] = []
        """The first and the last frame that the camera stamped since it was opened."""

    def frame(self, stamp: Stamp) -> None:
        """A frame came."""
        arrived_ns = stamp.captured_monotonic_ns
        if self._in_a_row:
            self._intervals_ns.append(arrived_ns - self._last_ns)
        if not self.frames:
            self._first_ns = arrived_ns
        self._last_ns = arrived_ns
        self.frames, self._in_a_row = self.frames + 1, True
        if stamp.camera_timestamp_ns is not None:
            self._clocks = [*self._clocks[:1], stamp]

    def lost(self) -> None:
        """A frame is missing here: the time to the next one is no interval."""
        self._in_a_row = False

    def began_anew(self) -> None:
        """The camera was opened again, and so may its clock have been."""
        self._clocks.clear()
        self.lost()

    @property
    def rate_fps(self) -> float | None:
        """Frames a second from the first to the last; None: there are not two."""
        took_ns = self._last_ns - self._first_ns
        return (self.frames - 1) * 1e9 / took_ns if took_ns > 0 else None

    @property
    def jitter_ms(self) -> tuple[float, float] | None:
        """Standard deviation of the intervals, and how far the worst one is off their mean; None: there are not two."""
        if len(self._intervals_ns) < 2:
            return None
        off_ms = (np.array(self._intervals_ns) - np.mean(self._intervals_ns)) / 1e6
        return float(np.sqrt(np.mean(off_ms**2))), float(np.abs(off_ms).max())

    @property
    def clock(self) -> Clock | None:
        """How the camera's clock ran beside the host's; None: it told no times, or only one."""
        if len(self._clocks) < 2:
            return None
        first, last = self._clocks
        assert first.camera_timestamp_ns is not None
        assert last.camera_timestamp_ns is not None
        return Clock(
            (last.camera_timestamp_ns - first.camera_timestamp_ns) / 1e6,
            (last.captured_monotonic_ns - first.captured_monotonic_ns) / 1e6,
        )


class FrameTally:
    """Counts one camera's frames, and holds them to the rule of the line."""

    def __init__(self, settings: CameraSettings) -> None:
        self._rule = FrameRule(settings.size, settings.pixel_format)
        self._formats: Counter[tuple[int, int, PixelFormat]] = Counter()
        self._last: NDArray[np.uint8] | None = None
        self.arrivals = Arrivals()
        self.losses: dict[str, Loss] = {}
        self.line_would_refuse: dict[str, Loss] = {}
        self.first: NDArray[np.uint8] | None = None
        """The first frame's picture."""
        self.identical = 0
        """Frames that were the same as the one before to the last bit."""

    def frame(self, frame: Frame) -> NDArray[np.uint8]:
        """Count a frame and give its memory back; returns a copy of its picture, grey [H, W] or RGB [H, W, 3]."""
        grey = frame.camera_format.startswith("Mono")
        picture = np.asarray(cv2.extractChannel(frame.image, 0) if grey else frame.image.copy(), np.uint8)
        held_to_rule = self._rule.check(frame)
        frame.release()
        self.arrivals.frame(frame.stamp)
        height, width = picture.shape[:2]
        self._formats[width, height, frame.camera_format] += 1
        if isinstance(held_to_rule, BadFrame):
            _count(self.line_would_refuse, held_to_rule)
        if self._last is None:
            self.first = picture
        else:
            self.identical += np.array_equal(self._last, picture)
        self._last = picture
        return picture

    def lost(self, bad: BadFrame) -> None:
        """Count frames that cannot be had."""
        self.arrivals.lost()
        _count(self.losses, bad)

    @property
    def formats(self) -> list[Format]:
        """Each that came."""
        return [Format(*like, frames) for like, frames in self._formats.items()]


def _count(losses: dict[str, Loss], bad: BadFrame) -> None:
    before = losses.get(bad.reason, Loss(0, bad.detail))
    losses[bad.reason] = Loss(before.frames + bad.stamp.frames, before.detail)
