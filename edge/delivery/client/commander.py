"""Sends commands to a line."""

import contextlib
import itertools
import time

import msgspec
import zmq

from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client.handshake_probe import describe_refusal
from heatline.edge.delivery.client.socket import Client, client_socket, connect
from heatline.edge.delivery.sockets import PARTS_KEPT, receive
from heatline.edge.errors import AccessError, CommandRefusedError, DeliveryError, MessageError
from heatline.edge.wire.commands import (
    Announced,
    Reply,
    Request,
    Selected,
    SelectRequest,
    Triggered,
    TriggerRequest,
    reply_from,
)
from heatline.edge.wire.requests import Refused, shortened, to_bytes

LONGEST_REPLY_BYTES = 65536


class Commander(Client):
    """A DEALER socket that sends one command at a time. Use it in the thread that created it:

        with Commander("tcp://127.0.0.1:5557") as line:
            line.trigger("top", part_id="P-1")

    A command never waits for a line to appear: executed late, it would apply to another part.

    Args:
        address: the line's `commands.bind`.
        timeout_s: how long to wait for a reply; may be changed between commands.
        keys: required by a line on another machine.
    Raises:
        DeliveryError: the address is not valid.
    """

    def __init__(self, address: str, timeout_s: float = 10.0, keys: ClientKeys | None = None) -> None:
        self.timeout_s = timeout_s
        self._address, self._keys = address, keys
        self._ids = itertools.count(1)
        self._context = zmq.Context()
        try:
            self._socket = self._connected()
        except DeliveryError:
            self._context.term()
            raise

    def trigger(self, camera: str, part_id: str | None = None) -> Triggered | Announced:
        """Trigger a camera. Return the frame, or that the part id waits for the hardware trigger.

        Raises:
            CommandRefusedError: the line refuses the command.
            AccessError: the line does not authorize this client.
            DeliveryError: no line is there, or no reply came in time.
            MessageError: the reply is not valid.
        """
        reply = self._granted(TriggerRequest, camera=camera, part_id=part_id)
        if not isinstance(reply, Triggered | Announced):
            raise MessageError(f"this is not a reply to a trigger: {reply}")
        return reply

    def select(self, product: str) -> Selected:
        """Activate a product; return when it is active.

        Raises:
            CommandRefusedError: the line refuses the command, and the product before stays active.
            AccessError: the line does not authorize this client.
            DeliveryError: no line is there, or no reply came in time.
            MessageError: the reply is not valid.
        """
        reply = self._granted(SelectRequest, product=product)
        if not isinstance(reply, Selected):
            raise MessageError(f"this is not a reply to a selection: {reply}")
        return reply

    def close(self) -> None:
        """Close the socket; may be called twice."""
        self._socket.close()
        self._context.term()

    def _connected(self) -> zmq.Socket[bytes]:
        socket = client_socket(self._context, zmq.DEALER, self._address, self._keys, LONGEST_REPLY_BYTES)
        socket.setsockopt(zmq.IMMEDIATE, 1)  # a command that cannot be sent now is not sent later
        connect(socket, self._address, "tcp://127.0.0.1:5557")
        return socket

    def _connect_anew(self) -> None:
        self._socket.close()
        self._socket = self._connected()

    def _granted(self, kind: type[Request], **fields: str | None) -> Triggered | Announced | Selected:
        try:  # an invalid command is not sent: the line would refuse it, or disconnect the client if it is too long
            request = msgspec.convert({"request_id": str(next(self._ids)), **fields}, kind)
        except msgspec.ValidationError as error:
            raise CommandRefusedError("malformed", shortened(str(error))) from error
        reply = self._ask(request)
        if isinstance(reply, Refused):
            raise CommandRefusedError(reply.reason, reply.detail)
        return reply

    def _ask(self, request: Request) -> Reply:
        until_s = time.monotonic() + self.timeout_s
        self._send(to_bytes(request), until_s)
        while self._socket.poll(_ms_left(until_s)):
            reply = reply_from(receive(self._socket, PARTS_KEPT)[-1])
            if reply.request_id == request.request_id:
                return reply
        # On a new connection, the command is not sent later, and a late reply is not taken for the next command's.
        self._connect_anew()
        raise DeliveryError(
            f"{self._address} did not reply within {self.timeout_s:g} s, and may have executed the command; "
            "look at the line's events and its log"
        )

    def _send(self, data: bytes, until_s: float) -> None:
        while self._socket.poll(_ms_left(until_s), zmq.POLLOUT):
            with contextlib.suppress(zmq.Again):  # the line has gone again meanwhile
                self._socket.send(data, zmq.NOBLOCK)
                return
        refused = describe_refusal(self._address, self._keys, zmq.DEALER)
        self._connect_anew()  # ZeroMQ may have stopped reconnecting
        if refused is not None:
            raise AccessError(f"{refused}; the command was not sent")
        raise DeliveryError(
            f"{self._address} was not reached within {self.timeout_s:g} s, and the command was not sent; "
            "is the line running, and is its commands.bind this address?"
        )


def _ms_left(until_s: float) -> int:
    return max(0, round((until_s - time.monotonic()) * 1000))
