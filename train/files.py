"""Files that appear whole or not at all, and file locks for processes that share a folder."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from heatline.edge.errors import TrainingError
from heatline.edge.util.files import replacing


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


# File locks for processes that share the folder of a study or a search.
#
# The kernel releases the locks of a process when it ends, however it ends. So a held lock means a living process,
# without process ids, which are reused, or heartbeats, which take time.


@contextmanager
def lock_file(file: Path, wait: bool = False) -> Iterator[bool]:
    """Take a lock until the context ends; yield whether it was free.

    Args:
        file: the lock file; created if missing.
        wait: whether to wait until the lock is free.
    Raises:
        TrainingError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open("a")
    except OSError as error:
        raise TrainingError(
            f"{file} cannot be written ({error.strerror}); make room, or choose another place"
        ) from error
    with lock:
        if wait:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield True
        else:
            yield _take_now(lock)


def _take_now(lock: IO[str]) -> bool:
    """Take the lock unless another process holds it; wait for processes that only test it, as `is_locked` does."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            fcntl.flock(lock, fcntl.LOCK_UN)
        else:
            return True


def is_locked(file: Path) -> bool:
    """Whether a living process holds the lock; creates no file, and blocks others only for a moment."""
    try:
        with file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
