"""A local Ray for tests, in a process of its own, and its processes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCAL = """
import sys
from edge.cluster import open_cluster
with open_cluster(None, processors=2):
    import ray
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
"""Opens a local Ray, prints its address, and closes it when standard input ends."""

AGENTS = ("ray::DashboardA", "ray::RuntimeEnv")
"""Idle processes of Ray, which end a minute after a driver that was killed."""


@contextmanager
def ray_head() -> Iterator[str]:
    """Start a local Ray with two processors; yield the address at which drivers join it."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCAL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as head:
        assert head.stdout is not None
        address = head.stdout.readline().strip()
        assert address, "Ray did not start"
        try:
            yield address
        finally:
            head.communicate()


def descendants(pid: int) -> dict[int, str]:
    """Return the children of a process, and theirs, with their names."""
    found, waiting = dict[int, str](), [pid]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with suppress(OSError):
                for child in map(int, task.read_text().split()):
                    found[child] = _name(child)
                    waiting.append(child)
    return found


def is_alive(pid: int, name: str) -> bool:
    """Whether the process still runs: it exists, is no zombie, and its id was not given to another."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and _name(pid) == name


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
