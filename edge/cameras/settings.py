"""Camera settings of a line's configuration, one struct per kind. docs/cameras.md describes every key."""

import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from heatline.edge.colour import PixelFormat
from heatline.edge.errors import ConfigError
from heatline.edge.geometry.region_of_interest import RegionOfInterest

Name = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z", description="1 to 64 letters, digits, hyphens and underscores")
]
"""Part of topics, so it has no dots."""
Size = Annotated[int, Meta(ge=1, le=65535)]
Px = Annotated[int, Meta(ge=0, le=65535)]
DrawnPx = Annotated[int, Meta(ge=1, le=8192)]
Nth = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0, le=10000)]
Milliseconds = Annotated[float, Meta(gt=0, le=3.6e6)]
FrameCount = Annotated[int, Meta(ge=0, le=100_000)]
Polygon = Annotated[list[tuple[Px, Px]], Meta(min_length=3, max_length=1000)]
PRELOADED_WITHIN_SECONDS = 600.0
Trigger = Literal["free", "software", "hardware"]
Policy = Literal["block", "drop_oldest", "drop_newest"]
"""Which frame is dropped when frames come faster than they are inspected (`heatline.edge.inspection.ledger`)."""


class _Camera(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Settings of every kind of camera."""

    name: Name
    size: tuple[Size, Size] | Literal["first", "any"] = "first"
    pixel_format: PixelFormat | Literal["first", "any"] = "first"
    on_overload: Policy = "drop_oldest"
    waiting_frames: Annotated[int, Meta(ge=1, le=64)] = 2
    deadline_ms: Milliseconds | None = None
    roi: list[Polygon] = []
    """Polygons in px (x, y); an empty list: the whole frame."""
    exclude: list[Polygon] = []
    silent_after_periods: Annotated[float, Meta(ge=2, le=10000)] = 5.0
    frozen_after_frames: FrameCount = 3
    stale_after_ms: Milliseconds = 1000.0

    is_file_source: ClassVar[bool] = False
    """Whether the camera shows files: a missing file is an error of the configuration, not a dead camera."""

    @property
    def region_of_interest(self) -> RegionOfInterest:
        return RegionOfInterest.from_polygons(self.roi, self.exclude)

    @property
    def triggered(self) -> Trigger:
        """What makes the camera take a frame."""
        return "free"

    @property
    def part_within_s(self) -> float:
        """How long a part waits for its frame."""
        return 1.0

    @property
    def opened_within_s(self) -> float:
        """Time limit for opening the camera."""
        return 20.0


class _Triggerable(_Camera, frozen=True, kw_only=True):
    """A camera that can take a frame on a trigger."""

    trigger: Trigger = "free"
    trigger_timeout_ms: Milliseconds = 1000.0

    @property
    def triggered(self) -> Trigger:
        return self.trigger

    @property
    def part_within_s(self) -> float:
        # The part's event must be published at the deadline, with or without its frame.
        within = self.trigger_timeout_ms if self.deadline_ms is None else min(self.trigger_timeout_ms, self.deadline_ms)
        return within / 1e3


class FolderSettings(_Camera, frozen=True, kw_only=True, tag="folder"):
    """A camera that shows the pictures of a folder."""

    path: Path
    rate_fps: Rate | None = None
    loop: bool = False
    preload: bool = False
    """Read all pictures before the first is shown, and show them from memory."""
    on_overload: Policy = "block"
    frozen_after_frames: FrameCount = 0

    is_file_source: ClassVar[bool] = True

    @property
    def opened_within_s(self) -> float:
        return PRELOADED_WITHIN_SECONDS if self.preload else super().opened_within_s


class VideoSettings(_Camera, frozen=True, kw_only=True, tag="video"):
    """A camera that shows a video file."""

    path: Path
    rate_fps: Rate | None = None
    """None: the rate that the file states."""
    loop: bool = False
    on_overload: Policy = "block"
    frozen_after_frames: FrameCount = 0

    is_file_source: ClassVar[bool] = True


class PatternSettings(_Triggerable, frozen=True, kw_only=True, tag="pattern"):
    """A simulated camera whose pixels hold frame id and position; it fails on purpose, for rehearsals and tests."""

    draw_size: tuple[DrawnPx, DrawnPx] = (640, 480)
    """Width and height, px."""
    rate_fps: Rate | None = 10.0
    frames: Annotated[int, Meta(ge=1)] | None = None
    """Number of frames after which the camera ends; None: no end."""
    trigger: Literal["free", "software"] = "free"
    first_frame_id: Annotated[int, Meta(ge=1, le=65535)] = 1
    lose_frames: list[Nth] = []
    """Frames that are lost, counted from 1: their ids are missing."""
    ignore_triggers: list[Nth] = []
    """Triggers that are ignored, counted from 1."""
    freeze_at: Annotated[int, Meta(ge=1)] | None = None
    """From this frame on, the picture repeats."""


class GenicamSettings(_Triggerable, frozen=True, kw_only=True, tag="genicam"):
    """A GigE Vision or USB3 Vision camera, through Aravis. Feature names are GenICam's (SFNC)."""

    address: Annotated[str, Meta(min_length=1)] | None = None
    """As Aravis takes it: IP address, host name, MAC address, or Vendor-Serial; None: the only camera."""
    exposure_us: Annotated[float, Meta(gt=0, le=1e8)] | None = None
    gain_db: Annotated[float, Meta(ge=0, le=100)] | None = None
    rate_fps: Rate | None = None
    region: tuple[Px, Px, Size, Size] | None = None
    """x, y, width, height, px of the sensor; None: as the camera is set."""
    buffers: Annotated[int, Meta(ge=2, le=256)] = 8
    trigger_line: str = "Line1"
    """TriggerSource of hardware triggers."""
    chunks: list[str] = []
    """Chunk data of every frame that its events include, e.g. ExposureTime."""


class V4l2Settings(_Camera, frozen=True, kw_only=True, tag="v4l2"):
    """A V4L2 camera, through OpenCV."""

    device: Path = Path("/dev/video0")
    frame_size: tuple[Size, Size] | None = None
    """Width and height requested from the driver, px; None: the driver's own."""
    fourcc: Annotated[str, Meta(min_length=4, max_length=4)] | None = None
    rate_fps: Rate | None = None
    exposure: Annotated[float, Meta(ge=-1e9, le=1e9)] | None = None
    """CAP_PROP_EXPOSURE, in the driver's own unit (100 us on most)."""
    gain: Annotated[float, Meta(ge=-1e9, le=1e9)] | None = None


class RtspSettings(_Camera, frozen=True, kw_only=True, tag="rtsp"):
    """A network camera that sends RTSP, through PyAV."""

    url: Annotated[str, Meta(pattern="^rtsps?://.+", description="rtsp://... or rtsps://...")]
    transport: Literal["tcp", "udp"] = "tcp"
    open_within_s: Annotated[float, Meta(gt=0, le=600)] = 5.0
    read_within_s: Annotated[float, Meta(gt=0, le=600)] = 1.5
    frozen_after_frames: FrameCount = 100
    """An encoder may send a still scene as identical frames."""

    @property
    def opened_within_s(self) -> float:
        # The library applies the limit twice: to connect and to find the stream.
        return 2 * self.open_within_s + 10


CameraSettings = FolderSettings | VideoSettings | PatternSettings | GenicamSettings | V4l2Settings | RtspSettings


def check_polygons(camera: CameraSettings, where: str = "") -> None:
    """Raise ConfigError, beginning with `where`, if a camera's polygons leave nothing or the frame size is unknown."""
    subject = f"{where}camera {camera.name}"
    if not (camera.roi or camera.exclude):
        return
    if not isinstance(camera.size, tuple):
        raise ConfigError(
            f"{subject} has a region of interest, but its size is {camera.size!r}; set size to the width and "
            "height, px, of the frames in which the polygons are drawn"
        )
    width, height = camera.size
    if not camera.region_of_interest.mask((height, width)).any():
        raise ConfigError(
            f"{subject}: roi and exclude leave nothing of {width}x{height} px to inspect; check the polygons, "
            "(x, y) in px"
        )


def to_path(kind: type, value: object) -> Path:
    """Convert a string to a path, as msgspec's `dec_hook`."""
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    raise ValueError(f"Expected a path, got {value!r}")  # msgspec adds the key


def to_bytes(settings: CameraSettings) -> bytes:
    """Encode settings for the camera's process: MessagePack, which takes paths that are not UTF-8 as bytes."""
    return msgspec.msgpack.encode(settings, enc_hook=os.fsencode)


def from_bytes(data: bytes) -> CameraSettings:
    """Decode settings that `to_bytes` encoded."""
    settings: CameraSettings = msgspec.msgpack.decode(
        data, type=CameraSettings, dec_hook=lambda _kind, path: Path(os.fsdecode(path))
    )
    return settings
