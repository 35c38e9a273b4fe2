"""Reads again from a line's journal what a live listener missed."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import zmq

from edge.delivery.client.socket import client_socket, connect
from edge.delivery.security.curve import ClientKeys
from edge.delivery.sockets import notice_vanished_peers, receive
from edge.errors import DeliveryError, JournalError, MessageError
from edge.wire.events import LARGEST_PART_BYTES
from edge.wire.following import LARGEST_WINDOW, Batch, Delivered, ReplayRequest, events_of, reply_from
from edge.wire.requests import Refused, to_bytes

ANSWER_WITHIN_SECONDS = 5.0
MEANWHILE_EVERY_MS = 100
NOT_NOW = "busy", "unavailable"
"""Refusals after which to ask again."""


@dataclass(frozen=True)
class Part:
    """Some of the events that were asked for."""

    events: list[Delivered]
    through_seq: int
    """All up to it that the journal has came by now."""
    lost_through: int | None
    """Events of this part up to it are gone; None: none are."""


class Replay:
    """A DEALER socket that asks for events of the past. Use it in the thread that made it.

    Args:
        address: where the line serves its journal.
        keys: to connect to a line from another machine.
        meanwhile: called some times a second while an answer is waited for.
    Raises:
        DeliveryError: the address is none.
    """

    def __init__(
        self, address: str, keys: ClientKeys | None = None, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        self._address, self._keys, self._meanwhile = address, keys, meanwhile
        self._ids = itertools.count(1)
        self._context = zmq.Context()
        try:
            self._socket = self._connected()
        except DeliveryError:
            self._context.term()
            raise

    def events(self, journal_id: str, after_seq: int, through_seq: int, topics: Sequence[str]) -> Iterator[Part]:
        """Events of some topics after one up to another, with their heatmaps.

        Raises:
            DeliveryError: nothing answers, or the line cannot answer now.
            JournalError: the line refuses.
            MessageError: what came is no answer.
        """
        while after_seq < through_seq:
            request = ReplayRequest(
                request_id=str(next(self._ids)),
                journal_id=journal_id,
                after_seq=after_seq,
                through_seq=through_seq,
                topics=tuple(topics),
                heatmaps=True,
            )
            batch, events = self._ask(request)
            if batch.after_seq != after_seq or batch.through_seq <= after_seq:
                raise MessageError(
                    f"{self._address} answered with events after {batch.after_seq} up to {batch.through_seq}, "
                    f"those after {after_seq} were asked for"
                )
            yield Part(events, batch.through_seq, batch.lost_through)
            after_seq = batch.through_seq

    def close(self) -> None:
        """Let go of the socket; may be called twice."""
        self._socket.close()
        self._context.term()

    def _connected(self) -> zmq.Socket[bytes]:
        socket = client_socket(self._context, zmq.DEALER, self._address, self._keys, LARGEST_PART_BYTES)
        notice_vanished_peers(socket)
        connect(socket, self._address, "tcp://127.0.0.1:5558")
        return socket

    def _wait_for_answer(self, until_s: float) -> bool:
        while not self._socket.poll(MEANWHILE_EVERY_MS):
            if time.monotonic() >= until_s:
                return False
            self._meanwhile()
        return True

    def _ask(self, request: ReplayRequest) -> tuple[Batch, list[Delivered]]:
        until_s = time.monotonic() + ANSWER_WITHIN_SECONDS
        why = "is the line running, and is its journal.bind this address?"
        self._socket.send(to_bytes(request))
        while self._wait_for_answer(until_s):
            parts = receive(self._socket, 2 * LARGEST_WINDOW + 2)
            reply = reply_from(parts[0])
            if not isinstance(reply, Batch | Refused) or reply.request_id != request.request_id:
                continue  # the late answer to a question before
            if isinstance(reply, Refused) and reply.reason in NOT_NOW:
                why = f"it refuses ({reply.reason}): {reply.detail}"
                self._socket.poll(MEANWHILE_EVERY_MS)
                self._socket.send(to_bytes(request))
                continue
            if isinstance(reply, Refused):
                raise JournalError(f"{self._address} refuses ({reply.reason}): {reply.detail}")
            return reply, events_of(reply, parts)
        self._socket.close()  # so that the question does not wait for a line to come
        self._socket = self._connected()
        raise DeliveryError(f"{self._address} did not bring events within {ANSWER_WITHIN_SECONDS:g} s; {why}")
