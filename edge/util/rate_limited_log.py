"""Logs what may come again and again without filling the disk: who can bring a fault about, could fill it."""

import logging
import time
from collections.abc import Callable

SECONDS_BETWEEN_LOGGED = 10.0


class RateLimit:
    """Counts occurrences of one thing: the first is to be logged at once, those that follow in sums.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_s = float("-inf")
        self._unlogged = 0

    def add(self) -> None:
        """Count one."""
        self._unlogged += 1

    def due(self) -> int:
        """Return how many are to be logged now, and count them as logged; 0: none came, or the last is too recent."""
        now_s = self._clock()
        if not self._unlogged or now_s - self._logged_s < SECONDS_BETWEEN_LOGGED:
            return 0
        count, self._unlogged, self._logged_s = self._unlogged, 0, now_s
        return count


class RateLimitedLog:
    """Logs a fault at once, and others only when the last is some seconds old."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger, self._limit = logger, RateLimit(clock)

    def error(self, message: str, *values: object, exc_info: BaseException | None = None) -> None:
        """As `Logger.error`."""
        self._limit.add()
        if self._limit.due():
            self._logger.error(message, *values, exc_info=exc_info)
