"""Locks on files. The kernel releases them when their process ends for any reason."""

import fcntl
import os
from pathlib import Path


def open_locked(path: Path, flags: int, mode: int = 0o640) -> int:
    """Open a file or a folder, and lock it against other processes while the descriptor is open.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it cannot be opened.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
