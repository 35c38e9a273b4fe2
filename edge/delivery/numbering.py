"""Numbers events: one count for those that a journal holds, one for a boot's others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec

from edge.frames import Watermark
from edge.wire.events import CountedEvent, Counts, JournalState, Message, StatusEvent

T = TypeVar("T", bound=CountedEvent)


class Count:
    """One gapless count of events, and how far each topic has got in it.

    Args:
        journal_id: whose count it is; None: that of a boot's events that no journal holds.
        topics: each topic's last number.
        last_seq: the last number of all.
    """

    def __init__(self, journal_id: str | None, topics: Mapping[str, int] | None = None, last_seq: int = 0) -> None:
        self.journal_id = journal_id
        self.topics = dict(topics or {})
        self.last_seq = last_seq

    def next(self, event: T) -> T:
        """The event with its place in this count."""
        self.last_seq += 1
        previous = self.topics.get(event.topic, 0)
        self.topics[event.topic] = self.last_seq
        return msgspec.structs.replace(event, seq=self.last_seq, journal_id=self.journal_id, previous_seq=previous)

    def copy(self) -> "Count":
        return Count(self.journal_id, self.topics, self.last_seq)


class Numbering:
    """Numbers the events of a boot, and completes its statuses with the counts. A line that keeps no journal needs no
    more. One thread calls it, except where a method says otherwise.
    """

    keeps = False
    """Whether there is a journal, be it one that cannot be used now."""

    def __init__(self) -> None:
        self.progress: Mapping[str, Watermark] = {}
        """By camera, how far its frames were told when this began, as the journal says."""
        self.since_ns: int | None = None
        """When the journal was made: UTC, ns since 1970; None where there is none, or it cannot be told."""
        self._live = Count(None)
        """Of this boot's events that no journal holds."""
        self._journalled = Count(None)
        self._counts = self._counts_at(self._journalled)

    def commit(self, messages: Sequence[Message]) -> list[Message]:
        """Number events, and complete statuses in their place among them; what is to be sent, in order."""
        done = self._complete(messages, self._live)
        self._publish()
        return done

    def tend(self) -> list[Message]:
        """Do what is due; what is to be sent of that."""
        return []

    def counts(self) -> Counts:
        """How far events are counted. Any thread."""
        return self._counts

    @property
    def journal_id(self) -> str | None:
        """Of the journal in use; None: there is none, or it cannot even be read. Any thread."""
        return self._counts.journal_id

    def state(self) -> JournalState | None:
        """How the journal is, without its consumers; None where the line keeps none. Any thread."""
        return None

    def close(self) -> None:
        """Let go of what is open."""

    def _publish(self) -> None:
        """Let other threads see where things are: what they get is never changed."""
        self._counts = self._counts_at(self._journalled)

    def _complete(self, messages: Sequence[Message], count: Count) -> list[Message]:
        """Messages with their place in a count."""
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
        """A status, at a count."""
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
        """What a status says of the journal, at this place in its count."""
        return None
