"""The tables of a line's bridges, `[mqtt]`, `[modbus]` and `[opcua]`. docs/config.md describes every key."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heatline.edge.delivery.auth import is_local
from heatline.edge.errors import ConfigError
from heatline.edge.wire.following import CONSUMER_NAME, LARGEST_WINDOW, Start

_PORT = "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
"""1 to 65535."""
Address = Annotated[
    str,
    Meta(pattern=rf"^(tcp://.+:{_PORT}|ipc://.+)\Z", description="tcp://HOST:PORT, PORT 1 to 65535, or ipc://PATH"),
]
Listen = Annotated[str, Meta(pattern=rf"^.+:{_PORT}\Z", description="HOST:PORT, PORT 1 to 65535")]
Broker = Annotated[
    str,
    Meta(
        pattern=rf"^mqtts?://[^/\s]+:{_PORT}\Z",
        description="mqtts://HOST:PORT, or mqtt://HOST:PORT without TLS, PORT 1 to 65535",
    ),
]
Prefix = Annotated[
    str,
    Meta(
        pattern=r"^[^$+#/\x00-\x1f][^+#/\x00-\x1f]*(/[^+#/\x00-\x1f]+)*\Z",
        max_length=200,
        description="levels of a topic such as acme/plant1/boards, without + and #",
    ),
]
ConsumerName = Annotated[str, Meta(pattern=CONSUMER_NAME, description="1 to 64 letters, digits, _, . and -")]
WordOrder = Literal["high_first", "low_first"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class _BridgeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: ConsumerName
    """Name of the durable consumer."""
    start: Start = "next"
    """Where a new name begins: with the oldest event in the journal, or with the next event."""


class MqttConfig(_BridgeConfig, frozen=True, kw_only=True):
    """The broker to publish to, and how to log in there."""

    name: ConsumerName = "mqtt"
    broker: Broker
    prefix: Prefix = "heatline"
    """Levels of the topics before the line's name."""
    user: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    password_file: Path | None = None
    ca: Path | None = None
    """None: the authorities that this PC's system trusts."""
    certificate: Path | None = None
    key: Path | None = None
    wait_for_subscriber: bool = True
    """Whether a result, or the report of a loss, that nobody subscribes to waits at the line until somebody does."""
    republish_s: Annotated[float, Meta(ge=0, le=3600)] = 60.0
    """What the broker took in the last seconds of a connection, or before this PC lost its power, is published again.
    The broker must store its messages more often."""
    allow_plaintext: bool = False
    """Whether messages may cross a network without TLS."""

    @property
    def has_tls(self) -> bool:
        return self.broker.startswith("mqtts:")

    @property
    def host_port(self) -> tuple[str, int]:
        return _host_port(re.sub("^mqtts?://", "", self.broker))


class ModbusConfig(_BridgeConfig, frozen=True, kw_only=True):
    """The Modbus bridge: its address, who may connect, and how integers are given."""

    name: ConsumerName = "modbus"
    listen: Listen = "127.0.0.1:1502"
    allow: list[str] = []
    """Networks whose clients may connect, beside this machine."""
    max_connections: Annotated[int, Meta(ge=1, le=256)] = 8
    word_order: WordOrder = "high_first"

    @property
    def networks(self) -> list[Network]:
        """The networks of `allow`.

        Raises:
            ConfigError: an entry is not a network.
        """
        try:
            return [ipaddress.ip_network(entry) for entry in self.allow]
        except ValueError as error:
            raise ConfigError(
                f"modbus.allow has an entry that is not an address or network ({error}); expected e.g. 10.0.0.5 or "
                "10.0.0.0/24"
            ) from error


class OpcuaConfig(_BridgeConfig, frozen=True, kw_only=True):
    """The OPC UA server: its address, its certificates, and when a result counts as received."""

    name: ConsumerName = "opcua"
    listen: Listen = "127.0.0.1:4840"
    folder: Path | None = None
    """Folder of the certificates. None: the bridge's state folder (systemd); else `opcua` beside the line's file."""
    acknowledge: Literal["offered", "client"] = "client"
    """Whether a result is acknowledged to the line once it is offered, or once a client has acknowledged it."""
    hold: Annotated[int, Meta(ge=1, le=LARGEST_WINDOW)] = LARGEST_WINDOW
    """Number of results that clients can get."""
    unprotected: bool = False
    """Whether clients of this machine may read without a certificate."""

    @property
    def host_port(self) -> tuple[str, int]:
        return _host_port(self.listen)


def check_mqtt(mqtt: MqttConfig) -> None:
    """Raise a ConfigError if others could read the messages."""
    if not mqtt.has_tls and not mqtt.allow_plaintext and not is_local(re.sub("^mqtt:", "tcp:", mqtt.broker)):
        raise ConfigError(
            f"mqtt.broker is {mqtt.broker!r}, on another machine and without TLS, so that others could read and change "
            "results and the password; expected mqtts://, or set allow_plaintext = true in a network that you trust"
        )


def check_modbus(modbus: ModbusConfig) -> None:
    """Raise a ConfigError if other machines could connect that nobody named."""
    if not modbus.networks and not is_local(f"tcp://{modbus.listen}"):
        raise ConfigError(
            f"modbus.listen is {modbus.listen!r}, which other machines can reach, and Modbus has no login; name the "
            'PLC\'s address in modbus.allow, such as "10.0.0.5", or listen on this machine alone, e.g. 127.0.0.1:1502'
        )


def check_opcua(opcua: OpcuaConfig) -> None:
    """Raise a ConfigError if other machines could read without a certificate."""
    if opcua.unprotected and not is_local(f"tcp://{opcua.listen}"):
        raise ConfigError(
            f"opcua.unprotected is true, and opcua.listen is {opcua.listen!r}, which other machines can reach; remove "
            "unprotected, or listen on this machine alone, e.g. 127.0.0.1:4840"
        )


def _host_port(place: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)
