"""Follows a line as a durable consumer."""

import contextlib
import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec
import zmq

from edge.delivery.client.acknowledgements import Acknowledgements
from edge.delivery.client.event_buffer import EventBuffer, Lost
from edge.delivery.client.handshake_probe import require_let_in
from edge.delivery.client.socket import Client, client_socket, connect
from edge.delivery.security.curve import ClientKeys
from edge.delivery.sockets import PARTS_KEPT, notice_vanished_peers, receive
from edge.errors import AccessError, DeliveryError, HeatlineError, MessageError
from edge.util.text import on_one_line
from edge.wire.events import LARGEST_PART_BYTES
from edge.wire.following import (
    LARGEST_WINDOW,
    AckRequest,
    Batch,
    Delivered,
    Following,
    FollowRequest,
    ForgetRequest,
    Forgotten,
    Start,
    reply_from,
)
from edge.wire.requests import Refused, shortened, to_bytes

logger = logging.getLogger(__name__)

HEARTBEATS_MISSED = 3
"""After so many, the line is taken for gone."""
HEARTBEAT_SECONDS = 1.0
"""Until the line has said its own."""
SHORTEST_HEARTBEAT_SECONDS = 0.05
"""A line that says a shorter one would be taken for gone at once, and be followed again without a pause."""
PAUSE_SECONDS = {"unavailable": 1.0, "busy": 1.0, "not_following": 0.1}
"""Refusals after which to follow again, and when."""
LINGER_MS = 1000
"""For the last acknowledgement."""

R = TypeVar("R", FollowRequest, ForgetRequest)


class Follower(Client):
    """A DEALER socket as an iterator of events, from the first that the consumer has not acknowledged on, in order.

    Use it in the thread that made it:

        with Follower("tcp://127.0.0.1:5558", "mes1") as events:
            for delivered in events:
                store(delivered.key, delivered.header)

    **An event is acknowledged when the next one is asked for**, or by `acknowledge`; never because the follower is
    closed: what was in hand when the loop was left comes again, to the next follower of that name. So does what an
    acknowledgement did not reach the line of; it has the same `key`. From one follower nothing comes twice.

    It reconnects by itself. Where events are gone for good, it raises `EventsLostError` once, and goes on when asked
    again.

    Args:
        address: where the line serves its journal.
        name: the consumer's, under which the line keeps how far it has got.
        topics: prefixes of topics that are wanted, e.g. `verdict.top.DEFECT`; default: all.
        window: how many events may be on their way, unacknowledged: 1 to 1000.
        heatmaps: whether they are wanted.
        start: where a name that is new begins: with the `first` event that the journal holds, or with the `next` one.
        timeout_s: stop the iteration when no event came for so long; None: wait for ever.
        keys: to connect to a line from another machine.
    Raises:
        DeliveryError: the address is none, or no consumer can be called so or have such a window.
    """

    def __init__(
        self,
        address: str,
        name: str,
        *,
        topics: Iterable[str] = ("",),
        window: int = 100,
        heatmaps: bool = False,
        start: Start = "first",
        timeout_s: float | None = None,
        keys: ClientKeys | None = None,
    ) -> None:
        self._address, self._keys = address, keys
        self._timeout_s = timeout_s
        self._request = _sayable(
            FollowRequest,
            name=name,
            client=uuid.uuid4().hex,
            window=window,
            topics=list(topics),
            heatmaps=heatmaps,
            start=start,
        )
        self._buffer = EventBuffer(name)
        self._acks = Acknowledgements(window)
        self._heartbeat_s = HEARTBEAT_SECONDS
        self._heard_s = 0.0
        self._pause_until_s = 0.0
        self._silent = False
        self._ended: HeatlineError | None = None
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        try:
            self._follow()
        except DeliveryError:
            self._context.term()
            raise

    def __iter__(self) -> Iterator[Delivered]:
        while (delivered := self.receive()) is not None:
            yield delivered

    def batches(self, at_most: int = LARGEST_WINDOW) -> Iterator[list[Delivered]]:
        """As the iterator, of all events that are there at a time: for who stores many at once as fast as one."""
        while batch := self.receive_batch(at_most):
            yield batch

    def receive(self) -> Delivered | None:
        """The next event, or None when none came in time; the one before is acknowledged.

        Raises:
            EventsLostError: events are gone.
            AccessError: the line does not let this client in.
            DeliveryError: the line refuses for good, as where a newer client follows under this name.
            MessageError: what came is nothing of ours.
        """
        batch = self.receive_batch(1)
        return batch[0] if batch else None

    def receive_batch(self, at_most: int = LARGEST_WINDOW) -> list[Delivered]:
        """The next events, at least one, or none when none came in time; those before are acknowledged.

        Raises: as `receive`.
        """
        self._acks.finish()
        until_s = float("inf") if self._timeout_s is None else time.monotonic() + self._timeout_s
        while True:
            taken = self._buffer.take(at_most)
            events = [each for each in taken if isinstance(each, Delivered)]
            if taken:
                self._acks.handed_out(taken[-1].journal_id, taken[-1].seq, len(events))
            for lost in taken:
                if isinstance(lost, Lost):
                    raise lost.error
            self._acknowledge(at_once=not events)
            if events or not self._take_next(until_s):
                return events

    def acknowledge(self) -> None:
        """All that was handed out is done with, the last one too."""
        self._acks.finish()
        self._acknowledge(at_once=True)

    def close(self) -> None:
        """Let go of the socket; may be called twice. What is in hand is not acknowledged."""
        if self._socket is not None:
            self._acknowledge(at_once=True)
            # A request that was not answered yet must not arrive late: it would supersede whoever follows next.
            self._socket.close(LINGER_MS if self._buffer.journal_id is not None else 0)
            self._socket = None
        self._context.term()

    def _acknowledge(self, at_once: bool) -> None:
        """Tell the line what is done, unless more is soon to be told together with it."""
        journal_id = self._buffer.journal_id
        seq = self._acks.due(journal_id, self._buffer.position, at_once)
        if self._socket is None or journal_id is None or seq is None:
            return
        with contextlib.suppress(zmq.Again):  # told with the next one
            ack = AckRequest(name=self._request.name, journal_id=journal_id, seq=seq)
            self._socket.send(to_bytes(ack), zmq.NOBLOCK)
            self._acks.sent(seq)

    # What comes.

    def _take_next(self, until_s: float) -> bool:
        """Wait for a message and take it; whether one came in time."""
        if self._ended is not None:
            raise self._ended
        while True:
            if self._socket is None:
                pause_s = min(self._pause_until_s, until_s) - time.monotonic()
                time.sleep(max(0.0, pause_s))
                if self._pause_until_s > until_s:
                    return False
                self._follow()
            assert self._socket is not None
            silent_s = self._heard_s + HEARTBEATS_MISSED * self._heartbeat_s
            if self._socket.poll(_ms_until(min(silent_s, until_s))):
                self._heard_s = time.monotonic()
                try:
                    self._take(receive(self._socket, 2 * LARGEST_WINDOW + 2))
                except MessageError:
                    self._drop()
                    raise
                return True
            now_s = time.monotonic()
            if now_s >= silent_s:
                self._take_silence()
            if now_s >= until_s:
                return False

    def _take_silence(self) -> None:
        """Follow again, unless the line is there and does not want us."""
        if not self._silent:
            logger.warning("%s is silent; following again until it answers", self._address)
        self._silent = True
        answered = self._buffer.journal_id is not None
        self._drop()
        if not answered:
            try:
                require_let_in(self._address, self._keys, zmq.DEALER)
            except AccessError as error:
                self._ended = error
                raise

    def _take(self, parts: list[bytes]) -> None:
        reply = reply_from(parts[0])
        match reply:
            case Following():
                self._begin(reply)
            case Batch():
                self._buffer.add(reply, parts)
            case Refused():
                self._refused(reply)
            case Forgotten():
                raise MessageError(f"what came is no answer to a consumer that follows: {reply}")

    def _begin(self, following: Following) -> None:
        self._buffer.begin(following)
        self._acks.begin(following.acked_seq if following.former is None else -1)
        if self._silent:
            logger.info("%s answers", self._address)
        self._silent = False
        self._heartbeat_s = max(following.heartbeat_s, SHORTEST_HEARTBEAT_SECONDS)

    def _refused(self, refused: Refused) -> None:
        if refused.reason == "other_journal":  # what was acknowledged before the line told of another one
            return
        if refused.reason not in PAUSE_SECONDS:
            self._ended = DeliveryError(
                f"{self._address} refuses {self._request.name} ({refused.reason}): {refused.detail}"
            )
            raise self._ended
        if not self._silent:
            said = on_one_line(shortened(f"({refused.reason}): {refused.detail}"))
            logger.warning("%s refuses %s; following again", self._address, said)
        self._silent = True
        self._drop()
        self._pause_until_s = time.monotonic() + PAUSE_SECONDS[refused.reason]

    # The socket.

    def _follow(self) -> None:
        self._socket = _connected(self._context, self._address, self._keys)
        with contextlib.suppress(zmq.Again):  # the line has hung up already: silence leads to another try
            self._socket.send(to_bytes(self._request), zmq.NOBLOCK)
        self._heard_s, self._heartbeat_s = time.monotonic(), HEARTBEAT_SECONDS

    def _drop(self) -> None:
        """What is on its way is let go, and comes again."""
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None
        self._buffer.disconnected()


def forget(address: str, name: str, timeout_s: float = 10.0, keys: ClientKeys | None = None) -> None:
    """Have a line keep nothing for a consumer any longer.

    Raises:
        AccessError: the line does not let this client in.
        DeliveryError: the address is none, no line answers, or it refuses.
        MessageError: what came is no reply.
    """
    request = _sayable(ForgetRequest, request_id=uuid.uuid4().hex, name=name)
    with zmq.Context() as context, _connected(context, address, keys) as socket:
        with contextlib.suppress(zmq.Again):  # a line that hangs up on us at once takes nothing
            socket.send(to_bytes(request), zmq.NOBLOCK)
        if not socket.poll(int(timeout_s * 1000)):
            require_let_in(address, keys, zmq.DEALER)
            raise DeliveryError(
                f"{address} did not reply within {timeout_s:g} s; is the line running, and is its journal.bind this "
                "address?"
            )
        reply = reply_from(receive(socket, PARTS_KEPT)[0])
    if isinstance(reply, Refused):
        raise DeliveryError(f"{address} refuses ({reply.reason}): {reply.detail}")
    if reply != Forgotten(request_id=request.request_id, name=name):
        raise MessageError(f"what came is no reply to that: {reply}")


def _sayable(kind: type[R], **content: Any) -> R:
    """A request; what is none is not sent: the line would say the same."""
    try:
        request = msgspec.convert({"type": kind.__struct_config__.tag, **content}, kind)
        to_bytes(request)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise DeliveryError(f"no line would take that: {error}; docs/durable.md says what it takes") from error
    return request


def _connected(context: zmq.Context["zmq.Socket[bytes]"], address: str, keys: ClientKeys | None) -> zmq.Socket[bytes]:
    socket = client_socket(context, zmq.DEALER, address, keys, LARGEST_PART_BYTES)
    notice_vanished_peers(socket)
    connect(socket, address, "tcp://127.0.0.1:5558")
    return socket


def _ms_until(then_s: float) -> int | None:
    """None: for ever. Rounded up, so that it is never waited for again and again without time going on."""
    left_s = then_s - time.monotonic()
    return None if left_s == float("inf") else max(0, int(left_s * 1000) + 1)
