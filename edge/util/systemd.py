"""The interface to systemd: its folders, and notifications by sd_notify(3). Without systemd, nothing is notified."""

import contextlib
import logging
import os
import socket
import time
from pathlib import Path

logger = logging.getLogger(__name__)

SEND_WITHIN_SECONDS = 0.2
LINES = Path("/etc/heatline")
"""Folder of the lines' files: the service of line NAME reads NAME.toml."""
STATE_FOLDERS = Path("/var/lib/heatline")
"""StateDirectory= of systemd/heatline@.service: one folder per line, with its journal unless its file names another."""
RUNTIME_FOLDERS = Path("/run/heatline")
"""RuntimeDirectory= of systemd/heatline@.service: one folder per line, deleted when the service ends."""
ADDRESS_FILE = "events"


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1` or `STATUS=inspecting` to systemd's socket.

    Log a warning if they cannot be sent: a systemd that does not read must not stop the inspection.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to_systemd:
        to_systemd.settimeout(SEND_WITHIN_SECONDS)
        try:
            to_systemd.connect(address)
            to_systemd.sendall("\n".join(assignments).encode(errors="replace"))
        except OSError as error:
            logger.warning("systemd did not receive %s: %s", " ".join(assignments), error)


def notify_starting(step: str) -> None:
    """Notify systemd of a step of the start."""
    notify(f"STATUS=NOT_READY: {step}")


def notify_reloading() -> None:
    """Notify systemd that a reload begins; `READY=1` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def state_folder(otherwise: Path | None = None) -> Path | None:
    """Return the service's state folder (StateDirectory=), or `otherwise` if systemd names none."""
    return _first_folder("STATE_DIRECTORY") or otherwise


def state_folder_of(line: Path) -> Path | None:
    """Return the state folder of the line of a file, for its service and for others; None: no service runs it."""
    return state_folder(otherwise=STATE_FOLDERS / line.stem if line.absolute().parent == LINES else None)


def cache_folder() -> Path | None:
    """Return the service's cache folder (CacheDirectory=); None if there is none."""
    return _first_folder("CACHE_DIRECTORY")


def runtime_folder() -> Path | None:
    """Return the service's runtime folder (RuntimeDirectory=); None if there is none."""
    return _first_folder("RUNTIME_DIRECTORY")


def publish_address(address: str) -> None:
    """Write the address of the line's events to the service's runtime folder, if systemd made one. Commands that name
    the line find it there, even if the line's file has changed since.
    """
    folder = runtime_folder()
    if folder is not None:
        with contextlib.suppress(OSError):  # commands then read it from the line's file
            (folder / ADDRESS_FILE).write_text(address, encoding="utf-8")


def published_address(line: str) -> str | None:
    """Return the address of a running line's events; None if it does not run or this user may not read the file."""
    try:
        return (RUNTIME_FOLDERS / line / ADDRESS_FILE).read_text(encoding="utf-8") or None
    except (OSError, UnicodeDecodeError):
        return None


def _first_folder(variable: str) -> Path | None:
    named = os.environ.get(variable, "").split(":")[0]
    return Path(named) if named else None
