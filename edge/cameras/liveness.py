"""Decides whether a camera is alive: only new frames prove it."""

from collections import deque
from dataclasses import dataclass
from statistics import median

from heatline.edge.cameras.base import HIGHEST_16_BIT_ID, Opened
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.frames import Stamp

FIRST_FRAME_WITHIN_SECONDS = 5.0
MIN_SILENCE_SECONDS = 0.5
"""Lower limit for fast cameras: a shorter silence may be caused by the host."""
MISSED_TRIGGERS = 3
MAX_LOST_FRAMES = 32767
"""A larger step from one id to the next is not a loss: the camera has restarted its count."""
SKEW = 500e-6
"""Upper limit of the drift between two quartz clocks. A delay that grows faster is a real delay."""


@dataclass(frozen=True)
class Fault:
    """A fault of a camera: a word, and a sentence with what came and what was expected."""

    reason: str
    detail: str
    closes: bool = True
    """Whether to close the camera. A camera that was closed for this fault before first gets the chance to prove that
    the fault is over; until then its frames are not trusted."""


class CameraClock:
    """Estimates the offset between a camera's clock and the host's from the fastest frames.

    The offset is at most (arrival - timestamp) of any frame; the minimum is the best estimate. As the clocks drift
    apart, the estimate may rise, but no faster than `SKEW`. A timestamp that runs back begins a new estimate.
    """

    def __init__(self) -> None:
        self._offset_ns: int | None = None
        """An integer: a float that counts ns since 1970 cannot rise by less than 256."""
        self._at_ns = self._timestamp_ns = 0

    def age_ns(self, camera_timestamp_ns: int, arrived_ns: int) -> int:
        """Return how much longer than the fastest frame this one took, ns. It arrived on the host's monotonic clock."""
        offset = arrived_ns - camera_timestamp_ns
        if self._offset_ns is None or camera_timestamp_ns < self._timestamp_ns:
            self._offset_ns = offset
        else:
            self._offset_ns = min(offset, self._offset_ns + round(SKEW * (arrived_ns - self._at_ns)))
        self._at_ns, self._timestamp_ns = arrived_ns, camera_timestamp_ns
        return offset - self._offset_ns


class Liveness:
    """Checks the frames of one camera, over all its openings. `now_ns` is the monotonic time when the line reads what
    came: while it reads nothing, the camera is not silent.
    """

    def __init__(self, settings: CameraSettings) -> None:
        self._settings = settings
        self._digest: int | None = None
        self._identical = 0
        self.taken_ns = 0
        """Estimate of when the last frame was taken, on the host's monotonic clock, ns."""
        self.begin(Opened(found=""), 0)

    def begin(self, opened: Opened, now_ns: int) -> None:
        """Reset all but the memory of a frozen picture: the camera was opened."""
        self._opened = opened
        self._clock = CameraClock()
        self._last_id: int | None = None
        self._identical_since_opening = -1  # the first picture has no predecessor
        self._missed_triggers = 0
        self._periods: deque[int] = deque(maxlen=16)
        self._last_captured_ns: int | None = None
        self._quiet_since_ns = now_ns

    def missing_ids(self, stamp: Stamp) -> tuple[list[int], Fault | None]:
        """Return the ids of the frames that are missing before this one, or a fault if ids run back, stand still or
        leap, so that they are unknown. Ids may wrap from 65535 to 1.
        """
        frame_id = stamp.frame_id
        if not self._opened.ids_show_gaps or frame_id is None:
            return [], None
        last = frame_id - 1 if self._last_id is None else self._last_id
        self._last_id = frame_id if stamp.last_frame_id is None else stamp.last_frame_id
        wraps = frame_id < last <= HIGHEST_16_BIT_ID  # or steps back, which is a very long step forward then
        step = frame_id - last + HIGHEST_16_BIT_ID * wraps
        if not 0 < step <= MAX_LOST_FRAMES:
            return [], Fault("frame_ids", f"its frame ids are not consecutive: frame id {frame_id} came after {last}")
        return [
            (missed - 1) % HIGHEST_16_BIT_ID + 1 if wraps else missed for missed in range(last + 1, last + step)
        ], None

    def check_frame(self, stamp: Stamp, digest: int | None, now_ns: int) -> Fault | None:
        """Record a frame; return why it cannot be trusted."""
        if self._last_captured_ns is not None:
            self._periods.append(stamp.captured_monotonic_ns - self._last_captured_ns)
        self._last_captured_ns, self._quiet_since_ns = stamp.captured_monotonic_ns, now_ns
        self._missed_triggers = 0
        frozen = self._check_picture(digest)
        return self._check_age(stamp) or frozen

    def record_missed_trigger(self) -> Fault | None:
        """Count a trigger that brought no frame; return a fault if there were too many in a row."""
        self._missed_triggers += 1
        if self._missed_triggers < MISSED_TRIGGERS:
            return None
        return Fault("silent", f"{self._missed_triggers} triggers one after the other brought no frame")

    def check_silence(self, now_ns: int) -> Fault | None:
        """Return a fault of a camera that runs freely and has been silent for too long."""
        if self._settings.triggered != "free" or self._settings.is_file_source:
            return None
        # Of the stated period and the measured one the longer counts: a camera may be slower than its setting.
        measured_s = median(self._periods) / 1e9 if len(self._periods) >= 3 else 0.0
        period_s = max(self._opened.period_s or 0.0, measured_s)
        is_known = period_s > 0 and self._last_captured_ns is not None
        least_s = MIN_SILENCE_SECONDS if is_known else FIRST_FRAME_WITHIN_SECONDS
        limit_s = max(self._settings.silent_after_periods * period_s, least_s)
        waited_s = self.quiet_for_ns(now_ns) / 1e9
        if waited_s <= limit_s:
            return None
        return Fault("silent", f"no frame came for {waited_s:.1f} s, {limit_s:.1f} s were expected at most")

    def quiet_for_ns(self, now_ns: int) -> int:
        """Return the time since the last frame, or since the camera was opened."""
        return now_ns - self._quiet_since_ns

    def _check_picture(self, digest: int | None) -> Fault | None:
        limit = self._settings.frozen_after_frames
        if not limit or digest is None:
            return None
        same = digest == self._digest
        self._identical = self._identical + 1 if same else 0
        self._identical_since_opening = self._identical_since_opening + 1 if same else 0
        self._digest = digest
        if self._identical < limit:
            return None
        return Fault(
            "frozen",
            f"more than {limit} frames one after the other were identical to the last bit",
            closes=self._identical_since_opening >= limit,
        )

    def _check_age(self, stamp: Stamp) -> Fault | None:
        self.taken_ns = stamp.captured_monotonic_ns
        if stamp.camera_timestamp_ns is None:
            return None
        age_ns = self._clock.age_ns(stamp.camera_timestamp_ns, stamp.captured_monotonic_ns)
        self.taken_ns -= age_ns
        limit_ms = self._settings.stale_after_ms
        if age_ns <= limit_ms * 1e6:
            return None
        return Fault(
            "stale", f"the frame was {age_ns / 1e6:.0f} ms old when it arrived, {limit_ms:g} ms were expected at most"
        )
