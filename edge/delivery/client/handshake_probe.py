"""Why a line does not let a client in, as far as the client can see it.

ZeroMQ reconnects in silence when it is refused. A user must be told whether the key or the line is missing, and a
durable consumer must end on the one and wait for the other.
"""

import socket as sockets

import zmq

from edge.delivery.security.curve import ClientKeys
from edge.delivery.sockets import monitor, monitor_event
from edge.errors import AccessError

CONNECTED_WITHIN_SECONDS = 1.0
ANSWERED_WITHIN_SECONDS = 5.0
"""A line hangs up on who is not allowed after 3 s at the latest."""
_GREETING_BEGINS = b"\xff"
"""Of ZMTP: both sides send it at once."""
_NOBODY_THERE = zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED
_OUTCOMES = (
    _NOBODY_THERE
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


def why_not_let_in(address: str, keys: ClientKeys | None, socket_type: int) -> str | None:
    """Connect once more, and see how the handshake ends: what is wrong, in words; None where nothing is, or nobody is
    there.

    Args:
        socket_type: what the client connects, e.g. `zmq.SUB`.
    """
    with zmq.Context() as context, context.socket(socket_type) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, "[" in address)
        if keys is not None:
            keys.apply(socket)
        with monitor(socket, _OUTCOMES | zmq.EVENT_CONNECTED) as outcomes:
            try:
                socket.connect(address)
            except zmq.ZMQError:  # no address; whoever wants to connect hears of it
                return None
            outcome = _next(outcomes, CONNECTED_WITHIN_SECONDS)
            if outcome == zmq.EVENT_CONNECTED:
                outcome = _next(outcomes, ANSWERED_WITHIN_SECONDS)
            socket.disable_monitor()
    if outcome is None or outcome & (_NOBODY_THERE | zmq.EVENT_HANDSHAKE_SUCCEEDED):
        return None
    if outcome == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and not _greets(address):
        return None
    if keys is None:
        return (
            f"{address} hung up: it takes keys, or is no line's; name a key of yours that is allowed there (--key) and "
            "the line's public key (--line-key)"
        )
    return (
        f"{address} hung up: it takes no keys, is not the line of this --line-key, or your key is not allowed there "
        "for this (on the line PC: heatline keys list, heatline keys allow)"
    )


def _greets(address: str) -> bool:
    """Whether ZeroMQ is there: a proxy before a line that is down takes a connection, and ends it without a word."""
    scheme, _, rest = address.partition("://")
    try:
        if scheme == "ipc":
            with sockets.socket(sockets.AF_UNIX) as peer:
                peer.settimeout(CONNECTED_WITHIN_SECONDS)
                peer.connect("\0" + rest[1:] if rest.startswith("@") else rest)
                return peer.recv(1) == _GREETING_BEGINS
        host, _, port = rest.rpartition(":")
        with sockets.create_connection((host.strip("[]"), int(port)), CONNECTED_WITHIN_SECONDS) as peer:
            return peer.recv(1) == _GREETING_BEGINS
    except OSError:
        return False


def require_let_in(address: str, keys: ClientKeys | None, socket_type: int) -> None:
    """See that a line does not keep a client out; where nobody is there, nobody does.

    Raises:
        AccessError: it does.
    """
    for _ in range(2):  # once it may be because it was just ending, or hung up on somebody else
        refused = why_not_let_in(address, keys, socket_type)
        if refused is None:
            return
    raise AccessError(refused)


def _next(outcomes: zmq.Socket[bytes], within_s: float) -> int | None:
    if not outcomes.poll(round(within_s * 1000)):
        return None
    event, _ = monitor_event(outcomes.recv_multipart())
    return event
