"""Frames that get no verdict: for a person who looks at a line that is busy and sees nothing."""

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping

from edge.inspection.ledger import Account
from edge.inspection.outcome import Outcome
from edge.util.rate_limited_log import RateLimit
from edge.util.text import format_count, on_one_line

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 10.0
FEW = 0.9
"""A smaller share of frames inspected is worth a word."""
ENOUGH = 0.98
"""From this share on it is over: near the limit it would begin and end all the time."""


class DropMonitor:
    """Looks at the accounts, some times a second. Each camera's losses are logged when they begin and when they end."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Mapping[str, Account]]] = deque()
        self._dropping: set[str] = set()

    def look(self, accounts: Mapping[str, Account], now_s: float) -> list[str]:
        """What to say of the last seconds, one sentence per camera that loses frames.

        Args:
            now_s: monotonic.
        """
        self._looks.append((now_s, accounts))
        while len(self._looks) > 2 and self._looks[1][0] <= now_s - WINDOW_SECONDS:
            self._looks.popleft()
        before = self._looks[0][1]
        said = []
        for camera, account in accounts.items():
            enough = ENOUGH if camera in self._dropping else FEW
            sentence = _sentence(before[camera], account, enough)
            if sentence is not None:
                said.append(f"camera {camera}: {sentence}")
            if (sentence is not None) != (camera in self._dropping):
                self._dropping ^= {camera}
                if sentence is not None:
                    logger.warning("camera %s: %s", camera, sentence)
                else:
                    logger.info("camera %s: its frames are inspected again", camera)
        return said


def _sentence(before: Account, now: Account, enough: float) -> str | None:
    inspected = now.inspected - before.inspected
    lost = Counter(_bins(now))
    lost.subtract(_bins(before))
    ended = inspected + sum(lost.values())
    if inspected >= enough * ended:
        return None
    (reason, _), *_ = lost.most_common(1)
    return f"{inspected} of {format_count(ended, 'frame')} inspected ({reason})"


def _bins(account: Account) -> dict[str, int]:
    return {
        f"{kind}.{reason}": count
        for kind, bins in (("dropped", account.dropped), ("failed", account.failed))
        for reason, count in bins.items()
    }


class ImplausibleLog:
    """Logs frames that do not show the product: a camera's first one at once, later ones at most every 10 s, with how
    many there were. One thread at a time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits: defaultdict[str, RateLimit] = defaultdict(lambda: RateLimit(clock))
        """By camera."""

    def log(self, outcome: Outcome) -> None:
        """Log the outcome of a frame if it is implausible."""
        unjudged, stamp = outcome.unjudged, outcome.stamp
        if unjudged is None or unjudged.reason != "implausible":
            return
        limit = self._limits[stamp.camera]
        limit.add()
        count = limit.due()
        if not count:
            return
        frame = f"frame {stamp.number}" if stamp.source is None else f"frame {stamp.number} ({stamp.source})"
        before = f", and {format_count(count - 1, 'frame')} before it" if count > 1 else ""
        logger.warning("camera %s: %s%s: no verdict, %s", stamp.camera, on_one_line(frame), before, unjudged.detail)
