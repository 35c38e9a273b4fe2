"""Counts what a line's sockets refuse, and logs it at a limited rate."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from heatline.edge.util.rate_limited_log import RateLimit
from heatline.edge.util.text import on_one_line

logger = logging.getLogger(__name__)


@dataclass
class _Tally:
    limit: RateLimit
    count: int = 0
    detail: str = ""


class Refusals:
    """Number of refusals of each socket since the start, by reason. Any thread.

    The first refusal of a kind is logged at once, further ones in sums.

    Args:
        clock: monotonic, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tallies: dict[str, _Tally] = {}

    def note(self, socket: str, reason: str, detail: str) -> None:
        """Count a refusal.

        Args:
            socket: `events`, `commands` or `journal`.
            reason: one word, from a fixed list.
            detail: sentence for the log.
        """
        with self._lock:
            tally = self._tallies.setdefault(f"{socket}.{reason}", _Tally(RateLimit(self._clock)))
            tally.count += 1
            tally.limit.add()
            tally.detail = on_one_line(detail)
            self._log_what_is_due()

    def tick(self) -> None:
        """Log the sums that are due. Called about once a second."""
        with self._lock:
            self._log_what_is_due()

    def counts(self) -> Mapping[str, int]:
        """Return the counts by `SOCKET.REASON`."""
        with self._lock:
            return {name: tally.count for name, tally in self._tallies.items()}

    def _log_what_is_due(self) -> None:
        for name, tally in self._tallies.items():
            if count := tally.limit.due():
                times = f"{count} times, the last time: " if count > 1 else ""
                logger.warning("refused (%s): %s%s", name, times, tally.detail)
