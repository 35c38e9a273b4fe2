"""Numbers messages and publishes them to live subscribers, from a thread of its own. Only this thread uses the socket.

Events are stored in the journal first, if the line has one, and are sent after that.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec
import zmq

from heatline.edge.delivery.auth import Access
from heatline.edge.delivery.servers import SocketServer
from heatline.edge.errors import DeliveryError
from heatline.edge.frames import Watermark
from heatline.edge.wire.events import CountedEvent, Counts, Event, JournalState, Message, StatusEvent, to_frames
from heatline.edge.wire.requests import to_bytes

logger = logging.getLogger(__name__)

POLL_MS = 50
LOOK_EVERY_SECONDS = 1.0
VERDICTS = b"verdict."
SUBSCRIPTIONS_AT_ONCE = 1000
"""Read between two messages, so that many subscriptions do not delay events."""
SECONDS_BETWEEN_COMMITS = 0.01
"""Events that arrive within this time share a commit. An event that arrives alone does not wait for others."""
MESSAGES_PER_COMMIT = 256

T = TypeVar("T", bound=CountedEvent)
Sent = Callable[[], None]
"""Called on the publisher's thread when its message and all before it were passed to ZeroMQ."""
HandedOver = tuple[Message | None, Sent | None]
"""Without a message: a probe, for which nothing is sent."""


@dataclass
class Count:
    """The last number by topic, and of all events: of a journal, or without its id, of a boot's that none holds."""

    journal_id: str | None
    topics: dict[str, int] = field(default_factory=dict)
    last_seq: int = 0

    def next(self, event: T) -> T:
        """Return the event with its place in this count."""
        self.last_seq += 1
        previous = self.topics.get(event.topic, 0)
        self.topics[event.topic] = self.last_seq
        return msgspec.structs.replace(event, seq=self.last_seq, journal_id=self.journal_id, previous_seq=previous)

    def copy(self) -> "Count":
        return replace(self, topics=dict(self.topics))


class Numbering:
    """Numbers the events of a boot, and adds the counts to its statuses. It is all that a line without a journal needs.

    One thread calls it, except where a method says otherwise.
    """

    stores = False
    """Whether the line has a journal, even one that cannot be used now."""

    def __init__(self) -> None:
        self.progress: Mapping[str, Watermark] = {}
        """By camera, the last frame that the journal reported when this began."""
        self.since_ns: int | None = None
        """When the journal was created: UTC, ns since 1970; None if there is none, or the time cannot be read."""
        self._live = Count(None)
        """Count of this boot's events that no journal holds."""
        self._journalled = Count(None)

    def commit(self, messages: Sequence[Message]) -> list[Message]:
        """Number events and add the counts to statuses; return the messages to send, in order."""
        return self._complete(messages, self._live)

    def tick(self) -> list[Message]:
        """Do the periodic work; return the messages to send for it."""
        return []

    def state(self, at: Count | None = None) -> JournalState | None:
        """Return the state of the journal, now or at a place in its count; None if the line has none. Any thread."""
        return None

    def close(self) -> None:
        """Release what is open."""

    def _complete(self, messages: Sequence[Message], count: Count) -> list[Message]:
        """Return messages with their place in a count."""
        return [replace(message, event=self._counted(message.event, count)) for message in messages]

    def _counted(self, event: Event, count: Count) -> Event:
        """Return an event with its place in a count, a status with the count's numbers."""
        if not isinstance(event, StatusEvent):
            return count.next(event)
        journalled = self._journalled if count is self._live else count
        return msgspec.structs.replace(
            event,
            last_seq=count.last_seq,
            journal_id=count.journal_id,
            counts=Counts(
                journal_id=journalled.journal_id,
                journalled=dict(journalled.topics),
                unjournalled=dict(self._live.topics),
            ),
            journal=self.state(journalled),
        )


class Publisher(SocketServer):
    """An XPUB socket behind a queue. The journal, if there is one, numbers and stores messages before they are sent."""

    kind = zmq.XPUB
    name = "events"
    send_high_water_mark = 1000
    """For one slow subscriber; it sees a gap where ZeroMQ drops messages."""
    longest_bytes = 1024
    """Of a prefix."""

    def __init__(self, address: str, journal: Numbering | None = None, access: Access | None = None) -> None:
        super().__init__(address, access)
        self._journal = journal
        self._messages: queue.Queue[HandedOver] = queue.Queue(self.send_high_water_mark)
        self._listened_to, self._ended = threading.Event(), threading.Event()
        self._committed_s = float("-inf")

    def send(self, message: Message, sent: Sent | None = None) -> None:
        """Queue a message to be sent. Returns at once; raises a DeliveryError if the publisher is not running."""
        to_bytes(message.event)  # an event that cannot be encoded fails here, in its maker's thread
        self._put((message, sent))

    def probe(self, sent: Sent) -> None:
        """Pass through the queue like a message, and send nothing."""
        self._put((None, sent))

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Wait until a client subscribed to verdicts; return whether one did."""
        return self._listened_to.wait(timeout_s)

    def close(self) -> None:
        """Send the queued messages, give subscribers `LINGER_MS` to receive them, and release the address."""
        with contextlib.suppress(DeliveryError):  # the thread has ended already
            self.probe(self._ended.set)
            self._thread.join()

    def _put(self, handed_over: HandedOver) -> None:
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):  # then check again whether the thread lives
                self._messages.put(handed_over, timeout=LOOK_EVERY_SECONDS)
                return
        raise DeliveryError(f"the publisher of {self.address} is not running; see the log")

    def _serve(self) -> None:
        while not self._ended.is_set():
            self._take_subscriptions()
            group = self._next_group()
            messages = [message for message, _ in group if message is not None]
            if self._journal is not None:
                messages = [*(self._journal.commit(messages) if messages else []), *self._journal.tick()]
            for message in messages:
                self._socket.send_multipart(to_frames(message))
            for _, sent in group:
                if sent is not None:
                    sent()

    def _take_subscriptions(self) -> None:
        with contextlib.suppress(zmq.Again):  # no more have come
            for _ in range(SUBSCRIPTIONS_AT_ONCE):
                message = self._socket.recv(zmq.NOBLOCK)
                prefix = message[1:]
                if message[:1] == b"\x01" and (prefix.startswith(VERDICTS) or VERDICTS.startswith(prefix)):
                    self._listened_to.set()

    def _next_group(self) -> list[HandedOver]:
        """Return the messages to commit together, possibly none."""
        group: list[HandedOver] = []
        with contextlib.suppress(queue.Empty):
            group.append(self._messages.get(timeout=POLL_MS / 1000))
            if self._journal is not None and self._journal.stores:  # it is cheaper to commit several together
                time.sleep(max(0.0, self._committed_s + SECONDS_BETWEEN_COMMITS - time.monotonic()))
                self._committed_s = time.monotonic()
            while len(group) < MESSAGES_PER_COMMIT:
                group.append(self._messages.get_nowait())
        return group
