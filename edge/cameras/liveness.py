"""Whether a camera is alive: only new frames show that it is."""

from collections import deque
from dataclasses import dataclass
from statistics import median

from edge.cameras.base import Opened
from edge.cameras.camera_clock import CameraClock
from edge.cameras.frame_ids import FrameIds, Gap
from edge.cameras.settings import CameraSettings
from edge.frames import Stamp

ASK_EVERY_SECONDS = 1.0
"""How often a camera's process is asked whether it is there."""
ANSWER_WITHIN_SECONDS = 2.0
CAMERA_ANSWERS_WITHIN_SECONDS = 8.0
"""A register read of a camera that is gone gives up after 2.5 s, or after 5 s where it waits for another one."""
FIRST_FRAME_WITHIN_SECONDS = 5.0
LEAST_SILENCE_SECONDS = 0.5
"""However fast a camera is: shorter than this, silence may be the host's own doing."""
STILL_CLOCK_FRAMES = 3
MISSED_TRIGGERS = 3
_PERIODS_KEPT = 16


@dataclass(frozen=True)
class Fault:
    """What is wrong with a camera: one word, and what came and what was expected."""

    reason: str
    detail: str
    closes: bool = True
    """Whether the camera is to be closed for it. A camera that was closed for it before is first given the chance to
    show that it is over; its frames are not to be trusted until then."""


class Liveness:
    """Watches one camera, over all its openings. Times are the host's monotonic clock, ns; there is no other input, so
    that it can be tested without a camera.
    """

    def __init__(self, settings: CameraSettings) -> None:
        self._settings = settings
        self._digest: int | None = None
        self._identical = 0
        self._clock_stands = False
        self.taken_ns = 0
        """When the last frame was taken, as far as can be known: on the host's monotonic clock."""
        self.begin(Opened(found=""), 0)

    def begin(self, opened: Opened, now_ns: int) -> None:
        """The camera was opened. That its picture is frozen or its clock stands still is not forgotten by that."""
        self._opened = opened
        self._clock = CameraClock()
        self._ids = FrameIds(opened.highest_frame_id)
        self._last_timestamp: int | None = None
        self._still = 0
        self._identical_since_opening = -1  # its first picture has none before it
        self._missed_triggers = 0
        self._periods: deque[int] = deque(maxlen=_PERIODS_KEPT)
        self._opened_ns = now_ns
        self._last_frame_ns: int | None = None
        self._last_captured_ns: int | None = None
        self.taken_ns = now_ns

    def held_up(self, for_ns: int) -> None:
        """The line itself did not take frames for so long: that is no silence of the camera."""
        self._opened_ns += for_ns
        if self._last_frame_ns is not None:
            self._last_frame_ns += for_ns

    def gap(self, stamp: Stamp) -> Gap | None:
        """Which frames are missing before this one.

        Raises:
            ValueError: its id runs back, stands still or leaps.
        """
        if not self._opened.ids_show_gaps or stamp.frame_id is None:
            return None
        return self._ids.next(stamp.frame_id, stamp.last_frame_id)

    def frame(self, stamp: Stamp, digest: int | None, now_ns: int) -> Fault | None:
        """A frame came; why it is not to be trusted, if so."""
        if self._last_captured_ns is not None:
            self._periods.append(stamp.captured_monotonic_ns - self._last_captured_ns)
        self._last_captured_ns, self._last_frame_ns = stamp.captured_monotonic_ns, now_ns
        self._missed_triggers = 0
        frozen = self._frozen(digest)
        return self._wrong_time(stamp) or frozen

    def missed_trigger(self) -> Fault | None:
        """A trigger brought no frame."""
        self._missed_triggers += 1
        if self._missed_triggers < MISSED_TRIGGERS:
            return None
        return Fault("silent", f"{self._missed_triggers} triggers one after the other brought no frame")

    def silence(self, now_ns: int) -> Fault | None:
        """Whether it has been silent for too long; a camera that waits for triggers and one that replays may be."""
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
        """How long ago the last frame came, or the camera was opened."""
        return now_ns - (self._opened_ns if self._last_frame_ns is None else self._last_frame_ns)

    def _frozen(self, digest: int | None) -> Fault | None:
        most = self._settings.frozen_after_frames
        if not most or digest is None:
            return None
        same = digest == self._digest
        self._identical = self._identical + 1 if same else 0
        self._identical_since_opening = self._identical_since_opening + 1 if same else 0
        self._digest = digest
        if self._identical < most:
            return None
        return Fault(
            "frozen",
            f"more than {most} frames one after the other were identical to the last bit",
            closes=self._identical_since_opening >= most,
        )

    def _wrong_time(self, stamp: Stamp) -> Fault | None:
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
        return max(self._settings.silent_after_periods * period_ns, LEAST_SILENCE_SECONDS * 1e9)

    def _first_frame_within_ns(self) -> float:
        return max(FIRST_FRAME_WITHIN_SECONDS * 1e9, self._silent_after_ns())

    def _period_ns(self) -> float | None:
        told = None if self._opened.period_s is None else self._opened.period_s * 1e9
        seen = median(self._periods) if len(self._periods) >= 3 else None
        # A camera may be slower than it was set to be, e.g. by its exposure: that alone is no silence.
        return max((one for one in (told, seen) if one is not None), default=None)
