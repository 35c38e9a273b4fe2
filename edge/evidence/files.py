"""Writes the files of the evidence store, which its group may read."""

import contextlib
import os
from pathlib import Path

FOLDER_MODE, FILE_MODE = 0o750, 0o640
"""The group of the service may read, as it may read the journal."""
HALF_WRITTEN = ".new"
"""Ending of a file that gets its name when it is complete."""


def make_folder(folder: Path) -> None:
    """Make a folder if it does not exist, which the group may read whatever the umask.

    Raises:
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(FOLDER_MODE)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file to the disk; its name may be lost in a power cut before `sync_folder`.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
