"""Logs frames that do not show the product, with their numbers, and not too often."""

import logging
import time
from collections.abc import Callable

from edge.inspection.outcome import Outcome
from edge.text import format_count, on_one_line

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOGGED = 10.0
"""Of one camera."""


class ImplausibleLog:
    """Logs a camera's first such frame at once, and later ones at most every 10 s, with how many there were. One thread
    at a time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_s: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def log(self, outcome: Outcome) -> None:
        """Log the outcome of a frame if it is implausible."""
        unjudged, stamp = outcome.unjudged, outcome.stamp
        if unjudged is None or unjudged.reason != "implausible":
            return
        now_s, camera = self._clock(), stamp.camera
        count = self._unlogged[camera] = self._unlogged.get(camera, 0) + 1
        if camera in self._logged_s and now_s - self._logged_s[camera] < SECONDS_BETWEEN_LOGGED:
            return
        frame = f"frame {stamp.number}" if stamp.source is None else f"frame {stamp.number} ({stamp.source})"
        before = f", and {format_count(count - 1, 'frame')} before it" if count > 1 else ""
        logger.warning("camera %s: %s%s: no verdict, %s", camera, on_one_line(frame), before, unjudged.detail)
        self._logged_s[camera], self._unlogged[camera] = now_s, 0
