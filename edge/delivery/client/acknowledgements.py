"""Decides which events a durable consumer has processed, and when to acknowledge them to the line."""

import time

SECONDS_BETWEEN_ACKS = 0.1


class Acknowledgements:
    """Tracks acknowledgements. An event counts as processed when the next one is requested.

    Args:
        window: number of events that may be in flight, unacknowledged.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._in_hand: tuple[str, int] | None = None
        """Journal and number of the last event that was handed out."""
        self._done: tuple[str, int] | None = None
        self._unsent = 0
        """Number of events handed out since the last acknowledgement was sent."""
        self._sent_seq = -1
        """The last event that was acknowledged on this connection."""
        self._sent_s = 0.0

    def handed_out(self, journal_id: str, seq: int, events: int) -> None:
        """Record that all events up to this one were handed to the consumer."""
        self._in_hand = journal_id, seq
        self._unsent += events

    def finish(self) -> None:
        """Record that the consumer has processed the events that it holds."""
        if self._in_hand is not None:
            self._done, self._in_hand = self._in_hand, None

    def finish_through(self, journal_id: str, seq: int) -> None:
        """Record that the consumer has processed the events up to this one, of those that it holds."""
        self._done = journal_id, seq

    def begin(self, acked_seq: int) -> None:
        """Start on a new connection, where the line knows the acknowledgement of an event; -1: of none."""
        self._sent_seq = acked_seq

    def due(self, journal_id: str | None, position: int, at_once: bool) -> int | None:
        """Return the event to acknowledge now; None if none is due.

        Args:
            journal_id: the journal that is followed.
            position: last event received on this connection. After a reconnect, earlier events are sent again first.
            at_once: do not wait for more events to acknowledge together.
        """
        if self._done is None or self._done[0] != journal_id:
            return None
        seq = min(self._done[1], position)
        wait = self._unsent < self._window / 2 and time.monotonic() - self._sent_s < SECONDS_BETWEEN_ACKS
        return None if seq <= self._sent_seq or (wait and not at_once) else seq

    def sent(self, seq: int) -> None:
        """Record that an acknowledgement was sent."""
        self._sent_seq, self._sent_s, self._unsent = seq, time.monotonic(), 0
