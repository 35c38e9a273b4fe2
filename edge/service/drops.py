"""Describes and logs frames that get no verdict, so that a person sees why a busy line reports nothing."""

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping

from heatline.edge.inspection.outcome import Outcome
from heatline.edge.util.rate_limited_log import RateLimit
from heatline.edge.util.text import format_count, on_one_line
from heatline.edge.wire.events import Account, in_words

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 10.0
BEGINS_BELOW = 0.9
"""A camera loses frames once a smaller share of its frames is inspected."""
ENDS_AT = 0.98
"""It no longer loses frames from this share on. With one limit for both, losses would begin and end all the time."""


class DropMonitor:
    """Watches the accounts of a line's frames. Logs when a camera's losses begin and when they end."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[str, Account]]] = deque()
        self._dropping: set[str] = set()

    def update(self, accounts: Mapping[str, Account], now_s: float) -> list[str]:
        """Add the present accounts. Return one sentence per camera that lost frames in the last 10 s.

        Args:
            now_s: monotonic.
        """
        self._samples.append((now_s, accounts))
        while len(self._samples) > 2 and self._samples[1][0] <= now_s - WINDOW_SECONDS:
            self._samples.popleft()
        before = self._samples[0][1]
        losses = []
        for camera, account in accounts.items():
            required_share = ENDS_AT if camera in self._dropping else BEGINS_BELOW
            sentence = _describe_losses(before[camera], account, required_share)
            if sentence is not None:
                losses.append(f"camera {camera}: {sentence}")
            if (sentence is not None) != (camera in self._dropping):
                self._dropping ^= {camera}
                if sentence is not None:
                    logger.warning("camera %s: %s", camera, sentence)
                else:
                    logger.info("camera %s: its frames are inspected again", camera)
        return losses


def _describe_losses(before: Account, now: Account, required_share: float) -> str | None:
    inspected = now.inspected - before.inspected
    lost = Counter(_bins(now))
    lost.subtract(_bins(before))
    ended = inspected + sum(lost.values())
    if inspected >= required_share * ended:
        return None
    (reason, _), *_ = lost.most_common(1)
    return f"{inspected} of {format_count(ended, 'frame')} inspected: {in_words(reason)}"


def _bins(account: Account) -> dict[str, int]:
    return {
        f"{kind}.{reason}": count
        for kind, bins in (("dropped", account.dropped), ("failed", account.failed))
        for reason, count in bins.items()
    }


class ImplausibleLog:
    """Logs frames that do not show the product, or not as its reference: a camera's first one at once, later ones at
    most every 10 s with their number. For one thread at a time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits: defaultdict[str, RateLimit] = defaultdict(lambda: RateLimit(clock))
        """By camera."""

    def log(self, outcome: Outcome) -> None:
        """Log the outcome of a frame if it does not show the product, or only in part, or not as its reference."""
        unjudged, stamp = outcome.unjudged, outcome.stamp
        if unjudged is None or unjudged.reason not in ("implausible", "misaligned", "foreign_area"):
            return
        limit = self._limits[stamp.camera]
        limit.add()
        count = limit.due()
        if not count:
            return
        frame = f"frame {stamp.number}" if stamp.source is None else f"frame {stamp.number} ({stamp.source})"
        before = f", and {format_count(count - 1, 'frame')} before it" if count > 1 else ""
        logger.warning("camera %s: %s%s: no verdict, %s", stamp.camera, on_one_line(frame), before, unjudged.detail)
