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


def lock_holders(path: Path) -> list[int]:
    """Return the ids of the other processes that hold locks on a file; empty if the kernel does not list them."""
    try:
        status = path.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    # 12: POSIX  ADVISORY  READ 4711 fd:01:2097 124 124
    locks = [line.split() for line in lines]
    pids = {int(fields[4]) for fields in locks if len(fields) == 8 and fields[5] == device}
    return sorted(pid for pid in pids if pid not in (0, -1, os.getpid()))
