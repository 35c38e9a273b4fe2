"""Which events a durable consumer is done with, and when to tell the line."""

import time

SECONDS_BETWEEN_ACKS = 0.1


class Acknowledgements:
    """An event is done with when the next one is asked for. Those of a moment are acknowledged together.

    Args:
        window: how many events may be on their way, unacknowledged.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._in_hand: tuple[str, int] | None = None
        """The journal and the number of what was handed out last."""
        self._done: tuple[str, int] | None = None
        self._unsent = 0
        """Events that were handed out since the line was told last."""
        self._sent_seq = -1
        """What was acknowledged on this connection."""
        self._sent_s = 0.0

    def handed_out(self, journal_id: str, seq: int, events: int) -> None:
        """All up to an event is in the consumer's hands."""
        self._in_hand = journal_id, seq
        self._unsent += events

    def finish(self) -> None:
        """The consumer is done with what is in its hands."""
        if self._in_hand is not None:
            self._done, self._in_hand = self._in_hand, None

    def begin(self, acked_seq: int) -> None:
        """On a new connection, the line knows of all up to an event; -1: of none."""
        self._sent_seq = acked_seq

    def due(self, journal_id: str | None, position: int, at_once: bool) -> int | None:
        """Up to which event the line is to be told now; None: it is not.

        Args:
            journal_id: of the journal that is followed.
            position: how far events came on this connection: after a new one, those before come again first.
            at_once: do not wait for more, to tell it together.
        """
        if self._done is None or self._done[0] != journal_id:
            return None
        seq = min(self._done[1], position)
        wait = self._unsent < self._window / 2 and time.monotonic() - self._sent_s < SECONDS_BETWEEN_ACKS
        return None if seq <= self._sent_seq or (wait and not at_once) else seq

    def sent(self, seq: int) -> None:
        """The line was told."""
        self._sent_seq, self._sent_s, self._unsent = seq, time.monotonic(), 0
