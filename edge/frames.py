"""What a camera hands over: a frame, or word of a frame that it could not deliver whole."""

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge.colour import PixelFormat


@dataclass(frozen=True)
class Stamp:
    """Which frame, and when. Both clocks are read at capture: the monotonic one for durations, UTC for people."""

    camera: str
    frame_id: int
    source: str | None = None
    """Where the frame comes from, for cameras that replay files: the file's name."""
    camera_timestamp_ns: int | None = None
    captured_at_ns: int = field(default_factory=time.time_ns)
    captured_monotonic_ns: int = field(default_factory=time.monotonic_ns)


@dataclass(frozen=True)
class Frame:
    """One camera image, as the camera sent it: [H, W] or [H, W, C]."""

    stamp: Stamp
    image: NDArray[np.uint8] | NDArray[np.uint16]
    pixel_format: PixelFormat


@dataclass(frozen=True)
class BadFrame:
    """A frame that the camera announced and that cannot be inspected."""

    stamp: Stamp
    reason: str
    """The ledger's bin, one word."""
    detail: str
    """What came and what was expected, for people."""
