"""The one sign that inspection goes on: it beats when a verdict, or a probe, has come out at the end."""

import threading
import time


class Heartbeat:
    """Counts what went the whole way, from the hand-off to the publisher. Any thread beats and looks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count, self._last_ns = 0, time.monotonic_ns()

    def begin(self) -> None:
        """From now on something should come out."""
        with self._lock:
            self._last_ns = time.monotonic_ns()

    def beat(self) -> None:
        """Something came out."""
        with self._lock:
            self._count += 1
            self._last_ns = time.monotonic_ns()

    @property
    def count(self) -> int:
        return self._count

    def quiet_for_s(self) -> float:
        """For how long nothing came out; before the first beat, since it began."""
        with self._lock:
            return (time.monotonic_ns() - self._last_ns) / 1e9
