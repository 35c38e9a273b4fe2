"""Decides which events of a journal are deleted, by their age and by the room that they take."""

from collections.abc import Iterable, Mapping

from edge.delivery.journal.journal import Deleted, Journal

BYTES_AT_ONCE = 4 << 20
"""Most bytes deleted in one transaction, so that no commit waits long for it."""
_SPARE = 16
"""One part in this many of the budget is spare, for events that arrive during a deletion. The file takes the spare
room once and keeps it, so that a full disk does no harm."""


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
