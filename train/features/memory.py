"""How much memory a training may still take."""

import os
from collections.abc import Iterator
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def available_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Return the memory that this process may take without harm to others: of the machine, and of its control groups.

    Args:
        proc, cgroups: where the kernel shows processes and control groups (version 2).
    """
    return min([_of_machine(proc), *_of_groups(proc, cgroups)])


def _of_machine(proc: Path) -> int:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield what the control group of this process, and each above it, has left of its limit; cached files are used."""
    try:
        own = (proc / "self" / "cgroup").read_text().strip().rpartition("::/")[2]
    except OSError:
        return
    group = cgroups / own
    for folder in (group, *group.parents):
        if not folder.is_relative_to(cgroups):
            break
        try:
            limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        except OSError:  # the topmost group has none
            continue
        if limit != "max":
            yield max(0, int(limit) - int(used))
