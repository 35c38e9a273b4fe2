"""A local Ray for tests, in a process of its own, and its processes."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from heatline.edge.cluster import SETTINGS
from tests.edge.lines import tree

AGENTS = ("ray::DashboardA", "ray::RuntimeEnv")
"""Idle processes of Ray, which end a minute after a driver that was killed."""
HEAD = """
import sys
import ray
ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
"""Starts a Ray that other drivers can join, as `ray start --head` does."""


@contextmanager
def ray_head() -> Iterator[str]:
    """Start a Ray with two processors, which ends with this process; yield the address at which drivers join it."""
    # By default, Ray's workers have niceness 15: beside other tests they would take minutes.
    environment = os.environ | SETTINGS | {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True, dir="/tmp") as folder:
        command = [sys.executable, "-c", HEAD, folder]
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as head:
            assert head.stdout is not None
            address = head.stdout.readline().strip()
            try:
                assert address, head.communicate()
                yield address
            finally:
                head.communicate()


def descendants(pid: int) -> dict[int, str]:
    """Return the children of a process, and theirs, with their names."""
    return {child: _name(child) for child in tree(pid)[1:]}


def is_alive(pid: int, name: str) -> bool:
    """Whether the process still runs: it exists, is not a zombie, and its id was not given to another."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and _name(pid) == name


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
