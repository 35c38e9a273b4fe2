"""One connection to a broker, from its login to its end. The journal holds what the next one publishes."""

import contextlib
import queue
import socket
import ssl
import threading
import time
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from heatline.edge.bridge.mqtt.messages import JSON, Publication
from heatline.edge.config.bridges import MqttConfig
from heatline.edge.errors import AccessError
from heatline.edge.keys import read_secret
from heatline.edge.util.process import NamedThread

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
