"""The MQTT bridge: publishes a line's events, as they are, and its state to a broker. docs/plant-mqtt.md."""

import contextlib
import logging
import signal
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from heatline.edge.bridge.line import TICK_SECONDS, Line
from heatline.edge.config.bridges import MqttConfig
from heatline.edge.delivery.follower import Follower
from heatline.edge.errors import AccessError, EventsLostError
from heatline.edge.keys import read_secret
from heatline.edge.util.process import NamedThread
from heatline.edge.util.rate_limited_log import FaultLog, RateLimitedLog
from heatline.edge.util.systemd import notify
from heatline.edge.util.text import encode_json
from heatline.edge.wire.events import Handshake
from heatline.edge.wire.following import Delivered

logger = logging.getLogger(__name__)

WINDOW = 100
"""Events in one batch, and messages that wait for their PUBACK."""
STATE_EVERY_SECONDS = 1.0
STATE_EXPIRES_SECONDS = 5
"""The broker then deletes a retained state: a bridge that hangs leaves none."""
PAUSE_SECONDS = 1.0
"""After a refusal, and after a connection. Also after one that worked: another client may have the same id, and end it
each time."""
NO_SUBSCRIBERS = 0x10
CONNECTED_WITHIN_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 10
ENDED_WITHIN_SECONDS = 0.3
PACKET_BYTES = 200
"""More than a packet has beside its topic, id and payload."""


class NotConnectedError(Exception):
    """The connection has ended; the sentence says why."""


class BridgeState(Handshake, frozen=True, kw_only=True, tag="state", tag_field="type"):
    """Whether parts may come. Retained. The last will of the bridge has the same fields."""

    schema_version: int = 1
    line: str
    at_ns: int | None = None
    """UTC, ns since 1970; null in the last will, whose time the broker alone knows."""
    online: bool
    """False: the bridge is not connected to the broker."""
    acting: bool | None = None
    product: str | None = None
    boot_id: str | None = None
    delivery_fault: str | None = None
    """Why results wait although the broker is connected; null: they do not."""


@dataclass(frozen=True, eq=False)
class Publication:
    """A message that is published with QoS 1.

    Args:
        id: idempotency key of its event, also sent as the user property `id`; None: it is a state, which is retained.
        expires_s: after which the broker no longer delivers it; None: never.
    """

    topic: str
    payload: bytes
    id: str | None = None
    expires_s: int | None = None

    def properties(self, packet: int) -> Properties:
        properties = Properties(packet)  # type: ignore[no-untyped-call]
        properties.ContentType = "application/json"
        if self.expires_s is not None:
            properties.MessageExpiryInterval = self.expires_s
        if self.id is not None:
            properties.UserProperty = ("id", self.id)
        return properties


class Messages:
    """Makes the messages of one line."""

    def __init__(self, prefix: str, line: str) -> None:
        self._base, self._line = f"{prefix}/{line}", line
        self.awaited = f"{self._base}/result/", f"{self._base}/part", f"{self._base}/lost"
        """Beginnings of the topics whose messages somebody must get."""

    def of(self, delivered: Delivered) -> Publication:
        """Return an event of the journal as a message."""
        kind, _, camera = delivered.topic.partition(".")
        topic = f"result/{camera.rpartition('.')[0]}" if kind == "verdict" else kind
        return Publication(f"{self._base}/{topic}", delivered.header, delivered.key)

    def lost(self, kind: str, detail: str, first: Delivered, last_seq: int) -> Publication:
        """Return the report that events from a first to a last one will not come."""
        lost = {
            "type": "lost",
            "kind": kind,
            "detail": detail,
            "line": self._line,
            "journal_id": first.journal_id,
            "first_seq": first.seq,
            "last_seq": last_seq,
        }
        return Publication(f"{self._base}/lost", encode_json(lost), f"{first.key}-{kind}")

    def state(self, line: Line, fault: str | None) -> Publication:
        """Return the present state, and why results wait although the broker is connected, if they do."""
        known = {name: getattr(line.status, name, None) for name in ("acting", "product", "boot_id")}
        return self._state(line.handshake(), online=True, at_ns=time.time_ns(), delivery_fault=fault, **known)

    def offline(self, reason: str, detail: str, at_ns: int | None = None) -> Publication:
        """Return the state after the end of the bridge."""
        handshake = Handshake(state="NOT_READY", reason=reason, detail=detail, heartbeat=0)
        return self._state(handshake, online=False, at_ns=at_ns)

    def _state(self, handshake: Handshake, *, online: bool, **known: Any) -> Publication:
        state = BridgeState(**msgspec.structs.asdict(handshake), line=self._line, online=online, **known)
        expires_s = STATE_EXPIRES_SECONDS if online else None
        return Publication(f"{self._base}/state", encode_json(state), expires_s=expires_s)


class Connection:
    """One connection, for which the broker begins a new session.

    paho's own reconnect would first send again what had no PUBACK, before older results that the broker may have lost.

    Args:
        will: what the broker publishes when this client vanishes.
    """

    def __init__(self, config: MqttConfig, client_id: str, will: Publication) -> None:
        self._config = config
        self.in_flight: dict[int, Publication] = {}
        """Messages without a PUBACK, by their numbers."""
        self._answered: list[tuple[Publication, ReasonCode]] = []
        self.heard_s = time.monotonic()
        """When the last PUBACK came."""
        self.is_up = False
        self._fault = (
            f"{config.broker} did not take the connection; it may require TLS (mqtts://) or a certificate "
            "(mqtt.certificate and mqtt.key), or speak no MQTT 5; see its log"
        )
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5, reconnect_on_failure=False
        )
        client.connect_timeout = CONNECTED_WITHIN_SECONDS
        client.max_inflight_messages_set(0)  # the caller bounds them; paho's own queue stays empty
        properties = will.properties(PacketTypes.WILLMESSAGE)
        client.will_set(will.topic, will.payload, qos=1, retain=True, properties=properties)
        client.on_connect, client.on_disconnect, client.on_publish = self._connected, self._ended, self._published

    def open(self, wait: Callable[[], object], has_ended: Callable[[], bool]) -> None:
        """Connect and log in, unless the bridge has ended. Calls `wait` several times a second.

        Raises:
            NotConnectedError: the broker cannot be used, or refuses.
        """
        connecting = NamedThread("mqtt connects", self._connect)  # names are looked up without a bound on time
        connecting.start()
        while (connecting.is_alive() or not self.is_up) and not has_ended():
            wait()
            if connecting.is_alive():
                connecting.join(TICK_SECONDS)
            else:
                self.process(TICK_SECONDS)

    def publish(self, publication: Publication) -> None:
        """Send a message; `process` tells if the connection has ended."""
        properties = publication.properties(PacketTypes.PUBLISH)
        info = self._client.publish(publication.topic, publication.payload, 1, publication.id is None, properties)
        self.in_flight[info.mid] = publication

    def process(self, timeout_s: float) -> list[tuple[Publication, ReasonCode]]:
        """Send and receive; wait for something to come. Return the messages whose PUBACKs came, and what these say.

        Raises:
            NotConnectedError: the connection has ended.
        """
        self._answered = []
        if self._client.loop(timeout_s) != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise NotConnectedError(self._fault)
        return self._answered

    def close(self, last: Publication) -> None:
        """Publish a last message and log off: the broker then does not publish the last will."""
        client, until_s = self._client, time.monotonic() + ENDED_WITHIN_SECONDS
        with contextlib.suppress(NotConnectedError):  # an answer that comes after the end would make TCP reset it
            if self.is_up:
                self.publish(last)
            while self.in_flight and time.monotonic() < until_s:
                self.process(TICK_SECONDS)
        client.disconnect()
        client.on_connect = client.on_disconnect = client.on_publish = None  # no circle: its sockets close with it

    def _connect(self) -> None:
        try:
            log_in(self._client, self._config)
            self._client.connect(*self._config.host_port, KEEP_ALIVE_SECONDS, clean_start=True)
        except AccessError as error:
            self._fault = str(error)
        except Exception as error:  # of many kinds: a host name that cannot be encoded, bytes that are not MQTT
            why = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or error
            self._fault = (
                f"{self._config.broker} cannot be used ({why}); check mqtt.broker, mqtt.ca, the network, and the broker"
            )

    def _connected(self, _c: object, _u: object, _f: object, reason: ReasonCode, properties: Properties | None) -> None:
        if reason.is_failure:
            self._fault = (
                f"{self._config.broker} refuses the connection ({reason}); correct mqtt.user, mqtt.password_file or "
                "mqtt.certificate, or the broker's users and access rules"
            )
            return
        self._fault = f"{self._config.broker} ended the connection, or it was lost"
        self.receive_maximum: int = getattr(properties, "ReceiveMaximum", 65535)
        """How many messages the broker takes before their PUBACKs."""
        self.largest_bytes: int = getattr(properties, "MaximumPacketSize", 1 << 32)
        """Of a packet."""
        self.is_up = True

    def _ended(self, _c: object, _u: object, _f: object, reason: ReasonCode, _p: object) -> None:
        if self.is_up:
            self._fault += f" ({reason})"

    def _published(self, _c: object, _u: object, mid: int, reason: ReasonCode, _p: object) -> None:
        self.heard_s = time.monotonic()
        self._answered.append((self.in_flight.pop(mid), reason))
        # Brokers send one PUBACK, and the next only when TCP has confirmed the one before (Nagle's algorithm): have
        # the kernel confirm it now, not 40 ms later.
        bound = self._client.socket()
        if isinstance(bound, socket.socket):
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def log_in(client: paho.Client, config: MqttConfig) -> None:
    """Give a client the certificates, user and password to connect with.

    Raises:
        AccessError: a file cannot be used.
    """
    files = f"mqtt.ca {config.ca}"
    try:
        if config.has_tls:
            context = ssl.create_default_context(cafile=config.ca)
            if config.certificate is not None:
                files = f"mqtt.certificate {config.certificate} and mqtt.key {config.key}"
                context.load_cert_chain(config.certificate, config.key, password="")  # never ask a terminal for one
            client.tls_set_context(context)
    except OSError as error:  # ssl.SSLError is one
        why = getattr(error, "reason", None) or error.strerror
        raise AccessError(
            f"{files} cannot be used ({why}); expected PEM files that this user can read, a certificate with its own "
            "key, and no password on it"
        ) from error
    password = None
    if config.password_file is not None:
        expected = "mqtt.password_file names a file with the password in one line, which this user owns"
        data = read_secret(config.password_file, AccessError, expected, "change the password")
        password = data.decode(errors="replace").strip("\r\n")
    client.username_pw_set(config.user, password)


class Bridge:
    """Publishes what a line has journalled, in order, and its state. Never more than a batch is in hand.

    A broker that is killed loses what it has acknowledged and not stored yet. So the line hears that events need not
    come again only `republish_s` after their PUBACKs, and each connection begins with all that the line has not heard
    this of, in order. What the broker refuses is published again after a pause.

    Args:
        follower: which keeps its position.
        has_ended: whether to give up.
    """

    def __init__(self, follower: Follower, line: Line, messages: Messages, has_ended: Callable[[], bool]) -> None:
        self._follower, self._line, self._messages, self._has_ended = follower, line, messages, has_ended
        self._config: MqttConfig = line.table
        self._fault: str | None = None
        """Why results wait although the broker is connected; None: they do not."""
        self._fault_log, self._report_log = FaultLog(logger), RateLimitedLog(logger)

    def tick(self) -> None:
        """Keep what comes from the line. Call it several times a second."""
        notify("WATCHDOG=1")
        self._follower.hold()

    def carry(self, connection: Connection) -> None:
        """Publish until this bridge ends.

        Raises:
            NotConnectedError: the connection has ended.
        """
        self._follower.rewind()
        taken = deque[tuple[float, Delivered]]()
        """The last events of batches, and when the broker had taken all."""
        left: list[Publication] = []
        """What the broker has not taken of a batch."""
        through: Delivered | None = None
        """The last event of the batch."""
        is_confirmed = False
        tick_due_s = state_due_s = resume_s = 0.0
        while not self._has_ended():
            now_s = time.monotonic()
            if now_s >= tick_due_s:
                self.tick()
                tick_due_s = now_s + TICK_SECONDS
            if now_s >= state_due_s:
                connection.publish(self._messages.state(self._line, self._fault))
                state_due_s = now_s + STATE_EVERY_SECONDS
            if not left:
                if through is not None:
                    taken.append((connection.heard_s, through))
                while taken and taken[0][0] <= connection.heard_s - self._config.republish_s:
                    self._follower.settle(taken.popleft()[1])
                left, through = self._next_batch(connection.largest_bytes)
            if now_s >= resume_s and not any(each.id for each in connection.in_flight.values()):
                most = min(WINDOW, connection.receive_maximum - 1) if is_confirmed else 1  # one is for the state
                for publication in left[: max(1, most)]:
                    connection.publish(publication)
            for publication, reason in connection.process(TICK_SECONDS if left else 0.0):
                if publication.id is not None:
                    is_confirmed = self._is_taken(publication, reason)
                    if is_confirmed:
                        left.remove(publication)
                    else:
                        resume_s = time.monotonic() + PAUSE_SECONDS

    def _next_batch(self, largest_bytes: int) -> tuple[list[Publication], Delivered | None]:
        """Return the messages of the next events, and the last of these; None: there are none."""
        try:
            events = self._follower.receive_batch(WINDOW)
        except EventsLostError as lost:
            logger.error("%s", lost)
            first = Delivered(lost.journal_id, lost.after_seq + 1, b"")
            last_seq = max(lost.through_seq, first.seq)
            report = self._messages.lost("deleted", str(lost), first, last_seq)
            return [report], Delivered(lost.journal_id, lost.through_seq, b"")
        messages = [self._messages.of(event) for event in events]
        for at, (event, each) in enumerate(zip(events, messages, strict=True)):
            if len(each.payload) + len(each.topic.encode()) + PACKET_BYTES > largest_bytes:
                detail = f"the broker takes packets of up to {largest_bytes} bytes; this event has {len(each.payload)}"
                messages[at] = self._messages.lost("refused", detail, event, event.seq)
                self._report_log.error("event %s is reported as lost: %s", event.key, detail)
        return messages, events[-1] if events else None

    def _is_taken(self, publication: Publication, reason: ReasonCode) -> bool:
        """Return whether a message is delivered by its PUBACK, False if it must be published again."""
        topic, waits = publication.topic, self._config.wait_for_subscriber
        is_unwanted = waits and reason.value == NO_SUBSCRIBERS and topic.startswith(self._messages.awaited)
        if not reason.is_failure and not is_unwanted:
            self._fault = None
            self._fault_log.end("the broker takes results again")
            return True
        self._fault = f"the broker refuses messages on {topic} ({reason}); correct its access rules or limits"
        if is_unwanted:
            self._fault = f"nobody subscribes to {topic}; if nobody needs it, set mqtt.wait_for_subscriber = false"
        self._fault_log.begin(self._fault, "; results wait at the line until then")
        return False


def run_bridge(line_name: str) -> None:
    """Publish a line's results until SIGTERM or Ctrl-C.

    Raises: as `Follower.receive_batch`, and
        ConfigError: the line's file has no table `[mqtt]`, or cannot be used.
        AccessError: a file that the table names cannot be used.
    """
    line = Line(line_name, "mqtt")
    config: MqttConfig = line.table
    log_in(paho.Client(CallbackAPIVersion.VERSION2), config)
    messages, ended = Messages(config.prefix, line.name), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with (
        # The next batch is here when the one in hand is done.
        line.follower(window=2 * WINDOW, keep_position=True) as follower,
        line,
    ):
        bridge = Bridge(follower, line, messages, ended.is_set)
        notify("READY=1")
        logger.info(
            "results come again until the broker has had them for %g s; if it stores its messages more rarely "
            "(mosquitto: set persistence true, autosave_interval %d, max_queued_messages 0), its death costs "
            "subscribers that are away results",
            config.republish_s,
            max(1, config.republish_s // 2),
        )
        log = FaultLog(logger, is_faulty=True)
        while not ended.is_set():
            will = messages.offline("bridge_lost", "the bridge has lost its connection to the broker")
            connection = Connection(config, f"heatline-{line.name}-{config.name}", will)
            try:
                connection.open(bridge.tick, ended.is_set)
                log.end(f"connected to {config.broker}")
                notify(f"STATUS=connected to {config.broker}")
                bridge.carry(connection)
            except NotConnectedError as fault:
                log.begin(str(fault), "; trying again until it works, and the line keeps its results meanwhile")
                notify(f"STATUS={fault}")
            finally:
                connection.close(messages.offline("bridge_stopped", "the bridge was stopped", time.time_ns()))
            resume_s = time.monotonic() + PAUSE_SECONDS
            while time.monotonic() < resume_s and not ended.wait(TICK_SECONDS):
                bridge.tick()
        notify("STOPPING=1")
