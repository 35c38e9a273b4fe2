"""Lists the cameras that are connected, with their keys for line.toml."""

import contextlib
from pathlib import Path

import msgspec

from heatline.edge.cameras import aravis
from heatline.edge.errors import CameraError, MissingExtraError

PROTOCOLS = {"GigEVision": "GigE Vision", "USB3Vision": "USB3 Vision"}


class Found(msgspec.Struct, frozen=True):
    keys: dict[str, str]
    """Its keys in line.toml."""
    model: str
    """With its vendor."""
    protocol: str
    serial: str = ""


class Listed(msgspec.Struct, frozen=True):
    cameras: list[Found]
    missing: str | None
    """Why GigE Vision and USB3 Vision cameras could not be searched; None: they were."""


def list_all() -> Listed:
    """Return the GigE Vision and USB3 Vision cameras that answer, then the V4L2 devices."""
    try:
        return Listed(list_cameras() + video_devices(), None)
    except MissingExtraError as error:
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


def list_cameras() -> list[Found]:
    """Return the cameras that answer within a second, on USB and, by broadcast, on the network.

    A MissingExtraError is raised if the Aravis library is not installed.
    """
    aravis.load()
    aravis.update_device_list()
    found = []
    for index in range(aravis.get_n_devices()):
        texts = (getattr(aravis, f"get_device_{key}")(index) or "" for key in aravis.DEVICE_KEYS)
        device_id, vendor, model, serial, address, protocol = texts
        # Aravis opens a camera of the network by its address, one on USB by its id.
        keys = {"kind": "genicam", "address": address if protocol == "GigEVision" else device_id}
        found.append(Found(keys, f"{vendor} {model}", PROTOCOLS.get(protocol, protocol), serial))
    return sorted(found, key=lambda camera: (camera.protocol, camera.keys["address"]))


def only_camera() -> str:
    """Return the address of the only camera that answers; raise a CameraError if there is none, or more than one."""
    addresses = [camera.keys["address"] for camera in list_cameras()]
    if len(addresses) != 1:
        raise CameraError(
            f"exactly one GigE Vision or USB3 Vision camera was expected and {len(addresses)} answered "
            f"({', '.join(addresses) or 'none'}); set address to one of them, or to the camera's IP address if "
            "broadcasts do not reach it"
        )
    return addresses[0]
