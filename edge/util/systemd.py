"""The interface to systemd: its folders, and notifications by sd_notify(3). Without systemd, nothing is notified."""

import contextlib
import logging
import os
import socket
from pathlib import Path
from typing import Literal

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


def service_folder(kind: Literal["STATE", "CACHE", "RUNTIME"]) -> Path | None:
    """Return the service's folder of a kind (StateDirectory= and so on); None: systemd names none."""
    named = os.environ.get(f"{kind}_DIRECTORY", "").split(":")[0]
    return Path(named) if named else None


def state_folder_of(line: Path) -> Path | None:
    """Return the state folder of the line of a file, for its service and for others; None: no service runs it."""
    return service_folder("STATE") or (STATE_FOLDERS / line.stem if line.absolute().parent == LINES else None)


def publish_address(address: str) -> None:
    """Write the address of the line's events to the service's runtime folder, if systemd made one. Commands that name
    the line find it there, even if the line's file has changed since.
    """
    folder = service_folder("RUNTIME")
    if folder is not None:
        with contextlib.suppress(OSError):  # commands then read it from the line's file
            (folder / ADDRESS_FILE).write_text(address, encoding="utf-8")


def published_address(line: str) -> str | None:
    """Return the address of a running line's events; None if it does not run or this user may not read the file."""
    try:
        return (RUNTIME_FOLDERS / line / ADDRESS_FILE).read_text(encoding="utf-8") or None
    except (OSError, UnicodeDecodeError):
        return None
