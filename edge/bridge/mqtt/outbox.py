"""Publishes messages in order, and knows which of them the broker has taken."""

import heapq
import logging
import queue
import time
from collections.abc import Callable, Sequence

from paho.mqtt.reasoncodes import ReasonCode

from edge.bridge.mqtt.connection import Connection, NotConnectedError
from edge.bridge.mqtt.faults import NO_SUBSCRIBERS, OF_THE_MESSAGE, describe_refused_message
from edge.bridge.mqtt.link import Link
from edge.bridge.mqtt.messages import Messages
from edge.bridge.mqtt.recent import Entry, Recent
from edge.util.rate_limited_log import RateLimitedLog
from edge.wire.following import Delivered

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
FINISHED_WITHIN_SECONDS = 0.5
"""How long an outbox that ends waits for the PUBACKs of what it has published."""


class Outbox:
    """Publishes batches of messages in order. Never more than a batch is in hand.

    A message without a PUBACK is published again on the next connection, with the same id. One that the broker refuses
    for a reason that may pass, such as missing rights, a quota or nobody who subscribes, is published again after a
    pause. One that it refuses for what it is, is replaced by a report under the topic `lost`.

    When a connection is lost, what the broker took in its last seconds is published again, too: see `Recent`.

    Args:
        window: number of messages that may wait for their PUBACK.
        republish_s: how much is published again after a lost connection.
        hold: is called now and then while messages wait.
        ended: whether to give up.
    """

    def __init__(
        self,
        link: Link,
        messages: Messages,
        *,
        window: int,
        republish_s: float,
        hold: Callable[[], None],
        ended: Callable[[], bool],
    ) -> None:
        self._link, self._messages, self._window, self._hold, self._ended = link, messages, window, hold, ended
        self._connection: Connection | None = None
        self._recent = Recent(republish_s)
        self._pause_s = 0.0
        """How long to wait since the last refusal; 0: the last answer was no refusal."""
        self._resume_s = 0.0
        self._one_by_one = False
        """Whether the broker has ended a connection because of a message, and it is not known which."""
        self._state_refused = RateLimitedLog(logger)

    def deliver(self, entries: Sequence[Entry]) -> bool:
        """Publish messages and wait for their PUBACKs; return whether all came, False if it was ended before."""
        self._take_idle()
        work = list(entries)
        while True:
            is_done = all(entry.taken for entry in work)
            connection = self._link.wait_for_connection(0 if is_done else TICK_SECONDS)
            if connection is not None and connection is not self._connection:
                work = list(dict.fromkeys([*self._taken_before(connection), *work]))
            elif is_done or self._ended():
                self._one_by_one = False
                return is_done
            if connection is None:
                self._hold()
                continue
            in_flight = self._deliver_on(connection, work)
            if connection.was_ended_by_message:
                if len(in_flight) == 1 and not in_flight[0].is_report:
                    self._report(in_flight[0], "it ends the connection")
                self._one_by_one = True

    def _taken_before(self, connection: Connection) -> list[Entry]:
        """Return what may have to be published again, at the beginning of another connection."""
        before, self._connection = self._connection, connection
        if before is None:
            return []
        again = self._recent.take_since(before.acked_s)
        for entry in again:
            entry.taken = False
        return again

    def _deliver_on(self, connection: Connection, entries: Sequence[Entry]) -> list[Entry]:
        """Publish until everything is taken, the connection or this outbox ends; return what is in flight then."""
        waiting = [number for number, entry in enumerate(entries) if not entry.taken]  # a heap: the first is the lowest
        in_flight: dict[int, int] = {}
        is_up, give_up_s = True, float("inf")
        while waiting or in_flight:
            if self._ended():
                give_up_s = min(give_up_s, time.monotonic() + FINISHED_WITHIN_SECONDS)
                if not in_flight or time.monotonic() >= give_up_s:
                    break
            elif is_up and time.monotonic() >= self._resume_s:
                is_up = self._publish(connection, entries, waiting, in_flight)
            try:
                ack = connection.acks.get(timeout=self._timeout_s())
            except queue.Empty:
                self._hold()
                continue
            if ack is None:
                break
            mid, reason = ack
            if mid not in in_flight:
                self._take_of_state(reason)
            elif not self._take(entries[number := in_flight.pop(mid)], reason):
                heapq.heappush(waiting, number)
        return [entries[number] for number in in_flight.values()]

    def _publish(
        self, connection: Connection, entries: Sequence[Entry], waiting: list[int], in_flight: dict[int, int]
    ) -> bool:
        """Publish as much as may be in flight; return False if the connection has ended."""
        most = max(1, min(self._window, connection.receive_maximum - 1))  # one is for the state
        if self._one_by_one or self._pause_s:
            most = 1
        while waiting and len(in_flight) < most:
            entry = entries[waiting[0]]
            if entry.publication.size_bytes > connection.largest_bytes and not entry.is_report:
                self._report(entry, f"it takes packets of up to {connection.largest_bytes} bytes")
            try:
                mid = connection.publish(entry.publication)
            except NotConnectedError:
                return False
            in_flight[mid] = heapq.heappop(waiting)
        return True

    def _take(self, entry: Entry, reason: ReasonCode) -> bool:
        """Process a PUBACK; return whether the message is delivered, False if it must be published again."""
        unwanted = entry.publication.needs_subscriber and reason.value == NO_SUBSCRIBERS
        if not reason.is_failure and not unwanted:
            entry.taken = True
            self._recent.add(entry)
            self._pause_s = 0.0
            self._link.set_delivery_fault(None)
            return True
        if reason.value in OF_THE_MESSAGE and not entry.is_report:
            self._report(entry, str(reason))
            return False
        self._link.set_delivery_fault(describe_refused_message(entry.publication.topic, reason))
        if time.monotonic() >= self._resume_s:  # not one of several that were refused together
            self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            self._resume_s = time.monotonic() + self._pause_s
        return False

    def _timeout_s(self) -> float:
        """Return how long to wait for a PUBACK: until messages may be published again, or a tick."""
        return min(TICK_SECONDS, max(0.0, self._resume_s - time.monotonic()) or TICK_SECONDS)

    def _report(self, entry: Entry, why: str) -> None:
        """Replace a message by the report that the broker does not take it."""
        refused = entry.publication
        logger.error("the broker does not take a message of event %s (%s); its report is published", refused.id, why)
        entry.publication = self._messages.refused(refused, entry.event, why)
        entry.is_report = True

    def _take_idle(self) -> None:
        """Process the PUBACKs that came while no batch was in hand: those of states."""
        connection = self._link.wait_for_connection(0)
        while connection is not None and not connection.acks.empty():
            ack = connection.acks.get()
            if ack is None:
                connection.acks.put(None)  # the next batch must find it
                return
            self._take_of_state(ack[1])

    def _take_of_state(self, reason: ReasonCode) -> None:
        if reason.is_failure:
            self._state_refused.error("the broker refuses the state of the line (%s); correct its access rules", reason)


def taken_through(events: Sequence[Delivered], entries: Sequence[Entry]) -> Delivered | None:
    """Return the last event up to which the broker has taken all messages; None: not even those of the first."""
    waiting = {entry.event.key for entry in entries if not entry.taken and entry.event is not None}
    last = None
    for event in events:
        if event.key in waiting:
            break
        last = event
    return last
