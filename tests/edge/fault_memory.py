"""Memory that is used up: a control group with a limit, as systemd's MemoryMax makes one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

CGROUPS = Path("/sys/fs/cgroup")
LIMIT_BYTES = 1 << 16
"""Less than anything needs: whatever touches new memory in there is killed."""


@contextlib.contextmanager
def no_memory() -> Iterator[Path]:
    """A control group in which there is none; skips where none can be made.

    Memory counts for the group that a process was in when it took it. So one that is moved there has what it had, and
    gets no more.
    """
    name = f"heatline-test-{os.getpid()}"
    if (CGROUPS / "memory/cgroup.procs").exists():
        group, limit = CGROUPS / "memory" / name, "memory.limit_in_bytes"
    else:
        group, limit = CGROUPS / name, "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(LIMIT_BYTES))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group for memory can be made here: {error}")
    try:
        yield group
    finally:
        group.rmdir()


def starve(group: Path, pid: int) -> None:
    """Give a process no memory any more; the kernel kills it as soon as it wants some."""
    (group / "cgroup.procs").write_text(str(pid))
