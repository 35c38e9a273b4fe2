"""Sockets that connect to a line."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

import zmq

from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.errors import DeliveryError

RECONNECT_MS, RECONNECT_AT_MOST_MS = 20, 1000


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
