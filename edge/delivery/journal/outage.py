"""Times in which no journal takes events, and when it is tried again."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge.delivery.journal.errors import JournalDamagedError, JournalFailedError
from edge.errors import JournalError
from edge.frames import Watermark
from edge.util.rate_limited_log import RateLimitedLog
from edge.util.text import utf8_safe
from edge.wire.events import Message, StatusEvent, VerdictEvent

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""From one attempt to keep events again to the next."""
STEADY_SECONDS = 10.0
"""A journal that fails again within this time after it came back is tried less and less often."""
MOST_RETRY_SECONDS = 30.0
LARGEST = 2**63 - 1
"""What SQLite can keep."""


@dataclass
class Outage:
    """A time in which no journal takes events. Those that go out live only are counted in the boot's own count."""

    error: JournalError
    retry_at_s: float
    wait_s: float
    """From one attempt to the next."""
    first_seq: int
    """Of the first event that goes out live only."""
    by_topic: Counter[str] = field(default_factory=Counter)
    progress: dict[str, Watermark] = field(default_factory=dict)
    """By camera, how far its frames were told live only."""
    told: bool = False
    damaged: str | None = None
    """Why the journal that is there must be moved aside first."""
    why_anew: str | None = None
    """Why a new journal is begun, where it is."""
    _tried: tuple[int, Counter[str]] | None = None

    def note(self, messages: Sequence[Message]) -> None:
        """These go out live only."""
        for event in (message.event for message in messages):
            if not isinstance(event, StatusEvent):
                self.by_topic[utf8_safe(event.topic)] += 1
            if isinstance(event, VerdictEvent):
                self.progress[utf8_safe(event.camera)] = progress_of(event)

    def failed(self, error: JournalError, now_s: float) -> None:
        """It is not over."""
        self.error, self.retry_at_s = error, now_s + self.wait_s
        if isinstance(error, JournalDamagedError):
            self.damaged = str(error)

    def about_to_tell(self, through_seq: int) -> None:
        """The journal is about to be told what it does not hold, up to this event."""
        self._tried = through_seq, Counter(self.by_topic)

    def was_told(self) -> None:
        """It was, although that had failed: what is to be told is what came since."""
        if self._tried is not None:
            through_seq, by_topic = self._tried
            self.first_seq, self.by_topic, self._tried = through_seq + 1, self.by_topic - by_topic, None


def progress_of(event: VerdictEvent) -> Watermark:
    """How far a camera's frames are told with this event."""
    return Watermark(event.boot_id, min(event.frame_number + event.frames - 1, LARGEST))


class Retries:
    """How long to wait from one attempt to the next."""

    def __init__(self) -> None:
        self._wait_s = RETRY_SECONDS
        self._back_at_s = float("-inf")

    def steady(self, now_s: float) -> bool:
        """Whether events have been kept for a while."""
        return now_s - self._back_at_s >= STEADY_SECONDS

    def next_wait_s(self, now_s: float) -> float:
        """For an outage that begins now."""
        self._wait_s = RETRY_SECONDS if self.steady(now_s) else min(2 * self._wait_s, MOST_RETRY_SECONDS)
        return self._wait_s

    def back(self, now_s: float) -> None:
        """Events are kept again."""
        self._back_at_s = now_s


class FaultLog:
    """Logs errors that are faults of ours, and not too often: they must not keep events back.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._log = RateLimitedLog(logger, clock)

    def as_journal_error(self, error: Exception) -> JournalError:
        """An error as one of the journal's; any other is logged."""
        if isinstance(error, JournalError):
            return error
        self.log(error)
        return JournalFailedError(f"events could not be journalled ({type(error).__name__}: {error}); see the log")

    def log(self, error: Exception) -> None:
        """Log an error with its traceback."""
        self._log.error("an event could not be dealt with as it should be", exc_info=error)
