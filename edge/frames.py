"""What a camera delivers: a frame, or a report of frames that it announced and did not deliver complete."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heatline.edge.colour import PixelFormat


@dataclass(frozen=True)
class Stamp:
    """Identity and time of a frame, or of a run of frames that were lost.

    Both clocks are read at capture: the monotonic one for durations, UTC for people.
    """

    camera: str
    frame_id: int | None
    """The camera's own number. It may wrap, and restarts with the camera. None: no frame came at all."""
    source: str | None = None
    """The file's name, for cameras that show files."""
    camera_timestamp_ns: int | None = None
    captured_at_ns: int = field(default_factory=time.time_ns)
    captured_monotonic_ns: int = field(default_factory=time.monotonic_ns)
    last_frame_id: int | None = None
    """The id of the last frame of a run; `frame_id` is that of the first."""
    frames: int = 1
    """Number of frames in the run."""
    number: int = 0
    """The ledger's number of the (first) frame; 0 before it is in the ledger."""
    part_id: str | None = None
    due_monotonic_ns: int | None = None
    """Deadline of the verdict on the host's monotonic clock; None: no deadline."""
    chunks: Mapping[str, float] = field(default_factory=dict)
    """Values that the camera measured for this frame, by the name of the chunk."""

    def is_followed_by(self, other: "Stamp") -> bool:
        """Return whether the other's frame ids follow directly on this one's; 16-bit ids wrap to 1."""
        last = self.frame_id if self.last_frame_id is None else self.last_frame_id
        return last is not None and other.frame_id in (last + 1, 1 if last == 65535 else last + 1)

    @property
    def last_number(self) -> int:
        """The ledger's number of the last frame."""
        return self.number + self.frames - 1

    def with_number(self, number: int) -> "Stamp":
        """Return a copy with its number in the ledger."""
        return replace(self, number=number)

    def extended_to(self, last: "Stamp") -> "Stamp":
        """Return the run of frames from this frame or run to `last`, the frame or run that follows directly."""
        return replace(
            self,
            frames=self.frames + last.frames,
            last_frame_id=last.frame_id if last.last_frame_id is None else last.last_frame_id,
        )


class Watermark(NamedTuple):
    """How far a camera's frames are reported."""

    boot_id: str
    frame_number: int
    """Number of the last frame with an event, in that boot's ledger."""


@dataclass(frozen=True)
class Frame:
    """One camera image: [H, W] or [H, W, C]."""

    stamp: Stamp
    image: NDArray[np.uint8] | NDArray[np.uint16]
    pixel_format: PixelFormat
    """Format of `image`."""
    sent_as: PixelFormat | None = None
    """The format that the camera sent, if `image` was converted since."""
    digest: int | None = field(default=None, compare=False, kw_only=True)
    """Checksum of the pixels as the camera sent them, if its settings require one."""
    release: Callable[[], None] = field(default=lambda: None, compare=False)
    """Call this when `image` is no longer used: its memory then holds another frame."""

    @property
    def camera_format(self) -> PixelFormat:
        """The pixel format in which the camera sent it."""
        return self.sent_as or self.pixel_format


@dataclass(frozen=True)
class BadFrame:
    """A frame, or a run of frames, that the camera announced and that cannot be inspected."""

    stamp: Stamp
    reason: str
    """One word: the ledger's bin."""
    detail: str
    """For people: what came and what was expected."""
    kind: Literal["dropped", "failed"] = "failed"


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
