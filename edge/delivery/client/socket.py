"""Sockets that connect to a line, and that reconnect even after ZeroMQ stops trying."""

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
"""A connection that ended and is not back after this time is made again."""
_ENDED = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH


def client_socket(
    context: zmq.Context["zmq.Socket[bytes]"],
    kind: int,
    address: str,
    keys: ClientKeys | None,
    largest_part_bytes: int,
) -> zmq.Socket[bytes]:
    """Return a socket that reconnects to a line by itself, and is not connected yet.

    Args:
        kind: `zmq.SUB` or `zmq.DEALER`.
        keys: required by a line on another machine.
        largest_part_bytes: the socket disconnects from a line that sends a larger part.
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
    """Connect a socket. Close it if the address is not valid.

    Args:
        example: a valid address, for the error message.
    Raises:
        DeliveryError: the address is not valid.
    """
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.close()
        raise no_address(address, error, example) from error


def no_address(address: str, error: zmq.ZMQError, example: str) -> DeliveryError:
    """Return the error for an address that ZeroMQ does not accept."""
    return DeliveryError(f"{address} is not an address to connect to ({error.strerror}); expected e.g. {example}")


class Client(ABC):
    """An object that holds sockets, for use in the thread that created it."""

    @abstractmethod
    def close(self) -> None:
        """Close the sockets; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Connection:
    """Keeps a socket connected to one address. Used in the socket's thread.

    ZeroMQ reconnects by itself, except after data that breaks its protocol: from another program that has the line's
    port for a moment, or a part that is too long. Then it never tries again, and reports no error.

    Raises:
        ZMQError: the address is not valid.
    """

    def __init__(self, socket: zmq.Socket[bytes], address: str) -> None:
        self._socket, self._address = socket, address
        self._reconnect_at_s: float | None = None
        socket.connect(address)
        self._reports = monitor(socket, _ENDED | zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def tick(self) -> None:
        """Reconnect if that is due. Called a few times a second while nothing arrives."""
        while self._reports.poll(0):
            event, _ = monitor_event(self._reports.recv_multipart())
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._reconnect_at_s = None
            elif self._reconnect_at_s is None:
                self._reconnect_at_s = time.monotonic() + RECONNECT_AFTER_SECONDS
        if self._reconnect_at_s is not None and time.monotonic() >= self._reconnect_at_s:
            self._reconnect_at_s = time.monotonic() + RECONNECT_AFTER_SECONDS
            with contextlib.suppress(zmq.ZMQError):  # ZeroMQ has dropped the address already
                self._socket.disconnect(self._address)
            self._socket.connect(self._address)

    def close(self) -> None:
        """Close the socket monitor, before the socket is closed; may be called twice."""
        self._reports.close()
