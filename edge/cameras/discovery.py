"""Finds cameras: lists them with their keys for line.toml, and resolves the address that a configuration names."""

import contextlib
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

import msgspec

from heatline.edge.cameras import aravis
from heatline.edge.errors import CameraError, MissingExtraError

_PROTOCOLS = {"GigEVision": "GigE Vision", "USB3Vision": "USB3 Vision"}


@dataclass(frozen=True)
class FoundCamera:
    """A camera that answered. A configuration may name it by id, serial number, physical address or IP address."""

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
    def aravis_name(self) -> str:
        """The name by which Aravis opens the camera."""
        return self.address if self.protocol == "GigE Vision" else self.id

    def __str__(self) -> str:
        return f"{self.vendor} {self.model} {self.serial} at {self.address}"


class Found(msgspec.Struct, frozen=True):
    """A camera that was found."""

    keys: dict[str, str]
    """Its keys in line.toml."""
    model: str
    protocol: str
    serial: str = ""
    physical: str = ""
    """MAC address or GUID."""


class Listed(msgspec.Struct, frozen=True):
    """Output of `heatline cameras list`."""

    cameras: list[Found]
    missing: str | None
    """Why GigE Vision and USB3 Vision cameras could not be searched; None: they were."""


def list_all(interface: str | None = None) -> Listed:
    """Return the GigE Vision and USB3 Vision cameras that answer, then the V4L2 devices.

    Args:
        interface: network interface to search; None: all of them.
    """
    missing = None
    try:
        found = [
            Found(
                keys={"kind": "genicam", "address": camera.aravis_name},
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


def video_devices(devices: Path = Path("/dev"), sysfs: Path = Path("/sys/class/video4linux")) -> list[Found]:
    """Return the system's V4L2 devices, by number. A camera may have several; the first one shows pictures."""
    numbers = sorted(int(path.name[5:]) for path in devices.glob("video*") if path.name[5:].isdecimal())
    found = []
    for number in numbers:
        name = ""
        with contextlib.suppress(OSError):
            name = (sysfs / f"video{number}" / "name").read_text(errors="replace").strip()
        found.append(Found({"kind": "v4l2", "device": str(devices / f"video{number}")}, name, "V4L2"))
    return found


def list_cameras(interface: str | None = None) -> list[FoundCamera]:
    """Return the cameras that answer within a second, on USB and on the network.

    Args:
        interface: network interface to search; None: all of them, by broadcast.
    Raises:
        MissingExtraError: the Aravis library is not installed.
        CameraError: the library is too old to search a single interface.
    """
    aravis.load()
    if interface is not None:
        aravis.gv_interface_set_discovery_interface_name(interface)
    try:
        aravis.update_device_list()
    finally:
        if interface is not None:
            aravis.gv_interface_set_discovery_interface_name(None)
    found = [_device(index) for index in range(aravis.get_n_devices())]
    return sorted(found, key=lambda camera: (camera.protocol, camera.address, camera.id))


def resolve_address(address: str | None, interface: str | None = None) -> str:
    """Return the name by which Aravis opens a configured camera. Only an IP address needs no search.

    Args:
        address: IP address, host name, serial number, id or physical address; None: the only camera.
    Raises:
        CameraError: no camera, or more than one, has this address.
    """
    if address is not None and _is_ip_address(address):
        return address
    found = list_cameras(interface)
    where = "USB or any network interface" if interface is None else f"USB or network interface {interface}"
    answered = "; ".join(map(str, found)) or "none"
    if address is None:
        if len(found) == 1:
            return found[0].aravis_name
        raise CameraError(
            f"exactly one camera was expected on {where} and {len(found)} answered ({answered}); "
            "set address to one of them, or to the camera's IP address if broadcasts do not reach it"
        )
    matches = [camera for camera in found if address in (camera.id, camera.serial, camera.address, camera.physical)]
    if len(matches) == 1:
        return matches[0].aravis_name
    if matches:
        raise CameraError(
            f"{len(matches)} cameras have the address {address!r} ({answered}); set address to an IP address or id"
        )
    try:
        return socket.gethostbyname(address)
    except (OSError, UnicodeError) as error:
        raise CameraError(
            f"no camera with serial number or id {address!r} answers on {where} (found: {answered}) and no host has "
            "this name; see `heatline cameras list`, or set address to the camera's IP address"
        ) from error


def _device(index: int) -> FoundCamera:
    protocol = aravis.get_device_protocol(index) or ""
    return FoundCamera(
        id=aravis.get_device_id(index) or "",
        vendor=aravis.get_device_vendor(index) or "",
        model=aravis.get_device_model(index) or "",
        serial=aravis.get_device_serial_nbr(index) or "",
        address=aravis.get_device_address(index) or "",
        protocol=_PROTOCOLS.get(protocol, protocol),
        physical=aravis.get_device_physical_id(index) or "",
    )


def _is_ip_address(address: str) -> bool:
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return True
