"""Numbers events: one count for events that a journal holds, and one for all others of a boot."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec

from heatline.edge.frames import Watermark
from heatline.edge.wire.events import CountedEvent, Counts, JournalState, Message, StatusEvent

T = TypeVar("T", bound=CountedEvent)


class Count:
    """A gapless count of events, with the last number of each topic.

    Args:
        journal_id: the journal whose events it counts; None: it counts a boot's events that no journal holds.
        topics: the last number of each topic.
        last_seq: the last number of all topics.
    """

    def __init__(self, journal_id: str | None, topics: Mapping[str, int] | None = None, last_seq: int = 0) -> None:
        self.journal_id = journal_id
        self.topics = dict(topics or {})
        self.last_seq = last_seq

    def next(self, event: T) -> T:
        """Return the event with its place in this count."""
        self.last_seq += 1
        previous = self.topics.get(event.topic, 0)
        self.topics[event.topic] = self.last_seq
        return msgspec.structs.replace(event, seq=self.last_seq, journal_id=self.journal_id, previous_seq=previous)

    def copy(self) -> "Count":
        return Count(self.journal_id, self.topics, self.last_seq)


class Numbering:
    """Numbers the events of a boot, and adds the counts to its statuses. It is all that a line without a journal needs.

    One thread calls it, except where a method says otherwise.
    """

    stores = False
    """Whether the line has a journal, even one that cannot be used now."""

    def __init__(self) -> None:
        self.progress: Mapping[str, Watermark] = {}
        """By camera, the last frame that the journal reported when this began."""
        self.since_ns: int | None = None
        """When the journal was created: UTC, ns since 1970; None if there is none, or the time cannot be read."""
        self._live = Count(None)
        """Count of this boot's events that no journal holds."""
        self._journalled = Count(None)
        self._counts = self._counts_at(self._journalled)

    def commit(self, messages: Sequence[Message]) -> list[Message]:
        """Number events and add the counts to statuses; return the messages to send, in order."""
        done = self._complete(messages, self._live)
        self._publish()
        return done

    def tick(self) -> list[Message]:
        """Do the periodic work; return the messages to send for it."""
        return []

    def counts(self) -> Counts:
        """Return how far events are counted. Any thread."""
        return self._counts

    @property
    def journal_id(self) -> str | None:
        """Id of the journal in use; None if there is none or it cannot be read. Any thread."""
        return self._counts.journal_id

    def state(self) -> JournalState | None:
        """Return the state of the journal, without its consumers; None if the line has no journal. Any thread."""
        return None

    def close(self) -> None:
        """Release what is open."""

    def _publish(self) -> None:
        """Replace the snapshot that other threads read. A snapshot is never changed."""
        self._counts = self._counts_at(self._journalled)

    def _complete(self, messages: Sequence[Message], count: Count) -> list[Message]:
        """Return messages with their place in a count."""
        return [
            replace(
                message,
                event=self._status(message.event, count)
                if isinstance(message.event, StatusEvent)
                else count.next(message.event),
                header=None,
            )
            for message in messages
        ]

    def _status(self, status: StatusEvent, count: Count) -> StatusEvent:
        """Return a status with a count's numbers."""
        journalled = self._journalled if count is self._live else count
        return msgspec.structs.replace(
            status,
            last_seq=count.last_seq,
            journal_id=count.journal_id,
            counts=self._counts_at(journalled),
            journal=self._journal_state(journalled),
        )

    def _counts_at(self, journalled: Count) -> Counts:
        return Counts(
            journal_id=journalled.journal_id,
            journalled=dict(journalled.topics),
            unjournalled=dict(self._live.topics),
        )

    def _journal_state(self, journalled: Count) -> JournalState | None:
        """Return the state of the journal for a status, at this place in its count."""
        return None
