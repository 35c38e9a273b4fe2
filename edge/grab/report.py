"""The report of `heatline cameras grab`."""

import msgspec

from heatline.edge.cameras.settings import Trigger
from heatline.edge.colour import PixelFormat


class Clock(msgspec.Struct, frozen=True):
    """Time from the first frame to the last, by the camera's clock and by the host's, ms."""

    camera_ms: float
    host_ms: float


class Loss(msgspec.Struct, frozen=True):
    """Frames that did not come, or cannot be used, for one reason."""

    frames: int
    detail: str
    """Detail of the first one."""


class Format(msgspec.Struct, frozen=True):
    """Size and pixel format of frames as the camera sent them."""

    width: int
    height: int
    pixel_format: PixelFormat
    frames: int


class Area(msgspec.Struct, frozen=True):
    """The picture of the region of interest."""

    file: str
    tiles_looked_at: int
    tiles: int


class Grabbed(msgspec.Struct, frozen=True, kw_only=True):
    """Frames that one camera sent."""

    found: str | None
    """Description of the camera; None: it could not be opened."""
    problem: str | None
    """Why fewer frames came than requested; None: all came."""
    asked: int
    frames: int
    saved: list[str]
    not_saved: int
    """Frames that were not written, since the disk was too slow."""
    formats: list[Format]
    trigger: Trigger
    rate_fps: float | None
    """Rate of the frames that came, by their arrival at the host."""
    rate_set_fps: float | None
    """Rate that the camera states."""
    jitter_ms: float | None
    """Standard deviation of the intervals between frames, without intervals in which a frame was lost."""
    worst_jitter_ms: float | None
    """Largest deviation of such an interval from their mean."""
    losses: dict[str, Loss]
    """Losses by reason."""
    ids_show_gaps: bool
    """Whether frame ids show what the camera lost; otherwise such losses are not noticed."""
    identical: int
    """Frames that were identical to the one before to the last bit."""
    died: list[str]
    """Reason of each death of the camera."""
    counters: dict[str, int]
    """Counters of the transport since the camera was opened, read shortly after the last frame."""
    clock: Clock | None
    area: Area | None
    warnings: list[str]


class Report(msgspec.Struct, frozen=True):
    """Reports of all cameras."""

    out: str
    cameras: dict[str, Grabbed]
