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
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
)
"""What must be noted of a socket, all of it and in order."""


class Handshakes:
    """Makes refusals of what ZeroMQ reports of connections.

    It reports that a handshake failed, and next the end of that connection. Of a connection that speaks no ZeroMQ at
    all it reports the end only, and never which connection got through. So those show when more connections have ended
    than got through: some are counted late, none twice.

    Args:
        refused: hears of each refusal: a reason and a detail, as in `Refusals.note`.
    """

    def __init__(self, refused: Callable[[str, str], None]) -> None:
        self._refused = refused
        self._addresses: dict[int, str] = {}
        """By the descriptor of each connection that is open."""
        self._known = 0
        """Open connections that got through, or whose key was refused, which is counted elsewhere."""
        self._failed: tuple[int, int] | None = None
        """What was wrong with the connection that ends next."""

    def note(self, event: int, value: int) -> None:
        """Something of `WATCHED` happened."""
        match event:
            case zmq.EVENT_ACCEPTED:
                self._addresses[value] = _peer_address(value)
            case zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._known += 1
            case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self._failed = event, value
            case zmq.EVENT_DISCONNECTED:
                address = self._addresses.pop(value, "an unknown address")
                if self._failed is not None:
                    self._refuse(address, *self._failed)
                    self._failed = None
                elif self._known:
                    self._known -= 1
                else:
                    self._refuse(address, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, None)
                self._known = min(self._known, len(self._addresses))  # one of them may be what failed, later on

    def note_all_gone(self) -> None:
        """All connections were ended."""
        self._addresses.clear()
        self._known, self._failed = 0, None

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
        return "an unknown address"
    try:
        peer = connection.getpeername()
    except OSError:
        return "an unknown address"
    finally:
        connection.detach()  # it stays ZeroMQ's
    return str(peer[0]) if isinstance(peer, tuple) else "this machine"
