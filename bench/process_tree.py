"""What the kernel tells of a process and all that it has started, together: memory, descriptors, threads."""

import contextlib
import os
from pathlib import Path

import msgspec


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
