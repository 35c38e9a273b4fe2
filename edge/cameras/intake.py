"""What a camera's frames are: each that comes is checked, gets the part that it shows, and waits to be grabbed."""

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Literal

from edge.cameras.liveness import Fault, Liveness
from edge.cameras.settings import CameraSettings
from edge.cameras.triggering import Triggering
from edge.frames import BadFrame, Frame


class Intake:
    """Takes in the frames of one camera, over all its openings, on the thread that grabs.

    Args:
        captured: how many frames of it the ledger has: what waits here comes after them.
    """

    def __init__(self, settings: CameraSettings, captured: Callable[[], int]) -> None:
        self.waiting: deque[Frame | BadFrame] = deque()
        """To be grabbed: frames, and word of frames that were announced and cannot be had."""
        self.liveness = Liveness(settings)
        self.triggering = Triggering(settings, self.waiting.append, self._announced)
        self._captured = captured

    def take(self, item: Frame | BadFrame, digest: int | None, now_ns: int) -> Fault | None:
        """A frame came; why it is not to be trusted, if so: then its pixels are given up."""
        fault = None
        try:
            gap = self.liveness.gap(item.stamp)
        except ValueError as error:
            gap, fault = None, Fault("frame_ids", f"its frame ids cannot be followed: {error}")
        fault = self.liveness.frame(item.stamp, digest, now_ns) or fault
        item = self.triggering.frame(item, gap, self.liveness.taken_ns)
        if fault is None:
            self.waiting.append(item)
        else:
            self._give_up(item, fault.reason, fault.detail, "failed")
        return fault

    def take_left_over(
        self, item: Frame | BadFrame, reason: str, detail: str, kind: Literal["dropped", "failed"], *, keep: bool
    ) -> None:
        """A frame came while the camera was being closed: it is kept, or given up for this reason."""
        gap = None
        with contextlib.suppress(ValueError):
            gap = self.liveness.gap(item.stamp)
        item = self.triggering.frame(item, gap, item.stamp.captured_monotonic_ns)
        if keep:
            self.waiting.append(item)
        else:
            self._give_up(item, reason, detail, kind)

    def _give_up(self, item: Frame | BadFrame, reason: str, detail: str, kind: Literal["dropped", "failed"]) -> None:
        if isinstance(item, Frame):
            item.release()
            item = BadFrame(item.stamp, reason, detail, kind)
        self.waiting.append(item)

    def _announced(self) -> int:
        """The ledger's number of the last frame that waits."""
        return self._captured() + sum(item.stamp.frames for item in self.waiting)
