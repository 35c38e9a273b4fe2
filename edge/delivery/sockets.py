"""What the sockets of a line and of its clients have in common."""

import contextlib
import errno
import socket as sockets
import struct

import zmq

HEARTBEAT_MS = 1000
GONE_AFTER_MS = 3000
PARTS_KEPT = 4
"""Of one message: the client, the delimiter, the request, and one more that shows that there are too many."""
_MONITOR = "inproc://monitor"
_EVENT_AND_VALUE = struct.Struct("=Hi")


def notice_vanished_peers(socket: zmq.Socket[bytes]) -> None:
    """Have a socket give up a connection on which nothing was heard for `GONE_AFTER_MS`; set before bind or connect.

    These are the heartbeats of ZMTP 3.1. ZeroMQ's own thread sends and answers them, so a program that is busy is not
    taken for gone.
    """
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, GONE_AFTER_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, GONE_AFTER_MS)


def bind(socket: zmq.Socket[bytes], address: str) -> None:
    """Bind an address that nobody else is bound to.

    For ipc, ZeroMQ would silently take the path away from whoever holds it: ask there first.

    Raises:
        ZMQError: it cannot be bound.
    """
    scheme, _, path = address.partition("://")
    if scheme == "ipc":
        with sockets.socket(sockets.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect("\0" + path[1:] if path.startswith("@") else path)
            raise zmq.ZMQError(errno.EADDRINUSE)
    socket.bind(address)


def monitor(socket: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
    """Have ZeroMQ report what happens to the connections of a socket, the only one of its context that is monitored.

    Args:
        events: which of them, e.g. `zmq.EVENT_DISCONNECTED`.
    Returns: where they come, to be closed by the caller; for `monitor_event`.
    """
    socket.monitor(_MONITOR, events)
    reports: zmq.Socket[bytes] = socket.context.socket(zmq.PAIR)
    reports.setsockopt(zmq.RCVHWM, 0)  # ZeroMQ would stand still where there is no room
    reports.connect(_MONITOR)
    return reports


def monitor_event(parts: list[bytes]) -> tuple[int, int]:
    """The event, such as `zmq.EVENT_CLOSED`, and its value, of a message of a monitor.

    pyzmq reads that as well, in a module that imports asyncio, which would make every start of a line later by a tenth.

    >>> monitor_event([b"\\x00\\x02\\x08\\x00\\x00\\x00", b"tcp://127.0.0.1:5556"])
    (512, 8)
    """
    event, value = _EVENT_AND_VALUE.unpack(parts[0])
    return event, value


def receive(socket: zmq.Socket[bytes], parts_kept: int) -> list[bytes]:
    """The first parts of a message; the others are let go one by one, as there may be any number.

    Raises:
        Again: none has come.
    """
    return [frame.bytes for frame in receive_frames(socket, parts_kept)]


def receive_frames(socket: zmq.Socket[bytes], parts_kept: int) -> list[zmq.Frame]:
    """The same, with what ZeroMQ knows of who sent it."""
    parts = [socket.recv(zmq.NOBLOCK, copy=False)]
    while socket.getsockopt(zmq.RCVMORE):
        part = socket.recv(copy=False)
        if len(parts) < parts_kept:
            parts.append(part)
    return parts
