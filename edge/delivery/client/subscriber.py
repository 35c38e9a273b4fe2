"""Listens to a line's events, live."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import zmq

from edge.delivery.client.socket import Connection, client_socket, no_address
from edge.delivery.gaps import Gap, Gaps
from edge.delivery.replay import Replay
from edge.delivery.security.curve import ClientKeys
from edge.delivery.sockets import PARTS_KEPT, notice_vanished_peers, receive
from edge.errors import DeliveryError, EventsLostError, JournalError, MessageError
from edge.wire.events import LARGEST_PART_BYTES, WELCOME, Message, StatusEvent, from_frames, welcome_from

SECONDS_BETWEEN_VAIN_REPLAYS = 10.0
WELCOMES = WELCOME.decode().strip()
TEND_EVERY_MS = 500
"""Of the connection, while nothing comes."""


class Subscriber:
    """A SUB socket as an iterator of messages that reconnects by itself and knows what it missed.

    Use it in the thread that made it:

        with Subscriber("tcp://127.0.0.1:5556", replay="tcp://127.0.0.1:5558") as events:
            for message in events:
                ...

    What was missed, because the connection was down or this program was too slow, is asked for again at `replay`. It
    comes before anything newer of its topic, and is marked as `late`: no ejector may act on it. What cannot be had
    again raises `EventsLostError`, after which listening goes on.

    Args:
        address: where the line publishes.
        topics: prefixes to listen to, e.g. `verdict.top.DEFECT`; default: all.
        timeout_s: stop the iteration when nothing came for so long; None: wait for ever.
        replay: where the line serves its journal; None: what is missed stays missed.
        keys: to connect to a line from another machine.
        replay_keys: the same, to its journal.
    Raises:
        DeliveryError: an address is none.
    """

    def __init__(
        self,
        address: str,
        *,
        topics: Iterable[str] = ("",),
        timeout_s: float | None = None,
        replay: str | None = None,
        keys: ClientKeys | None = None,
        replay_keys: ClientKeys | None = None,
    ) -> None:
        self._topics = (topics,) if isinstance(topics, str) else tuple(topics)
        self._gaps = Gaps(self._topics)
        self._ready: deque[Message | EventsLostError | Iterator[Message | EventsLostError]] = deque()
        """What to say next; what is had again is asked for as it is said, since it may be a journal full."""
        self._ask_again_s = float("-inf")
        self._timeout_ms = None if timeout_s is None else int(timeout_s * 1000)
        self._replay = None if replay is None else Replay(replay, replay_keys, self._keep_subscribed)
        self._context = zmq.Context()
        self._socket = client_socket(self._context, zmq.SUB, address, keys, LARGEST_PART_BYTES)
        notice_vanished_peers(self._socket)
        for topic in {*self._topics, WELCOMES}:
            self._socket.setsockopt_string(zmq.SUBSCRIBE, topic)
        self._connection: Connection | None = None
        try:
            self._connection = Connection(self._socket, address)
        except zmq.ZMQError as error:
            self.close()
            raise no_address(address, error, "tcp://127.0.0.1:5556") from error

    def __iter__(self) -> Iterator[Message]:
        while (message := self.receive()) is not None:
            yield message

    def receive(self) -> Message | None:
        """The next message, or None when none came in time.

        Raises:
            MessageError: what came is no message of ours.
            EventsLostError: events were missed and cannot be had any more.
        """
        while (ready := self._next_ready()) is None:
            if not self._something_comes():
                return None
            self._take(receive(self._socket, PARTS_KEPT))
        if isinstance(ready, EventsLostError):
            raise ready
        return ready

    def close(self) -> None:
        """Let go of the sockets; may be called twice."""
        if self._replay is not None:
            self._replay.close()
        if self._connection is not None:
            self._connection.close()
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _keep_subscribed(self) -> None:
        """Let ZeroMQ subscribe again where its connection was lost: it does so only as the socket is used."""
        self._socket.getsockopt(zmq.EVENTS)

    def _something_comes(self) -> bool:
        """Wait for it; whether it came in time."""
        assert self._connection is not None
        began_s, left_ms = time.monotonic(), self._timeout_ms
        while not self._socket.poll(TEND_EVERY_MS if left_ms is None else min(left_ms, TEND_EVERY_MS)):
            self._connection.tend()
            if self._timeout_ms is not None:
                left_ms = self._timeout_ms - int((time.monotonic() - began_s) * 1000)
                if left_ms <= 0:
                    return False
        return True

    def _next_ready(self) -> Message | EventsLostError | None:
        while self._ready:
            ready = self._ready[0]
            if isinstance(ready, Message | EventsLostError):
                self._ready.popleft()
                return ready
            if (again := next(ready, None)) is not None:
                return again
            self._ready.popleft()
        return None

    def _take(self, parts: list[bytes]) -> None:
        if len(parts) == 1 and parts[0].startswith(WELCOME):
            welcome = welcome_from(parts[0])
            self._close(self._gaps.counts(welcome.counts, welcome.boot_id))
            return
        message = from_frames(parts)
        event = message.event
        if isinstance(event, StatusEvent):
            if event.counts is not None:
                self._close(self._gaps.counts(event.counts, event.boot_id))
            self._ready.append(message)
            return
        new, gap = self._gaps.event(event)
        if gap is not None:
            self._close([gap])
        if new:
            self._ready.append(message)

    def _close(self, gaps: list[Gap]) -> None:
        """Get what was missed from the journal; what cannot be had is said."""
        for gap in gaps:
            if gap.went_back:
                self._ready.append(_lost(gap, "the line's journal is an older one than it was"))
            elif gap.journal_id is None:
                self._ready.append(_lost(gap, "no journal holds them"))
            elif self._replay is None:
                self._ready.append(_lost(gap, "where the line serves its journal was not said"))
            else:
                self._ready.append(self._had_again(gap, gap.journal_id, self._replay))

    def _had_again(self, gap: Gap, journal_id: str, replay: Replay) -> Iterator[Message | EventsLostError]:
        reached = gap.after_seq
        if time.monotonic() < self._ask_again_s:
            yield _lost(gap, "the line's journal did not answer a moment ago")
            return
        try:
            for part in replay.events(journal_id, gap.after_seq, gap.through_seq, (gap.topic,)):
                if part.lost_through is not None:
                    yield _lost(gap, "the journal does not hold them any more", reached, part.lost_through)
                for each in part.events:
                    event = each.event
                    if event.topic == gap.topic:  # and none whose topic begins like it
                        yield Message(event, each.png, late=True)
                reached = part.through_seq
        except (DeliveryError, JournalError, MessageError) as error:
            if isinstance(error, DeliveryError):  # what comes live must not wait for it over and over
                self._ask_again_s = time.monotonic() + SECONDS_BETWEEN_VAIN_REPLAYS
            yield _lost(gap, str(error), reached)


def _lost(gap: Gap, why: str, after_seq: int | None = None, through_seq: int | None = None) -> EventsLostError:
    after_seq = gap.after_seq if after_seq is None else after_seq
    through_seq = gap.through_seq if through_seq is None else through_seq
    return EventsLostError(
        f"events of {gap.topic} after {after_seq} up to {through_seq} were missed and cannot be had again: {why}",
        journal_id=gap.journal_id,
        after_seq=after_seq,
        through_seq=through_seq,
        boot_id=gap.boot_id,
        topic=gap.topic,
    )
