"""What a camera hands over: a frame, or word of frames that it announced and did not deliver whole."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.colour import PixelFormat


@dataclass(frozen=True)
class Stamp:
    """Which frame, or which run of frames that were lost, and when.

    Both clocks are read at capture: the monotonic one for durations, UTC for people.
    """

    camera: str
    frame_id: int | None
    """The camera's own number: it may wrap, and begins again when the camera does. None: no frame came at all."""
    source: str | None = None
    """Where the frame comes from, for cameras that replay files: the file's name."""
    camera_timestamp_ns: int | None = None
    captured_at_ns: int = field(default_factory=time.time_ns)
    captured_monotonic_ns: int = field(default_factory=time.monotonic_ns)
    last_frame_id: int | None = None
    """Of a run of frames, the last one's; `frame_id` is the first one's."""
    frames: int = 1
    """How many frames it stands for."""
    number: int = 0
    """The ledger's number of the (first) frame; 0 before it is in the ledger."""
    part_id: str | None = None
    due_monotonic_ns: int | None = None
    """When the verdict must be out; None: whenever it is ready."""
    chunks: Mapping[str, float] = field(default_factory=dict)
    """What the camera says of this frame itself, by the name of its chunk."""

    def is_followed_by(self, other: "Stamp") -> bool:
        """Whether the other's frame ids go on where this one's end; 16-bit ids begin again at 1."""
        last = self.frame_id if self.last_frame_id is None else self.last_frame_id
        return last is not None and other.frame_id in (last + 1, 1 if last == 65535 else last + 1)

    def with_number(self, number: int) -> "Stamp":
        """The same, with its number in the ledger."""
        return replace(self, number=number)

    def extended_to(self, last: "Stamp") -> "Stamp":
        """The run of frames from this one, or from this run, through the one or the run that comes right after."""
        return replace(
            self,
            frames=self.frames + last.frames,
            last_frame_id=last.frame_id if last.last_frame_id is None else last.last_frame_id,
        )


class Watermark(NamedTuple):
    """How far a camera's frames were told of."""

    boot_id: str
    frame_number: int
    """Of the last frame with an event, as that boot's ledger counts."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Frame:
    """One camera image: [H, W] or [H, W, C]."""

    stamp: Stamp
    image: NDArray[np.uint8] | NDArray[np.uint16]
    pixel_format: PixelFormat
    """Of `image`."""
    sent_as: PixelFormat | None = None
    """What the camera sent, where `image` has been converted since."""
    release: Callable[[], None] = field(default=_nothing, compare=False)
    """To be called once `image` is no longer looked at: its memory is then used for another frame."""

    @property
    def camera_format(self) -> PixelFormat:
        """The pixel format in which the camera sent it."""
        return self.sent_as or self.pixel_format


@dataclass(frozen=True)
class BadFrame:
    """A frame, or a run of frames, that the camera announced and that cannot be inspected."""

    stamp: Stamp
    reason: str
    """The ledger's bin, one word."""
    detail: str
    """What came and what was expected, for people."""
    kind: Literal["dropped", "failed"] = "failed"
