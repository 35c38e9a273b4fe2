"""What a line's sockets refused: counted, and logged without filling the disk."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge.util.rate_limited_log import RateLimit
from edge.util.text import on_one_line

logger = logging.getLogger(__name__)


@dataclass
class _Tally:
    limit: RateLimit
    count: int = 0
    detail: str = ""


class Refusals:
    """How often each socket refused something since the start, by reason. Any thread.

    The first of a kind is logged at once, what follows in sums.

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
            reason: one word, of a list that does not grow.
            detail: in words, for the log.
        """
        with self._lock:
            tally = self._tallies.setdefault(f"{socket}.{reason}", _Tally(RateLimit(self._clock)))
            tally.count += 1
            tally.limit.add()
            tally.detail = on_one_line(detail)
            self._log_what_is_due()

    def tend(self) -> None:
        """Log what is due; called about once a second."""
        with self._lock:
            self._log_what_is_due()

    def counts(self) -> Mapping[str, int]:
        """By `SOCKET.REASON`."""
        with self._lock:
            return {name: tally.count for name, tally in self._tallies.items()}

    def _log_what_is_due(self) -> None:
        for name, tally in self._tallies.items():
            if count := tally.limit.due():
                times = f"{count} times, the last time: " if count > 1 else ""
                logger.warning("refused (%s): %s%s", name, times, tally.detail)
