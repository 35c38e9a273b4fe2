"""Finds cameras: lists them with their keys for line.toml, and resolves the address that a configuration names."""

import contextlib
import ipaddress
import socket
from pathlib import Path

import msgspec

from heatline.edge.cameras import aravis
from heatline.edge.errors import CameraError, MissingExtraError

PROTOCOLS = {"GigEVision": "GigE Vision", "USB3Vision": "USB3 Vision"}


class Found(msgspec.Struct, frozen=True):
    """A camera that was found."""

    keys: dict[str, str]
    """Its keys in line.toml."""
    model: str
    """With its vendor."""
    protocol: str
    serial: str = ""
    physical: str = ""
    """MAC address of a GigE Vision camera, GUID of a USB3 Vision camera."""
    id: str = ""
    """The name that Aravis gives it."""

    def __str__(self) -> str:
        return f"{self.model} {self.serial} at {self.keys['address']}"


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
    try:
        return Listed(list_cameras(interface) + video_devices(), None)
    except (CameraError, MissingExtraError) as error:
        return Listed(video_devices(), str(error))


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


def list_cameras(interface: str | None = None) -> list[Found]:
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
    return sorted(found, key=lambda camera: (camera.protocol, camera.keys["address"]))


def _device(index: int) -> Found:
    names = ("id", "vendor", "model", "serial_nbr", "address", "protocol", "physical_id")
    texts = (getattr(aravis, f"get_device_{name}")(index) or "" for name in names)
    device_id, vendor, model, serial, address, protocol, physical = texts
    # Aravis opens a camera of the network by its address, one on USB by its id.
    keys = {"kind": "genicam", "address": address if protocol == "GigEVision" else device_id}
    return Found(keys, f"{vendor} {model}", PROTOCOLS.get(protocol, protocol), serial, physical, device_id)


def resolve_address(address: str | None, interface: str | None = None) -> str:
    """Return the name by which Aravis opens a configured camera. Only an IP address needs no search.

    Args:
        address: IP address, host name, serial number, id or physical address; None: the only camera.
    Raises:
        CameraError: no camera, or more than one, has this address.
    """
    with contextlib.suppress(ValueError):
        return str(ipaddress.IPv4Address(address or ""))
    found = list_cameras(interface)
    where = "USB or any network interface" if interface is None else f"USB or network interface {interface}"
    answered = "; ".join(map(str, found)) or "none"
    matches = [camera for camera in found if address in (None, camera.id, camera.serial, camera.physical)]
    if len(matches) == 1:
        return matches[0].keys["address"]
    if address is None:
        raise CameraError(
            f"exactly one camera was expected on {where} and {len(found)} answered ({answered}); "
            "set address to one of them, or to the camera's IP address if broadcasts do not reach it"
        )
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
