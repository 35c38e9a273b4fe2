"""Receives one camera's frames: checks each, assigns the part that it shows, and queues it for `grab`."""

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Literal

from heatline.edge.cameras.liveness import Fault, Liveness
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.cameras.triggering import TriggerTracker
from heatline.edge.frames import BadFrame, Frame


class FrameIntake:
    """Receives the frames of one camera, over all its openings, on the thread that grabs.

    Args:
        count_captured: returns how many of the camera's frames are in the ledger; those that wait here follow.
    """

    def __init__(self, settings: CameraSettings, count_captured: Callable[[], int]) -> None:
        self.waiting: deque[Frame | BadFrame] = deque()
        """Items for `grab`: frames, and reports of frames that were announced and cannot be delivered."""
        self.liveness = Liveness(settings)
        self.triggering = TriggerTracker(settings, self.waiting.append, self._last_frame_number)
        self._count_captured = count_captured

    def accept(self, item: Frame | BadFrame, now_ns: int) -> Fault | None:
        """Queue a frame. Return a fault if the frame cannot be trusted; its pixels are released then."""
        fault = None
        try:
            gap = self.liveness.gap(item.stamp)
        except ValueError as error:
            gap, fault = None, Fault("frame_ids", f"its frame ids are not consecutive: {error}")
        digest = item.digest if isinstance(item, Frame) else None
        fault = self.liveness.check_frame(item.stamp, digest, now_ns) or fault
        item = self.triggering.assign_part(item, gap, self.liveness.taken_ns)
        if fault is None:
            self.waiting.append(item)
        else:
            self._discard(item, fault.reason, fault.detail, "failed")
        return fault

    def accept_late(
        self, item: Frame | BadFrame, reason: str, detail: str, kind: Literal["dropped", "failed"], *, keep: bool
    ) -> None:
        """Queue a frame that came while the camera was closed, or discard it for this reason unless `keep` is set."""
        gap = None
        with contextlib.suppress(ValueError):
            gap = self.liveness.gap(item.stamp)
        item = self.triggering.assign_part(item, gap, item.stamp.captured_monotonic_ns)
        if keep:
            self.waiting.append(item)
        else:
            self._discard(item, reason, detail, kind)

    def _discard(self, item: Frame | BadFrame, reason: str, detail: str, kind: Literal["dropped", "failed"]) -> None:
        if isinstance(item, Frame):
            item.release()
            item = BadFrame(item.stamp, reason, detail, kind)
        self.waiting.append(item)

    def _last_frame_number(self) -> int:
        """Return the number that the ledger will give to the last frame that waits."""
        return self._count_captured() + sum(item.stamp.frames for item in self.waiting)
