"""Reads a line's configuration, one TOML file. docs/config.md describes every key."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from heatline.edge.bundle.signature import TRUSTED_KEYS
from heatline.edge.cameras.settings import CameraSettings, GenicamSettings, V4l2Settings, check_polygons, to_path
from heatline.edge.config.bridges import (
    Address,
    Listen,
    ModbusConfig,
    MqttConfig,
    OpcuaConfig,
    check_modbus,
    check_mqtt,
    check_opcua,
)
from heatline.edge.config.engine import EngineConfig, check_engine
from heatline.edge.config.products import ProductConfig, ThresholdsConfig, check_products, describe_products
from heatline.edge.delivery.auth import is_local, unprotected
from heatline.edge.errors import ConfigError, Faults
from heatline.edge.geometry import RegionOfInterest
from heatline.edge.util.files import read_toml
from heatline.edge.util.validation import describe_misfit


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class TilesConfig(_Table, frozen=True):
    """The tiling of frames."""

    overlap_px: Annotated[int, Meta(ge=0, le=4095)] | None = None
    """Overlap of neighbouring tiles, px. Default: the bundle's. More overlap costs more tiles; docs/bundle.md
    describes its benefit."""


class EventsConfig(_Table, frozen=True):
    """The address of the events, and which heatmaps are sent."""

    bind: Address = "tcp://127.0.0.1:5556"
    """The address at which events are published (docs/protocol.md). A file at PATH that is not a socket is never
    replaced."""
    heatmaps: Literal["never", "defect", "always"] = "defect"
    """Which events carry their heatmap as PNG: none, those with DEFECT, or all with a verdict other than
    NO_VERDICT."""
    wait_for_subscriber_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """Seconds to wait for a subscriber before the first frame. Use it with file cameras if no event may be missed; on
    a real line leave it 0."""


class CommandsConfig(_Table, frozen=True):
    """The address of the command socket, which takes requests such as triggers."""

    bind: Address | None = None
    """The address at which the line takes requests, such as triggers (docs/commands.md). Without it, the line takes
    no requests."""


class JournalConfig(_Table, frozen=True):
    """The journal: its folder, its limits, and the address for durable consumers."""

    folder: Path | None = None
    """Folder of the journal, which no other line may use. Default: the state folder that systemd gives the service;
    without that, no events are stored. If systemd gives no state folder, the frames in flight and the selected
    product are stored here too."""
    bind: Address | None = None
    """The address for durable consumers, for example `"tcp://127.0.0.1:5558"`. Without it, the line serves none."""
    retain_mib: Annotated[int, Meta(ge=0, le=1 << 20)] = 1024
    """Size of the journal, MiB, beyond which the oldest events are deleted, and counted if a durable consumer had not
    received them. The file can grow further while events come faster than old ones are deleted. 0: no events are
    stored."""

    def folder_in(self, state_folder: Path | None) -> Path | None:
        """Return the journal's folder for a service with this state folder; None: events are not stored."""
        return None if self.retain_mib == 0 else self.folder or state_folder


class EvidenceConfig(_Table, frozen=True):
    """The evidence store: which pictures are stored, where, and its limits."""

    folder: Path | None = None
    """Folder of the pictures, which no other line may use. Default: `evidence` in the state folder that systemd gives
    the service, or in `journal.folder`; without either, this key is required."""
    retain_days: Annotated[float, Meta(gt=0, le=36500)] = 30.0
    """Pictures older than this are deleted, unless they are reviewed."""
    retain_mib: Annotated[int, Meta(ge=1, le=1 << 24)] = 2048
    """Size of all pictures together, MiB, beyond which the oldest ones are deleted, reviewed ones last. The index
    comes on top."""
    good_every: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Of the GOOD frames of each camera, each n-th is stored. 0: none."""


class PartConfig(_Table, frozen=True, kw_only=True):
    """What a part is, if several pictures show it (docs/parts.md): each part then has one verdict."""

    views: Annotated[list[str], Meta(min_length=1, max_length=16)]
    """Cameras of its pictures; a camera that takes several of each part is named as often."""
    within_ms: Annotated[float, Meta(gt=0, le=3.6e6)]
    """Time within which the verdicts of all pictures come, from the first capture. Then the part has none."""


class CollectConfig(_Table, frozen=True):
    """What a line without a bundle keeps of its frames, and where."""

    folder: Path | None = None
    """Folder of the pictures, by label. Default: `pictures` in the state folder that systemd gives the service, else
    beside the line's file."""
    every: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Of the frames of each camera, each n-th is kept without a label. 0: none."""
    triggered: bool = False
    """Whether each frame of a camera with a trigger is kept without a label."""

    @property
    def keeps(self) -> bool:
        """Whether frames are kept that nobody asks for."""
        return self.triggered or self.every > 0


class DriftConfig(_Table, frozen=True):
    """Warnings of drift: whether, and over which frames."""

    watch: bool = True
    """Whether drift is watched."""
    frames: Annotated[int, Meta(ge=5, le=1000)] = 30
    """How many of the last measured frames of a camera are compared with the calibration. Fewer warn sooner, and more
    often by chance."""
    every_s: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    """Measures at most one frame of a camera in this time, s."""


class WebConfig(_Table, frozen=True):
    """The web page: its address, and what protects it."""

    listen: Listen = "127.0.0.1:8420"
    """The address of the page. An address that other machines can reach needs `token_file` or `client_ca`."""
    token_file: Path | None = None
    """File with the token that the page asks for. Only its owner may be able to read it (mode 0600)."""
    certificate: Path | None = None
    """File with the certificate of the page, PEM. Needs `key`. Without it, the page is served without TLS."""
    key: Path | None = None
    """File with the certificate's private key, PEM."""
    client_ca: Path | None = None
    """File with the certificate of the authority that signs the browsers' certificates, PEM. Needs `certificate`. A
    browser without one of its certificates is refused."""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the page."""
        return is_local(f"tcp://{self.listen}")

    def is_protected_on(self, listen: str) -> bool:
        """Return whether a page at `HOST:PORT` is only for this machine, or asks for a token or a certificate."""
        return is_local(f"tcp://{listen}") or self.token_file is not None or self.client_ca is not None


class SecurityConfig(_Table, frozen=True):
    """The keys that protect addresses which other machines can reach."""

    key: Path | None = None
    """The line's private key, made by `heatline keys new`. Without it, an address that other machines can reach is
    refused with exit code 3."""
    allowed: Path | None = None
    """Folder of the keys of allowed clients, which `heatline keys allow` fills. Default: `allowed` beside the key.
    The line reads it again all the time, so a change needs no reload."""


class LineConfig(_Table, frozen=True, kw_only=True):
    """The contents of `line.toml`."""

    bundle: Path | None = None
    """Folder of the bundle to inspect with (docs/bundle.md). Without it, the line collects pictures
    (docs/collect.md): no frame gets a verdict."""
    cameras: Annotated[list[CameraSettings], Meta(min_length=1)]
    """One `[[cameras]]` per camera, at least one (docs/cameras.md). One engine serves all cameras."""
    shadow: Path | None = None
    """Folder of a bundle that judges the same frames in idle time, to be compared with `bundle` (docs/shadow.md). A
    product with its own bundle has none."""
    former: Path | None = None
    """Folder of the bundle before, to which `heatline shadow --back` returns. Commands and the page write it."""
    product: str | None = None
    """The product that is active until another is selected. Required if there are products."""
    products: list[ProductConfig] = []
    """One `[[products]]` per product."""
    allow_unsigned: bool = False
    """Whether the line may use a bundle that no trusted key signed."""
    trusted_keys: Path = msgspec.field(default_factory=lambda: TRUSTED_KEYS)  # a schema takes no path for a default
    """Folder of the public keys that are trusted."""
    acting: bool = True
    """Whether receivers may act on the verdicts."""
    engine: EngineConfig = EngineConfig()
    tiles: TilesConfig = TilesConfig()
    thresholds: ThresholdsConfig = ThresholdsConfig()
    events: EventsConfig = EventsConfig()
    commands: CommandsConfig = CommandsConfig()
    journal: JournalConfig = JournalConfig()
    security: SecurityConfig = SecurityConfig()
    drift: DriftConfig = DriftConfig()
    part: PartConfig | None = None
    """The pictures of a part. Without it, each frame stands for itself."""
    collect: CollectConfig = CollectConfig()
    evidence: EvidenceConfig | None = None
    """Which pictures are stored."""
    web: WebConfig | None = None
    """The line's page."""
    mqtt: MqttConfig | None = None
    """The broker of the MQTT bridge."""
    modbus: ModbusConfig | None = None
    """The Modbus bridge."""
    opcua: OpcuaConfig | None = None
    """The OPC UA bridge."""

    @property
    def addresses(self) -> dict[str, str]:
        """All addresses that the line binds itself, by their keys."""
        bound = {
            "events.bind": self.events.bind,
            "commands.bind": self.commands.bind,
            "journal.bind": self.journal.bind,
        }
        return {key: address for key, address in bound.items() if address is not None}

    def require_bundle(self) -> Path:
        """Return the bundle; raise a ConfigError if there is none."""
        if self.bundle is None:
            raise ConfigError("the line's file names no bundle, as the line collects pictures; set bundle there first")
        return self.bundle

    def of_product(self, name: str | None) -> "LineConfig":
        """Return the configuration with one product's settings; raise a ConfigError if the line has no such product."""
        if name is None and not self.products:
            return self
        for product in self.products:
            if product.name == name:
                return _with_product(self, product)
        raise ConfigError(f"there is no product {name!r}; expected {describe_products(self.products)}")


def _with_product(config: LineConfig, product: ProductConfig) -> LineConfig:
    own = {camera.name: camera.settings() for camera in product.cameras}
    thresholds = product.thresholds
    if thresholds is None:
        # The line's thresholds are logits of the line's bundle; another bundle has its own calibration.
        thresholds = config.thresholds if product.bundle is None else ThresholdsConfig()
    if thresholds.check_plausibility is None:
        check = config.thresholds.check_plausibility
        thresholds = msgspec.structs.replace(thresholds, check_plausibility=check)
    return msgspec.structs.replace(
        config,
        product=product.name,
        bundle=config.bundle if product.bundle is None else product.bundle,
        shadow=config.shadow if product.bundle is None else None,
        thresholds=thresholds,
        cameras=[msgspec.structs.replace(camera, **own.get(camera.name, {})) for camera in config.cameras],
    )


def load_config(path: Path) -> LineConfig:
    """Read a line's TOML file, in which relative paths start at its folder; raise a ConfigError if it is not valid."""
    here = path.absolute().parent
    try:
        tables = read_toml(path)
        config = msgspec.convert(tables, LineConfig, dec_hook=lambda kind, value: here / to_path(kind, value))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); name a line configuration") from error
    except msgspec.ValidationError as error:
        document = "docs/cameras.md" if "$.cameras[" in str(error) else "docs/config.md"
        if any(key in str(error) for key in (".scale", ".zones", ".ignore_below_mm")):
            document = "docs/calibration.md"
        raise ConfigError(f"{path}: {describe_misfit(error, tables, LineConfig)}; see {document}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; see docs/config.md") from error
    checks: list[tuple[Callable[[Any], None], Any]] = [  # each with what it checks; None: it is not there
        (_check_cameras, config.cameras),
        (lambda each: check_products(each.products, each.product, each.cameras), config),
        (check_engine, config.engine),
        (_check_addresses, config),
        (_check_web, config.web),
        (check_mqtt, config.mqtt),
        (check_modbus, config.modbus),
        (check_opcua, config.opcua),
        (_check_bridge_names, config),
        (_check_shadow, config.shadow and config),
        (_check_part, config.part and config),
    ]
    faults = Faults()
    for check, of in checks:
        with faults.collected():
            if of is not None:
                check(of)
    faults.found = [ConfigError(f"{path}: {each}") for each in faults.found]
    faults.raise_found()
    if config.security.key is None:
        return config
    allowed = config.security.allowed or config.security.key.parent / "allowed"
    return msgspec.structs.replace(config, security=SecurityConfig(key=config.security.key, allowed=allowed))


def _check_cameras(cameras: Sequence[CameraSettings]) -> None:
    names = [camera.name for camera in cameras]
    if len(set(names)) < len(names):
        raise ConfigError(f"two cameras have the same name ({', '.join(names)}); names must differ")
    devices = [camera.address for camera in cameras if isinstance(camera, GenicamSettings)]
    devices += [str(camera.device) for camera in cameras if isinstance(camera, V4l2Settings)]
    if twice := {device for device in devices if device is not None and devices.count(device) > 1}:
        raise ConfigError(f"two cameras use the same device ({', '.join(sorted(twice))}); only one can")
    for camera in cameras:
        check_polygons(camera)
        if camera.scale is None and (camera.ignore_below_mm or camera.zones):
            raise ConfigError(
                f"camera {camera.name} has limits in mm and no scale; measure it with heatline calibrate scale, or "
                "remove ignore_below_mm and zones"
            )
        for zone in camera.zones:
            assert camera.scale is not None
            width, height = camera.scale.size
            if not RegionOfInterest.from_polygons([zone.polygon]).mask((height, width)).any():
                raise ConfigError(
                    f"camera {camera.name} has a zone without a px of its frames of {width}x{height} px: "
                    f"{zone.polygon}; name corners within"
                )
        if camera.deadline_ms is not None and camera.on_overload == "block":
            raise ConfigError(
                f'camera {camera.name} has a deadline and on_overload = "block", with which a frame may wait for ever; '
                'set on_overload = "drop_oldest" or "drop_newest", or remove deadline_ms'
            )


def _check_shadow(config: LineConfig) -> None:
    if config.bundle is None:
        raise ConfigError(
            f"shadow is {str(config.shadow)!r}, and the line has no bundle to compare it with; name it as bundle"
        )


def _check_part(config: LineConfig) -> None:
    assert config.part is not None
    names = [camera.name for camera in config.cameras]
    if "part" in names:
        raise ConfigError("a camera is named 'part', which stands for parts in bridges; name it otherwise")
    if unknown := [view for view in config.part.views if view not in names]:
        raise ConfigError(f"part.views names {unknown[0]!r}, which is no camera of the line: {', '.join(names)}")


def _check_bridge_names(config: LineConfig) -> None:
    bridges = {"mqtt": config.mqtt, "opcua": config.opcua, "modbus": config.modbus}
    names = {key: bridge.name for key, bridge in bridges.items() if bridge is not None}
    for one, other in itertools.combinations(names, 2):
        if names[one] == names[other]:
            raise ConfigError(
                f"{one}.name and {other}.name are both {names[one]!r}, and a line serves one consumer of a name; they "
                "must differ"
            )


def _check_addresses(config: LineConfig) -> None:
    for key, address in config.addresses.items():
        if config.security.key is None and not is_local(address):
            raise ConfigError(unprotected(key, address))


def _check_web(web: WebConfig) -> None:
    if (web.certificate is None) != (web.key is None):
        missing, given = ("certificate", "key") if web.certificate is None else ("key", "certificate")
        raise ConfigError(
            f"web.{given} is set and web.{missing} is not; a page with TLS needs both, so set both or neither"
        )
    if web.client_ca is not None and web.certificate is None:
        raise ConfigError(
            "web.client_ca is set and web.certificate is not; browsers show their certificate only to a page with TLS, "
            "so set web.certificate and web.key"
        )
    if not web.is_protected_on(web.listen):
        raise ConfigError(
            f"web.listen is {web.listen!r}, which other machines can reach, and nothing protects the page; set "
            "web.token_file or web.client_ca, or listen on this machine alone, e.g. 127.0.0.1:8420"
        )
