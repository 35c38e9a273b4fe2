"""The line's configuration: one TOML file. docs/config.md describes every key."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge.bundle.trusted import TRUSTED_KEYS
from edge.cameras.settings import (
    CameraSettings,
    FolderSettings,
    GenicamSettings,
    V4l2Settings,
    VideoSettings,
    to_path,
)
from edge.delivery.commands import require_local
from edge.errors import ConfigError
from edge.geometry.area_of_interest import AreaOfInterest
from edge.inference.engine import EngineKind, Precision
from edge.inference.opening import PRECISIONS

Logit = Annotated[float, Meta(ge=-1e9, le=1e9)]
"""Finite: no logit reaches a threshold of nan or inf, so every frame would be GOOD."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


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


class CommandsConfig(_Table, frozen=True):
    """Where requests are taken, such as triggers."""

    bind: Annotated[str, Meta(pattern="^(tcp|ipc)://.+")] | None = None
    """None: nowhere."""


class LineConfig(_Table, frozen=True):
    """All of `line.toml`."""

    bundle: Path
    cameras: Annotated[list[CameraSettings], Meta(min_length=1)]
    allow_unsigned: bool = False
    """Whether a bundle may be used that no trusted key signed."""
    trusted_keys: Path = msgspec.field(default_factory=lambda: TRUSTED_KEYS)  # a schema takes no path for a default
    acting: bool = True
    engine: EngineConfig = EngineConfig()
    tiles: TilesConfig = TilesConfig()
    thresholds: ThresholdsConfig = ThresholdsConfig()
    events: EventsConfig = EventsConfig()
    commands: CommandsConfig = CommandsConfig()


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
        config = msgspec.convert(tables, LineConfig, dec_hook=to_path)
    except msgspec.ValidationError as error:
        document = "docs/cameras.md" if "$.cameras[" in str(error) else "docs/config.md"
        raise ConfigError(f"{path}: {error}; see {document}") from error
    try:
        _check(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    here = path.absolute().parent
    return msgspec.structs.replace(
        config,
        bundle=here / config.bundle,
        trusted_keys=here / config.trusted_keys,
        cameras=[
            msgspec.structs.replace(camera, path=here / camera.path)
            if isinstance(camera, FolderSettings | VideoSettings)
            else camera
            for camera in config.cameras
        ],
    )


def _check(config: LineConfig) -> None:
    """What concerns more than one key."""
    names = [camera.name for camera in config.cameras]
    if len(set(names)) < len(names):
        raise ConfigError(f"two cameras have the same name ({', '.join(names)}); names must differ")
    devices = [_device(camera) for camera in config.cameras]
    if twice := {device for device in devices if device is not None and devices.count(device) > 1}:
        raise ConfigError(f"two cameras are the same device ({', '.join(sorted(twice))}); only one can have it")
    for camera in config.cameras:
        _check_area(camera)
        if camera.deadline_ms is not None and camera.on_overload == "block":
            raise ConfigError(
                f'camera {camera.name} has a deadline and on_overload = "block", under which frames may wait for ever; '
                'set on_overload = "drop_oldest" or "drop_newest", or leave deadline_ms out'
            )
    engine, can = config.engine, PRECISIONS[config.engine.kind]
    if engine.precision not in can:
        raise ConfigError(
            f"engine.precision is {engine.precision!r}, {engine.kind} computes in {' or '.join(can)} alone; "
            'set engine.kind = "openvino", or another engine.precision'
        )
    _check_address("events.bind", config.events.bind)
    if config.commands.bind is not None:
        _check_address("commands.bind", config.commands.bind)
        require_local(config.commands.bind)
        if config.commands.bind == config.events.bind:
            raise ConfigError(f"events.bind and commands.bind are both {config.events.bind!r}; they must differ")


def _device(camera: CameraSettings) -> str | None:
    """What only one can have."""
    match camera:
        case GenicamSettings():
            return camera.address
        case V4l2Settings():
            return str(camera.device)
        case _:
            return None


def _check_area(camera: CameraSettings) -> None:
    if not (camera.look_at or camera.look_away):
        return
    if not isinstance(camera.size, tuple):
        raise ConfigError(
            f"camera {camera.name} says where to look, but its size is {camera.size!r}; set size to the width and "
            "height, px, in which its polygons count"
        )
    width, height = camera.size
    if not AreaOfInterest.of(camera.look_at, camera.look_away).mask((height, width)).any():
        raise ConfigError(
            f"camera {camera.name}: look_at and look_away leave nothing of {width}x{height} px to inspect; "
            "check the polygons, (x, y) in px"
        )


def _check_address(key: str, address: str) -> None:
    scheme, _, rest = address.partition("://")
    port = rest.rpartition(":")[2]
    if scheme == "tcp" and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= 65535):
        raise ConfigError(f"{key} is {address!r}; expected tcp://HOST:PORT, PORT 1 to 65535")
