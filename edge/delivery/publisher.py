"""Publishes messages to whoever listens, from a thread of its own that alone touches the socket."""

import contextlib
import errno
import logging
import queue
import socket as sockets
import threading
from collections.abc import Callable

import zmq

from edge.delivery.messages import Message, to_frames
from edge.errors import DeliveryError

logger = logging.getLogger(__name__)

SEND_HIGH_WATER_MARK = 1000
"""Messages kept for one slow subscriber; beyond that ZeroMQ drops its messages, which it sees as a gap in `seq`."""
LINGER_MS = 2000
START_WITHIN_SECONDS = 5.0
POLL_MS = 50
VERDICTS = b"verdict."
SUBSCRIPTIONS_AT_ONCE = 100
"""Taken in between two messages, so that nobody who floods us with subscriptions keeps events from going out."""

Sent = Callable[[], None]
"""Hears, on the publisher's thread, that all up to its message was given to ZeroMQ."""


class Publisher:
    """An XPUB socket behind a queue.

    Args:
        address: ZeroMQ address to bind, `tcp://...` or `ipc://...`.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._messages: queue.Queue[tuple[list[bytes] | None, Sent | None] | None] = queue.Queue(SEND_HIGH_WATER_MARK)
        self._bound = threading.Event()
        self._listened_to = threading.Event()
        self._error: zmq.ZMQError | None = None
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)

    def start(self) -> None:
        """Bind the address.

        Raises:
            DeliveryError: it cannot be bound.
        """
        self._thread.start()
        if not self._bound.wait(START_WITHIN_SECONDS):
            raise DeliveryError(f"{self.address} was not bound within {START_WITHIN_SECONDS:.0f} s")
        if self._error is not None:
            raise DeliveryError(
                f"{self.address} cannot be bound ({self._error.strerror}); is another line using it, "
                "or is the address not of this machine? Set events.bind"
            ) from self._error

    def send(self, message: Message, sent: Sent | None = None) -> None:
        """Hand a message over; the socket never blocks, so this returns at once.

        Raises:
            DeliveryError: the publisher is not running, so nobody would hear of it.
        """
        self._put(to_frames(message), sent)

    def probe(self, sent: Sent) -> None:
        """Go the way of a message, and send none.

        Raises:
            DeliveryError: the publisher is not running.
        """
        self._put(None, sent)

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Wait until somebody has subscribed to verdicts; whether somebody has."""
        return self._listened_to.wait(timeout_s)

    def close(self) -> None:
        """Send what was handed over, give subscribers `LINGER_MS` to take it, and let go of the address."""
        if self._thread.is_alive():
            self._messages.put(None)
            self._thread.join()

    def _put(self, parts: list[bytes] | None, sent: Sent | None) -> None:
        if not self._thread.is_alive():
            raise DeliveryError(f"{self.address} is not being published on; see the log")
        self._messages.put((parts, sent))

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.XPUB)
        try:
            socket.setsockopt(zmq.LINGER, LINGER_MS)
            socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER_MARK)
            try:
                bind(socket, self.address)
            except zmq.ZMQError as error:
                self._error = error
                return
            finally:
                self._bound.set()
            self._publish(socket)
        finally:
            socket.close()
            context.term()

    def _publish(self, socket: zmq.Socket[bytes]) -> None:
        while True:
            for _ in range(SUBSCRIPTIONS_AT_ONCE):
                if not socket.poll(0):
                    break
                subscription = socket.recv()
                if subscription[:1] == b"\x01" and _takes_verdicts(subscription[1:]):
                    self._listened_to.set()
            try:
                handed_over = self._messages.get(timeout=POLL_MS / 1000)
            except queue.Empty:
                continue
            if handed_over is None:
                return
            parts, sent = handed_over
            if parts is not None:
                socket.send_multipart(parts)
            if sent is not None:
                sent()


def _takes_verdicts(prefix: bytes) -> bool:
    return prefix.startswith(VERDICTS) or VERDICTS.startswith(prefix)


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
