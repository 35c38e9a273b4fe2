"""What the sockets of all clients have in common."""

import zmq

from edge.delivery.security.curve import ClientKeys
from edge.errors import DeliveryError

RECONNECT_MS, RECONNECT_AT_MOST_MS = 20, 1000


def client_socket(
    context: zmq.Context["zmq.Socket[bytes]"],
    kind: int,
    address: str,
    keys: ClientKeys | None,
    largest_part_bytes: int,
) -> zmq.Socket[bytes]:
    """A socket that connects to a line again by itself, and is not connected yet.

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
