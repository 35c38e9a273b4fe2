"""What the kernel tells of processes: the time, memory, descriptors and threads of a line and its cameras."""

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

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


# A process with all that it has started.


class TreeSample(msgspec.Struct, frozen=True, kw_only=True):
    """A tree of processes at one moment."""

    pss_bytes: int
    """Proportional set size: memory that several processes map counts in each by its share, so once in all."""
    own_bytes: int
    """Of that, what no file backs: heaps, stacks, shared memory."""
    file_bytes: int
    """Pages of files that are in memory, by process. Unlike their share of the PSS, they are the same whoever else maps
    those files."""
    descriptors: int
    threads: int
    processes: int


def sample_tree(root: int) -> TreeSample | None:
    """A process and all below it, now; None where it is gone. What ends meanwhile is left out."""
    pss = own = file = descriptors = threads = processes = 0
    for pid in tree(root):
        process = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):  # it has ended
            sizes = _rollup(process)
            status = _sizes((process / "status").read_text().splitlines())
            if "RssFile" not in status:  # it is ending, and its memory is gone already
                continue
            count, running = len(os.listdir(process / "fd")), len(os.listdir(process / "task"))
            pss += sizes["Pss"]
            own += sizes["Pss_Anon"] + sizes["Pss_Shmem"]
            file += status["RssFile"]
            descriptors, threads, processes = descriptors + count, threads + running, processes + 1
    if not processes:
        return None
    return TreeSample(
        pss_bytes=pss, own_bytes=own, file_bytes=file, descriptors=descriptors, threads=threads, processes=processes
    )


def tree(root: int) -> list[int]:
    """Ids of a process and all below it, those above first."""
    pids, seen = [root], 0
    while seen < len(pids):
        pids += _children(pids[seen])
        seen += 1
    return pids


def _children(pid: int) -> list[int]:
    """Started by any thread of a process; those of one that has ended belong to another by now."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children += map(int, (task / "children").read_text().split())
    return children


def _rollup(process: Path) -> dict[str, int]:
    """Of /proc/PID/smaps_rollup, sizes in bytes by name; an OSError where the process has ended."""
    lines = (process / "smaps_rollup").read_text().splitlines()[1:]
    if not lines:
        raise ProcessLookupError(process)  # a zombie has no memory
    return _sizes(lines)


def _sizes(lines: list[str]) -> dict[str, int]:
    """Lines of `Name:  123 kB`, in bytes by name; others are passed over."""
    words = [line.split() for line in lines]
    return {name.rstrip(":"): int(size[0]) * 1024 for name, *size in words if len(size) == 2 and size[1] == "kB"}
