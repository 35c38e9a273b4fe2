"""What a listener missed: seen by the count of its topic that every event carries (`previous_seq`), and by those that
welcome and status events tell.
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
    went_back: bool = False
    """The count is behind where it was, as that of a copy that was put back: its numbers are given once more, and what
    they were is gone."""


class Gaps:
    """Follows the counts of one line, of the topics that are listened to.

    Args:
        prefixes: of topics, as subscribed to.
    """

    def __init__(self, prefixes: Iterable[str]) -> None:
        self._prefixes = tuple(prefixes)
        self._heard: dict[str, _Heard] = {}
        self._joined = False
        self._journal_id: str | None = None

    def event(self, event: CountedEvent) -> tuple[bool, Gap | None]:
        """An event came: whether it is new, and what was missed before it."""
        previous = event.previous_seq
        if previous is None:  # of an older line, which tells nothing that gaps could be seen by
            return True, None
        count = self._count(event.journal_id, event.boot_id)
        self._join(event.journal_id)
        known = count.known(event.topic, previous)
        if event.seq <= known:
            return False, None
        count.note(event.topic, event.seq)
        if previous <= known:
            return True, None
        return True, Gap(event.journal_id, event.boot_id, event.topic, known, previous)

    def counts(self, counts: Counts, boot_id: str) -> list[Gap]:
        """The line said how far it has counted: what was missed up to there."""
        found = []
        told: list[tuple[str | None, dict[str, int]]] = []
        if counts.unjournalled:
            told.append((None, counts.unjournalled))
        if counts.journal_id is not None:
            told.append((counts.journal_id, counts.journalled))
        for journal_id, topics in told:
            count = self._count(journal_id, boot_id)
            for topic in [*topics, *(count.topics.keys() - topics.keys())]:
                last_seq = topics.get(topic, 0)
                known = count.known(topic, last_seq)
                count.note(topic, last_seq)
                if topic.startswith(self._prefixes) and last_seq != known:
                    after, through = sorted((known, last_seq))
                    found.append(Gap(journal_id, boot_id, topic, after, through, went_back=last_seq < known))
            count.began_before = False  # each of its topics is known now
        self._join(counts.journal_id)
        return found

    def _count(self, journal_id: str | None, boot_id: str) -> "_Heard":
        """A count as far as it was heard.

        One that is new to us began after we joined, so all of it concerns us. But nobody who joins missed what was
        before; nor can we know how far a journal was that could not be read when we last heard of it.
        """
        name = journal_id or boot_id
        heard = self._heard.pop(name, None)
        if heard is None:
            began_before = not self._joined or (journal_id is not None and self._journal_id is None)
            heard = _Heard({}, began_before)
        self._heard[name] = heard  # at the end: the first is the one that was not heard of for longest
        if len(self._heard) > COUNTS_KEPT:
            del self._heard[next(iter(self._heard))]
        return heard

    def _join(self, journal_id: str | None) -> None:
        self._joined = True
        if journal_id is not None:
            self._journal_id = journal_id


@dataclass
class _Heard:
    """How far a count was heard."""

    topics: dict[str, int]
    began_before: bool
    """Whether topics that are not known yet may have come before us."""

    def known(self, topic: str, now: int) -> int:
        """The last event of a topic that concerns us no more, as its count says that it is at `now`."""
        unheard_of = now if self.began_before or len(self.topics) >= TOPICS_KEPT else 0
        return self.topics.get(topic, unheard_of)

    def note(self, topic: str, seq: int) -> None:
        """A topic was heard up to an event."""
        if topic in self.topics or len(self.topics) < TOPICS_KEPT:
            self.topics[topic] = seq
