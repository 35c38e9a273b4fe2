"""File locks by which several processes share the folder of a study or a search.

The kernel gives up the locks of a process when it dies, however it dies, so a process is alive if its lock is held: no
process ids that come again, no waiting for a heartbeat.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edge.errors import TrainingError


@contextmanager
def taken(file: Path, wait: bool = False) -> Iterator[bool]:
    """Whether the lock is ours, which it then is until the context ends.

    Args:
        file: the lock, made if need be.
        wait: until whoever has it gives it up.
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
    """Take the lock unless another process has it; whoever only asks, as `is_taken` does, is soon gone."""
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


def is_taken(file: Path) -> bool:
    """Whether a living process has the lock; no file is made, and asking keeps others out for a moment only."""
    try:
        with file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
