"""Detects which events a live subscriber missed: by `previous_seq` of every event, and by the counts in statuses."""

from collections.abc import Iterable
from dataclasses import dataclass

from edge.wire.events import CountedEvent, Counts

COUNTS_KEPT = 16
"""A line that restarts repeatedly without a journal begins a count each time."""
TOPICS_KEPT = 1000
"""Of one count. A line has some tens of topics; missed events of further topics are not detected."""


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
        self._counts: dict[str, _Count] = {}
        self._knows_counts = False
        """A status has named the counts: a count that is new after that began after the subscriber joined."""
        self._journal_id: str | None = None

    def event(self, event: CountedEvent) -> Gap | None:
        """Record an event; return the gap before it, if there is one."""
        previous = event.previous_seq
        count = self._count(event.journal_id, event.boot_id, event.seq - 1)
        known = count.known(event.topic, previous)
        count.note(event.topic, event.seq)
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
            for topic in [*topics, *(count.topics.keys() - topics.keys())]:
                # A count may go back, such as that of an older copy of the journal. Then it continues from there.
                last_seq = topics.get(topic, 0)
                known = count.known(topic, last_seq)
                count.note(topic, last_seq)
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
        name = journal_id or boot_id
        count = self._counts.pop(name, None)
        if count is None:
            is_new = self._knows_counts and (journal_id is None or self._journal_id is not None)
            count = _Count({}, since=0 if is_new else before)
        self._counts[name] = count  # at the end: the first one is the one that was not seen for longest
        if len(self._counts) > COUNTS_KEPT:
            del self._counts[next(iter(self._counts))]
        return count


@dataclass
class _Count:
    """How far a count is known."""

    topics: dict[str, int]
    """The last event of each topic."""
    since: int
    """Only events after this one concern the subscriber."""

    def known(self, topic: str, now: int) -> int:
        """Return the last event of a topic that is no gap, if its count is at `now`."""
        return self.topics.get(topic, now if len(self.topics) >= TOPICS_KEPT else self.since)

    def note(self, topic: str, seq: int) -> None:
        """Record that a topic is known up to an event."""
        if topic in self.topics or len(self.topics) < TOPICS_KEPT:
            self.topics[topic] = seq
