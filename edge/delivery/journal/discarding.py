"""Deletes the journal's oldest events, and records those that a durable consumer never got."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from edge.delivery.journal.disk_file import DiskFile
from edge.delivery.journal.errors import JournalFullError
from edge.delivery.journal.journal import Deleted
from edge.delivery.journal.retention import Retention
from edge.delivery.journal.wall_clock import WallClock

ROOM_SECONDS = 0.3
"""Time for making room before an event is stored that found none."""
SECONDS_BETWEEN_DISCARDED_REPORTS = 10.0
SECONDS_BETWEEN_TRIES = 1.0
"""After missing acknowledgements kept the last attempt from deleting events by age."""


@dataclass
class Discarded:
    """Events that were deleted before every durable consumer had acknowledged them, and that are not yet reported."""

    first_seq: int
    last_seq: int
    """Some events between first and last may have been acknowledged by all before they were deleted."""
    since_s: float
    events: int = 0
    by_topic: dict[str, int] = field(default_factory=dict)
    consumers: set[str] = field(default_factory=set)

    def add(self, deleted: Deleted, consumers: Iterable[str]) -> None:
        self.last_seq = deleted.last_seq
        self.events += deleted.last_seq - deleted.first_seq + 1
        self.consumers.update(consumers)
        for topic, events in deleted.by_topic.items():
            self.by_topic[topic] = self.by_topic.get(topic, 0) + events


class Discarding:
    """Deletes events that are due, and makes room on a full disk. One thread calls it.

    Args:
        acked: returns, for a journal's id, the last event that each durable consumer acknowledged.
        clock: seconds, monotonic.
        wall_clock: clock for the age of events.
    """

    def __init__(
        self,
        file: DiskFile,
        retention: Retention,
        acked: Callable[[str], Mapping[str, int]],
        clock: Callable[[], float],
        wall_clock: WallClock,
    ) -> None:
        self.events = 0
        """Number of events deleted since the start before every durable consumer had acknowledged them."""
        self._file, self._retention, self._acked = file, retention, acked
        self._clock, self._wall_clock = clock, wall_clock
        self._age_at_s = float("-inf")
        """When to delete by age again."""
        self._unreported: Discarded | None = None
        self._reported_at_s = float("-inf")

    def discard_some(self) -> bool:
        """Delete a limited number of events that are due; return whether any were deleted.

        Raises:
            JournalError: the journal cannot be read or written.
        """
        journal, now_s = self._file.in_use, self._clock()
        now_ns = self._wall_clock.trusted_ns()
        if now_s < self._age_at_s:
            now_ns = None
        if not self._retention.is_due(journal, now_ns):
            return False
        acked = self._acked(journal.journal_id)

        def discard() -> Deleted | None:
            try:
                return self._retention.discard_some(journal, acked, now_ns)
            except JournalFullError:  # deleting takes room too, in the -wal file
                journal.checkpoint()
                return self._retention.discard_some(journal, acked, now_ns)

        deleted = self._file.run(discard)
        if deleted is None:
            self._age_at_s = now_s + SECONDS_BETWEEN_TRIES
            return False
        self._note(deleted, acked)
        self._file.note_size()
        return True

    def make_room(self) -> None:
        """Make room in the file after the disk became full.

        Raises:
            JournalError: no room can be made.
        """
        journal = self._file.in_use
        self._file.run(journal.checkpoint)
        self._file.run(journal.require_small_wal)
        until_s = time.monotonic() + ROOM_SECONDS
        while self.discard_some() and time.monotonic() < until_s:
            pass
        self._file.run(journal.reload_state)

    def note(self, deleted: Deleted) -> None:
        """Record events that were deleted although the deletion seemed to fail."""
        self._note(deleted, self._acked(self._file.in_use.journal_id))

    def forget(self) -> None:
        """Drop the unreported events: another journal is in use now."""
        self._unreported = None

    def report(self) -> Discarded | None:
        """Return the events to report now, if there are any. They count as reported afterwards."""
        discarded, self._unreported = self._unreported, None
        if discarded is not None:
            self._reported_at_s = self._clock()
        return discarded

    def report_if_due(self, *, quiet: bool) -> Discarded | None:
        """Return the events to report now, at most every 10 s.

        Args:
            quiet: whether no more events are being deleted at the moment.
        """
        now_s, discarded = self._clock(), self._unreported
        if discarded is None or now_s - self._reported_at_s < SECONDS_BETWEEN_DISCARDED_REPORTS:
            return None
        long = now_s - discarded.since_s >= SECONDS_BETWEEN_DISCARDED_REPORTS
        return self.report() if quiet or long else None

    def _note(self, deleted: Deleted, acked: Mapping[str, int]) -> None:
        missed = [name for name, seq in acked.items() if seq < deleted.last_seq]
        if missed:
            if self._unreported is None:
                self._unreported = Discarded(deleted.first_seq, deleted.last_seq, self._clock())
            self._unreported.add(deleted, missed)
            self.events += deleted.last_seq - deleted.first_seq + 1
