"""Deletes the journal's oldest events, by their age and by the room that they take, and records those that a durable
consumer never got."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from heatline.edge.delivery.journal.disk_file import DiskFile
from heatline.edge.delivery.journal.errors import JournalFullError
from heatline.edge.delivery.journal.journal import Deleted, Journal
from heatline.edge.delivery.journal.wall_clock import WallClock

BYTES_AT_ONCE = 4 << 20
"""Most bytes deleted in one transaction, so that no commit waits long for it."""
_SPARE = 16
"""One part in this many of the budget is spare, for events that arrive during a deletion. The file takes the spare
room once and keeps it, so that a full disk does no harm."""
ROOM_SECONDS = 0.3
"""Time for making room before an event is stored that found none."""
SECONDS_BETWEEN_DISCARDED_REPORTS = 10.0
SECONDS_BETWEEN_TRIES = 1.0
"""After missing acknowledgements kept the last attempt from deleting events by age."""


class Retention:
    """Decides which events are deleted.

    Events that every durable consumer acknowledged may be deleted, or any event if there are no consumers. Other events
    are deleted only to stay within the budget.

    Args:
        keep_s: age in seconds above which events are deleted.
        keep_bytes: the budget, bytes.
    """

    def __init__(self, keep_s: float, keep_bytes: int) -> None:
        self._keep_ns = int(keep_s * 1e9)
        self._keep_bytes = keep_bytes
        self._spare_bytes = keep_bytes // _SPARE

    @property
    def most_bytes(self) -> int:
        """Limit of the file's size while events that are due are not yet deleted, bytes."""
        return self._keep_bytes + self._keep_bytes // 4 + 4 * BYTES_AT_ONCE

    def is_due(self, journal: Journal, now_ns: int | None) -> bool:
        """Return whether events may have to be deleted. The disk is not asked.

        Args:
            now_ns: as for `discard_some`.
        """
        oldest_ns = journal.oldest_at_ns
        return self._too_much(journal) > 0 or (oldest_ns is not None and oldest_ns < self._before_ns(now_ns))

    def discard_some(self, journal: Journal, acked: Mapping[str, int], now_ns: int | None) -> Deleted | None:
        """Delete a limited number of events that are due; return what was deleted, None if nothing was.

        Args:
            acked: the last event that each durable consumer acknowledged.
            now_ns: UTC, ns since 1970; None: the time is unknown, and no event is deleted for its age.
        Raises:
            JournalError: the journal cannot be read or written.
        """
        oldest = journal.oldest(BYTES_AT_ONCE)
        given = min(acked.values(), default=journal.last_seq)
        free = [event for event in oldest if event[0] <= given]
        too_much = self._too_much(journal)
        through = _through(free, too_much, self._spare_bytes // 2, self._before_ns(now_ns))
        if through is None:
            through = _through(oldest, too_much, self._spare_bytes // 4)
        return None if through is None else journal.discard(through)

    def _before_ns(self, now_ns: int | None) -> int:
        """Return the time before which events are too old: UTC, ns since 1970."""
        return 0 if now_ns is None else now_ns - self._keep_ns

    def _too_much(self, journal: Journal) -> int:
        """Return the bytes beyond the budget; 0 or less: none."""
        has_its_room = journal.file_bytes >= self._keep_bytes
        return journal.size_bytes - (self._keep_bytes - self._spare_bytes if has_its_room else self._keep_bytes)


def _through(events: Iterable[tuple[int, int, int]], too_much: int, at_least: int, before_ns: int = 0) -> int | None:
    """Return the last event to delete: events that are too old, and as many others as exceed the budget.

    Args:
        events: seq, time of journalling, and bytes of each.
        at_least: bytes to delete if the budget is exceeded, so that not every new event leads to a deletion.
    """
    wanted = min(max(too_much, at_least), BYTES_AT_ONCE) if too_much > 0 else 0
    through, freed = None, 0
    for seq, at_ns, size in events:
        if freed >= BYTES_AT_ONCE or (freed >= wanted and at_ns >= before_ns):
            break
        through, freed = seq, freed + size
    return through


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
