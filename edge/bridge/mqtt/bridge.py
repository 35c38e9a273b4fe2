"""The MQTT bridge of a line: from its journal to the broker, and the acknowledgements back."""

import contextlib
import logging
import queue
import signal
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from heatline.edge.bridge.line import TICK_SECONDS, LineState, load_with_table
from heatline.edge.bridge.mqtt.messages import JSON, Messages, Publication, now
from heatline.edge.config.bridges import MqttConfig
from heatline.edge.delivery.follower import Follower
from heatline.edge.errors import AccessError, EventsLostError
from heatline.edge.keys import read_secret
from heatline.edge.target import KeyFiles, endpoint_of, name_of
from heatline.edge.util.process import NamedThread
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
REFUSED_KEPT = 1000
"""Messages that are known to end a connection: more than come again in `CONNECTIONS_THAT_PROVE` connections."""
NO_SUBSCRIBERS = 0x10
CONNECTED_WITHIN_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 10
ENDED_WITHIN_SECONDS = 0.3
OF_THE_MESSAGE = {0x95, 0x99}
"""Reason codes that refuse a message for what it is: packet too large, payload format invalid. It is refused again
whenever it comes, so waiting for another answer would only hold up the messages behind it."""
ENDED_BY_A_MESSAGE = {*OF_THE_MESSAGE, 0x82}
"""Reasons of an end that a message can have caused. 0x82, protocol error, is also what paho calls a PUBACK with a code
that no PUBACK can have: mosquitto sends 0x95 if its message_size_limit is exceeded."""


class _ClosedIfRefused(ssl.SSLSocket):
    """paho forgets a socket whose handshake fails."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class NotConnectedError(Exception):
    """The connection has ended."""


class Connection:
    """Connects and logs in, on a thread of its own. The broker begins a new session.

    paho's own reconnect would first send again what had no PUBACK, before older results that the broker may have lost.

    Args:
        will: what the broker publishes when this client vanishes.
    """

    def __init__(self, config: MqttConfig, client_id: str, will: Publication) -> None:
        self._config = config
        self.acks: queue.SimpleQueue[tuple[int, ReasonCode] | None] = queue.SimpleQueue()
        """Each PUBACK, by the number of its message; None: the connection has ended."""
        self.heard_s = time.monotonic()
        """When the last PUBACK came."""
        self.receive_maximum = 65535
        """How many messages the broker takes at once before their PUBACKs."""
        self.largest_bytes = 1 << 32
        """The largest packet that the broker takes."""
        self.answered = threading.Event()
        """Set when the broker has accepted the client, or the connection has ended before."""
        self.was_ended_by_message = False
        self.fault: str | None = None
        """Why it ended, as a sentence."""
        self._refusal: str | None = None
        self._end = ""
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5, reconnect_on_failure=False
        )
        client.connect_timeout = CONNECTED_WITHIN_SECONDS
        client.max_inflight_messages_set(0)  # the caller bounds them; paho's own queue stays empty
        properties = _properties(will, PacketTypes.WILLMESSAGE)
        client.will_set(will.topic, will.payload, qos=1, retain=will.retain, properties=properties)
        client.on_connect, client.on_disconnect, client.on_publish = self._connected, self._ended, self._published
        client.on_socket_register_write = lambda *_: None  # only the network thread writes
        self._thread = NamedThread("mqtt network", self._run)
        self._thread.start()

    @property
    def is_up(self) -> bool:
        return self.answered.is_set() and self.fault is None

    def publish(self, publication: Publication) -> paho.MQTTMessageInfo:
        """Send a message; return what has the number of its PUBACK.

        Raises:
            NotConnectedError: the connection has ended.
        """
        if not self.is_up:
            raise NotConnectedError
        info = self._client.publish(
            publication.topic,
            publication.payload,
            qos=1,
            retain=publication.retain,
            properties=_properties(publication, PacketTypes.PUBLISH),
        )
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise NotConnectedError
        return info

    def close(self, last: Publication) -> None:
        """Publish a last message and log off: the broker then does not publish the last will."""
        with contextlib.suppress(NotConnectedError):  # an answer that comes after the end would make TCP reset it
            self.publish(last).wait_for_publish(ENDED_WITHIN_SECONDS)
        self._client.disconnect()
        self._thread.join(ENDED_WITHIN_SECONDS)  # it may be connecting, which does not end sooner

    def _run(self) -> None:
        config, broker = self._config, self._config.broker
        fault = f"{broker} ended the connection, or it was lost"
        try:
            if config.has_tls:
                self._client.tls_set_context(tls_context(config))
            if config.user is not None:
                password = None if config.password_file is None else read_password(config.password_file)
                self._client.username_pw_set(config.user, password)
            self._client.connect(*config.host_port, KEEP_ALIVE_SECONDS, clean_start=True)
            while self._client.loop() == MQTTErrorCode.MQTT_ERR_SUCCESS:
                pass
            fault += self._end
            if not self.answered.is_set():
                fault = self._refusal or (
                    f"{broker} did not take the connection; it may require TLS (mqtts://) or a certificate "
                    "(mqtt.certificate and mqtt.key), or speak no MQTT 5; see its log"
                )
        except AccessError as error:
            fault = str(error)
        except Exception as error:  # of many kinds: a host name that cannot be encoded, bytes that are not MQTT
            why = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or error
            fault = f"{broker} cannot be used ({why}); check mqtt.broker, mqtt.ca, the network, and the broker"
        finally:
            client = self._client
            client.on_connect = client.on_disconnect = client.on_publish = None  # no circle: its sockets close with it
            self.fault = fault
            self.answered.set()
            self.acks.put(None)

    # Callbacks of paho, on the network thread. They may not wait for a thread that publishes.

    def _connected(self, _c: object, _u: object, _f: object, reason: ReasonCode, properties: Properties | None) -> None:
        if reason.is_failure:
            self._refusal = (
                f"{self._config.broker} refuses the connection ({reason}); correct mqtt.user, mqtt.password_file, "
                "mqtt.certificate or mqtt.client_id, or the broker's users and access rules"
            )
            return
        self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
        self.largest_bytes = getattr(properties, "MaximumPacketSize", self.largest_bytes)
        self.answered.set()

    def _ended(self, _c: object, _u: object, _f: object, reason: ReasonCode, _p: object) -> None:
        self.was_ended_by_message = reason.value in ENDED_BY_A_MESSAGE
        self._end = f" ({reason})"

    def _published(self, _c: object, _u: object, mid: int, reason: ReasonCode, _p: object) -> None:
        self.heard_s = time.monotonic()
        self.acks.put((mid, reason))
        # Brokers send one PUBACK, and the next only when TCP has confirmed the one before (Nagle's algorithm): have
        # the kernel confirm it now, not 40 ms later.
        bound = self._client.socket()
        if isinstance(bound, socket.socket):
            with contextlib.suppress(OSError):  # it has just been closed
                bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def tls_context(config: MqttConfig) -> ssl.SSLContext:
    """Return a context that verifies the broker's certificate and name.

    Raises:
        AccessError: a file cannot be used.
    """
    files = f"mqtt.ca {config.ca}"
    try:
        context = ssl.create_default_context(cafile=config.ca)
        context.sslsocket_class = _ClosedIfRefused
        if config.certificate is not None:
            files = f"mqtt.certificate {config.certificate} and mqtt.key {config.key}"
            context.load_cert_chain(config.certificate, config.key, password="")  # never ask a terminal for one
    except OSError as error:  # ssl.SSLError is one
        why = getattr(error, "reason", None) or error.strerror
        raise AccessError(
            f"{files} cannot be used ({why}); expected PEM files that this user can read, a certificate with its own "
            "key, and no password on it"
        ) from error
    return context


def read_password(path: Path) -> str:
    """Return the password in a file that only its owner can use.

    Raises:
        AccessError: the file cannot be read, others can use it, or it holds no password.
    """
    expected = "mqtt.password_file names a file with the password in one line, which this user owns"
    data = read_secret(path, AccessError, expected, "change the password")
    password = data.decode(errors="ignore").strip("\r\n")
    if not password.isprintable() or password.encode() != data.strip(b"\r\n") or not password:
        raise AccessError(f"mqtt.password_file {path} holds no password; expected one line of text in UTF-8")
    return password


def _properties(publication: Publication, packet: int) -> Properties:
    properties = Properties(packet)  # type: ignore[no-untyped-call]
    properties.ContentType = publication.content_type
    properties.PayloadFormatIndicator = int(publication.content_type == JSON)
    if publication.expires_s is not None:
        properties.MessageExpiryInterval = publication.expires_s
    if publication.id is not None:
        properties.UserProperty = ("id", publication.id)
    return properties


@dataclass(eq=False)
class _Entry:
    """A message of a batch; the report of its refusal takes its place."""

    publication: Publication
    event: Delivered

    @property
    def key(self) -> tuple[str, int, str]:
        """The message, also when it comes again."""
        return self.event.journal_id, self.event.seq, self.publication.topic


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
        self._refused: deque[tuple[str, int, str]] = deque(maxlen=REFUSED_KEPT)
        """Messages that have made the broker end a connection."""
        self._careful_through: Delivered | None = None
        """Up to this event, one message is published at a time, to find the one that ends the connection."""
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
                    last, careful = through, self._careful_through
                    if careful and (careful.journal_id != through.journal_id or careful.seq <= through.seq):
                        self._careful_through = None
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
            is_single = self._careful_through is not None or not self._is_confirmed
            most = 1 if is_single else max(1, min(WINDOW, connection.receive_maximum - 1))  # one is for the state
            for entry in left[:most]:
                if entry.key in self._refused:
                    self._report(entry, "it ends the connection when this message comes")
                elif entry.publication.size_bytes > connection.largest_bytes:
                    self._report(entry, f"it takes packets of up to {connection.largest_bytes} bytes")
            in_flight = dict[int, _Entry]()
            try:
                for entry in left[:most]:
                    in_flight[connection.publish(entry.publication).mid] = entry
                self._await_acks(connection, left, in_flight)
            except NotConnectedError:
                if connection.was_ended_by_message and in_flight:
                    *_, newest = in_flight.values()
                    if len(in_flight) > 1:
                        self._careful_through = newest.event
                    else:
                        self._refused.append(newest.key)
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
