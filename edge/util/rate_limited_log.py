"""Logs repeated faults at a limited rate, so that a client that causes them cannot fill the disk."""

import logging
import time
from collections.abc import Callable

SECONDS_BETWEEN_LOGGED = 10.0


class RateLimitedLog:
    """Logs a fault at once, and further ones only when the last log line is some seconds old."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger, self._clock = logger, clock
        self._logged_s = float("-inf")

    def error(self, message: str, *values: object, exc_info: BaseException | None = None) -> None:
        """Log an error as `Logger.error` does, or skip it."""
        if self._is_due():
            self._logger.error(message, *values, exc_info=exc_info)

    def _is_due(self) -> bool:
        """Return whether to log a fault now, which the caller then does."""
        now_s = self._clock()
        if now_s - self._logged_s < SECONDS_BETWEEN_LOGGED:
            return False
        self._logged_s = now_s
        return True


class FaultLog(RateLimitedLog):
    """Logs that a fault began, and that it is over, at a limited rate even if it comes and goes; with `is_faulty`, also
    the end of a fault that began before.
    """

    def __init__(
        self, logger: logging.Logger, *, is_faulty: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(logger, clock)
        self._logged: str | None = "" if is_faulty else None

    def begin(self, fault: str, then: str = "") -> None:
        """Log a fault unless it was the last that was logged, and what follows from it."""
        if fault != self._logged and self._is_due():
            self._logger.warning("%s%s", fault, then)
            self._logged = fault

    def end(self, message: str) -> None:
        """Log that the fault is over, if it was logged."""
        if self._logged is not None:
            self._logger.info("%s", message)
            self._logged = None
