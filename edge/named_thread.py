"""Threads that the kernel knows by their names, too: `top -H` and `ps -L` show which part of a line is at work."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

MOST_CHARACTERS = 15
"""Of a name that the kernel takes."""


class NamedThread(threading.Thread):
    """A daemon thread. Python tells the kernel its name from 3.14 on only."""

    def __init__(self, name: str, target: Callable[..., object], *args: object) -> None:
        super().__init__(name=name, target=target, args=args, daemon=True)

    def run(self) -> None:
        with contextlib.suppress(OSError):  # a name is for whoever looks
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_bytes(self.name.encode()[:MOST_CHARACTERS])
        super().run()
