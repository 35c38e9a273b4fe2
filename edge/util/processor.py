"""This machine's processor: a result that was verified or measured on it need not hold on another."""

import contextlib
import os
import platform
from pathlib import Path

LOWEST_PRIORITY = 19
_NUMBERS = {"family": "cpu family", "model": "model", "stepping": "stepping"}


def processor() -> str:
    """Return the processor's name with family, model and stepping, as the name may be vague in a virtual machine."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines())
    fields = {name.strip(): value.strip() for name, colon, value in lines if colon}
    name = fields.get("model name") or platform.processor() or platform.machine()
    return ", ".join([name, *(f"{label} {fields[key]}" for label, key in _NUMBERS.items() if key in fields)])


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def yield_processor(priority: int = LOWEST_PRIORITY) -> None:
    """Give this thread, and those that it will start, a low priority: inspection has the processor first."""
    with contextlib.suppress(OSError):  # a sandbox may forbid even to be nice
        os.setpriority(os.PRIO_PROCESS, 0, max(priority, os.getpriority(os.PRIO_PROCESS, 0)))
