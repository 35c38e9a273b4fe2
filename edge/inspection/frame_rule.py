"""The size and pixel format that a camera's frames must have. A frame with another one is a fault of the line."""

from typing import Literal

from heatline.edge.colour import PixelFormat
from heatline.edge.frames import BadFrame, Frame

FrameSize = tuple[int, int] | Literal["first", "any"]
FrameFormat = PixelFormat | Literal["first", "any"]


class FrameRule:
    """Checks that all frames of one camera have the expected size and pixel format.

    Args:
        size_wh: width and height, px; `first`: those of the first frame; `any`: no check.
        pixel_format: a pixel format; `first` and `any` as above.
    """

    def __init__(self, size_wh: FrameSize = "first", pixel_format: FrameFormat = "first") -> None:
        self._size_wh, self._pixel_format = size_wh, pixel_format

    def check(self, frame: Frame) -> Frame | BadFrame:
        """Return the frame, or a `BadFrame` with the reason why it cannot be inspected."""
        size_wh = frame.image.shape[1], frame.image.shape[0]
        if self._size_wh not in ("first", "any", size_wh):
            return BadFrame(frame.stamp, "wrong_size", f"{_size(size_wh)} px came, {_size(self._size_wh)} px expected")
        if self._pixel_format not in ("first", "any", frame.camera_format):
            return BadFrame(frame.stamp, "wrong_colour", f"{frame.camera_format} came, {self._pixel_format} expected")
        # Only a frame that passes sets the size and format for the frames after it.
        if self._size_wh == "first":
            self._size_wh = size_wh
        if self._pixel_format == "first":
            self._pixel_format = frame.camera_format
        return frame


def _size(size_wh: tuple[int, int] | str) -> str:
    return "x".join(map(str, size_wh)) if isinstance(size_wh, tuple) else size_wh
