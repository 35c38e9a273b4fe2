"""Counts events: one count for those that a journal holds, one for a boot's others."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from edge.wire.events import CountedEvent

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
