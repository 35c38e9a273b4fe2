"""Processor time and memory of a line and its cameras, as the kernel reports them."""

import contextlib
import time
from pathlib import Path

_CPUCLOCK_SCHED = 2
"""The kernel's number of the clock that counts a process's time on a processor, as of `clock_getcpuclockid`."""


def camera_processes(line_pid: int) -> list[int]:
    """Return the ids of the camera processes that a process has now."""
    return [pid for pid in _children(line_pid) if b"heatline.edge.cameras." in _command(pid)]


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def cpu_ns(pid: int) -> int:
    """Return the processor time of a process, all its threads together; 0 if it has ended."""
    with contextlib.suppress(OSError):
        return time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED)
    return 0


# A process and its descendants.


def pss_bytes(root: int) -> int:
    """Return the proportional set size of a process and its descendants, without those that end meanwhile.

    Of memory that several processes map, each counts its share.
    """
    found = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):  # it has ended
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            found += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return found


def tree(root: int) -> list[int]:
    """Return the ids of a process and its descendants, parents first."""
    pids, seen = [root], 0
    while seen < len(pids):
        pids += _children(pids[seen])
        seen += 1
    return pids


def _children(pid: int) -> list[int]:
    """Return the children of a process, started by any of its threads."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children += map(int, (task / "children").read_text().split())
    return children
