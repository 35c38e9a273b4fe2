"""Sockets that connect to a line, why a line refuses one, and the sending of commands."""

import contextlib
import itertools
import sys
import time
from typing import Self

import msgspec
import zmq

from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.sockets import ms_until, notice_vanished_peers, set_options
from heatline.edge.errors import AccessError, CommandRefusedError, DeliveryError, MessageError
from heatline.edge.wire import commands
from heatline.edge.wire.requests import Refused, ReplyT, shortened, to_bytes

RECONNECT_MS, RECONNECT_AT_MOST_MS = 20, 1000
LONGEST_REPLY_BYTES = 65536
CONNECTED_WITHIN_SECONDS = 1.0
ANSWERED_WITHIN_SECONDS = 5.0
"""A line disconnects a client that is not authorized after 3 s at the latest."""
_FAILURES = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_OUTCOMES = _FAILURES | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_HANDSHAKE_SUCCEEDED


class Client:
    """An object that holds the sockets of a context, for use in the thread that created it."""

    _context: zmq.Context["zmq.Socket[bytes]"]

    def close(self) -> None:
        """Close the sockets; may be called twice."""
        self._context.destroy(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def client_socket(
    context: zmq.Context["zmq.Socket[bytes]"],
    kind: int,
    address: str,
    keys: ClientKeys | None,
    largest_part_bytes: int,
) -> zmq.Socket[bytes]:
    """Return a socket that is not connected yet. It reconnects by itself, but not to a line that sends larger parts."""
    socket = context.socket(kind)
    set_options(socket, {zmq.LINGER: 0, zmq.MAXMSGSIZE: largest_part_bytes, zmq.IPV6: "[" in address})
    set_options(socket, {zmq.RECONNECT_IVL: RECONNECT_MS, zmq.RECONNECT_IVL_MAX: RECONNECT_AT_MOST_MS})
    notice_vanished_peers(socket)
    if keys is not None:
        keys.apply(socket)
    return socket


def connect(socket: zmq.Socket[bytes], address: str, example: str) -> None:
    """Connect the only socket of its context. If the address is not valid, end both, and raise a DeliveryError."""
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.context.destroy(0)
        raise DeliveryError(
            f"{address} is not an address to connect to ({error.strerror}); expected e.g. {example}"
        ) from error


def describe_refusal(address: str, keys: ClientKeys | None, socket_type: int) -> str | None:
    """Connect once more, and describe how the handshake failed; None if it did not, or no line is there.

    ZeroMQ reconnects silently when it is refused. A user must know whether the key or the line is missing, and a
    durable consumer must end in the first case and wait in the second.
    """
    with (
        zmq.Context() as context,
        client_socket(context, socket_type, address, keys, -1) as socket,
        socket.get_monitor_socket(_OUTCOMES | zmq.EVENT_CONNECTED) as outcomes,
    ):
        try:
            socket.connect(address)
            outcome = _next(outcomes, CONNECTED_WITHIN_SECONDS)
            if outcome == zmq.EVENT_CONNECTED:
                outcome = _next(outcomes, ANSWERED_WITHIN_SECONDS)
        except zmq.ZMQError:  # the address is not valid, which connecting the client reports
            outcome = None
        socket.disable_monitor()
    if outcome is None or not outcome & _FAILURES:
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


def require_authorized(address: str, keys: ClientKeys | None, socket_type: int) -> None:
    """Raise an AccessError if a line refuses this client. If no line is there, none does."""
    for _ in range(2):  # a line that was just ending, or disconnected another client, looks the same once
        refused = describe_refusal(address, keys, socket_type)
        if refused is None:
            return
    raise AccessError(refused)


def _next(outcomes: zmq.Socket[bytes], within_s: float) -> int | None:
    if not outcomes.poll(round(within_s * 1000)):
        return None
    return int.from_bytes(outcomes.recv_multipart()[0][:2], sys.byteorder)  # pyzmq's own reader imports asyncio


class Commander(Client):
    """A DEALER socket that sends one command at a time. Use it in the thread that created it:

        with Commander("tcp://127.0.0.1:5557") as line:
            line.trigger("top", part_id="P-1")

    A command never waits for a line to appear: executed late, it would apply to another part. An address that is not
    valid is a DeliveryError.

    Args:
        address: the line's `commands.bind`.
        timeout_s: how long to wait for a reply; may be changed between commands.
    """

    def __init__(self, address: str, timeout_s: float = 10.0, keys: ClientKeys | None = None) -> None:
        self.timeout_s = timeout_s
        self._address, self._keys = address, keys
        self._ids = itertools.count(1)
        self._connect()

    def trigger(self, camera: str, part_id: str | None = None) -> commands.Triggered | commands.Announced:
        """Trigger a camera. Return the frame, or that the part id waits for the hardware trigger.

        Raises:
            CommandRefusedError: the line refuses the command.
            AccessError: the line does not authorize this client.
            DeliveryError: no line is there, or no reply came in time.
            MessageError: the reply is not valid.
        """
        replies: tuple[type[commands.Triggered | commands.Announced], ...] = commands.Triggered, commands.Announced
        return self._carried_out(replies, commands.TriggerRequest, camera=camera, part_id=part_id)

    def select(self, product: str) -> commands.Selected:
        """Activate a product; return when it is active. Errors are those of `trigger`."""
        return self._carried_out((commands.Selected,), commands.SelectRequest, product=product)

    def _connect(self) -> None:
        self._context = zmq.Context()
        self._socket = client_socket(self._context, zmq.DEALER, self._address, self._keys, LONGEST_REPLY_BYTES)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # a command that cannot be sent now is not sent later
        connect(self._socket, self._address, "tcp://127.0.0.1:5557")

    def _carried_out(
        self, replies: tuple[type[ReplyT], ...], kind: type[commands.Request], **fields: str | None
    ) -> ReplyT:
        """Send a command, and return its reply, which must be of one of these types."""
        try:  # an invalid command is not sent: the line would refuse it, or disconnect the client if it is too long
            request = msgspec.convert({"request_id": str(next(self._ids)), **fields}, kind)
        except msgspec.ValidationError as error:
            raise CommandRefusedError("malformed", shortened(str(error))) from error
        until_s = time.monotonic() + self.timeout_s
        self._send(to_bytes(request), until_s)
        while self._socket.poll(ms_until(until_s)):
            reply = commands.reply_from(self._socket.recv_multipart()[-1])
            if reply.request_id != request.request_id:
                continue
            if isinstance(reply, Refused):
                raise CommandRefusedError(reply.reason, reply.detail)
            if not isinstance(reply, replies):
                raise MessageError(f"this is not a reply to a {request}: {reply}")
            return reply
        # On a new connection, the command is not sent later, and a late reply is not taken for the next command's.
        self.close()
        self._connect()
        raise DeliveryError(
            f"{self._address} did not reply within {self.timeout_s:g} s, and may have executed the command; "
            "look at the line's events and its log"
        )

    def _send(self, data: bytes, until_s: float) -> None:
        while self._socket.poll(ms_until(until_s), zmq.POLLOUT):
            with contextlib.suppress(zmq.Again):  # the line has gone again meanwhile
                self._socket.send(data, zmq.NOBLOCK)
                return
        refused = describe_refusal(self._address, self._keys, zmq.DEALER)
        self.close()  # ZeroMQ may have stopped reconnecting
        self._connect()
        if refused is not None:
            raise AccessError(f"{refused}; the command was not sent")
        raise DeliveryError(
            f"{self._address} was not reached within {self.timeout_s:g} s, and the command was not sent; "
            "is the line running, and is its commands.bind this address?"
        )
