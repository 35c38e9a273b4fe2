"""What the kernel tells of a line's processes."""

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2
"""The kernel's, of a clock that counts what the scheduler gave."""


def camera_processes(line_pid: int) -> list[int]:
    """Ids of the camera processes that a process has started and that are there now."""
    return [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if _parent(process) == line_pid and b"edge.cameras.child" in _command(process)
    ]


def cpu_s(pid: int) -> float:
    """Processor time that a process has taken, all its threads together; 0 where it is gone."""
    fields = _fields(Path(f"/proc/{pid}"))
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S if fields else 0.0


def cpu_ns(pid: int) -> int:
    """The same to the nanosecond, by the process's own clock (`clock_getcpuclockid`); 0 where it is gone."""
    with contextlib.suppress(OSError):
        return time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED)
    return 0


class ThreadTime(NamedTuple):
    """Processor time that a thread has taken."""

    name: str
    """What the kernel knows it by; `main` where it is the process's first."""
    ns: int


def thread_times(pid: int) -> dict[int, ThreadTime]:
    """Of the threads that a process has now, by their ids; none where it is gone, or the kernel does not tell."""
    found: dict[int, ThreadTime] = {}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended
                ns = int((task / "schedstat").read_text().split()[0])
                name = (task / "comm").read_text(errors="replace").rstrip("\n")
                found[int(task.name)] = ThreadTime("main" if task.name == str(pid) else name, ns)
    return found


def page_faults(pid: int) -> int:
    """Pages that were mapped for a process without reading a disk, all its threads together; 0 where it is gone."""
    fields = _fields(Path(f"/proc/{pid}"))
    return int(fields[7]) if fields else 0


def _parent(process: Path) -> int | None:
    fields = _fields(process)
    return int(fields[1]) if fields else None


def _fields(process: Path) -> list[str]:
    """Of /proc/PID/stat, those after the name in brackets, which may hold anything; none where it is gone."""
    with contextlib.suppress(OSError):
        return (process / "stat").read_text().rpartition(")")[2].split()
    return []


def _command(process: Path) -> bytes:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes()
    return b""
