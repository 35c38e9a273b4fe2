"""This process and its machine: limits, priority, signals, threads, and the processor's name."""

import contextlib
import os
import platform
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

FILES = 65536


def raise_limits() -> None:
    """Raise the number of files that this process may open, as far as the system allows."""
    with contextlib.suppress(OSError, ValueError):  # the unit forbids these calls, and sets limits itself
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if (wanted := FILES if most < 0 else min(most, FILES)) > files >= 0:  # negative: no limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def processor() -> str:
    """Return the processor's name with family, model and stepping, as the name may be vague in a virtual machine."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines())
    fields = {name.strip(): value.strip() for name, colon, value in lines if colon}
    name = fields.get("model name") or platform.processor() or platform.machine()
    numbers = [
        f"{key.removeprefix('cpu ')} {fields[key]}" for key in ("cpu family", "model", "stepping") if key in fields
    ]
    return ", ".join([name, *numbers])


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def yield_processor(priority: int = 19) -> None:
    """Give this thread, and those that it will start, a low priority, by default the lowest: inspection is first."""
    with contextlib.suppress(OSError):  # a sandbox may forbid even to be nice
        os.setpriority(os.PRIO_PROCESS, 0, max(priority, os.getpriority(os.PRIO_PROCESS, 0)))


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does; call it in the main thread."""

    def as_ctrl_c(_number: int, frame: FrameType | None) -> None:
        # Not by raising SIGINT: a shell script starts a command in the background with SIGINT ignored.
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        (on_ctrl_c if callable(on_ctrl_c) else signal.default_int_handler)(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, as_ctrl_c)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def interruptions_held_back() -> Iterator[None]:
    """Let SIGINT and SIGTERM act at the end of this block, if this process handles them; call it in the main thread.

    An interruption within `subprocess.Popen(...)` would leave the new process running, and nobody to know it.
    """
    held: list[int] = []
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
    before = {number: signal.signal(number, lambda number, _: held.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in held:
            signal.raise_signal(each)


class NamedThread(threading.Thread):
    """A daemon thread with a name."""

    def __init__(self, name: str, target: Callable[..., object], *args: object) -> None:
        super().__init__(name=name, target=target, args=args, daemon=True)
