"""Writes files atomically: to a temporary file in the same folder, which then replaces the target."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, unique: bool = False) -> Iterator[Path]:
    """Provide a temporary path to write to, whose file replaces `path` at the end of the context.

    If `path` is a link, the file that it points to is replaced. A device or a pipe is written to directly.

    The data are on the disk when the file is replaced. After an error, the old file stays and the temporary file is
    removed. The new directory entry survives a power cut only after `sync_folder`.

    Args:
        unique: allow several processes, also of other machines, to write at once, each to a path of its own; the last
            one to end wins.
    Raises:
        OSError: the file cannot be written.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = Path(os.path.realpath(path))  # `Path.resolve` raises on circular links
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex if unique else 'new'}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # it may never have been created
            temporary.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk, so that they survive a power cut.

    Raises:
        OSError: the folder cannot be synced.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
