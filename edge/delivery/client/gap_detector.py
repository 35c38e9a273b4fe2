"""Detects which events a live subscriber missed: by `previous_seq` of every event, and by the counts in statuses."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from heatline.edge.wire.events import CountedEvent, Counts


@dataclass(frozen=True)
class Gap:
    """Events of a topic that were missed: at least one of those after `after_seq` up to `through_seq`."""

    journal_id: str | None
    """The journal that counts them; None: no journal holds them."""
    boot_id: str
    topic: str
    after_seq: int
    through_seq: int

    def __str__(self) -> str:
        return f"events of {self.topic} after {self.after_seq} up to {self.through_seq} were missed"


class GapDetector:
    """Follows the counts of one line, for the topics that are subscribed to.

    Args:
        prefixes: prefixes of the subscribed topics.
    """

    def __init__(self, prefixes: Iterable[str]) -> None:
        self._prefixes = tuple(prefixes)
        self._counts: dict[bool, _Count] = {}
        """The count of the current journal, and under False that of the current boot."""
        self._knows_counts = False
        """A status has named the counts: a count that is new after that began after the subscriber joined."""
        self._journal_id: str | None = None

    def event(self, event: CountedEvent) -> Gap | None:
        """Record an event; return the gap before it, if there is one."""
        previous = event.previous_seq
        count = self._count(event.journal_id, event.boot_id, event.seq - 1)
        known = count.topics.get(event.topic, count.since)
        count.topics[event.topic] = event.seq
        return Gap(event.journal_id, event.boot_id, event.topic, known, previous) if previous > known else None

    def counts(self, counts: Counts, boot_id: str) -> list[Gap]:
        """Record the counts of a status; return the gaps up to there."""
        found = []
        reported: list[tuple[str | None, dict[str, int]]] = []
        if counts.unjournalled:
            reported.append((None, counts.unjournalled))
        if counts.journal_id is not None:
            reported.append((counts.journal_id, counts.journalled))
        for journal_id, topics in reported:
            count = self._count(journal_id, boot_id, max(topics.values(), default=0))
            for topic, last_seq in topics.items():
                known = count.topics.get(topic, count.since)
                count.topics[topic] = last_seq
                if topic.startswith(self._prefixes) and last_seq > known:
                    found.append(Gap(journal_id, boot_id, topic, known, last_seq))
        self._knows_counts = True
        self._journal_id = counts.journal_id or self._journal_id
        return found

    def _count(self, journal_id: str | None, boot_id: str, before: int) -> "_Count":
        """Return a count, as far as it is known.

        A count that is new after the first status began after the subscriber joined, so all of its events concern the
        subscriber. Of a count that is known at joining, only later events do. The position of a journal is unknown
        while it cannot be read.

        Args:
            before: number of events that were counted before this message.
        """
        name, is_journal = journal_id or boot_id, journal_id is not None
        if is_journal not in self._counts or self._counts[is_journal].name != name:
            is_new = self._knows_counts and (not is_journal or self._journal_id is not None)
            self._counts[is_journal] = _Count(name, since=0 if is_new else before)
        return self._counts[is_journal]


@dataclass
class _Count:
    """How far a count is known."""

    name: str
    """Id of the journal or of the boot."""
    since: int
    """Only events after this one concern the subscriber."""
    topics: dict[str, int] = field(default_factory=dict)
    """The last event of each topic."""
