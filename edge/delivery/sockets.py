"""Functions for the sockets of a line and of its clients."""

import contextlib
import errno
import os
import socket as sockets
import time
from collections.abc import Mapping
from pathlib import Path

import zmq

from heatline.edge.errors import DeliveryError

GONE_AFTER_MS = 3000


def set_options(socket: zmq.Socket[bytes], options: Mapping[int, int | bytes]) -> None:
    """Set options of ZeroMQ, before the socket is bound or connected."""
    for option, value in options.items():
        socket.setsockopt(option, value)


def notice_vanished_peers(socket: zmq.Socket[bytes]) -> None:
    """Have TCP drop a connection whose peer does not answer for `GONE_AFTER_MS`. Call it before bind or connect.

    Keepalive probes an idle connection every second; the user timeout limits how long sent data may wait for the peer.
    ZeroMQ's own heartbeats would do the same, but a heartbeat that comes due on a connection that was reset while its
    messages wait to be read aborts the process (libzmq 4.3.5, its issue 4841): any peer could end a line.
    """
    set_options(socket, {zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 1, zmq.TCP_KEEPALIVE_INTVL: 1})
    set_options(socket, {zmq.TCP_KEEPALIVE_CNT: GONE_AFTER_MS // 1000, zmq.TCP_MAXRT: GONE_AFTER_MS})


def bind(socket: zmq.Socket[bytes], address: str, key: str) -> None:
    """Bind an address that no other program has bound, which this key of the line's file names; or a DeliveryError.

    For ipc, ZeroMQ silently takes the path from its owner, and deletes a file there, so this function looks first.
    """
    scheme, _, path = address.partition("://")
    try:
        if scheme == "ipc":
            if os.path.lexists(path) and not Path(path).is_socket():
                raise zmq.ZMQError(errno.EEXIST)
            with sockets.socket(sockets.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect("\0" + path[1:] if path.startswith("@") else path)
                raise zmq.ZMQError(errno.EADDRINUSE)
        socket.setsockopt(zmq.IPV6, "[" in address)
        socket.bind(address)
    except zmq.ZMQError as error:
        raise DeliveryError(
            f"{address} cannot be bound ({error.strerror}); another line may use it, it is not an address of this "
            f"machine, or its folder does not exist; set {key}"
        ) from error


def ms_until(then_s: float) -> int | None:
    """Return the time left, None if unlimited. Rounded up, so that the caller does not poll with 0 ms repeatedly."""
    left_s = then_s - time.monotonic()
    return None if left_s == float("inf") else max(0, int(left_s * 1000) + 1)
