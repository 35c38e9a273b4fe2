"""Which events of a journal go, and when: by their age, and by the room that they take."""

from collections.abc import Iterable, Mapping

from edge.delivery.journal.journal import Gone, Journal

BYTES_AT_ONCE = 4 << 20
"""Deleted in one transaction at most, so that no commit waits long for it."""
_SPARE = 16
"""Of the budget, one part in so many is for what comes while something is deleted. The file takes it at first and has
it from then on, so that a disk that others have filled does no harm."""


class Retention:
    """Decides what goes. Any event may whom every durable consumer has acknowledged, or where there are none; others
    only where the budget leaves no choice.

    Args:
        keep_s: seconds; older events go.
        keep_bytes: the budget.
    """

    def __init__(self, keep_s: float, keep_bytes: int) -> None:
        self._keep_ns = int(keep_s * 1e9)
        self._keep_bytes = keep_bytes
        self._spare_bytes = keep_bytes // _SPARE

    @property
    def most_bytes(self) -> int:
        """What the journal's file may not go beyond while what is to go has not gone yet."""
        return self._keep_bytes + self._keep_bytes // 4 + 4 * BYTES_AT_ONCE

    def is_due(self, journal: Journal, now_ns: int | None) -> bool:
        """Whether something may have to go. The disk is not asked.

        Args:
            now_ns: as for `discard_some`.
        """
        oldest_ns = journal.oldest_at_ns
        return self._too_much(journal) > 0 or (oldest_ns is not None and oldest_ns < self._before_ns(now_ns))

    def discard_some(self, journal: Journal, acked: Mapping[str, int], now_ns: int | None) -> Gone | None:
        """Delete what is due, as much as goes at once; what went, None where nothing did.

        Args:
            acked: through which seq each durable consumer has acknowledged.
            now_ns: UTC, ns since 1970; None: nobody knows, and nothing goes for its age.
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
        """What was journalled before is too old."""
        return 0 if now_ns is None else now_ns - self._keep_ns

    def _too_much(self, journal: Journal) -> int:
        """Bytes beyond the budget; 0 or less: none."""
        has_its_room = journal.file_bytes >= self._keep_bytes
        return journal.size_bytes - (self._keep_bytes - self._spare_bytes if has_its_room else self._keep_bytes)


def _through(events: Iterable[tuple[int, int, int]], too_much: int, at_least: int, before_ns: int = 0) -> int | None:
    """Through which event to delete: those that are too old, and of the rest what makes up for bytes too much.

    Args:
        events: seq, when it was journalled, bytes.
        at_least: bytes to delete, where there are too many, so that not every event makes one go.
    """
    wanted = min(max(too_much, at_least), BYTES_AT_ONCE) if too_much > 0 else 0
    through, freed = None, 0
    for seq, at_ns, size in events:
        if freed >= BYTES_AT_ONCE or (freed >= wanted and at_ns >= before_ns):
            break
        through, freed = seq, freed + size
    return through
