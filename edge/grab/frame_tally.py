"""What one camera's frames were like, and which of them did not come."""

from collections import Counter

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.cameras.settings import CameraSettings
from edge.colour import PixelFormat
from edge.frames import BadFrame, Frame
from edge.grab.arrivals import Arrivals
from edge.grab.report import Format, Loss
from edge.inspection.frame_rule import FrameRule


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
