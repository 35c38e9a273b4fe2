"""Camera settings of a line's configuration, one struct per kind; docs/cameras.md describes the kinds."""

import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import cv2
import msgspec
import numpy as np
from msgspec import Meta

from heatline.edge.colour import PixelFormat
from heatline.edge.errors import ConfigError
from heatline.edge.geometry import RegionOfInterest
from heatline.edge.geometry.scale import Scale

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
LimitMm = Annotated[float, Meta(gt=0, le=1e6)]
Trigger = Literal["free", "software", "hardware"]
Policy = Literal["block", "drop_oldest", "drop_newest"]
"""Which frame is dropped when frames come faster than they are inspected (`heatline.edge.inspection.ledger`)."""


class Zone(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An area of a camera's frames with a limit of its own."""

    polygon: Polygon
    """Corners [x, y], px."""
    ignore_below_mm: LimitMm | None = None
    """As the camera's, for regions whose peak lies in the polygon; none: none of them is tolerated."""

    def __post_init__(self) -> None:
        if np.linalg.matrix_rank(np.subtract(self.polygon, self.polygon[0])) < 2:
            raise ValueError(f"the corners of zone {self.polygon} all lie on one line; name corners around an area")


class _Camera(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Settings of every kind of camera."""

    name: Name
    """Topics, events and the ledger contain it. Each camera needs a different one."""
    size: tuple[Size, Size] | Literal["first", "any"] = "first"
    """Width and height of the frames that are inspected, px; `first`: as the first frame."""
    pixel_format: PixelFormat | Literal["first", "any"] = "first"
    """Format of the frames that are inspected. A `genicam` camera is set to it."""
    on_overload: Policy = "drop_oldest"
    """What happens when frames come faster than they are inspected."""
    waiting_frames: Annotated[int, Meta(ge=1, le=64)] = 2
    """How many frames of this camera may wait for inspection."""
    deadline_ms: Milliseconds | None = None
    """Time limit for the event, from capture or trigger; none: no limit."""
    roi: list[Polygon] = []
    """Areas to inspect: polygons of corners [x, y], px; an empty list: the whole frame."""
    exclude: list[Polygon] = []
    """Areas not to inspect, even within `roi`."""
    scale: Scale | None = None
    """Map from px to mm, which `heatline calibrate scale` measures and writes; none: events have no mm."""
    ignore_below_mm: LimitMm | None = None
    """A region whose extent and error together are smaller is tolerated, mm; none: none is. Needs `scale`."""
    zones: list[Zone] = []
    """Areas with another limit; of two that overlap, the first counts. Needs `scale`."""
    silent_after_periods: Annotated[float, Meta(ge=2, le=10000)] = 5.0
    """A camera that runs freely is dead when no frame came for this many periods."""
    frozen_after_frames: FrameCount = 3
    """The camera is dead when this many frames in a row are identical to the one before; 0: no check."""
    stale_after_ms: Milliseconds = 1000.0
    """The camera is dead when a frame took this much longer to arrive than the fastest one since the opening."""

    is_file_source: ClassVar[bool] = False
    """Whether the camera shows files: a missing file is an error of the configuration, not a dead camera."""

    @property
    def region_of_interest(self) -> RegionOfInterest:
        return RegionOfInterest.from_polygons(self.roi, self.exclude)

    def zone_at(self, xy: tuple[int, int]) -> Zone | None:
        """Return the zone that counts for a region whose peak is at this px; None: it lies outside of all."""
        within = (one for one in self.zones if cv2.pointPolygonTest(np.array(one.polygon, np.int32), xy, False) >= 0)
        return next(within, None)

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
    """What makes the camera take a frame: itself, a request to the line, or an edge on its trigger line."""
    trigger_timeout_ms: Milliseconds = 1000.0
    """How long a part waits for its frame."""

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
    """The folder. Pictures are PNG, JPEG, BMP, TIFF and WebP, grey or colour, 8 or 16 bits; subfolders are not read."""
    rate_fps: Rate | None = None
    """Pictures per second; none: as fast as inspection processes them."""
    loop: bool = False
    """Restart after the last picture; otherwise the camera ends there, and the service when all cameras have ended."""
    preload: bool = False
    """Read all pictures before the first is shown, and show them from memory; nothing limits the memory."""
    on_overload: Policy = "block"
    """A folder can wait."""
    frozen_after_frames: FrameCount = 0
    """A folder may hold the same picture twice."""

    is_file_source: ClassVar[bool] = True

    @property
    def opened_within_s(self) -> float:
        return PRELOADED_WITHIN_SECONDS if self.preload else super().opened_within_s


class VideoSettings(_Camera, frozen=True, kw_only=True, tag="video"):
    """A camera that shows a video file."""

    path: Path
    """The file, in any format that OpenCV's FFmpeg reads: MP4, Matroska, AVI and others."""
    rate_fps: Rate | None = None
    """Frames per second; none: the rate that the file states, or an error if it states none."""
    loop: bool = False
    """Restart after the last frame; otherwise the camera ends there."""
    on_overload: Policy = "block"
    """A file can wait."""
    frozen_after_frames: FrameCount = 0
    """A scene may stand still."""

    is_file_source: ClassVar[bool] = True


class PatternSettings(_Triggerable, frozen=True, kw_only=True, tag="pattern"):
    """A simulated camera whose pixels hold frame id and position; it fails on purpose, for rehearsals and tests."""

    draw_size: tuple[DrawnPx, DrawnPx] = (640, 480)
    """Width and height of the pictures, px."""
    rate_fps: Rate | None = 10.0
    """Frames per second; none: as fast as possible. A triggered camera ignores it."""
    frames: Annotated[int, Meta(ge=1)] | None = None
    """Number of frames after which the camera ends, lost ones included; none: no end."""
    trigger: Literal["free", "software"] = "free"
    """What makes the camera take a frame: its rate, or a request to the line."""
    first_frame_id: Annotated[int, Meta(ge=1, le=65535)] = 1
    """Id of the first frame; 1 follows 65535."""
    lose_frames: list[Nth] = []
    """Frames that are lost, counted from 1: they use up their time and their trigger, and their ids are missing."""
    ignore_triggers: list[Nth] = []
    """Triggers that are ignored, counted from 1: no frame comes, and no id is missing."""
    freeze_at: Annotated[int, Meta(ge=1)] | None = None
    """From this frame on, the picture repeats, while ids and clock advance."""


class GenicamSettings(_Triggerable, frozen=True, kw_only=True, tag="genicam"):
    """A GigE Vision or USB3 Vision camera, through Aravis. Feature names are GenICam's (SFNC)."""

    address: Annotated[str, Meta(min_length=1)] | None = None
    """As `heatline cameras list` shows it: IP address, host name, MAC address or Vendor-Serial; none: the only one."""
    exposure_us: Annotated[float, Meta(gt=0, le=1e8)] | None = None
    """Exposure time, microseconds; switches `ExposureAuto` off. The camera may round it by 5 %."""
    gain_db: Annotated[float, Meta(ge=0, le=100)] | None = None
    """Gain, dB, or the unit of `GainRaw`; switches `GainAuto` off. The camera may round it by 0.5."""
    rate_fps: Rate | None = None
    """Frames per second of a camera that runs freely. The camera may round it by 5 %."""
    region: tuple[Px, Px, Size, Size] | None = None
    """x, y, width and height, px of the sensor, which the camera must accept exactly; none: as the camera is set."""
    buffers: Annotated[int, Meta(ge=2, le=256)] = 8
    """Number of frames that may arrive while others wait to be grabbed; each needs the memory of one frame."""
    trigger_line: str = "Line1"
    """`TriggerSource` of a hardware trigger, by the camera's name for it."""
    chunks: list[str] = []
    """Numbers that the camera measures with each frame for its events, by `ChunkSelector` name, e.g. `ExposureTime`."""


class V4l2Settings(_Camera, frozen=True, kw_only=True, tag="v4l2"):
    """A V4L2 camera, through OpenCV."""

    device: Path = Path("/dev/video0")
    """The device. Names under /dev/v4l/by-id stay the same when other devices are connected."""
    frame_size: tuple[Size, Size] | None = None
    """Requested width and height, px; if the driver sets others, the camera is refused."""
    fourcc: Annotated[str, Meta(min_length=4, max_length=4)] | None = None
    """Format between camera and host, e.g. `MJPG`, `YUYV`; if the driver sets another one, the camera is refused."""
    rate_fps: Rate | None = None
    """Requested frames per second; the log shows the driver's value at start."""
    exposure: Annotated[float, Meta(ge=-1e9, le=1e9)] | None = None
    """`exposure_time_absolute` in the driver's own unit, usually 100 us; switches automatic exposure off."""
    gain: Annotated[float, Meta(ge=-1e9, le=1e9)] | None = None
    """Gain, in the driver's own unit."""


class RtspSettings(_Camera, frozen=True, kw_only=True, tag="rtsp"):
    """A network camera that sends RTSP, through PyAV."""

    url: Annotated[str, Meta(pattern="^rtsps?://.+", description="rtsp://... or rtsps://...")]
    """`rtsp://` or `rtsps://`. The camera's messages omit a user and password in it."""
    transport: Literal["tcp", "udp"] = "tcp"
    """The transport of frames. Over UDP, lost packets are not sent again."""
    open_within_s: Annotated[float, Meta(gt=0, le=600)] = 5.0
    """Time limit for the camera's answer, and again for the description of its stream."""
    read_within_s: Annotated[float, Meta(gt=0, le=600)] = 1.5
    """After this time without a packet, the camera is dead."""
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
