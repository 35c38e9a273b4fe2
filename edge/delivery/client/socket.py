"""Sockets that connect to a line, and stay connected where ZeroMQ gives up."""

import contextlib
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

import zmq

from edge.delivery.security.curve import ClientKeys
from edge.delivery.sockets import monitor, monitor_event
from edge.errors import DeliveryError

RECONNECT_MS, RECONNECT_AT_MOST_MS = 20, 1000
RECONNECT_AFTER_SECONDS = 3.0
"""A connection that has ended and is not back by then is made again."""
_ENDED = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH


def client_socket(
    context: zmq.Context["zmq.Socket[bytes]"],
    kind: int,
    address: str,
    keys: ClientKeys | None,
    largest_part_bytes: int,
) -> zmq.Socket[bytes]:
    """A socket that reconnects to a line by itself, and is not connected yet.

    Args:
        kind: `zmq.SUB` or `zmq.DEALER`.
        keys: to connect to a line from another machine.
        largest_part_bytes: a line that sends a larger one is hung up on.
    """
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_AT_MOST_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, largest_part_bytes)
    socket.setsockopt(zmq.IPV6, "[" in address)
    if keys is not None:
        keys.apply(socket)
    return socket


def connect(socket: zmq.Socket[bytes], address: str, example: str) -> None:
    """Connect a socket, or close it.

    Args:
        example: an address of such a kind.
    Raises:
        DeliveryError: the address is none.
    """
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.close()
        raise no_address(address, error, example) from error


def no_address(address: str, error: zmq.ZMQError, example: str) -> DeliveryError:
    """What to say of an address that ZeroMQ does not take."""
    return DeliveryError(f"{address} is no address to connect to ({error.strerror}); expected e.g. {example}")


class Client(ABC):
    """What holds sockets, and is used in the thread that made it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the sockets; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Connection:
    """Keeps a socket connected to one address. In the socket's thread.

    ZeroMQ reconnects by itself, except after something came that breaks its protocol: from another program that has the
    line's port for a moment, or a part that is too long. Then it never tries again, and reports no error.

    Raises:
        ZMQError: the address is none.
    """

    def __init__(self, socket: zmq.Socket[bytes], address: str) -> None:
        self._socket, self._address = socket, address
        self._reconnect_at_s: float | None = None
        socket.connect(address)
        self._reports = monitor(socket, _ENDED | zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def tend(self) -> None:
        """Reconnect if that is due; called some times a second while nothing has come."""
        while self._reports.poll(0):
            event, _ = monitor_event(self._reports.recv_multipart())
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._reconnect_at_s = None
            elif self._reconnect_at_s is None:
                self._reconnect_at_s = time.monotonic() + RECONNECT_AFTER_SECONDS
        if self._reconnect_at_s is not None and time.monotonic() >= self._reconnect_at_s:
            self._reconnect_at_s = time.monotonic() + RECONNECT_AFTER_SECONDS
            with contextlib.suppress(zmq.ZMQError):  # it has given that up altogether
                self._socket.disconnect(self._address)
            self._socket.connect(self._address)

    def close(self) -> None:
        """Before the socket is closed; may be called twice."""
        self._reports.close()
