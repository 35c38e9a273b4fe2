"""Where a running service's events are: whoever asks for them by the line's name must find them, whatever its file says
by now.
"""

import contextlib
import os
from pathlib import Path

RUNTIME_FOLDERS = Path("/run/heatline")
"""RuntimeDirectory= of systemd/heatline@.service: one per line in it, gone once the service is."""
FILE_NAME = "events"


def tell_where_events_are(address: str) -> None:
    """Keep the address in the service's runtime folder, if systemd made it one."""
    folder = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if folder:
        with contextlib.suppress(OSError):  # who asks finds it in the line's file then
            (Path(folder) / FILE_NAME).write_text(address, encoding="utf-8")


def where_events_are(line: str) -> str | None:
    """The address of a running line's events; None where it does not run, or this user may not know."""
    try:
        return (RUNTIME_FOLDERS / line / FILE_NAME).read_text(encoding="utf-8") or None
    except (OSError, UnicodeDecodeError):
        return None
