"""Which cameras are there, what stands for each in line.toml, and which one a configuration means."""

import contextlib
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge.cameras import aravis
from edge.errors import CameraError, MissingExtraError

_PROTOCOLS = {"GigEVision": "GigE Vision", "USB3Vision": "USB3 Vision"}


@dataclass(frozen=True)
class FoundCamera:
    """A camera that answered. Any of id, serial, physical address and IP address may stand in a configuration."""

    id: str
    vendor: str
    model: str
    serial: str
    address: str
    """IP address of a GigE Vision camera."""
    protocol: str
    """GigE Vision or USB3 Vision."""
    physical: str = ""
    """MAC address of a GigE Vision camera, GUID of a USB3 Vision camera."""

    @property
    def opened_by(self) -> str:
        """What Aravis opens it by."""
        return self.address if self.protocol == "GigE Vision" else self.id

    def __str__(self) -> str:
        return f"{self.vendor} {self.model} {self.serial} at {self.address}"


class Found(msgspec.Struct, frozen=True):
    """A camera that is there."""

    keys: dict[str, str]
    """What stands for it in line.toml."""
    model: str
    protocol: str
    serial: str = ""
    physical: str = ""
    """MAC address or GUID."""


class Listed(msgspec.Struct, frozen=True):
    """All that `heatline cameras list` tells."""

    cameras: list[Found]
    missing: str | None
    """Why GigE Vision and USB3 Vision cameras could not be looked for."""


def list_all(interface: str | None = None) -> Listed:
    """GigE Vision and USB3 Vision cameras that answer, then V4L2 devices.

    Args:
        interface: network interface that is asked; None: all of them.
    """
    missing = None
    try:
        found = [
            Found(
                keys={"kind": "genicam", "address": camera.opened_by},
                model=f"{camera.vendor} {camera.model}",
                protocol=camera.protocol,
                serial=camera.serial,
                physical=camera.physical,
            )
            for camera in list_cameras(interface)
        ]
    except (CameraError, MissingExtraError) as error:
        found, missing = [], str(error)
    return Listed(found + video_devices(), missing)


def video_devices(devices: Path = Path("/dev"), about: Path = Path("/sys/class/video4linux")) -> list[Found]:
    """The system's V4L2 devices, by number. A camera may have several, of which the first shows pictures."""
    numbers = sorted(int(path.name[5:]) for path in devices.glob("video*") if path.name[5:].isdecimal())
    found = []
    for number in numbers:
        name = ""
        with contextlib.suppress(OSError):
            name = (about / f"video{number}" / "name").read_text(errors="replace").strip()
        found.append(Found({"kind": "v4l2", "device": str(devices / f"video{number}")}, name, "V4L2"))
    return found


def list_cameras(interface: str | None = None) -> list[FoundCamera]:
    """Cameras that answer within a second, on USB and on the network.

    Args:
        interface: network interface that is asked; None: all of them, by broadcast.
    Raises:
        MissingExtraError: the Aravis library is not installed.
        CameraError: it is too old to be told an interface.
    """
    aravis.load()
    if interface is not None:
        aravis.set_discovery_interface(interface)
    try:
        aravis.update_device_list()
    finally:
        if interface is not None:
            aravis.set_discovery_interface(None)
    found = [_device(index) for index in range(aravis.get_n_devices())]
    return sorted(found, key=lambda camera: (camera.protocol, camera.address, camera.id))


def find_camera(named: str | None, interface: str | None = None) -> str:
    """What Aravis opens the camera by that a configuration names; only an IP address needs no look around.

    Args:
        named: IP address, host name, serial number, id or physical address; None: the only camera there.
    Raises:
        CameraError: there is no such camera, or there are several.
    """
    if named is not None and _is_ip_address(named):
        return named
    found = list_cameras(interface)
    where = "USB or any network interface" if interface is None else f"USB or network interface {interface}"
    there = "; ".join(map(str, found)) or "none"
    if named is None:
        if len(found) == 1:
            return found[0].opened_by
        raise CameraError(
            f"exactly one camera was expected on {where} and {len(found)} answered ({there}); "
            "set address to the one that is meant, or to its IP address where broadcasts do not reach it"
        )
    meant = [camera for camera in found if named in (camera.id, camera.serial, camera.address, camera.physical)]
    if len(meant) == 1:
        return meant[0].opened_by
    if meant:
        raise CameraError(f"{len(meant)} cameras are called {named!r} ({there}); set address to an IP address or id")
    try:
        return socket.gethostbyname(named)
    except (OSError, UnicodeError) as error:
        raise CameraError(
            f"no camera with serial number or id {named!r} answers on {where} (there: {there}) and no host has this "
            "name; see `heatline cameras list`, or set address to the camera's IP address"
        ) from error


def _device(index: int) -> FoundCamera:
    protocol = aravis.get_device_protocol(index) or ""
    return FoundCamera(
        id=aravis.get_device_id(index) or "",
        vendor=aravis.get_device_vendor(index) or "",
        model=aravis.get_device_model(index) or "",
        serial=aravis.get_device_serial(index) or "",
        address=aravis.get_device_address(index) or "",
        protocol=_PROTOCOLS.get(protocol, protocol),
        physical=aravis.get_device_physical_id(index) or "",
    )


def _is_ip_address(named: str) -> bool:
    try:
        ipaddress.IPv4Address(named)
    except ValueError:
        return False
    return True
