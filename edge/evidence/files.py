"""Writes the files of the evidence store, which its group may read."""

import os
from pathlib import Path

from edge.util.group_folder import FILE_MODE
from edge.util.plain_file import open_plain

HALF_WRITTEN = ".new"
"""Ending of a file that gets its name when it is complete."""
PNG_BEGIN = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PNG_END = b"IEND\xaeB`\x82"


def write_synced(path: Path, data: bytes, owner: tuple[int, int] | None = None) -> None:
    """Write a file to the disk; its name may be lost in a power cut before `sync_folder`.

    Args:
        owner: user and group to give the file to; None: those of this process.
    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def is_whole_png(path: Path) -> bool:
    """Return whether a file begins and ends as a PNG, which one that was cut off does not."""
    try:
        with open_plain(path) as file:
            is_begun = file.read(len(PNG_BEGIN)) == PNG_BEGIN
            file.seek(-len(PNG_END), os.SEEK_END)
            return is_begun and file.read() == PNG_END
    except OSError:
        return False
