"""Subscribes to a line's live events, and detects which were missed."""

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import zmq

from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client import Client, client_socket, connect
from heatline.edge.wire.events import LARGEST_PART_BYTES, CountedEvent, Counts, Message, StatusEvent, from_frames

SILENT_AFTER_SECONDS = 3.0
"""A line reports its status about once a second."""
TICK_EVERY_MS = 500
"""Interval of checks of the connection while nothing arrives."""
RECONNECT_AFTER_SECONDS = 10.0
"""After this silence, the connection is made again. ZeroMQ reconnects by itself, except after data that breaks its
protocol: from another program that has the line's port for a moment, or a part that is too long."""
STATUS = "status"


@dataclass(frozen=True)
class Gap:
    """Events of a topic that were missed: at least one of those after `after_seq` up to `through_seq`."""

    journal_id: str | None
    """The journal that counts them; None: no journal holds them."""
    boot_id: str
    topic: str
    after_seq: int
    through_seq: int

    def __str__(self) -> str:
        return f"events of {self.topic} after {self.after_seq} up to {self.through_seq} were missed"


class GapDetector:
    """Follows the counts of one line, for the topics with these prefixes."""

    def __init__(self, prefixes: Iterable[str]) -> None:
        self._prefixes = tuple(prefixes)
        self._last: dict[str, defaultdict[str, int]] = {}
        """By count, which is a journal or a boot, and by topic: only events after this one concern the subscriber."""
        self._knows_counts = False
        """A status has named the counts: a count that is new after that began after the subscriber joined."""
        self._journal_id: str | None = None

    def event(self, event: CountedEvent) -> Gap | None:
        """Record an event; return the gap before it, if there is one."""
        journal_id, boot_id, topic, previous = event.journal_id, event.boot_id, event.topic, event.previous_seq
        known = self._advance(journal_id, boot_id, topic, event.seq, event.seq - 1)
        return Gap(journal_id, boot_id, topic, known, previous) if previous > known else None

    def counts(self, counts: Counts, boot_id: str) -> list[Gap]:
        """Record the counts of a status; return the gaps up to there."""
        found = []
        for journal_id, topics in ((None, counts.unjournalled), (counts.journal_id, counts.journalled)):
            newest = max(topics.values(), default=0)
            for topic, last_seq in topics.items():
                known = self._advance(journal_id, boot_id, topic, last_seq, newest)
                if topic.startswith(self._prefixes) and last_seq > known:
                    found.append(Gap(journal_id, boot_id, topic, known, last_seq))
        self._knows_counts = True
        self._journal_id = counts.journal_id or self._journal_id
        return found

    def _advance(self, journal_id: str | None, boot_id: str, topic: str, seq: int, before: int) -> int:
        """Record the last event of a topic; return the one that was known before.

        All events of a count that is new after the first status concern the subscriber; of a count that it finds at
        joining, only those after `before` do. The position of a journal is unknown while it cannot be read.
        """
        is_new = self._knows_counts and (journal_id is None or self._journal_id is not None)
        since = 0 if is_new else before
        last = self._last.setdefault(journal_id or boot_id, defaultdict(lambda: since))
        known, last[topic] = last[topic], seq
        return known


@dataclass(frozen=True)
class NewBoot:
    """The service was restarted. Events of the boot before that no journal holds may be missing without a gap."""

    boot_id: str
    before: str

    def __str__(self) -> str:
        return f"the line was restarted: boot {self.boot_id} follows {self.before}"


@dataclass(frozen=True)
class LineLost:
    """Nothing arrived for this time: nothing is inspected, or the connection is gone. Reported once per silence."""

    silent_s: float

    def __str__(self) -> str:
        return f"nothing arrived for {self.silent_s:.0f} s: nothing is inspected, or the connection is gone"


Notice = Gap | NewBoot | LineLost
"""What a subscriber reports itself, between the messages."""
Received = Message | Notice


class Subscriber(Client):
    """A SUB socket as an iterator of messages, and of notices of what was missed. It reconnects by itself.

    Use it in the thread that created it:

        with Subscriber("tcp://127.0.0.1:5556") as events:
            for received in events:
                match received:
                    case Message():
                        print(received.event)
                    case Gap() | NewBoot() | LineLost():
                        print(received)

    Events that are missed, because the connection was down or this program was too slow, do not come again. A program
    that needs all events is a durable consumer (`Follower`). An address that is not valid is a DeliveryError.

    Args:
        address: the line's `events.bind`.
        topics: prefixes of topics, e.g. `verdict.top.DEFECT`; default: all.
        timeout_s: seconds without a message or notice after which the iteration ends; None: never.
    """

    def __init__(
        self,
        address: str,
        *,
        topics: Iterable[str] = ("",),
        timeout_s: float | None = None,
        keys: ClientKeys | None = None,
    ) -> None:
        topics = (topics,) if isinstance(topics, str) else tuple(topics)
        self._wants_status = STATUS.startswith(topics)
        self._gaps = GapDetector(topics)
        self._ready: deque[Received] = deque()
        self._timeout_s = float("inf") if timeout_s is None else timeout_s
        self._boot_id: str | None = None
        self._silent_since_s: float | None = None
        """Start of a silence that counts; None: the line is lost, has stopped, or has sent nothing yet."""
        self._context = zmq.Context()
        self._socket = client_socket(self._context, zmq.SUB, address, keys, LARGEST_PART_BYTES)
        for topic in {*topics, STATUS}:  # statuses show what was missed, and that the line is there
            self._socket.setsockopt_string(zmq.SUBSCRIBE, topic)
        self._address, self._heard_s = address, time.monotonic()
        connect(self._socket, address, "tcp://127.0.0.1:5556")

    def __iter__(self) -> Iterator[Received]:
        while (received := self.receive()) is not None:
            yield received

    def receive(self) -> Received | None:
        """Return the next message or notice, or None if none came in time. A message may be a MessageError."""
        until_s = time.monotonic() + self._timeout_s
        while not self._ready:
            left_ms = max(0.0, (until_s - time.monotonic()) * 1000)
            if self._socket.poll(int(min(left_ms, TICK_EVERY_MS))):
                self._take(self._socket.recv_multipart())
            else:
                self._note_silence(time.monotonic())
            if not self._ready and time.monotonic() >= until_s:
                return None
        return self._ready.popleft()

    def _note_silence(self, now_s: float) -> None:
        if now_s - self._heard_s >= RECONNECT_AFTER_SECONDS:
            self._heard_s = now_s
            with contextlib.suppress(zmq.ZMQError):  # ZeroMQ has dropped the address already
                self._socket.disconnect(self._address)
            self._socket.connect(self._address)
        if self._silent_since_s is not None and now_s - self._silent_since_s >= SILENT_AFTER_SECONDS:
            self._ready.append(LineLost(now_s - self._silent_since_s))
            self._silent_since_s = None

    def _take(self, parts: list[bytes]) -> None:
        self._heard_s = time.monotonic()
        message = from_frames(parts)
        event = message.event
        self._silent_since_s = self._heard_s
        if self._boot_id not in (None, event.boot_id):
            self._ready.append(NewBoot(event.boot_id, before=str(self._boot_id)))
        self._boot_id = event.boot_id
        if not isinstance(event, StatusEvent):
            gap = self._gaps.event(event)
            self._ready += [message] if gap is None else [gap, message]
            return
        self._ready += self._gaps.counts(event.counts, event.boot_id)
        if self._wants_status:
            self._ready.append(message)
        if event.state == "STOPPED":  # the silence after it is not a loss
            self._silent_since_s = None


def next_status(address: str, timeout_s: float, keys: ClientKeys | None = None) -> StatusEvent | None:
    """Return the next status of a line, or None if none came in time. A line sends one about once a second."""
    with Subscriber(address, topics=[STATUS], timeout_s=timeout_s, keys=keys) as events:
        for received in events:
            if isinstance(received, Message) and isinstance(received.event, StatusEvent):
                return received.event
    return None
