"""Logs faults that may come again and again: whoever can bring one about could fill the disk with it."""

import logging
import time

SECONDS_BETWEEN_FAULTS = 10.0


class RateLimitedLog:
    """Logs a fault at once, and others only when the last is so long ago."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._logged_s = float("-inf")

    def error(self, message: str, *values: object, exc_info: BaseException | None = None) -> None:
        """As `Logger.error`."""
        now_s = time.monotonic()
        if now_s - self._logged_s >= SECONDS_BETWEEN_FAULTS:
            self._logged_s = now_s
            self._logger.error(message, *values, exc_info=exc_info)
