"""Decides whether a camera is alive: only new frames prove it."""

from collections import deque
from dataclasses import dataclass
from statistics import median

from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.camera_clock import CameraClock
from heatline.edge.cameras.frame_ids import FrameIds, Gap
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.frames import Stamp

ASK_EVERY_SECONDS = 1.0
"""Time from one health request to a camera's process to the next."""
ANSWER_WITHIN_SECONDS = 2.0
CAMERA_ANSWERS_WITHIN_SECONDS = 8.0
"""A register read of a missing camera fails after 2.5 s, or after 5 s if it waits for another read."""
FIRST_FRAME_WITHIN_SECONDS = 5.0
MIN_SILENCE_SECONDS = 0.5
"""Lower limit for fast cameras: a shorter silence may be caused by the host."""
STILL_CLOCK_FRAMES = 3
MISSED_TRIGGERS = 3
_PERIODS_KEPT = 16


@dataclass(frozen=True)
class Fault:
    """A fault of a camera: one word for the reason, and a sentence with what came and what was expected."""

    reason: str
    detail: str
    closes: bool = True
    """Whether to close the camera. A camera that was closed for this fault before first gets the chance to prove that
    the fault is over; until then its frames are not trusted."""


class Liveness:
    """Checks the frames of one camera, over all its openings. Times are the host's monotonic clock, ns.

    It reads no clock itself, so that tests need no camera.
    """

    def __init__(self, settings: CameraSettings) -> None:
        self._settings = settings
        self._digest: int | None = None
        self._identical = 0
        self._clock_stands = False
        self.taken_ns = 0
        """Estimate of when the last frame was taken, on the host's monotonic clock, ns."""
        self.begin(Opened(found=""), 0)

    def begin(self, opened: Opened, now_ns: int) -> None:
        """Reset all but the memory of a frozen picture and of a clock that stands still: the camera was opened."""
        self._opened = opened
        self._clock = CameraClock()
        self._ids = FrameIds(opened.highest_frame_id)
        self._last_timestamp: int | None = None
        self._still = 0
        self._identical_since_opening = -1  # the first picture has no predecessor
        self._missed_triggers = 0
        self._periods: deque[int] = deque(maxlen=_PERIODS_KEPT)
        self._opened_ns = now_ns
        self._last_frame_ns: int | None = None
        self._last_captured_ns: int | None = None
        self.taken_ns = now_ns

    def extend_deadlines(self, by_ns: int) -> None:
        """Do not count a time in which the line itself took no frames as silence of the camera."""
        self._opened_ns += by_ns
        if self._last_frame_ns is not None:
            self._last_frame_ns += by_ns

    def gap(self, stamp: Stamp) -> Gap | None:
        """Return the frames that are missing before this one.

        Raises:
            ValueError: its id runs back, stands still or leaps.
        """
        if not self._opened.ids_show_gaps or stamp.frame_id is None:
            return None
        return self._ids.next(stamp.frame_id, stamp.last_frame_id)

    def check_frame(self, stamp: Stamp, digest: int | None, now_ns: int) -> Fault | None:
        """Record a frame; return a fault if the frame cannot be trusted."""
        if self._last_captured_ns is not None:
            self._periods.append(stamp.captured_monotonic_ns - self._last_captured_ns)
        self._last_captured_ns, self._last_frame_ns = stamp.captured_monotonic_ns, now_ns
        self._missed_triggers = 0
        frozen = self._check_picture(digest)
        return self._check_clock(stamp) or frozen

    def record_missed_trigger(self) -> Fault | None:
        """Count a trigger that brought no frame; return a fault if there were too many in a row."""
        self._missed_triggers += 1
        if self._missed_triggers < MISSED_TRIGGERS:
            return None
        return Fault("silent", f"{self._missed_triggers} triggers one after the other brought no frame")

    def check_silence(self, now_ns: int) -> Fault | None:
        """Return a fault if the camera has been silent for too long. Triggered cameras and file cameras may be."""
        if self._settings.triggered != "free" or self._settings.is_file_source:
            return None
        if self._last_frame_ns is None:
            waited, limit = now_ns - self._opened_ns, self._first_frame_within_ns()
        else:
            waited, limit = now_ns - self._last_frame_ns, self._silent_after_ns()
        if waited <= limit:
            return None
        return Fault("silent", f"no frame came for {waited / 1e9:.1f} s, {limit / 1e9:.1f} s were expected at most")

    def quiet_for_ns(self, now_ns: int) -> int:
        """Return the time since the last frame, or since the camera was opened."""
        return now_ns - (self._opened_ns if self._last_frame_ns is None else self._last_frame_ns)

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

    def _check_clock(self, stamp: Stamp) -> Fault | None:
        timestamp, last = stamp.camera_timestamp_ns, self._last_timestamp
        self.taken_ns = stamp.captured_monotonic_ns
        if timestamp is None:
            return None
        self._last_timestamp = timestamp
        if last is not None and timestamp < last:
            return Fault("clock", f"the camera's clock ran back by {(last - timestamp) / 1e6:.3f} ms")
        self._still = self._still + 1 if timestamp == last else 0
        closes = self._still >= STILL_CLOCK_FRAMES
        self._clock_stands = closes or (self._clock_stands and (last is None or timestamp == last))
        if self._clock_stands:
            return Fault("clock", "the camera's clock stood still", closes)
        age_ns = self._clock.age_ns(timestamp, stamp.captured_monotonic_ns)
        self.taken_ns -= age_ns
        age_ms = age_ns / 1e6
        if age_ms > self._settings.stale_after_ms:
            return Fault(
                "stale",
                f"the frame was {age_ms:.0f} ms old when it arrived, {self._settings.stale_after_ms:g} ms were "
                "expected at most",
            )
        return None

    def _silent_after_ns(self) -> float:
        period_ns = self._period_ns()
        if period_ns is None:
            return FIRST_FRAME_WITHIN_SECONDS * 1e9
        return max(self._settings.silent_after_periods * period_ns, MIN_SILENCE_SECONDS * 1e9)

    def _first_frame_within_ns(self) -> float:
        return max(FIRST_FRAME_WITHIN_SECONDS * 1e9, self._silent_after_ns())

    def _period_ns(self) -> float | None:
        stated = None if self._opened.period_s is None else self._opened.period_s * 1e9
        measured = median(self._periods) if len(self._periods) >= 3 else None
        # The longer one: a camera may be slower than its setting, e.g. by its exposure.
        return max((period for period in (stated, measured) if period is not None), default=None)
