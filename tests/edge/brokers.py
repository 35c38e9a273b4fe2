"""A real MQTT broker, mosquitto, and what a plant's program receives from it."""

import contextlib
import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.edge.followed_line import WITHIN_SECONDS, wait_until
from tests.edge.lines import Restartable
from tests.needs import need

OPEN = "allow_anonymous true"


class Broker(Restartable):
    """mosquitto in a process of its own on one port of loopback. It keeps nothing when it is killed, as by a power cut.
    `address`: as the fixture `address` reserves one. `settings`: lines of its configuration."""

    def __init__(self, folder: Path, address: str, settings: str = OPEN) -> None:
        self.port, self.settings, self._file = int(address.rpartition(":")[2]), settings, folder / "mosquitto.conf"
        super().__init__("mosquitto", [need("mosquitto"), "-c", self._file], folder / "mosquitto.log")

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._file.write_text(f"listener {self.port} 127.0.0.1\nuser root\nlog_dest stderr\n{self.settings}\n")
        self._log.unlink(missing_ok=True)
        super().start()

        def runs() -> bool:
            assert (end := self.ended()) is None, end
            return "running" in self._log.read_text()

        wait_until(runs, "mosquitto runs")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@dataclass(frozen=True)
class Received:
    """A message at a subscriber."""

    topic: str
    payload: bytes
    is_retained: bool
    properties: dict[str, Any]

    @property
    def json(self) -> Any:
        return json.loads(self.payload)

    @property
    def id(self) -> str:
        """The id of its event."""
        return str(dict(self.properties["UserProperty"])["id"])


class Plant:
    """A program of the plant that subscribes to topics, and again after each reconnect: brokers lose sessions.
    `session`: client id of a durable session, for which the broker holds messages; None: it has none."""

    def __init__(self, broker: Broker, *topics: str, session: str | None = None) -> None:
        self.received: list[Received] = []
        self._topics = topics or ("#",)
        self._ready = threading.Event()
        self.goes_on = threading.Event()
        """Cleared: the program reads nothing, so its broker must hold messages for it."""
        self.goes_on.set()
        self._port, self._session = broker.port, session
        self._client: paho.Client | None = None

    @property
    def is_here(self) -> bool:
        return self._client is not None

    def come(self) -> None:
        """Connect, as soon as the broker is there."""
        if self._client is not None:
            return
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self._session or "", protocol=paho.MQTTv5
        )
        durable = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        durable.SessionExpiryInterval = 0 if self._session is None else 2**32 - 1
        client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]
        client.on_connect, client.on_message = self._connected, self._message
        client.on_subscribe = lambda *_: self._ready.set()
        client.connect_async("127.0.0.1", self._port, 5, clean_start=self._session is None, properties=durable)
        client.loop_start()

    def leave(self) -> None:
        """Disconnect; a durable session stays."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client.on_connect = self._client.on_message = self._client.on_subscribe = None  # no circle
            self._client = None

    def __enter__(self) -> Self:
        self.come()
        assert self._ready.wait(WITHIN_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def of(self, *kinds: str) -> list[Received]:
        """Return what came under some kinds of topics."""
        return [each for each in list(self.received) if {*kinds} & {*each.topic.split("/")[-2:]}]

    def ids(self, kind: str = "result") -> list[str]:
        """Return the ids of what came, each once, in the order in which they came first."""
        return list(dict.fromkeys(each.id for each in self.of(kind)))

    def _connected(self, client: paho.Client, *_: object) -> None:
        client.subscribe([(topic, 1) for topic in self._topics])

    def _message(self, _c: object, _u: object, message: paho.MQTTMessage) -> None:
        self.goes_on.wait(WITHIN_SECONDS)
        properties = {} if message.properties is None else vars(message.properties)
        self.received.append(Received(message.topic, bytes(message.payload), message.retain, dict(properties)))


class Authority:
    """Signs certificates, which it writes to a folder as NAME.pem and NAME.key."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder, self._name = folder, _named(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        may_sign = x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage)
        self.certificate = self._write(name, self._key, 1, x509.BasicConstraints(True, None), may_sign)

    def sign(self, name: str, host: str = "127.0.0.1", days: int = 1) -> tuple[Path, Path]:
        """Return the files of a certificate and its key; `days`: until it expires, negative if it has."""
        key, private = ec.generate_private_key(ec.SECP256R1()), self._folder / f"{name}.key"
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        names = x509.SubjectAlternativeName([_name_of(host)])
        certificate = self._write(name, key, days, x509.BasicConstraints(False, None), uses, names)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        private.chmod(0o600)
        return certificate, private

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, days: int, *extensions: x509.ExtensionType) -> Path:
        now, path = datetime.now(UTC), self._folder / f"{name}.pem"
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=days))
        )
        identifiers = (
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
        )
        for extension in (*identifiers, *extensions):
            builder = builder.add_extension(extension, isinstance(extension, x509.BasicConstraints | x509.KeyUsage))
        path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _name_of(host: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ip_address(host))
    return x509.DNSName(host)
