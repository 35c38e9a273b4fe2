"""Which connections to a bound socket got through no handshake: counted, and logged with their address."""

import os
import socket as sockets
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
UNKNOWN = "an unknown address"


class Handshakes:
    """Makes refusals of what ZeroMQ reports of connections.

    It never reports which connection got through, and of one that speaks no ZeroMQ only that it ended. But each comes
    and ends once, so the sums are right if the newest that waits is taken to be the one that got through, and another
    one if that fails later. Where several waited, the address of one that ends is left out: it may have got through.

    Args:
        refused: hears of each refusal: a reason and a detail, as in `Refusals.note`.
    """

    def __init__(self, refused: Callable[[str, str], None]) -> None:
        self._refused = refused
        self._addresses: dict[int, str] = {}
        """By the descriptor of each connection that is open."""
        self._waiting: dict[int, bool] = {}
        """Those that have not got through, the newest last, and whether that is certain."""
        self._not_allowed = 0
        """How many of them showed a key that is not allowed: these are counted elsewhere, and end soon."""
        self._failed_with: tuple[int, int] | None = None
        """What was wrong with the connection that ends next."""

    def note_not_allowed(self) -> None:
        """A connection showed a key that is not allowed."""
        self._not_allowed += 1

    def note(self, event: int, value: int) -> None:
        """Something of `WATCHED` happened."""
        match event:
            case zmq.EVENT_ACCEPTED:
                self._addresses[value] = _peer_address(value)
                self._waiting[value] = True
            case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._one_got_through()
            case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self._failed_with = event, value
            case zmq.EVENT_DISCONNECTED:
                self._ended(value)

    def note_all_gone(self) -> None:
        """All connections were ended."""
        self._addresses.clear()
        self._waiting.clear()
        self._not_allowed, self._failed_with = 0, None

    def _ended(self, descriptor: int) -> None:
        address = self._addresses.pop(descriptor, UNKNOWN)
        is_certain = self._waiting.pop(descriptor, None)
        failed, self._failed_with = self._failed_with, None
        if failed is not None and is_certain is None:
            self._one_got_through()  # and not this one
        if failed is None and is_certain is None:
            return
        if (failed is None or failed[0] == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL) and self._not_allowed:
            self._not_allowed -= 1
        elif failed is not None:
            self._refuse(address, *failed)
        else:
            self._refuse(address if is_certain else UNKNOWN, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, None)

    def _one_got_through(self) -> None:
        if self._waiting:
            self._waiting.popitem()
            self._waiting = dict.fromkeys(self._waiting, False)

    def _refuse(self, address: str, event: int, value: int | None) -> None:
        if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            why = os.strerror(value or 0)
            self._refused("handshake", f"a connection from {address} ended before it was clear whose it is ({why})")
            return
        what = "no ZeroMQ" if value is None else _protocol_error(value)
        self._refused(
            "protocol",
            f"a connection from {address} does not speak as it must here ({what}); has it a key, none, or another "
            "line's?",
        )


def _protocol_error(value: int) -> str:
    try:
        return (zmq.Event(value).name or "").removeprefix("PROTOCOL_ERROR_").replace("_", " ").lower()
    except ValueError:
        return hex(value)


def _peer_address(descriptor: int) -> str:
    """Who is at the other end of a connection of ZeroMQ's, which may have ended already."""
    try:
        connection = sockets.socket(fileno=descriptor)
    except OSError:
        return UNKNOWN
    try:
        peer = connection.getpeername()
    except OSError:
        return UNKNOWN
    finally:
        connection.detach()  # it stays ZeroMQ's
    return str(peer[0]) if isinstance(peer, tuple) else "this machine"
