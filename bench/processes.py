"""Processor time, memory, descriptors and threads of a line and its cameras, as the kernel reports them."""

import contextlib
import os
import time
from pathlib import Path

import msgspec

_CPUCLOCK_SCHED = 2
"""The kernel's number of the clock that counts the time on a processor."""


def camera_processes(line_pid: int) -> list[int]:
    """Return the ids of the camera processes that a process has now."""
    return [pid for pid in _children(line_pid) if b"heatline.edge.cameras." in _command(pid)]


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def cpu_s(pid: int) -> float:
    """Return the processor time of a process, all its threads together; 0 if it has ended."""
    return cpu_ns(pid) / 1e9


def cpu_ns(pid: int) -> int:
    """Return the same in nanoseconds, by the process's own clock (`clock_getcpuclockid`)."""
    with contextlib.suppress(OSError):
        return time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED)
    return 0


# A process and its descendants.


class TreeSample(msgspec.Struct, frozen=True, kw_only=True):
    """Memory, descriptors and threads of a tree of processes at one moment."""

    pss_bytes: int
    """Proportional set size: of memory that several processes map, each counts its share."""
    own_bytes: int
    """Part of the PSS that no file backs: heaps, stacks, shared memory."""
    file_bytes: int
    """Pages of files in memory, summed over processes. Unlike their share of the PSS, this number does not depend on
    other processes that map the same files."""
    descriptors: int
    threads: int
    processes: int


def sample_tree(root: int) -> TreeSample | None:
    """Measure a process and its descendants; None if it has ended. Processes that end meanwhile are left out."""
    pss = own = file = descriptors = threads = processes = 0
    for pid in tree(root):
        process = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):  # it has ended
            sizes = _rollup(process)
            status = _sizes((process / "status").read_text().splitlines())
            if "RssFile" not in status:  # it is ending, and has no memory any more
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


def _rollup(process: Path) -> dict[str, int]:
    """Read the sizes of /proc/PID/smaps_rollup, in bytes by name; raise OSError if the process has ended."""
    lines = (process / "smaps_rollup").read_text().splitlines()[1:]
    if not lines:
        raise ProcessLookupError(process)  # a zombie has no memory
    return _sizes(lines)


def _sizes(lines: list[str]) -> dict[str, int]:
    """Read lines of the form `Name:  123 kB`, in bytes by name; skip others."""
    words = [line.split() for line in lines]
    return {name.rstrip(":"): int(size[0]) * 1024 for name, *size in words if len(size) == 2 and size[1] == "kB"}
