"""Statistics of one camera's frames, and of the frames that did not come."""

from collections import Counter

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.colour import PixelFormat
from heatline.edge.frames import BadFrame, Frame, FrameRule, Stamp
from heatline.edge.grab.report import Clock, Format, Loss


class Arrivals:
    """Statistics of the arrival times of one camera's frames."""

    def __init__(self) -> None:
        self.frames = 0
        self._first_ns = self._last_ns = 0
        self._intervals_ns: list[int] = []
        self._consecutive = False
        self._clocks: list[Stamp] = []
        """Stamps of the first and the last frame with a camera timestamp since the camera was opened."""

    def add(self, stamp: Stamp) -> None:
        """Add a frame; call this in the order of arrival."""
        arrived_ns = stamp.captured_monotonic_ns
        if self._consecutive:
            self._intervals_ns.append(arrived_ns - self._last_ns)
        if not self.frames:
            self._first_ns = arrived_ns
        self._last_ns = arrived_ns
        self.frames, self._consecutive = self.frames + 1, True
        if stamp.camera_timestamp_ns is not None:
            self._clocks = [*self._clocks[:1], stamp]

    def record_loss(self) -> None:
        """Record that a frame is missing: the time to the next one is not an interval."""
        self._consecutive = False

    def restart(self) -> None:
        """Record that the camera was opened again, which may restart its clock."""
        self._clocks.clear()
        self.record_loss()

    @property
    def rate_fps(self) -> float | None:
        """Frames per second from the first to the last; None: fewer than two came."""
        took_ns = self._last_ns - self._first_ns
        return (self.frames - 1) * 1e9 / took_ns if took_ns > 0 else None

    @property
    def jitter_ms(self) -> tuple[float, float] | None:
        """Standard deviation of the intervals, and the largest deviation from their mean; None: fewer than two."""
        if len(self._intervals_ns) < 2:
            return None
        deviations_ms = (np.array(self._intervals_ns) - np.mean(self._intervals_ns)) / 1e6
        return float(np.sqrt(np.mean(deviations_ms**2))), float(np.abs(deviations_ms).max())

    @property
    def clock(self) -> Clock | None:
        """The time that passed on the camera's clock and on the host's; None: fewer than two frames have timestamps."""
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
    """Counts one camera's frames, and checks them against the line's frame rule."""

    def __init__(self, settings: CameraSettings) -> None:
        self._rule = FrameRule(settings.size, settings.pixel_format)
        self._formats: Counter[tuple[int, int, PixelFormat]] = Counter()
        self._last: NDArray[np.uint8] | None = None
        self.arrivals = Arrivals()
        self.losses: dict[str, Loss] = {}
        self.line_would_refuse: dict[str, Loss] = {}
        self.first: NDArray[np.uint8] | None = None
        """Picture of the first frame."""
        self.identical = 0
        """Frames that were identical to the one before to the last bit."""

    def add(self, frame: Frame) -> NDArray[np.uint8]:
        """Count a frame and release its memory; return a copy of its picture, grey [H, W] or RGB [H, W, 3]."""
        grey = frame.camera_format.startswith("Mono")
        picture = np.asarray(cv2.extractChannel(frame.image, 0) if grey else frame.image.copy(), np.uint8)
        checked = self._rule.check(frame)
        frame.release()
        self.arrivals.add(frame.stamp)
        height, width = picture.shape[:2]
        self._formats[width, height, frame.camera_format] += 1
        if isinstance(checked, BadFrame):
            _count(self.line_would_refuse, checked)
        if self._last is None:
            self.first = picture
        else:
            self.identical += np.array_equal(self._last, picture)
        self._last = picture
        return picture

    def add_loss(self, bad: BadFrame) -> None:
        """Count frames that were not delivered."""
        self.arrivals.record_loss()
        _count(self.losses, bad)

    @property
    def formats(self) -> list[Format]:
        """Each format that came, with its number of frames."""
        return [Format(*key, frames) for key, frames in self._formats.items()]


def _count(losses: dict[str, Loss], bad: BadFrame) -> None:
    before = losses.get(bad.reason, Loss(0, bad.detail))
    losses[bad.reason] = Loss(before.frames + bad.stamp.frames, before.detail)
