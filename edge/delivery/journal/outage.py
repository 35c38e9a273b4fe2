"""Outages of the journal: times in which no event can be journalled, when the next attempt is due, and the events that
tell consumers of this."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from heatline.edge.delivery.journal.errors import JournalDamagedError, JournalFailedError
from heatline.edge.delivery.journal.retention import Discarded
from heatline.edge.errors import JournalError
from heatline.edge.frames import Watermark
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.text import on_one_line, utf8_safe
from heatline.edge.wire.events import JournalEvent, Message, StatusEvent, VerdictEvent

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Between two attempts to journal events again."""
STABLE_SECONDS = 10.0
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
        self._recovered_at_s = float("-inf")

    def is_stable(self, now_s: float) -> bool:
        """Return whether the last outage is long enough ago."""
        return now_s - self._recovered_at_s >= STABLE_SECONDS

    def next_wait_s(self, now_s: float) -> float:
        """Return the time between attempts for an outage that begins now."""
        self._wait_s = RETRY_SECONDS if self.is_stable(now_s) else min(2 * self._wait_s, MOST_RETRY_SECONDS)
        return self._wait_s

    def recovered(self, now_s: float) -> None:
        """Record the end of an outage."""
        self._recovered_at_s = now_s


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


class OwnEvents:
    """Makes journal events. They get their number when they are committed."""

    def __init__(self, line: str, boot_id: str, wall_ns: Callable[[], int]) -> None:
        self.waiting: list[JournalEvent] = []
        """Events to commit before all others."""
        self._line, self._boot_id, self._wall_ns = line, boot_id, wall_ns

    def begun(self, reason: str) -> JournalEvent:
        """A new journal begins."""
        return self._event("begun", reason)

    def live_only(self, error: JournalError) -> JournalEvent:
        """From now on events are not journalled."""
        return self._event("live_only", f"events are not journalled from now on: {error}")

    def recording(self, outage: Outage, last_seq: int) -> JournalEvent:
        """Events are journalled again.

        Args:
            last_seq: the last event that is not in the journal, in the boot's own count.
        """
        events = last_seq - outage.first_seq + 1
        return self._event(
            "recording",
            f"events are journalled again; {events} are not in the journal ({outage.error})",
            events=events,
            by_topic=dict(outage.by_topic),
            of_boot=self._boot_id,
            first_seq=outage.first_seq if events else None,
            last_seq=last_seq if events else None,
        )

    def discarded(self, discarded: Discarded) -> JournalEvent:
        """Events were deleted before every durable consumer got them."""
        names = sorted(discarded.consumers)
        return self._event(
            "discarded",
            f"events {discarded.first_seq} to {discarded.last_seq} were deleted to make room; "
            f"{', '.join(names)} did not get all of them",
            events=discarded.events,
            by_topic=discarded.by_topic,
            first_seq=discarded.first_seq,
            last_seq=discarded.last_seq,
            consumers=names,
        )

    def _event(self, kind: str, detail: str, **fields: object) -> JournalEvent:
        event = JournalEvent(
            boot_id=self._boot_id,
            seq=0,
            previous_seq=0,
            at_ns=self._wall_ns(),
            line=self._line,
            kind=kind,
            detail=on_one_line(utf8_safe(detail)),  # an error may name a path that is not valid UTF-8
        )
        return msgspec.structs.replace(event, **fields)
