"""Threads that the kernel knows by their names, too: `top -H` and `ps -L` show which part of a line is at work."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

MOST_BYTES = 15
"""Of a name that the kernel takes."""


class NamedThread(threading.Thread):
    """A daemon thread. Python tells the kernel its name from 3.14 on only."""

    def __init__(self, name: str, target: Callable[..., object], *args: object) -> None:
        super().__init__(name=name, target=target, args=args, daemon=True)

    def run(self) -> None:
        _call_this_thread(self.name.encode(errors="replace"))
        super().run()


@contextlib.contextmanager
def threads_named(name: str) -> Iterator[None]:
    """Threads that a library starts meanwhile go by this name: they inherit that of the thread that starts them."""
    own = name.encode()  # where it cannot be read, it cannot be written either
    with contextlib.suppress(OSError):
        own = _comm().read_bytes().rstrip(b"\n")
    _call_this_thread(name.encode())
    try:
        yield
    finally:
        _call_this_thread(own)


def _call_this_thread(name: bytes) -> None:
    with contextlib.suppress(OSError):  # a name is for whoever looks
        _comm().write_bytes(name[:MOST_BYTES])


def _comm() -> Path:
    return Path(f"/proc/self/task/{threading.get_native_id()}/comm")
