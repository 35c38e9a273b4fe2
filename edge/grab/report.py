"""What `heatline cameras grab` tells."""

import msgspec

from edge.cameras.settings import Trigger
from edge.colour import PixelFormat


class Clock(msgspec.Struct, frozen=True):
    """How long it took from the first frame to the last, by the camera's clock and by the host's, ms."""

    camera_ms: float
    host_ms: float


class Loss(msgspec.Struct, frozen=True):
    """Frames that did not come, or came and cannot be used, for one reason."""

    frames: int
    detail: str
    """Of the first of them."""


class Format(msgspec.Struct, frozen=True):
    """What frames looked like as the camera sent them."""

    width: int
    height: int
    pixel_format: PixelFormat
    frames: int


class Area(msgspec.Struct, frozen=True):
    """The picture of what will be inspected."""

    file: str
    tiles_looked_at: int
    tiles: int


class Grabbed(msgspec.Struct, frozen=True, kw_only=True):
    """What one camera sent."""

    found: str | None
    """In words; None: it could not be opened."""
    problem: str | None
    """Why fewer frames came than were asked for."""
    asked: int
    frames: int
    saved: list[str]
    not_saved: int
    """Frames that were not written, as the disk could not follow."""
    formats: list[Format]
    trigger: Trigger
    rate_fps: float | None
    """Of the frames that came, by their arrival at the host."""
    rate_set_fps: float | None
    """What the camera says that it is set to."""
    jitter_ms: float | None
    """Standard deviation of the time from one frame to the next; times in which a frame was lost are left out."""
    worst_jitter_ms: float | None
    """Of these times, how far the worst one was off their mean."""
    losses: dict[str, Loss]
    """By reason."""
    ids_show_gaps: bool
    """Whether its frame ids show what the camera lost; else such losses are not seen."""
    identical: int
    """Frames that were the same as the one before to the last bit."""
    died: list[str]
    """Why it died, each time."""
    counters: dict[str, int]
    """What its transport counted since it was opened, up to a moment after the last frame."""
    clock: Clock | None
    area: Area | None
    warnings: list[str]


class Report(msgspec.Struct, frozen=True):
    """All of it."""

    out: str
    cameras: dict[str, Grabbed]
