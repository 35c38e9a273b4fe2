"""Locks on files. The kernel gives them up when their process dies, however it dies."""

import fcntl
import os
from pathlib import Path


def open_locked(path: Path, flags: int, mode: int = 0o640) -> int:
    """Open a file, or a folder, and keep other processes from locking it while the descriptor is open.

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


def holders(path: Path) -> list[int]:
    """The ids of the other processes that hold locks on a file, as far as the kernel tells."""
    try:
        found = path.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    # 12: POSIX  ADVISORY  READ 4711 fd:01:2097 124 124
    words = [line.split() for line in lines]
    pids = {int(each[4]) for each in words if len(each) == 8 and each[5] == device}
    return sorted(pid for pid in pids if pid not in (0, -1, os.getpid()))
