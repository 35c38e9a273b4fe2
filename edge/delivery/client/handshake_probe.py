"""Probes the handshake with a line, to tell why it refuses a client.

ZeroMQ reconnects silently when it is refused. A user must know whether the key or the line is missing, and a durable
consumer must end in the first case and wait in the second.
"""

import socket as sockets

import zmq

from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.sockets import monitor, monitor_event
from heatline.edge.errors import AccessError

CONNECTED_WITHIN_SECONDS = 1.0
GREETED_WITHIN_SECONDS = 1.0
ANSWERED_WITHIN_SECONDS = 4.0
"""A line disconnects a client that is not authorized after 3 s at the latest."""
_GREETING_BEGINS = b"\xff"
"""First byte of ZMTP, which both sides send at once."""
_NOBODY_THERE = zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED
_OUTCOMES = (
    _NOBODY_THERE
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


def describe_refusal(address: str, keys: ClientKeys | None, socket_type: int) -> str | None:
    """Connect once more, and describe how the handshake failed; None if it did not, or no line is there.

    Args:
        socket_type: type of the client's socket, e.g. `zmq.SUB`.
    """
    with zmq.Context() as context, context.socket(socket_type) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, "[" in address)
        if keys is not None:
            keys.apply(socket)
        with monitor(socket, _OUTCOMES | zmq.EVENT_CONNECTED) as outcomes:
            try:
                socket.connect(address)
            except zmq.ZMQError:  # the address is not valid, which connecting the client reports
                return None
            outcome = _next(outcomes, CONNECTED_WITHIN_SECONDS)
            if outcome == zmq.EVENT_CONNECTED:
                outcome = _next(outcomes, GREETED_WITHIN_SECONDS)
                if outcome is None and _greets(address):  # a line that hangs does not
                    outcome = _next(outcomes, ANSWERED_WITHIN_SECONDS)
            socket.disable_monitor()
    if outcome is None or outcome & (_NOBODY_THERE | zmq.EVENT_HANDSHAKE_SUCCEEDED):
        return None
    if outcome == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and not _greets(address):
        return None
    if keys is None:
        return (
            f"{address} closed the connection: it requires keys, or it is not a line; name your private key, which "
            "must be allowed there, and the line's public key (--key and --line-key, key= and line_key= in Python)"
        )
    return (
        f"{address} closed the connection: it takes no keys, it is not the line of this public key, or your key is not "
        "allowed there for this (on the line PC: heatline keys list, heatline keys allow)"
    )


def _greets(address: str) -> bool:
    """Return whether ZeroMQ answers. A proxy before a line that is down accepts a connection, and ends it silently."""
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


def require_authorized(address: str, keys: ClientKeys | None, socket_type: int) -> None:
    """Require that a line does not refuse this client. If no line is there, none does.

    Raises:
        AccessError: the line refuses it.
    """
    for _ in range(2):  # a line that was just ending, or disconnected another client, looks the same once
        refused = describe_refusal(address, keys, socket_type)
        if refused is None:
            return
    raise AccessError(refused)


def _next(outcomes: zmq.Socket[bytes], within_s: float) -> int | None:
    if not outcomes.poll(round(within_s * 1000)):
        return None
    event, _ = monitor_event(outcomes.recv_multipart())
    return event
