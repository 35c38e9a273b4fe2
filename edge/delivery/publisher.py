"""Publishes messages to whoever listens, from a thread of its own that alone touches the socket.

What is handed over is kept first, where the line keeps a journal, and goes on the wire after that.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import zmq

from edge.delivery.security.access import Access
from edge.delivery.security.authenticator import Authenticator
from edge.delivery.security.subscriptions import Subscriptions
from edge.delivery.sockets import notice_vanished_peers
from edge.errors import DeliveryError
from edge.util.threads import NamedThread
from edge.wire.events import Message, header_of, to_frames

logger = logging.getLogger(__name__)

SEND_HIGH_WATER_MARK = 1000
"""Messages kept for one slow subscriber; beyond that ZeroMQ drops its messages, which it sees as gaps."""
LINGER_MS = 2000
START_WITHIN_SECONDS = 5.0
POLL_MS = 50
LOOK_EVERY_SECONDS = 1.0
VERDICTS = b"verdict."
SECONDS_BETWEEN_COMMITS = 0.01
"""So many events share a commit as come in that time; one that comes alone does not wait for others."""
MESSAGES_PER_COMMIT = 256

Sent = Callable[[], None]
"""Hears, on the publisher's thread, that all up to its message was given to ZeroMQ."""


class Keeping(Protocol):
    """What becomes of messages before they are sent. Called by the publisher's thread alone."""

    @property
    def keeps(self) -> bool:
        """Whether messages that are committed together cost less."""

    def commit(self, messages: Sequence[Message]) -> list[Message]:
        """Number and keep them; what is to be sent for them, in order."""

    def tend(self) -> list[Message]:
        """See to what is kept; what is to be sent of that. Called some 20 times a second."""


class AsTheyAre:
    """Keeps nothing, and sends messages as they came."""

    keeps = False

    def commit(self, messages: Sequence[Message]) -> list[Message]:
        return list(messages)

    def tend(self) -> list[Message]:
        return []


class _HandedOver(NamedTuple):
    message: Message | None
    """None: a probe, for which nothing is sent."""
    sent: Sent | None


class Publisher:
    """An XPUB socket behind a queue.

    Args:
        address: ZeroMQ address to bind, `tcp://...` or `ipc://...`.
        keeping: what becomes of messages before they are sent.
        access: who may listen, if the address is not local.
    """

    def __init__(self, address: str, keeping: Keeping | None = None, access: Access | None = None) -> None:
        self.address = address
        self._keeping = keeping or AsTheyAre()
        self._access = access or Access()
        self._messages: queue.Queue[_HandedOver | None] = queue.Queue(SEND_HIGH_WATER_MARK)
        self._bound = threading.Event()
        self._listened_to = threading.Event()
        self._error: zmq.ZMQError | None = None
        self._committed_s = float("-inf")
        self._thread = NamedThread("publish", self._run)

    def start(self) -> None:
        """Bind the address.

        Raises:
            AccessError: others could reach it, and the line has no key to protect it with.
            DeliveryError: it cannot be bound.
        """
        self._access.require_protected("events.bind", self.address)
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
        header_of(message.event)  # what cannot be said fails here, where it was made, and not in our thread
        self._put(_HandedOver(message, sent))

    def probe(self, sent: Sent) -> None:
        """Go the way of a message, and send none.

        Raises:
            DeliveryError: the publisher is not running.
        """
        self._put(_HandedOver(None, sent))

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Wait until somebody has subscribed to verdicts; whether somebody has."""
        return self._listened_to.wait(timeout_s)

    def close(self) -> None:
        """Send what was handed over, give subscribers `LINGER_MS` to take it, and let go of the address."""
        with contextlib.suppress(DeliveryError):  # it has ended by itself
            self._put(None)
            self._thread.join()

    def _put(self, handed_over: _HandedOver | None) -> None:
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):  # for as long as it is full, the thread is looked after
                self._messages.put(handed_over, timeout=LOOK_EVERY_SECONDS)
                return
        raise DeliveryError(f"{self.address} is not being published on; see the log")

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.XPUB)
        subscriptions = Subscriptions()
        guard: Authenticator | None = None
        try:
            socket.setsockopt(zmq.LINGER, LINGER_MS)
            socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER_MARK)
            subscriptions.set_up(socket)
            notice_vanished_peers(socket)
            try:
                guard = Authenticator(socket, self._access, "events", self.address)
                guard.bind()
            except zmq.ZMQError as error:
                self._error = error
                return
            finally:
                self._bound.set()
            self._publish(socket, guard, subscriptions)
        finally:
            socket.close()
            context.term()
            if guard is not None:
                guard.join()

    def _publish(self, socket: zmq.Socket[bytes], guard: Authenticator, subscriptions: Subscriptions) -> None:
        closing = False
        while not closing:
            guard.tend()
            self._take_subscriptions(socket, guard, subscriptions)
            group, closing = self._next_group()
            messages = [each.message for each in group if each.message is not None]
            outgoing = self._keeping.commit(messages) if messages else []
            for message in [*outgoing, *self._keeping.tend()]:
                socket.send_multipart(to_frames(message))
            for each in group:
                if each.sent is not None:
                    each.sent()

    def _take_subscriptions(
        self, socket: zmq.Socket[bytes], guard: Authenticator, subscriptions: Subscriptions
    ) -> None:
        for prefix in subscriptions.taken(socket):
            if _takes_verdicts(prefix):
                self._listened_to.set()
        if (why := subscriptions.too_many) is not None:
            self._access.refusals.note("events", "subscriptions", f"{why}; hanging up on all")
            guard.disconnect_all()
            subscriptions.begin_again()

    def _next_group(self) -> tuple[list[_HandedOver], bool]:
        """What is to be committed together, which may be nothing; and whether it is the last."""
        group: list[_HandedOver] = []
        with contextlib.suppress(queue.Empty):
            first = self._messages.get(timeout=POLL_MS / 1000)
            if first is None:
                return group, True
            group.append(first)
            if self._keeping.keeps:
                time.sleep(max(0.0, self._committed_s + SECONDS_BETWEEN_COMMITS - time.monotonic()))
                self._committed_s = time.monotonic()
            while len(group) < MESSAGES_PER_COMMIT:
                following = self._messages.get_nowait()
                if following is None:
                    return group, True
                group.append(following)
        return group, False


def _takes_verdicts(prefix: bytes) -> bool:
    return prefix.startswith(VERDICTS) or VERDICTS.startswith(prefix)
