"""Outages of the journal: times in which no event can be journalled, and when the next attempt is due."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge.delivery.journal.errors import JournalDamagedError, JournalFailedError
from edge.errors import JournalError
from edge.frames import Watermark
from edge.util.rate_limited_log import RateLimitedLog
from edge.util.text import utf8_safe
from edge.wire.events import JournalEvent, Message, StatusEvent, VerdictEvent

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Between two attempts to journal events again."""
STEADY_SECONDS = 10.0
"""If the journal fails again within this time after an outage, the attempts become less and less frequent."""
MOST_RETRY_SECONDS = 30.0
LARGEST = 2**63 - 1
"""Largest integer of SQLite."""


@dataclass
class Outage:
    """A time in which no event can be journalled. Events are sent live only, and counted in the boot's own count."""

    error: JournalError
    retry_at_s: float
    wait_s: float
    """Time between two attempts."""
    first_seq: int
    """The first event that is sent live only."""
    by_topic: Counter[str] = field(default_factory=Counter)
    progress: dict[str, Watermark] = field(default_factory=dict)
    """By camera, the last frame that was reported live only."""
    unrecorded: list[JournalEvent] = field(default_factory=list)
    """Reports of what the boot before did not journal. They are journalled too: else nobody who missed them could ever
    know."""
    reported: bool = False
    damaged: str | None = None
    """Why the journal's file must be moved aside first; None: it must not."""
    new_journal_reason: str | None = None
    """Why a new journal is begun, if one is."""
    _tried: tuple[int, Counter[str]] | None = None

    def note(self, messages: Sequence[Message]) -> None:
        """Record messages that are sent live only."""
        for event in (message.event for message in messages):
            if not isinstance(event, StatusEvent):
                self.by_topic[utf8_safe(event.topic)] += 1
            if isinstance(event, JournalEvent) and event.kind == "unrecorded":
                self.unrecorded.append(event)
            if isinstance(event, VerdictEvent):
                self.progress[utf8_safe(event.camera)] = progress_of(event)

    def failed(self, error: JournalError, now_s: float) -> None:
        """Record a failed attempt."""
        self.error, self.retry_at_s = error, now_s + self.wait_s
        if isinstance(error, JournalDamagedError):
            self.damaged = str(error)

    def begin_report(self, through_seq: int) -> None:
        """The event that reports the outage, up to `through_seq`, is about to be journalled."""
        self._tried = through_seq, Counter(self.by_topic)

    def note_reported(self) -> None:
        """That event was journalled although the commit seemed to fail: only what came since is left to be reported."""
        if self._tried is not None:
            through_seq, by_topic = self._tried
            self.first_seq, self.by_topic, self._tried = through_seq + 1, self.by_topic - by_topic, None
            self.unrecorded = []


def progress_of(event: VerdictEvent) -> Watermark:
    """Return how far a camera's frames are reported with this event."""
    return Watermark(event.boot_id, min(event.frame_number + event.frames - 1, LARGEST))


class Retries:
    """Computes the time between two attempts."""

    def __init__(self) -> None:
        self._wait_s = RETRY_SECONDS
        self._back_at_s = float("-inf")

    def steady(self, now_s: float) -> bool:
        """Return whether the last outage is long enough ago."""
        return now_s - self._back_at_s >= STEADY_SECONDS

    def next_wait_s(self, now_s: float) -> float:
        """Return the time between attempts for an outage that begins now."""
        self._wait_s = RETRY_SECONDS if self.steady(now_s) else min(2 * self._wait_s, MOST_RETRY_SECONDS)
        return self._wait_s

    def back(self, now_s: float) -> None:
        """Record the end of an outage."""
        self._back_at_s = now_s


class FaultLog:
    """Logs errors that are bugs of heatline, at a limited rate: they must not delay events.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._log = RateLimitedLog(logger, clock)

    def as_journal_error(self, error: Exception) -> JournalError:
        """Return an error as a journal error. Log it if it is of another kind."""
        if isinstance(error, JournalError):
            return error
        self.log(error)
        return JournalFailedError(f"events could not be journalled ({type(error).__name__}: {error}); see the log")

    def log(self, error: Exception) -> None:
        """Log an error with its traceback."""
        self._log.error("an event could not be processed as it should be", exc_info=error)
