"""When one camera's frames arrived: rate, jitter, and how the camera's clock ran beside the host's."""

import msgspec
import numpy as np

from edge.frames import Stamp


class Clock(msgspec.Struct, frozen=True):
    """How long it took from the first frame to the last, by the camera's clock and by the host's, ms."""

    camera_ms: float
    host_ms: float


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
