"""Counts the connections to a bound socket whose handshake failed, and logs them with their address."""

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
"""Events of the socket monitor that must be noted, all and in order."""
UNKNOWN = "an unknown address"


class Handshakes:
    """Derives refusals from ZeroMQ's reports of connections.

    ZeroMQ does not report which connection completed its handshake, and of a peer that does not speak ZMTP only that
    the connection ended. But each connection begins and ends once, so the sums are right if the newest that waits is
    taken to be the one that succeeded, and another one if that fails later. If several waited, the address of one that
    ends is left out, since it may have succeeded.

    Args:
        refused: called for each refusal with a reason and a detail, as `Refusals.note`.
    """

    def __init__(self, refused: Callable[[str, str], None]) -> None:
        self._refused = refused
        self._addresses: dict[int, str] = {}
        """Address by descriptor, of each open connection."""
        self._waiting: dict[int, bool] = {}
        """Connections whose handshake has not succeeded, the newest last, and whether that is certain."""
        self._not_allowed = 0
        """Number of them whose key is not allowed. These are counted elsewhere, and end soon."""
        self._failed_with: tuple[int, int] | None = None
        """Fault of the connection that ends next."""

    def note_not_allowed(self) -> None:
        """Record a connection whose key is not allowed."""
        self._not_allowed += 1

    def note(self, event: int, value: int) -> None:
        """Record an event of `WATCHED`."""
        match event:
            case zmq.EVENT_ACCEPTED:
                self._addresses[value] = _peer_address(value)
                self._waiting[value] = True
            case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._note_success()
            case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self._failed_with = event, value
            case zmq.EVENT_DISCONNECTED:
                self._ended(value)

    def note_all_disconnected(self) -> None:
        """Record that all connections ended."""
        self._addresses.clear()
        self._waiting.clear()
        self._not_allowed, self._failed_with = 0, None

    def _ended(self, descriptor: int) -> None:
        address = self._addresses.pop(descriptor, UNKNOWN)
        is_certain = self._waiting.pop(descriptor, None)
        failed, self._failed_with = self._failed_with, None
        if failed is not None and is_certain is None:
            self._note_success()  # of another connection than this one
        if failed is None and is_certain is None:
            return
        if (failed is None or failed[0] == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL) and self._not_allowed:
            self._not_allowed -= 1
        elif failed is not None:
            self._refuse(address, *failed)
        else:
            self._refuse(address if is_certain else UNKNOWN, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, None)

    def _note_success(self) -> None:
        if self._waiting:
            self._waiting.popitem()
            self._waiting = dict.fromkeys(self._waiting, False)

    def _refuse(self, address: str, event: int, value: int | None) -> None:
        if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            cause = os.strerror(value or 0)
            self._refused("handshake", f"a connection from {address} ended before its handshake was complete ({cause})")
            return
        what = "no ZeroMQ" if value is None else _protocol_error(value)
        self._refused(
            "protocol",
            f"a connection from {address} failed its handshake ({what}); does it use a key, none, or another line's?",
        )


def _protocol_error(value: int) -> str:
    try:
        return (zmq.Event(value).name or "").removeprefix("PROTOCOL_ERROR_").replace("_", " ").lower()
    except ValueError:
        return hex(value)


def _peer_address(descriptor: int) -> str:
    """Return the address of the peer of one of ZeroMQ's connections, which may have ended already."""
    try:
        connection = sockets.socket(fileno=descriptor)
    except OSError:
        return UNKNOWN
    try:
        peer = connection.getpeername()
    except OSError:
        return UNKNOWN
    finally:
        connection.detach()  # ZeroMQ still owns the descriptor
    return str(peer[0]) if isinstance(peer, tuple) else "this machine"
