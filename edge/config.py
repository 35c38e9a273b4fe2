"""The line's configuration: one TOML file. docs/config.md describes every key."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge.bundle.trusted import TRUSTED_KEYS
from edge.colour import PixelFormat
from edge.errors import ConfigError
from edge.inference.engine import EngineKind, Precision
from edge.inference.opening import PRECISIONS
from edge.inspection.handoff import Policy

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
"""Goes into topics, so it has no dots."""
Logit = Annotated[float, Meta(ge=-1e9, le=1e9)]
"""Finite: no logit reaches a threshold of nan or inf, so every frame would be GOOD."""
Size = Annotated[int, Meta(ge=1, le=65535)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class FolderCameraConfig(_Table, frozen=True, tag="folder", tag_field="kind"):
    """A camera that shows the pictures of a folder."""

    name: Name
    path: Path
    rate_fps: Annotated[float, Meta(gt=0, le=10000)] | None = None
    loop: bool = False
    size: tuple[Size, Size] | Literal["first", "any"] = "first"
    pixel_format: PixelFormat | Literal["first", "any"] = "first"
    on_overload: Policy = "block"
    waiting_frames: Annotated[int, Meta(ge=1, le=64)] = 2


CameraConfig = FolderCameraConfig


class EngineConfig(_Table, frozen=True):
    """Which engine infers, in what, and with what."""

    kind: EngineKind = "openvino"
    precision: Precision = "f32"
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    streams: Annotated[int, Meta(ge=0, le=1024)] = 0
    batch: Annotated[int, Meta(ge=0, le=1024)] = 0


class TilesConfig(_Table, frozen=True):
    """How frames are tiled, where not as the bundle says."""

    overlap_px: Annotated[int, Meta(ge=0, le=4095)] | None = None


class ThresholdsConfig(_Table, frozen=True):
    """Thresholds in logits, where not as the bundle's calibration says."""

    score: Logit | None = None
    evidence: Logit | None = None


class EventsConfig(_Table, frozen=True):
    """Where events are published, and what goes with them."""

    bind: Annotated[str, Meta(pattern="^(tcp|ipc)://.+")] = "tcp://127.0.0.1:5556"
    heatmaps: Literal["never", "defect", "always"] = "defect"
    wait_for_subscriber_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0


class LineConfig(_Table, frozen=True):
    """All of `line.toml`."""

    bundle: Path
    cameras: Annotated[list[CameraConfig], Meta(min_length=1)]
    allow_unsigned: bool = False
    """Whether a bundle may be used that no trusted key signed."""
    trusted_keys: Path = msgspec.field(default_factory=lambda: TRUSTED_KEYS)  # a schema takes no path for a default
    acting: bool = True
    engine: EngineConfig = EngineConfig()
    tiles: TilesConfig = TilesConfig()
    thresholds: ThresholdsConfig = ThresholdsConfig()
    events: EventsConfig = EventsConfig()


def load_config(path: Path) -> LineConfig:
    """The configuration in a TOML file; relative paths in it count from its folder.

    Raises:
        ConfigError: it cannot be read, is no TOML, or says something that is not understood.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); name a line configuration") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; see docs/config.md") from error
    try:
        config = msgspec.convert(tables, LineConfig, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}; see docs/config.md") from error
    names = [camera.name for camera in config.cameras]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: two cameras have the same name ({', '.join(names)}); names must differ")
    engine, can = config.engine, PRECISIONS[config.engine.kind]
    if engine.precision not in can:
        raise ConfigError(
            f"{path}: engine.precision is {engine.precision!r}, {engine.kind} computes in {' or '.join(can)} alone; "
            'set engine.kind = "openvino", or another engine.precision'
        )
    scheme, _, rest = config.events.bind.partition("://")
    port = rest.rpartition(":")[2]
    if scheme == "tcp" and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= 65535):
        raise ConfigError(f"{path}: events.bind is {config.events.bind!r}; expected tcp://HOST:PORT, PORT 1 to 65535")
    here = path.absolute().parent
    cameras = [msgspec.structs.replace(camera, path=here / camera.path) for camera in config.cameras]
    return msgspec.structs.replace(
        config, bundle=here / config.bundle, trusted_keys=here / config.trusted_keys, cameras=cameras
    )


def _path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    raise ValueError(f"Expected a path, got {value!r}")  # msgspec adds which key it is
