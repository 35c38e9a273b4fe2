"""This machine's processor: what is verified or measured on one need not hold on another."""

import os
import platform
from pathlib import Path

_NUMBERS = {"family": "cpu family", "model": "model", "stepping": "stepping"}


def processor() -> str:
    """Its name and, as that may be vague in a virtual machine, the numbers that its maker gave it."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines())
    told = {name.strip(): value.strip() for name, colon, value in lines if colon}
    name = told.get("model name") or platform.processor() or platform.machine()
    return ", ".join([name, *(f"{number} {told[key]}" for number, key in _NUMBERS.items() if key in told)])


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))
