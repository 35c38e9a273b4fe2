"""What systemd gives a service and hears of it (sd_notify(3)); nothing happens where systemd did not start it."""

import contextlib
import logging
import os
import socket
import time
from pathlib import Path

logger = logging.getLogger(__name__)

SEND_WITHIN_SECONDS = 0.2
LINES = Path("/etc/heatline")
"""Where the service of line NAME looks for NAME.toml."""
STATE_FOLDERS = Path("/var/lib/heatline")
"""StateDirectory= of systemd/heatline@.service: one per line in it, with its journal where its file names no other."""
RUNTIME_FOLDERS = Path("/run/heatline")
"""RuntimeDirectory= of systemd/heatline@.service: one per line in it, gone once the service is."""
ADDRESS_FILE = "events"


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1` or `STATUS=inspecting` to the socket that systemd named.

    One that cannot be sent is logged: a systemd that does not read must not keep a line from inspecting.
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
            logger.warning("systemd was not told %s: %s", " ".join(assignments), error)


def notify_starting(doing: str) -> None:
    """Say what the service does before it is ready."""
    notify(f"STATUS=NOT_READY: {doing}")


def notify_reloading() -> None:
    """Say that a reload begins; `READY=1` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def state_folder(otherwise: Path | None = None) -> Path | None:
    """Where the service may keep something (StateDirectory=); None: nowhere.

    Args:
        otherwise: where systemd says nothing.
    """
    return _first_folder("STATE_DIRECTORY") or otherwise


def cache_folder() -> Path | None:
    """Where the service may keep what can be made again (CacheDirectory=); None: nowhere."""
    return _first_folder("CACHE_DIRECTORY")


def publish_address(address: str) -> None:
    """Keep the address of the line's events in the service's runtime folder, if systemd made it one: a command that
    asks by the line's name must find it, whatever the line's file says by now.
    """
    folder = _first_folder("RUNTIME_DIRECTORY")
    if folder is not None:
        with contextlib.suppress(OSError):  # who asks finds it in the line's file then
            (folder / ADDRESS_FILE).write_text(address, encoding="utf-8")


def published_address(line: str) -> str | None:
    """The address of a running line's events; None where it does not run, or this user may not know."""
    try:
        return (RUNTIME_FOLDERS / line / ADDRESS_FILE).read_text(encoding="utf-8") or None
    except (OSError, UnicodeDecodeError):
        return None


def _first_folder(variable: str) -> Path | None:
    named = os.environ.get(variable, "").split(":")[0]
    return Path(named) if named else None
