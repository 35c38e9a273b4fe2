"""Which cameras of every kind are there, each with what stands for it in line.toml."""

import contextlib
from pathlib import Path

import msgspec

from edge.cameras.discovery import list_cameras
from edge.errors import CameraError, MissingExtraError


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
