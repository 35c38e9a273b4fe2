"""Follows a line as a durable consumer."""

import contextlib
import logging
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
import zmq

from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client import Client, client_socket, connect, require_authorized
from heatline.edge.delivery.sockets import ms_until
from heatline.edge.errors import (
    AccessError,
    DeliveryError,
    EventsLostError,
    HeatlineError,
    MessageError,
    SupersededError,
)
from heatline.edge.util.rate_limited_log import FaultLog
from heatline.edge.util.text import on_one_line, utf8_safe
from heatline.edge.wire import following as wire
from heatline.edge.wire.events import LARGEST_PART_BYTES
from heatline.edge.wire.requests import Refused, shortened, to_bytes

logger = logging.getLogger(__name__)

HEARTBEATS_MISSED = 3
"""Number of missed heartbeats after which the line counts as gone."""
HEARTBEAT_SECONDS = 1.0
"""Until the line has named its own interval."""
PAUSE_SECONDS = {"unavailable": 1.0, "busy": 1.0, "not_following": 0.1}
"""Pauses before following again, by reason of refusal. Other refusals are final."""
LINGER_MS = 1000
"""For the last acknowledgement."""
SECONDS_BETWEEN_ACKS = 0.1


class _Lost(NamedTuple):
    """Stands for deleted events. It is handed out and acknowledged like an event."""

    journal_id: str
    seq: int
    error: EventsLostError


class Follower(Client):
    """A DEALER socket as an iterator of events, in order, from the first that the consumer has not acknowledged.

    Use it in the thread that created it:

        with Follower("tcp://127.0.0.1:5558", "mes1") as events:
            for delivered in events:
                store(delivered.key, delivered.header)

    **An event is acknowledged when the next one is requested**, or by `acknowledge`. Closing the follower acknowledges
    nothing: an event whose acknowledgement did not reach the line comes again, with the same `key`, to the next
    follower of that name. One follower gets no event twice.
    With `keep_position`, acknowledging only lets the line send more, and `settle` stores the position.

    It reconnects by itself; an address that is not valid is a DeliveryError. If events were deleted, it raises
    `EventsLostError` once, and continues when it is asked again.

    Args:
        address: the line's `journal.bind`.
        name: name of the consumer, under which the line stores its position.
        topics: prefixes of topics, e.g. `verdict.top.DEFECT`; default: all.
        window: number of events that may be in flight, unacknowledged: 1 to 1000.
        start: where a new name begins: with the `first` event in the journal, or with the `next` one.
        timeout_s: seconds without an event after which the iteration ends; None: never.
        keep_position: whether all events come again, to the next follower or after `rewind`, that are not settled.
    """

    def __init__(
        self,
        address: str,
        name: str,
        *,
        topics: Iterable[str] = ("",),
        window: int = 100,
        heatmaps: bool = False,
        start: wire.Start = "first",
        timeout_s: float | None = None,
        keep_position: bool = False,
        keys: ClientKeys | None = None,
    ) -> None:
        self._address, self._keys = address, keys
        self._timeout_s = timeout_s
        self._keep_position = keep_position
        self._settled: wire.Delivered | None = None
        self._stored_seq = 0
        """The last settled event that was told to the line on this connection."""
        self._request = wire.FollowRequest(
            name=utf8_safe(name),
            client=uuid.uuid4().hex,
            window=window,
            topics=tuple(map(utf8_safe, topics)),
            heatmaps=heatmaps,
            start=start,
        )
        self._forget_events()
        self._received_s = 0.0
        self._log = FaultLog(logger)
        self._ended: HeatlineError | None = None
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._follow()

    def _forget_events(self) -> None:
        """Begin as if nothing had been received."""
        self._waiting: deque[wire.Delivered | _Lost] = deque()
        """Received, and not handed out yet."""
        self._journal_id: str | None = None
        """The journal that was followed last; None: the line has not answered yet."""
        self._following = False
        """Whether the line has answered on this connection."""
        self._position = 0
        """On this connection, the next event comes after this one."""
        self._received_seq = 0
        """All events of the journal up to this one were received, over all connections. They are not taken twice."""
        self._newest_seq = 0
        """The newest event of the journal that is known."""
        self._in_hand: tuple[str, int] | None = None
        """Journal and number of the last event that was handed out."""
        self._done: tuple[str, int] | None = None
        """Journal and number of the last event that the consumer has processed."""
        self._unacknowledged = 0
        """Number of events handed out since the last acknowledgement was sent."""
        self._acked_seq = -1
        """The last event that was acknowledged on this connection."""
        self._acked_s = 0.0

    def __iter__(self) -> Iterator[wire.Delivered]:
        while (delivered := self.receive()) is not None:
            yield delivered

    def receive(self) -> wire.Delivered | None:
        """Return the next event, or None if none came in time. The event before is acknowledged.

        Raises:
            EventsLostError: events were deleted.
            AccessError: the line does not authorize this client.
            SupersededError: a newer client follows under this name.
            DeliveryError: the line refuses for another reason that is final.
            MessageError: the message is not valid.
        """
        return next(iter(self.receive_batch(1)), None)

    def receive_batch(self, at_most: int = wire.LARGEST_WINDOW) -> list[wire.Delivered]:
        """Return the next events, or none if none came in time; otherwise like `receive`."""
        self._done = self._in_hand
        until_s = float("inf") if self._timeout_s is None else time.monotonic() + self._timeout_s
        while True:
            events = self._taken(at_most)
            self._acknowledge(at_once=not events)
            if events or not self._take_next(until_s):
                return events

    def acknowledge(self) -> None:
        """Acknowledge the events that were handed out."""
        self._done = self._in_hand
        self._acknowledge(at_once=True)

    def settle(self, through: wire.Delivered) -> None:
        """Store the position after an event that was acknowledged before, and not for good (`keep_position`)."""
        self._settled = through
        self._acknowledge(at_once=False)

    def rewind(self) -> None:
        """Follow again: all events after the position that the line has stored come again, too."""
        self._drop()
        self._forget_events()

    def hold(self) -> None:
        """Receive what has come, and keep it. Call it now and then while you store the last event for long: otherwise a
        newer client of this name, or a restart of the line, is noticed only at the next event. The last event stays
        unacknowledged. Errors are those of `receive`, without EventsLostError.
        """
        self._acknowledge(at_once=True)
        while self._take_next(time.monotonic()):
            pass

    def close(self) -> None:
        """Close the socket; may be called twice. The last event that was handed out is not acknowledged."""
        self._acknowledge(at_once=True)
        # A request that was not answered yet must not arrive late: it would supersede the next follower.
        self._context.destroy(LINGER_MS if self._following else 0)
        self._socket = None

    # Events that were received, over any number of connections.

    def _taken(self, at_most: int) -> list[wire.Delivered]:
        """Hand out the next events, none if there are none; raise if they were deleted."""
        taken: list[wire.Delivered] = []
        while self._waiting and len(taken) < at_most:
            if isinstance(self._waiting[0], _Lost) and taken:
                break
            first = self._waiting.popleft()
            self._in_hand = first.journal_id, first.seq
            if isinstance(first, _Lost):
                raise first.error
            taken.append(first)
        self._unacknowledged += len(taken)
        return taken

    def _lose(self, sentence: str, journal_id: str, after_seq: int, through_seq: int, seq: int) -> None:
        """Record a loss, which is handed out and acknowledged like the event `seq`."""
        error = EventsLostError(sentence, journal_id=journal_id, after_seq=after_seq, through_seq=through_seq)
        assert self._journal_id is not None
        self._waiting.append(_Lost(self._journal_id, seq, error))

    # Acknowledging.

    def _acknowledge(self, at_once: bool) -> None:
        """Send the acknowledgements that are due; `at_once`: without waiting for more to send together."""
        journal_id, settled = self._journal_id, self._settled
        if self._socket is None or journal_id is None or not self._following:
            return
        with contextlib.suppress(zmq.Again):  # the next acknowledgement includes it
            if self._done is not None and self._done[0] == journal_id:
                seq = min(self._done[1], self._position)  # after a reconnect, earlier events are sent again first
                few = self._unacknowledged < self._request.window / 2
                wait = few and time.monotonic() - self._acked_s < SECONDS_BETWEEN_ACKS
                if seq > self._acked_seq and (at_once or not wait):
                    self._send_ack(journal_id, seq, keep_position=self._keep_position)
                    self._acked_seq, self._acked_s, self._unacknowledged = seq, time.monotonic(), 0
            if settled is not None and settled.journal_id == journal_id:
                seq = min(settled.seq, self._position)
                if seq > self._stored_seq:
                    self._send_ack(journal_id, seq)
                    self._stored_seq = seq

    def _send_ack(self, journal_id: str, seq: int, *, keep_position: bool = False) -> None:
        assert self._socket is not None
        ack = wire.AckRequest(
            name=self._request.name, journal_id=journal_id, seq=seq, keep_position=keep_position or msgspec.UNSET
        )
        self._socket.send(to_bytes(ack), zmq.NOBLOCK)

    # Receiving.

    def _take_next(self, until_s: float) -> bool:
        """Wait for a message and process it; return whether one came in time. After a refusal, it also pauses."""
        if self._ended is not None:
            raise self._ended
        while True:
            socket = self._socket or self._follow()
            silent_s = self._received_s + HEARTBEATS_MISSED * self._heartbeat_s
            if socket.poll(ms_until(min(silent_s, until_s))):
                self._received_s, parts = time.monotonic(), socket.recv_multipart()
                try:
                    match wire.reply_from(parts[0]):
                        case wire.Following() as following:
                            self._begin(following)
                        case wire.Batch() as batch:
                            self._add(batch, parts)
                        case Refused() as refused:
                            self._refused(refused)
                except MessageError:
                    self._drop()
                    raise
                return True
            now_s = time.monotonic()
            if now_s >= silent_s:
                self._log.begin(f"{self._address} is silent", "; following again until it answers")
                answered = self._following
                self._drop()
                if not answered:
                    try:
                        require_authorized(self._address, self._keys, zmq.DEALER)
                    except AccessError as error:
                        self._ended = error
                        raise
            if now_s >= until_s:
                return False

    def _begin(self, following: wire.Following) -> None:
        """Start after the event that the line names."""
        before, after_seq, newest_seq = self._journal_id, self._received_seq, self._newest_seq
        if before is None and following.former is not None:
            before, after_seq, newest_seq = following.former.journal_id, following.former.acked_seq, 0
        acked_seq, self._journal_id = following.acked_seq, following.journal_id
        if before == following.journal_id:
            self._received_seq = max(acked_seq, self._received_seq)
        else:
            self._received_seq = acked_seq
            if before is not None:
                sentence = (
                    f"the line began another journal, {following.journal_id}: events of {before} after event "
                    f"{after_seq} cannot be delivered any more"
                )
                self._lose(sentence, before, after_seq, max(newest_seq, after_seq), acked_seq)
        self._following, self._position, self._newest_seq = True, acked_seq, following.last_seq
        self._acked_seq, self._stored_seq = acked_seq if following.former is None else -1, acked_seq
        self._log.end(f"{self._address} answers")
        self._heartbeat_s = following.heartbeat_s

    def _add(self, batch: wire.Batch, parts: list[bytes]) -> None:
        """Add the events of a batch, the first of these parts. It must continue what came before."""
        events = wire.events_of(batch, parts)
        if not self._following or (batch.journal_id, batch.after_seq) != (self._journal_id, self._position):
            raise MessageError(
                f"a batch after event {batch.journal_id}-{batch.after_seq} came, expected one after "
                f"{self._journal_id}-{self._position}"
            )
        lost, after_seq = batch.lost_through, max(batch.after_seq, self._received_seq)
        if lost is not None and lost > self._received_seq:
            sentence = (
                f"events after {after_seq} up to {lost} of journal {batch.journal_id} were deleted before "
                f"{self._request.name} received them"
            )
            self._lose(sentence, batch.journal_id, after_seq, lost, lost)
        self._waiting.extend(event for event in events if event.seq > self._received_seq)
        self._position, self._newest_seq = batch.through_seq, batch.last_seq
        self._received_seq = max(self._received_seq, batch.through_seq)

    def _refused(self, refused: Refused) -> None:
        if refused.reason == "other_journal":  # the acknowledgement was sent before the line named the new journal
            return
        if refused.reason not in PAUSE_SECONDS:
            kind = SupersededError if refused.reason == "superseded" else DeliveryError
            self._ended = kind(f"{self._address} refuses {self._request.name} ({refused.reason}): {refused.detail}")
            raise self._ended
        refusal = on_one_line(shortened(f"({refused.reason}): {refused.detail}"))
        self._log.begin(f"{self._address} refuses {refusal}", "; following again")
        self._drop()
        time.sleep(PAUSE_SECONDS[refused.reason])

    # The socket.

    def _follow(self) -> zmq.Socket[bytes]:
        self._socket = socket = _connected(self._context, self._address, self._keys)
        with contextlib.suppress(zmq.Again):  # the line has disconnected already: the silence leads to another attempt
            socket.send(to_bytes(self._request), zmq.NOBLOCK)
        self._received_s, self._heartbeat_s = time.monotonic(), HEARTBEAT_SECONDS
        return socket

    def _drop(self) -> None:
        """Drop the connection. What is in flight comes again."""
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None
        self._following = False


def forget(address: str, name: str, timeout_s: float = 10.0, keys: ClientKeys | None = None) -> None:
    """Remove a consumer: the line retains no events for it any more. Errors are those of `Follower.receive`."""
    request = wire.ForgetRequest(request_id=uuid.uuid4().hex, name=utf8_safe(name))
    with zmq.Context() as context, _connected(context, address, keys) as socket:
        with contextlib.suppress(zmq.Again):  # a line that disconnects at once takes nothing
            socket.send(to_bytes(request), zmq.NOBLOCK)
        if not socket.poll(int(timeout_s * 1000)):
            require_authorized(address, keys, zmq.DEALER)
            raise DeliveryError(
                f"{address} did not reply within {timeout_s:g} s; is the line running, and is its journal.bind this "
                "address?"
            )
        reply = wire.reply_from(socket.recv_multipart()[0])
    if isinstance(reply, Refused):
        raise DeliveryError(f"{address} refuses ({reply.reason}): {reply.detail}")


def _connected(context: zmq.Context["zmq.Socket[bytes]"], address: str, keys: ClientKeys | None) -> zmq.Socket[bytes]:
    socket = client_socket(context, zmq.DEALER, address, keys, LARGEST_PART_BYTES)
    connect(socket, address, "tcp://127.0.0.1:5558")
    return socket
