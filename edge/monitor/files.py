"""Writes the files of the evidence store, which its group may read."""

import contextlib
import os
from pathlib import Path

from heatline.edge.errors import DeliveryError
from heatline.edge.util.files import FILE_MODE, open_locked, open_plain, sync_folder

HALF_WRITTEN = ".new"
"""Ending of a file that gets its name when it is complete."""
PNG_BEGIN = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PNG_END = b"IEND\xaeB`\x82"


def hold(folder: Path, flags: int) -> int:
    """Lock the store of a folder against other lines, for as long as the returned descriptor is open.

    Args:
        flags: with which the file is opened that is locked.
    Raises:
        DeliveryError: another line holds the lock.
        OSError: the lock cannot be taken.
    """
    try:
        return open_locked(folder / "evidence.lock", flags)
    except BlockingIOError as error:
        raise DeliveryError(
            f"{folder} is in use by another running line; give each line its own evidence.folder"
        ) from error


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


def write_whole(path: Path, data: bytes, half: Path, owner: tuple[int, int] | None = None, at_ns: int = 0) -> None:
    """Write a file to the disk, which gets its name when it is complete. If it cannot be written, nothing changes.

    Args:
        half: its path until then, in the same folder.
        owner: as for `write_synced`.
        at_ns: its time, UTC, ns since 1970; 0: now.
    Raises:
        OSError: it cannot be written.
    """
    try:
        write_synced(half, data, owner)
        if at_ns:
            os.utime(half, ns=(at_ns, at_ns))
        half.rename(path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)
        raise


def is_whole_png(path: Path) -> bool:
    """Return whether a file begins and ends as a PNG, which one that was cut off does not."""
    try:
        with open_plain(path) as file:
            is_begun = file.read(len(PNG_BEGIN)) == PNG_BEGIN
            file.seek(-len(PNG_END), os.SEEK_END)
            return is_begun and file.read() == PNG_END
    except OSError:
        return False
