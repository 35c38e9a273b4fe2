"""Keeps a client connected where ZeroMQ gives up.

ZeroMQ connects again by itself, except after something came that breaks its protocol: from another program that has the
line's port for a moment, or a part that is too long. Then it tries no more, for ever, and says nothing.
"""

import contextlib
import time

import zmq

from edge.delivery.happenings import read_happening

ANEW_AFTER_SECONDS = 3.0
"""What has ended and is not back by then is connected anew."""
_MONITOR = "inproc://connection"
_ENDED = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH


class Connection:
    """Of a socket that is the only one of its context, to one address. In the socket's thread.

    Raises:
        ZMQError: the address is none.
    """

    def __init__(self, socket: zmq.Socket[bytes], address: str) -> None:
        self._socket, self._address = socket, address
        self._anew_at_s: float | None = None
        socket.connect(address)
        socket.monitor(_MONITOR, _ENDED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._happenings: zmq.Socket[bytes] = socket.context.socket(zmq.PAIR)
        self._happenings.setsockopt(zmq.RCVHWM, 0)  # ZeroMQ would stand still where there is no room
        self._happenings.connect(_MONITOR)

    def tend(self) -> None:
        """Connect anew if that is due; called some times a second while nothing has come, or that would be lost."""
        while self._happenings.poll(0):
            happened, _ = read_happening(self._happenings.recv_multipart())
            if happened == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._anew_at_s = None
            elif self._anew_at_s is None:
                self._anew_at_s = time.monotonic() + ANEW_AFTER_SECONDS
        if self._anew_at_s is not None and time.monotonic() >= self._anew_at_s:
            self._anew_at_s = time.monotonic() + ANEW_AFTER_SECONDS
            with contextlib.suppress(zmq.ZMQError):  # it has given that up altogether
                self._socket.disconnect(self._address)
            self._socket.connect(self._address)

    def close(self) -> None:
        """Before the socket is closed; may be called twice."""
        self._happenings.close()
