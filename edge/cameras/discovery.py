"""Which GigE Vision and USB3 Vision cameras are there, and which one a configuration means."""

import ipaddress
import socket
from dataclasses import dataclass

from edge.cameras import aravis
from edge.errors import CameraError

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
