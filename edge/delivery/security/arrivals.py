"""Whoever connects to a bound socket: did it get through the handshake, and if not, why?"""

import os
from collections.abc import Callable

import zmq

WATCHED = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
)
"""What must be noted of a socket, all of it and in order."""


class Arrivals:
    """Makes refusals of what ZeroMQ says happened to connections.

    ZeroMQ does not say which connection got through, nor anything of one that speaks no ZeroMQ at all. But each is
    accepted once and ends once, so the sums come right as long as those that got through stay: one that did is taken to
    be the newest that waits, and another one if that fails later.

    Args:
        refused: hears of each refusal: a reason and a detail, as in `Refusals.note`.
    """

    def __init__(self, refused: Callable[[str, str], None]) -> None:
        self._refused = refused
        self._waiting: dict[int, None] = {}
        """The descriptors of those that were accepted and have not got through, the newest last."""
        self._not_allowed = 0
        """How many of those were told of already, and end when ZeroMQ gets round to it."""
        self._told = False
        """Whether of the one that ends next it was told already."""

    def note_not_allowed(self) -> None:
        """One showed a key that is not let in."""
        self._not_allowed += 1

    def note(self, event: int, value: int) -> None:
        """Something of `WATCHED` happened."""
        match event:
            case zmq.EVENT_ACCEPTED:
                self._waiting[value] = None
            case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._one_got_through()
            case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._told = True
                self._refused("protocol", _speaks_otherwise(value))
            case zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self._told = True
                if not self._end_of_one_not_allowed():
                    why = os.strerror(value)
                    self._refused("handshake", f"a connection ended before it was clear whose it is ({why})")
            case zmq.EVENT_DISCONNECTED:
                waited = value in self._waiting
                self._waiting.pop(value, None)
                if self._told and not waited:
                    self._one_got_through()  # and not this one
                elif waited and not self._told and not self._end_of_one_not_allowed():
                    self._refused("protocol", _speaks_otherwise(None))
                self._told = False

    def note_all_gone(self) -> None:
        """All connections were ended."""
        self._waiting.clear()
        self._not_allowed, self._told = 0, False

    def _one_got_through(self) -> None:
        if self._waiting:
            self._waiting.popitem()

    def _end_of_one_not_allowed(self) -> bool:
        if self._not_allowed:
            self._not_allowed -= 1
            return True
        return False


def _speaks_otherwise(error: int | None) -> str:
    """What was wrong with a handshake, in words."""
    what = "no ZeroMQ"
    if error is not None:
        try:
            what = (zmq.Event(error).name or "").removeprefix("PROTOCOL_ERROR_").replace("_", " ").lower()
        except ValueError:
            what = hex(error)
    return f"a connection does not speak as it must here ({what}); has it a key, none, or another line's?"
