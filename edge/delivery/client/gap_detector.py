"""What a live subscriber missed: by the count of its topic that every event carries (`previous_seq`), and by the counts
that status events report.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from edge.wire.events import CountedEvent, Counts

COUNTS_KEPT = 16
"""A line that starts again and again without a journal begins a count each time."""
TOPICS_KEPT = 1000
"""Of one count; a line has some tens. Of others, nobody sees what is missed."""


@dataclass(frozen=True)
class Gap:
    """Events of a topic that were missed: at least one of those after `after_seq` up to `through_seq`."""

    journal_id: str | None
    """Whose count it is; None: of events that no journal holds."""
    boot_id: str
    topic: str
    after_seq: int
    through_seq: int

    def __str__(self) -> str:
        return f"events of {self.topic} after {self.after_seq} up to {self.through_seq} were missed"


class GapDetector:
    """Follows the counts of one line, of the topics that are listened to.

    Args:
        prefixes: of topics, as subscribed to.
    """

    def __init__(self, prefixes: Iterable[str]) -> None:
        self._prefixes = tuple(prefixes)
        self._counts: dict[str, _Count] = {}
        self._knows_counts = False
        """A status has reported which counts there are: one that is new after that began after we joined."""
        self._journal_id: str | None = None

    def event(self, event: CountedEvent) -> Gap | None:
        """An event came: what was missed before it."""
        previous = event.previous_seq
        count = self._count(event.journal_id, event.boot_id, event.seq - 1)
        known = count.known(event.topic, previous)
        count.note(event.topic, event.seq)
        return Gap(event.journal_id, event.boot_id, event.topic, known, previous) if previous > known else None

    def counts(self, counts: Counts, boot_id: str) -> list[Gap]:
        """The line reported how far it has counted: what was missed up to there."""
        found = []
        reported: list[tuple[str | None, dict[str, int]]] = []
        if counts.unjournalled:
            reported.append((None, counts.unjournalled))
        if counts.journal_id is not None:
            reported.append((counts.journal_id, counts.journalled))
        for journal_id, topics in reported:
            count = self._count(journal_id, boot_id, max(topics.values(), default=0))
            for topic in [*topics, *(count.topics.keys() - topics.keys())]:
                # A count may go back, as that of an older copy of the journal: what comes next is counted from there.
                last_seq = topics.get(topic, 0)
                known = count.known(topic, last_seq)
                count.note(topic, last_seq)
                if topic.startswith(self._prefixes) and last_seq > known:
                    found.append(Gap(journal_id, boot_id, topic, known, last_seq))
        self._knows_counts = True
        self._journal_id = counts.journal_id or self._journal_id
        return found

    def _count(self, journal_id: str | None, boot_id: str, before: int) -> "_Count":
        """A count as far as it was heard.

        One that is new to us began after we joined, so all of it concerns us. But who joins has missed nothing that was
        before; nor can we know how far a journal was that could not be read when we last heard of it.

        Args:
            before: what was counted before this was heard.
        """
        name = journal_id or boot_id
        count = self._counts.pop(name, None)
        if count is None:
            is_new = self._knows_counts and (journal_id is None or self._journal_id is not None)
            count = _Count({}, since=0 if is_new else before)
        self._counts[name] = count  # at the end: the first is the one that was not heard of for longest
        if len(self._counts) > COUNTS_KEPT:
            del self._counts[next(iter(self._counts))]
        return count


@dataclass
class _Count:
    """How far a count was heard."""

    topics: dict[str, int]
    """The last event of each."""
    since: int
    """What concerns us is after this event."""

    def known(self, topic: str, now: int) -> int:
        """The last event of a topic that concerns us no more, as its count says that it is at `now`."""
        return self.topics.get(topic, now if len(self.topics) >= TOPICS_KEPT else self.since)

    def note(self, topic: str, seq: int) -> None:
        """A topic was heard up to an event."""
        if topic in self.topics or len(self.topics) < TOPICS_KEPT:
            self.topics[topic] = seq
