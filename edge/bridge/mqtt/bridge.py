"""The MQTT bridge of a line: from its journal to the broker, and the acknowledgements back."""

import logging
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from paho.mqtt.reasoncodes import ReasonCode

from heatline.edge.bridge.line import TICK_SECONDS, LineState, load_with_table
from heatline.edge.bridge.mqtt.connection import (
    OF_THE_MESSAGE,
    Connection,
    NotConnectedError,
    read_password,
    tls_context,
)
from heatline.edge.bridge.mqtt.messages import Messages, Publication, now
from heatline.edge.config.bridges import MqttConfig
from heatline.edge.delivery.follower import Follower
from heatline.edge.errors import EventsLostError
from heatline.edge.target import KeyFiles, endpoint_of, name_of
from heatline.edge.util.rate_limited_log import FaultLog, RateLimitedLog
from heatline.edge.util.systemd import notify
from heatline.edge.wire.following import Delivered

logger = logging.getLogger(__name__)

WINDOW = 100
"""Events in one batch, and messages that wait for their PUBACK."""
STATE_EVERY_SECONDS = 1.0
PAUSE_SECONDS = 1.0
"""After a refusal that may pass."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
"""After a connection. Also after one that worked: another client may have the same id, and end it each time."""
CONNECTIONS_THAT_PROVE = 10
"""What the broker has taken on so many connections does not come again: otherwise ever more would come again on a
network that fails every few seconds, and nothing new any more."""
NO_SUBSCRIBERS = 0x10


@dataclass(eq=False)
class _Entry:
    """A message of a batch; the report of its refusal takes its place."""

    publication: Publication
    event: Delivered


class Bridge:
    """Publishes what a line has journalled, in order, and its state. Never more than a batch is in hand.

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

    def __init__(
        self, follower: Follower, line: LineState, messages: Messages, config: MqttConfig, ended: Callable[[], bool]
    ) -> None:
        self._follower, self._line, self._messages, self._config = follower, line, messages, config
        self._ended = ended
        self._waits_on = (messages.topic("result"), messages.topic("lost")) if config.wait_for_subscriber else ()
        """Beginnings of the topics whose messages count as delivered only if somebody subscribes."""
        self._fault: str | None = None
        """Why results wait although the broker is connected; None: they do not."""
        self._fault_log, self._report_log = FaultLog(logger), RateLimitedLog(logger)
        self._proofs: deque[Delivered] = deque(maxlen=CONNECTIONS_THAT_PROVE)
        """The last events that the broker took on the last connections."""
        self._largest_bytes = 1 << 32
        """What is larger has made the broker end a connection."""
        self._is_careful = False
        """Whether one message is published at a time, to find the one that ends the connection."""
        self._is_confirmed = False
        """Whether the last answer was not a refusal; until then, one message is published at a time."""
        self._state_due_s = 0.0

    def tick(self, connection: Connection | None = None) -> None:
        """Keep what comes, and publish the state when it is due. Call it several times a second.

        Raises:
            NotConnectedError: the connection has ended.
        """
        notify("WATCHDOG=1")
        self._follower.hold()
        if connection is not None and time.monotonic() >= self._state_due_s:
            connection.publish(self._messages.state(self._line, self._fault))
            self._state_due_s = time.monotonic() + STATE_EVERY_SECONDS

    def carry(self, connection: Connection) -> None:
        """Publish until the connection or this bridge ends.

        Raises:
            NotConnectedError: the connection has ended.
            SchemaVersionError: one of the next events is of another schema version; none of them is published.
        """
        self._follower.rewind()
        self._is_confirmed, self._state_due_s = False, 0.0
        taken = deque[tuple[float, Delivered]]()  # the last events of batches, and when the broker had taken all
        last: Delivered | None = None
        try:
            while not self._ended():
                self.tick(connection)
                entries, through = self._next_batch()
                self._deliver(connection, entries)
                if through is not None and not self._ended():
                    last = through
                    taken.append((connection.heard_s, through))
                while taken and taken[0][0] <= connection.heard_s - self._config.republish_s:
                    self._follower.settle(taken.popleft()[1])
        finally:
            self._proofs.extend([] if last is None else [last])
            if len(self._proofs) == CONNECTIONS_THAT_PROVE and len({each.journal_id for each in self._proofs}) == 1:
                self._follower.settle(min(self._proofs, key=lambda each: each.seq))

    def _next_batch(self) -> tuple[list[_Entry], Delivered | None]:
        """Return the messages of the next events, and the last of these; None: there are none."""
        try:
            events = self._follower.receive_batch(WINDOW)
        except EventsLostError as lost:
            logger.error("%s", lost)
            report = Delivered(lost.journal_id, lost.through_seq, b"")
            return [_Entry(self._messages.lost(lost), report)], report
        entries = [_Entry(publication, event) for event in events for publication in self._messages.of(event)]
        return entries, events[-1] if events else None

    def _deliver(self, connection: Connection, left: list[_Entry]) -> None:
        """Publish messages until the broker has taken all, and process the PUBACKs of states."""
        while (left or not connection.acks.empty()) and not self._ended():
            most = max(1, min(WINDOW, connection.receive_maximum - 1))  # one is for the state
            if self._is_careful or not self._is_confirmed:
                most = 1
            largest_bytes = min(connection.largest_bytes, self._largest_bytes)
            for entry in left[:most]:
                if entry.publication.size_bytes > largest_bytes:
                    self._report(entry, f"it takes packets of up to {largest_bytes} bytes")
            in_flight = dict[int, _Entry]()
            try:
                for entry in left[:most]:
                    in_flight[connection.publish(entry.publication).mid] = entry
                self._await_acks(connection, left, in_flight)
            except NotConnectedError:
                if connection.was_ended_by_message and in_flight:
                    self._is_careful = len(in_flight) > 1
                    if not self._is_careful:
                        self._largest_bytes = next(iter(in_flight.values())).publication.size_bytes - 1
                raise

    def _await_acks(self, connection: Connection, left: list[_Entry], in_flight: dict[int, _Entry]) -> None:
        """Wait until all messages in flight have their PUBACKs, and remove those that the broker has taken."""
        resume_s = 0.0
        while in_flight or time.monotonic() < resume_s or not connection.acks.empty():
            try:
                ack = connection.acks.get(timeout=TICK_SECONDS)
            except queue.Empty:
                self.tick(connection)
                if self._ended():
                    return
                continue
            if ack is None:
                raise NotConnectedError
            mid, reason = ack
            entry = in_flight.pop(mid, None)
            if entry is None:  # it is a state
                if reason.is_failure:
                    self._report_log.error("the broker refuses the line's state (%s); correct its access rules", reason)
            elif self._is_taken(entry, reason):
                left.remove(entry)
            elif not self._is_confirmed:
                resume_s = time.monotonic() + PAUSE_SECONDS

    def _is_taken(self, entry: _Entry, reason: ReasonCode) -> bool:
        """Process a PUBACK; return whether the message is delivered, False if it must be published again."""
        topic = entry.publication.topic
        is_unwanted = reason.value == NO_SUBSCRIBERS and topic.startswith(self._waits_on)
        if not reason.is_failure and not is_unwanted:
            self._is_confirmed, self._fault = True, None
            self._fault_log.end("the broker takes results again")
            return True
        if reason.value in OF_THE_MESSAGE and self._report(entry, str(reason)):
            return False
        self._fault = f"the broker refuses messages on {topic} ({reason}); correct its access rules or limits"
        if is_unwanted:
            self._fault = f"nobody subscribes to {topic}; if nobody needs it, set mqtt.wait_for_subscriber = false"
        self._fault_log.begin(self._fault, "; results wait at the line until then")
        self._is_confirmed = False
        return False

    def _report(self, entry: _Entry, why: str) -> bool:
        """Replace a message by the report that the broker does not take it; return False if it is a report already."""
        refused = entry.publication
        if refused.topic == self._messages.topic("lost"):
            return False
        self._report_log.error("the broker does not take a message of event %s (%s); this is reported", refused.id, why)
        entry.publication = self._messages.refused(refused, entry.event, why)
        return True


def run_bridge(line: str) -> None:
    """Publish a line's results until SIGTERM or Ctrl-C.

    Args:
        line: the line's name or its file.
    Raises:
        ConfigError: the line's file has no table `[mqtt]`, or cannot be used.
        AccessError: a file that the table names cannot be used.
        SupersededError: a newer bridge follows under this name.
        DeliveryError: the line refuses for another reason that is final.
        MessageError: the line sends what this version does not know.
    """
    config, name = load_with_table(line, "mqtt").mqtt, name_of(line)
    assert config is not None
    messages = Messages(config.prefix, name, heatmaps=config.heatmaps)
    if config.has_tls:
        tls_context(config)
    if config.password_file is not None:
        read_password(config.password_file)
    journal, keys = endpoint_of(line, "journal", KeyFiles())
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with (
        Follower(
            journal,
            config.name,
            window=2 * WINDOW,  # the next batch is here when the one in hand is done
            heatmaps=config.heatmaps,
            start=config.start,
            timeout_s=TICK_SECONDS,
            keep_position=True,
            keys=keys,
        ) as follower,
        LineState(*endpoint_of(line, "events", KeyFiles())) as state,
    ):
        bridge = Bridge(follower, state, messages, config, ended.is_set)
        notify("READY=1")
        logger.info(
            "results come again until the broker has had them for %g s; if it stores its messages more rarely "
            "(mosquitto: set persistence true, autosave_interval %d, max_queued_messages 0), its death costs "
            "subscribers that are away results",
            config.republish_s,
            max(1, config.republish_s // 2),
        )
        log, pause_s = FaultLog(logger, is_faulty=True), FIRST_PAUSE_SECONDS
        while not ended.is_set():
            connection = Connection(config, config.client_id or f"heatline-{name}-{config.name}", messages.offline())
            try:
                while not connection.answered.wait(TICK_SECONDS) and not ended.is_set():
                    bridge.tick()
                if connection.is_up:
                    pause_s = FIRST_PAUSE_SECONDS
                    log.end(f"connected to {config.broker}")
                    notify(f"STATUS=connected to {config.broker}")
                    bridge.carry(connection)
            except NotConnectedError:
                pass
            finally:
                connection.close(messages.offline(now()))
            if not ended.is_set():
                fault = connection.fault or f"{config.broker} ended the connection"
                log.begin(fault, "; trying again until it works, and the line keeps its results meanwhile")
                notify(f"STATUS={fault}")
                resume_s = time.monotonic() + pause_s
                pause_s = min(2 * pause_s, LONGEST_PAUSE_SECONDS)
                while time.monotonic() < resume_s and not ended.wait(TICK_SECONDS):
                    bridge.tick()
        notify("STOPPING=1")
