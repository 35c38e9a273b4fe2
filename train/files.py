"""Files that appear whole or not at all, and file locks for processes that share a folder."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from heatline.edge.errors import TrainingError
from heatline.edge.util.files import open_locked, replacing


def write_atomically(file: Path, write: Callable[[Path], object]) -> None:
    """Replace `file` with what `write` writes to the path that it gets; a previous file stays if that fails.

    Raises:
        TrainingError: the disk is full, or cannot be written.
    """
    try:
        with replacing(file) as new:
            write(new)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise TrainingError(
            f"{file} cannot be written ({reason}); its previous content is unchanged: make room, then continue"
        ) from error


def make_folder(folder: Path, option: str) -> Path:
    """Make a folder, and return it, else a TrainingError; `option` chooses another place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be made ({error.strerror}); free disk space, or choose another place with {option}"
        ) from error
    return folder


@contextmanager
def lock_file(file: Path, wait: bool = False) -> Iterator[bool]:
    """Take a lock, which is a living process, until the context ends; yield whether it was free.

    Args:
        file: the lock file; created if missing.
        wait: whether to wait until the lock is free.
    Raises:
        TrainingError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = open_locked(file, os.O_RDWR | os.O_CREAT, wait=wait)
    except BlockingIOError:
        yield False
        return
    except OSError as error:
        raise TrainingError(
            f"{file} cannot be written ({error.strerror}); make room, or choose another place"
        ) from error
    try:
        yield True
    finally:
        os.close(lock)
