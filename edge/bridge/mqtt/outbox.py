"""Publishes what the line has journalled, in order, and tells the line from where it would have to come again."""

import heapq
import logging
import queue
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from paho.mqtt.reasoncodes import ReasonCode

from heatline.edge.bridge.mqtt.connection import Connection, NotConnectedError
from heatline.edge.bridge.mqtt.faults import NO_SUBSCRIBERS, OF_THE_MESSAGE, describe_refused_message
from heatline.edge.bridge.mqtt.messages import Messages, Publication
from heatline.edge.config.mqtt import MqttConfig
from heatline.edge.delivery.client.follower import Follower
from heatline.edge.errors import EventsLostError
from heatline.edge.util.rate_limited_log import FaultLog, RateLimitedLog
from heatline.edge.util.systemd import notify
from heatline.edge.wire.following import Delivered

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
PAUSE_SECONDS = 1.0
"""After a refusal that may pass."""
CONNECTIONS_THAT_PROVE = 10
"""What the broker has taken on so many connections does not come again: otherwise ever more would come again on a
network that fails every few seconds, and nothing new any more."""


@dataclass(eq=False)
class _Entry:
    """A message of a batch."""

    publication: Publication
    event: Delivered
    is_report: bool = False
    """Whether it stands for a message that the broker refuses for what it is."""

    @property
    def key(self) -> tuple[str, str]:
        return self.event.key, self.publication.content_type


class Outbox:
    """Publishes batches of messages. Never more than a batch is in hand.

    A broker that is killed loses what it has acknowledged and not stored yet. So the line hears that events need not
    come again only `republish_s` after their PUBACKs, and each connection begins with all that the line has not heard
    this of, in order.

    A message that the broker refuses for a reason that may pass, such as missing rights, a quota or nobody who
    subscribes, is published again after a pause. One that it refuses for what it is, is replaced by a report under the
    topic `lost`.

    Args:
        follower: which keeps its position.
        ended: whether to give up.
    """

    def __init__(self, follower: Follower, messages: Messages, config: MqttConfig, ended: Callable[[], bool]) -> None:
        self._follower, self._messages, self._config, self._ended = follower, messages, config, ended
        self.fault: str | None = None
        """Why results wait although the broker is connected; None: they do not."""
        self._fault_log, self._report_log = FaultLog(logger), RateLimitedLog(logger)
        self._taken: deque[tuple[float, Delivered]] = deque()
        """The last events of batches, and when the broker had taken all of them."""
        self._proofs: deque[Delivered] = deque(maxlen=CONNECTIONS_THAT_PROVE)
        """The last events that the broker took on the last connections."""
        self._refused: deque[tuple[str, str]] = deque(maxlen=1000)
        """Messages because of which the broker ended the connection."""
        self._suspects: set[tuple[str, str]] = set()
        """Messages that were in flight when it did so, and it is not known which it was."""
        self._has_carried = False
        self._is_confirmed = False
        """Whether the last answer was not a refusal; until the first answer, one message is published at a time."""
        self._resume_s = 0.0

    def hold(self) -> None:
        """Keep what comes. Call it now and then while nothing can be published."""
        notify("WATCHDOG=1")
        self._follower.hold()

    def carry(self, connection: Connection) -> None:
        """Publish until the connection or this outbox ends.

        Raises:
            SchemaVersionError: one of the next events is of another schema version; none of them is published.
        """
        if self._has_carried:
            self._follower.rewind()
        self._has_carried = True
        self._taken.clear()
        self._is_confirmed, last = False, None
        while connection.is_up and not self._ended():
            self.hold()
            entries, through = self._next_batch()
            if not self._deliver(connection, entries):
                break
            if through is not None:
                last = through
                self._taken.append((connection.heard_s, through))
            while self._taken and self._taken[0][0] <= connection.heard_s - self._config.republish_s:
                self._follower.settle(self._taken.popleft()[1])
        if last is not None:
            self._proofs.append(last)
        if len(self._proofs) == CONNECTIONS_THAT_PROVE and len({each.journal_id for each in self._proofs}) == 1:
            self._follower.settle(min(self._proofs, key=lambda each: each.seq))

    def _next_batch(self) -> tuple[list[_Entry], Delivered | None]:
        """Return the messages of the next events, and the last of these; None: there are none."""
        try:
            events = self._follower.receive_batch(self._config.window)
        except EventsLostError as lost:
            logger.error("%s", lost)
            report = Delivered(lost.journal_id, lost.through_seq, b"")
            return [_Entry(self._messages.lost(lost), report)], report
        entries = [_Entry(publication, event) for event in events for publication in self._messages.of(event)]
        return entries, events[-1] if events else None

    def _deliver(self, connection: Connection, entries: list[_Entry]) -> bool:
        """Publish messages and wait for their PUBACKs; return whether all came."""
        waiting = list(range(len(entries)))  # a heap: the first is the lowest
        in_flight: dict[int, int] = {}
        while waiting or in_flight:
            if self._ended():
                return False
            try:
                if time.monotonic() >= self._resume_s:
                    self._publish(connection, entries, waiting, in_flight)
                ack = connection.acks.get(timeout=TICK_SECONDS)
            except queue.Empty:
                self.hold()
                continue
            except NotConnectedError:
                ack = None
            if ack is None:
                if connection.was_ended_by_message:
                    self._suspects = {entries[number].key for number in in_flight.values()}
                    if len(self._suspects) == 1:
                        self._refused += self._suspects
                return False
            mid, reason = ack
            if not self._is_taken(entries[number := in_flight.pop(mid)], reason):
                heapq.heappush(waiting, number)
        return True

    def _publish(
        self, connection: Connection, entries: list[_Entry], waiting: list[int], in_flight: dict[int, int]
    ) -> None:
        """Publish as much as may be in flight.

        Raises:
            NotConnectedError: the connection has ended.
        """
        most = max(1, min(self._config.window, connection.receive_maximum - 1))  # one is for the state
        if self._suspects or not self._is_confirmed:
            most = 1
        while waiting and len(in_flight) < most:
            entry = entries[waiting[0]]
            if entry.publication.size_bytes > connection.largest_bytes and not entry.is_report:
                self._report(entry, f"it takes packets of up to {connection.largest_bytes} bytes")
            elif entry.key in self._refused and not entry.is_report:
                self._report(entry, "it ends the connection")
            in_flight[connection.publish(entry.publication).mid] = heapq.heappop(waiting)

    def _is_taken(self, entry: _Entry, reason: ReasonCode) -> bool:
        """Process a PUBACK; return whether the message is delivered, False if it must be published again."""
        unwanted = entry.publication.needs_subscriber and reason.value == NO_SUBSCRIBERS
        if not reason.is_failure and not unwanted:
            self._suspects.discard(entry.key)
            self._is_confirmed, self.fault = True, None
            self._fault_log.end("the broker takes results again")
            return True
        if reason.value in OF_THE_MESSAGE and not entry.is_report:
            self._report(entry, str(reason))
            return False
        self.fault = describe_refused_message(entry.publication.topic, reason)
        self._fault_log.begin(self.fault)
        self._is_confirmed = False
        self._resume_s = time.monotonic() + PAUSE_SECONDS
        return False

    def _report(self, entry: _Entry, why: str) -> None:
        """Replace a message by the report that the broker does not take it."""
        refused = entry.publication
        self._suspects.discard(entry.key)  # the key of the report is another one
        self._report_log.error(
            "the broker does not take a message of event %s (%s); its report is published", refused.id, why
        )
        entry.publication = self._messages.refused(refused, entry.event, why)
        entry.is_report = True
