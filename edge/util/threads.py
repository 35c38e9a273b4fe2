"""Names threads for the kernel, so that `top -H` and `ps -L` show which part of a line is busy."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_NAME_BYTES = 15
"""Limit of the kernel."""


class NamedThread(threading.Thread):
    """A daemon thread with a name in the kernel, which Python itself sets only from 3.14 on."""

    def __init__(self, name: str, target: Callable[..., object], *args: object) -> None:
        super().__init__(name=name, target=target, args=args, daemon=True)

    def run(self) -> None:
        _name_this_thread(self.name.encode(errors="replace"))
        super().run()


def waits_for_processor(thread: threading.Thread) -> bool:
    """Return whether a thread computes, or would if others left it a core; one that waits for a disk does not."""
    try:
        stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    except OSError:  # it has not started, or has ended
        return False
    return stat.rpartition(")")[2].split()[0] == "R"


@contextlib.contextmanager
def threads_named(name: str) -> Iterator[None]:
    """Name the threads that a library starts in this context: they inherit the name of the thread that starts them."""
    previous = name.encode()  # if it cannot be read, it cannot be written either
    with contextlib.suppress(OSError):
        previous = _comm().read_bytes().rstrip(b"\n")
    _name_this_thread(name.encode())
    try:
        yield
    finally:
        _name_this_thread(previous)


def _name_this_thread(name: bytes) -> None:
    with contextlib.suppress(OSError):  # the name is only informative
        _comm().write_bytes(name[:MAX_NAME_BYTES])


def _comm() -> Path:
    return Path(f"/proc/self/task/{threading.get_native_id()}/comm")
