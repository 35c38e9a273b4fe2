"""Buffers the events that a durable consumer received: verified, in order, each once."""

from collections import deque
from typing import NamedTuple

from heatline.edge.errors import EventsLostError, MessageError
from heatline.edge.wire.following import Batch, Delivered, Following, events_of


class Lost(NamedTuple):
    """Stands for deleted events. It is handed out and acknowledged like an event."""

    journal_id: str
    seq: int
    error: EventsLostError


class EventBuffer:
    """Takes a line's replies, over any number of connections and journals.

    Args:
        name: name of the consumer.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.journal_id: str | None = None
        """Id of the journal that is followed; None: the line has not answered yet."""
        self.position = 0
        """The next event comes after this one."""
        self._newest: tuple[str, int] | None = None
        """The journal that was followed last, and its newest known event."""
        self._ready: deque[Delivered | Lost] = deque()
        self._handed: dict[str, int] = {}
        """By journal, the last event that was handed out."""

    def take(self, at_most: int) -> list[Delivered | Lost]:
        """Return the next events, or a `Lost` alone; empty if nothing is there."""
        taken: list[Delivered | Lost] = []
        while self._ready and len(taken) < at_most:
            if taken and isinstance(self._ready[0], Lost):
                break
            ready = self._ready.popleft()
            self._handed[ready.journal_id] = max(ready.seq, self._handed.get(ready.journal_id, 0))
            taken.append(ready)
            if isinstance(ready, Lost):
                break
        return taken

    def disconnected(self) -> None:
        """Record the end of a connection: what was in flight comes again."""
        self.journal_id = None

    def begin(self, following: Following) -> None:
        """Start after the event that the line names.

        Raises:
            MessageError: the reply is for another consumer.
        """
        if following.name != self._name:
            raise MessageError(f"the line follows {following.name!r}, expected {self._name!r}")
        journal_id, acked_seq = following.journal_id, following.acked_seq
        before = None if following.former is None else (following.former.journal_id, following.former.acked_seq)
        if self._newest is not None and self._newest[0] != journal_id:
            old = self._newest[0]
            waiting = [each.seq for each in self._ready if isinstance(each, Delivered) and each.journal_id == old]
            before = old, max([self._handed.get(old, 0), *waiting])
        if before is not None and journal_id not in self._handed:
            self._ready.append(Lost(journal_id, acked_seq, self._another_journal(journal_id, *before)))
        self._handed.setdefault(journal_id, acked_seq)
        self.journal_id, self.position = journal_id, acked_seq
        self._newest = journal_id, following.last_seq

    def add(self, batch: Batch, parts: list[bytes]) -> None:
        """Add the events of a batch.

        Args:
            parts: all parts of the message; the batch is the first.
        Raises:
            MessageError: the parts do not match the batch, or do not continue what came before.
        """
        events = events_of(batch, parts)
        if batch.journal_id != self.journal_id or batch.after_seq != self.position:
            raise MessageError(
                f"a batch after event {batch.journal_id}-{batch.after_seq} came, expected one after "
                f"{self.journal_id}-{self.position}"
            )
        waiting = [each.seq for each in self._ready if each.journal_id == batch.journal_id]
        handed = max([self._handed[batch.journal_id], *waiting])
        if batch.lost_through is not None and batch.lost_through > handed:
            after_seq = max(batch.after_seq, handed)
            sentence = (
                f"events after {after_seq} up to {batch.lost_through} of journal {batch.journal_id} were deleted "
                f"before {self._name} received them"
            )
            error = EventsLostError(
                sentence, journal_id=batch.journal_id, after_seq=after_seq, through_seq=batch.lost_through
            )
            self._ready.append(Lost(batch.journal_id, batch.lost_through, error))
        self._ready.extend(event for event in events if event.seq > handed)
        self.position = batch.through_seq
        self._newest = batch.journal_id, batch.last_seq

    def _another_journal(self, journal_id: str, before: str, after_seq: int) -> EventsLostError:
        newest = self._newest[1] if self._newest is not None and self._newest[0] == before else after_seq
        return EventsLostError(
            f"the line began another journal, {journal_id}: events of {before} after event {after_seq} cannot be "
            "delivered any more",
            journal_id=before,
            after_seq=after_seq,
            through_seq=max(newest, after_seq),
        )
