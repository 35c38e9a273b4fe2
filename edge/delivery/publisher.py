"""Publishes messages to live subscribers, from a thread of its own. Only this thread uses the socket.

Events are stored in the journal first, if the line has one, and are sent after that.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import zmq

from heatline.edge.delivery.auth import Access, Authenticator
from heatline.edge.delivery.numbering import Numbering
from heatline.edge.delivery.servers import SocketServer
from heatline.edge.delivery.sockets import notice_vanished_peers
from heatline.edge.errors import DeliveryError
from heatline.edge.wire.events import Message, header_of, to_frames

logger = logging.getLogger(__name__)

SEND_HIGH_WATER_MARK = 1000
"""Messages queued for one slow subscriber. ZeroMQ drops the messages beyond, and the subscriber sees a gap."""
POLL_MS = 50
LOOK_EVERY_SECONDS = 1.0
VERDICTS = b"verdict."
LONGEST_SUBSCRIPTION_BYTES = 1024
"""The longest prefix."""
SUBSCRIPTIONS_AT_ONCE = 1000
"""Read between two messages, so that many subscriptions do not delay events."""
SECONDS_BETWEEN_COMMITS = 0.01
"""Events that arrive within this time share a commit. An event that arrives alone does not wait for others."""
MESSAGES_PER_COMMIT = 256

Sent = Callable[[], None]
"""Called on the publisher's thread when its message and all before it were passed to ZeroMQ."""


class _HandedOver(NamedTuple):
    message: Message | None
    """None: a probe, for which nothing is sent."""
    sent: Sent | None


class Publisher(SocketServer):
    """An XPUB socket behind a queue.

    Args:
        address: ZeroMQ address to bind, `tcp://...` or `ipc://...`.
        journal: numbers and stores messages before they are sent; None: they are sent as they are.
        access: who may listen, if the address is not local.
    """

    thread_name = "publish"
    kind = zmq.XPUB
    name = "events"
    send_high_water_mark = SEND_HIGH_WATER_MARK
    longest_bytes = LONGEST_SUBSCRIPTION_BYTES

    def __init__(self, address: str, journal: Numbering | None = None, access: Access | None = None) -> None:
        super().__init__(address, access)
        self._journal = journal
        self._messages: queue.Queue[_HandedOver | None] = queue.Queue(SEND_HIGH_WATER_MARK)
        self._listened_to = threading.Event()
        self._committed_s = float("-inf")

    def send(self, message: Message, sent: Sent | None = None) -> None:
        """Queue a message to be sent. Returns at once: the socket never blocks.

        Raises:
            DeliveryError: the publisher is not running.
        """
        header_of(message.event)  # an event that cannot be encoded fails here, in its maker's thread
        self._put(_HandedOver(message, sent))

    def probe(self, sent: Sent) -> None:
        """Pass through the queue like a message, and send nothing.

        Raises:
            DeliveryError: the publisher is not running.
        """
        self._put(_HandedOver(None, sent))

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Wait until a client subscribed to verdicts; return whether one did."""
        return self._listened_to.wait(timeout_s)

    def close(self) -> None:
        """Send the queued messages, give subscribers `LINGER_MS` to receive them, and release the address."""
        with contextlib.suppress(DeliveryError):  # the thread has ended already
            self._put(None)
            self._thread.join()

    def _put(self, handed_over: _HandedOver | None) -> None:
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):  # then check again whether the thread lives
                self._messages.put(handed_over, timeout=LOOK_EVERY_SECONDS)
                return
        raise DeliveryError(f"the publisher of {self.address} is not running; see the log")

    def _set_up(self, socket: zmq.Socket[bytes]) -> None:
        super()._set_up(socket)
        notice_vanished_peers(socket)

    def _serve(self, socket: zmq.Socket[bytes], authenticator: Authenticator) -> None:
        closing = False
        while not closing:
            authenticator.tick()
            self._take_subscriptions(socket)
            group, closing = self._next_group()
            messages = [each.message for each in group if each.message is not None]
            if self._journal is not None:
                messages = [*(self._journal.commit(messages) if messages else []), *self._journal.tick()]
            for message in messages:
                socket.send_multipart(to_frames(message))
            for each in group:
                if each.sent is not None:
                    each.sent()

    def _take_subscriptions(self, socket: zmq.Socket[bytes]) -> None:
        with contextlib.suppress(zmq.Again):  # no more have come
            for _ in range(SUBSCRIPTIONS_AT_ONCE):
                message = socket.recv(zmq.NOBLOCK)
                if message[:1] == b"\x01" and _takes_verdicts(message[1:]):
                    self._listened_to.set()

    def _next_group(self) -> tuple[list[_HandedOver], bool]:
        """Return the messages to commit together, possibly none, and whether they are the last."""
        group: list[_HandedOver] = []
        with contextlib.suppress(queue.Empty):
            first = self._messages.get(timeout=POLL_MS / 1000)
            if first is None:
                return group, True
            group.append(first)
            if self._journal is not None and self._journal.stores:  # it is cheaper to commit several together
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
