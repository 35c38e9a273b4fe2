"""One connection to a broker, from its login to its end. It holds no message over to the next one."""

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from heatline.edge.bridge.mqtt.credentials import read_password, tls_context
from heatline.edge.bridge.mqtt.faults import (
    ENDED_BY_A_MESSAGE,
    describe_early_end,
    describe_end,
    describe_no_connection,
    describe_refused_login,
)
from heatline.edge.bridge.mqtt.messages import JSON, Publication
from heatline.edge.config.mqtt import MqttConfig
from heatline.edge.errors import AccessError, DeliveryError
from heatline.edge.util.process import NamedThread
from heatline.edge.util.rate_limited_log import RateLimitedLog

CONNECTED_WITHIN_SECONDS = 5.0
ANSWERED_WITHIN_SECONDS = 5.0
ENDED_WITHIN_SECONDS = 0.3
STATE_EVERY_SECONDS = 1.0
LARGEST_PACKET_BYTES = 65536
"""A broker has nothing to send to this client but answers."""
_refused_states = RateLimitedLog(logging.getLogger(__name__))


class NotConnectedError(Exception):
    """The connection has ended."""


class Connection:
    """Connects, logs in, and publishes the state each second, on a thread of its own.

    The session is always a new one, so the broker holds nothing of an earlier one either. The messages that had no
    PUBACK are known only to the caller, who publishes them on the next connection.

    Args:
        will: what the broker publishes when this client vanishes.
        state: returns the present state.
    """

    def __init__(self, config: MqttConfig, client_id: str, will: Publication, state: Callable[[], Publication]) -> None:
        self._config, self._client_id, self._state_now = config, client_id, state
        self.acks: queue.SimpleQueue[tuple[int, ReasonCode] | None] = queue.SimpleQueue()
        """Each PUBACK, by the number of its message; None: the connection has ended."""
        self.heard_s = time.monotonic()
        """When the last PUBACK came, also of a state."""
        self.receive_maximum = 65535
        """How many messages the broker takes at once before their PUBACKs."""
        self.largest_bytes = 1 << 32
        """The largest packet that the broker takes."""
        self.answered = threading.Event()
        """Set when the broker has accepted the client, or the connection has ended before."""
        self.was_ended_by_message = False
        """Whether the broker has ended it because of a message that was in flight."""
        self._ended = threading.Event()
        self._fault: str | None = None
        self._end: ReasonCode | None = None
        self._problem: str | None = None
        self._state_due_s = 0.0
        self._state: paho.MQTTMessageInfo | None = None
        """The last state that was published."""
        self._client = self._new_client(will)
        self._thread = NamedThread("mqtt network", self._run)
        self._thread.start()

    @property
    def is_up(self) -> bool:
        return self.answered.is_set() and not self._ended.is_set()

    @property
    def fault(self) -> str:
        """Why it ended, as a sentence."""
        return self._fault or describe_end(self._end, self._problem, self._config, self._client_id)

    def close(self, last: Publication) -> None:
        """Publish a last message and log off: the broker then does not publish the last will."""
        self._state_due_s = float("inf")
        with contextlib.suppress(NotConnectedError):  # an answer that comes after the end would make TCP reset it
            self.publish(last).wait_for_publish(ENDED_WITHIN_SECONDS)
        self._client.disconnect()
        self._thread.join(ENDED_WITHIN_SECONDS)  # it may be connecting, which does not end sooner

    def publish(self, publication: Publication) -> paho.MQTTMessageInfo:
        """Send a message; return what tells when it has come, with the number of its PUBACK.

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
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS or not self.is_up:
            raise NotConnectedError
        return info

    def _new_client(self, will: Publication) -> paho.Client:
        client = _Client(
            CallbackAPIVersion.VERSION2, client_id=self._client_id, protocol=paho.MQTTv5, reconnect_on_failure=False
        )
        client.connect_timeout = CONNECTED_WITHIN_SECONDS
        client.max_inflight_messages_set(0)  # the caller bounds them; paho's own queue stays empty
        properties = _properties(will, PacketTypes.WILLMESSAGE)
        client.will_set(will.topic, will.payload, qos=1, retain=will.retain, properties=properties)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish, client.on_log = self._on_publish, self._on_log
        client.on_socket_register_write = lambda *_: None  # only the network thread writes
        return client

    def _run(self) -> None:
        try:
            self._connect()
            give_up_s = time.monotonic() + ANSWERED_WITHIN_SECONDS
            while self._client.loop(STATE_EVERY_SECONDS / 4) == MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._confirm_at_once()
                if self.answered.is_set():
                    self._publish_state()
                elif time.monotonic() > give_up_s:
                    break
        except (AccessError, DeliveryError) as error:
            self._fault = str(error)
        except Exception as error:  # paho raises several on bytes that are not MQTT
            self._problem = str(error)
        finally:
            self._client.on_connect = self._client.on_disconnect = None  # no circle: paho's sockets close with it
            self._client.on_publish = self._client.on_log = None
            if not self.answered.is_set() and self._fault is None:
                self._fault = describe_early_end(self._config, self._problem)
            self._ended.set()
            self.answered.set()
            self.acks.put(None)

    def _connect(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = LARGEST_PACKET_BYTES
        config = self._config
        if config.has_tls:
            self._client.tls_set_context(tls_context(config))
        if config.user is not None:
            password = None if config.password_file is None else read_password(config.password_file)
            self._client.username_pw_set(config.user, password)
        try:
            self._client.connect(
                config.host, config.port, keepalive=config.keepalive_s, clean_start=True, properties=properties
            )
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded
            raise DeliveryError(describe_no_connection(error, config)) from error

    def _publish_state(self) -> None:
        """Publish the state when it is due, unless the one before still waits for its PUBACK."""
        if time.monotonic() >= self._state_due_s and (self._state is None or self._state.is_published()):
            self._state = self.publish(self._state_now())
            self._state_due_s = time.monotonic() + STATE_EVERY_SECONDS

    def _confirm_at_once(self) -> None:
        """Have the kernel confirm what came, not 40 ms later.

        Brokers send one PUBACK, and the next only when TCP has confirmed the one before (Nagle's algorithm).
        """
        bound = self._client.socket()
        if isinstance(bound, socket.socket):
            with contextlib.suppress(OSError):  # it has just been closed
                bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    # Callbacks of paho, on the network thread. They may not wait for a thread that publishes.

    def _on_connect(
        self, _c: object, _u: object, _f: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._fault = describe_refused_login(reason, self._config, self._client_id)
            return
        self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
        self.largest_bytes = getattr(properties, "MaximumPacketSize", self.largest_bytes)
        self.answered.set()

    def _on_disconnect(
        self, _c: object, _u: object, flags: paho.DisconnectFlags, reason: ReasonCode, _p: object
    ) -> None:
        self.was_ended_by_message = reason.value in ENDED_BY_A_MESSAGE
        if flags.is_disconnect_packet_from_server or self.was_ended_by_message:
            self._end = reason

    def _on_publish(self, _c: object, _u: object, mid: int, reason: ReasonCode, _p: object) -> None:
        self.heard_s = time.monotonic()
        if self._state is None or mid != self._state.mid:
            self.acks.put((mid, reason))
        elif reason.is_failure:
            _refused_states.error("the broker refuses the state of the line (%s); correct its access rules", reason)

    def _on_log(self, _c: object, _u: object, level: int, text: str) -> None:
        if level == paho.MQTT_LOG_ERR:
            self._problem = text


class _Client(paho.Client):
    def _sock_recv(self, bufsize: int) -> bytes:
        """Refuse a packet that is too large before memory is taken for it: paho asks for all of it at once."""
        if bufsize > LARGEST_PACKET_BYTES:
            raise OSError(f"a packet of {bufsize} bytes came, expected at most {LARGEST_PACKET_BYTES}")
        return super()._sock_recv(bufsize)


def _properties(publication: Publication, packet: int) -> Properties:
    properties = Properties(packet)  # type: ignore[no-untyped-call]
    properties.ContentType = publication.content_type
    properties.PayloadFormatIndicator = int(publication.content_type == JSON)
    if publication.expires_s is not None:
        properties.MessageExpiryInterval = publication.expires_s
    if publication.id is not None:
        properties.UserProperty = ("id", publication.id)
    return properties
