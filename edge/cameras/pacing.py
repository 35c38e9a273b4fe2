"""Waiting for the time at which the next frame is due."""

import threading
import time


class Pace:
    """Times at which frames are due: a grid that begins with the first. A late reader catches up and misses none.

    Args:
        rate_fps: frames per second; None: every frame is due at once.
    """

    def __init__(self, rate_fps: float | None) -> None:
        self._rate_fps = rate_fps
        self._first_due: float | None = None
        self._interrupted = threading.Event()

    @property
    def period_s(self) -> float | None:
        """Time from one frame to the next; None: there is no rate."""
        return None if self._rate_fps is None else 1 / self._rate_fps

    @property
    def interrupted(self) -> bool:
        return self._interrupted.is_set()

    def await_frame(self, before: int, timeout_s: float) -> bool:
        """Wait until the frame after this many others is due; return whether it is."""
        if self._rate_fps is None:
            return not self.interrupted
        if self._first_due is None:
            self._first_due = time.monotonic()
        wait_s = self._first_due + before / self._rate_fps - time.monotonic()
        return not self._interrupted.wait(min(max(wait_s, 0.0), timeout_s)) and wait_s <= timeout_s

    def interrupt(self) -> None:
        """Make an `await_frame` that waits, and every later one, return False at once."""
        self._interrupted.set()
