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
    """Name of the durable consumer, under which the line stores its position."""
    broker: Broker
    """The broker, with TLS or without. Without TLS only on this PC, unless `allow_plaintext` is set."""
    prefix: Prefix = "heatline"
    """What comes before the line's name in all topics, for example `"acme/plant1/boards"`."""
    user: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    """The name to log in with."""
    password_file: Path | None = None
    """File with the password, in one line. Only its owner may be able to use it (mode 0600)."""
    ca: Path | None = None
    """File with the certificate of the authority that signed the broker's, PEM. Default: the authorities that this PC
    trusts."""
    certificate: Path | None = None
    """File with the certificate to log in with, PEM."""
    key: Path | None = None
    """File with the certificate's private key, PEM, without a password. Default: it is in the file of the
    certificate."""
    wait_for_subscriber: bool = True
    """Whether a result or the report of a loss that nobody subscribes to, as far as the broker knows, waits at the
    line."""
    republish_s: Annotated[float, Meta(ge=0, le=3600)] = 60.0
    """The line hears that a result is delivered only so many seconds after the broker has taken it; results it has
    not heard this of come again after a lost connection or a restart. The broker must store its messages more often.
    0: none come again."""
    allow_plaintext: bool = False
    """Whether results and password may cross a network without TLS."""

    @property
    def has_tls(self) -> bool:
        return self.broker.startswith("mqtts:")


class ModbusConfig(_BridgeConfig, frozen=True, kw_only=True):
    """The Modbus bridge: its address, who may connect, and how integers are given."""

    name: ConsumerName = "modbus"
    """The name of the durable consumer. Two bridges of a line need two names."""
    listen: Listen = "127.0.0.1:1502"
    """The address for PLCs. An address that other machines can reach needs `allow`. A port below 1024, such as
    Modbus' own 502, needs a privilege."""
    allow: list[str] = []
    """Addresses and networks whose clients may connect, e.g. `["10.0.0.5", "10.0.1.0/24"]`. Programs of this machine
    always may."""
    max_connections: Annotated[int, Meta(ge=1, le=256)] = 8
    """Number of clients. If one more connects, the oldest one of the address that has most is closed, or the new one
    (connections)."""
    word_order: WordOrder = "high_first"
    """Which of the registers of a number of 32 or 64 bit comes first, the highest or the lowest."""

    @property
    def networks(self) -> list[Network]:
        """The networks of `allow`; a ConfigError is raised if an entry is none."""
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
    """The name of the durable consumer. Two bridges of a line need two names."""
    listen: Listen = "127.0.0.1:4840"
    """The address of the server. `*` as HOST: every address of this machine."""
    folder: Path | None = None
    """Folder of the certificates. Default: the state folder that systemd gives the bridge, else `opcua` beside the
    line's file."""
    acknowledge: Literal["offered", "client"] = "client"
    """When the line may delete a result: when a client has acknowledged it, or when the server holds it and has sent
    its event; then clients can miss results."""
    hold: Annotated[int, Meta(ge=1, le=LARGEST_WINDOW)] = LARGEST_WINDOW
    """Number of results that the server holds."""
    unprotected: bool = False
    """Whether clients of this machine may read without a certificate. Refused if other machines can reach
    `listen`."""


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


def host_port(address: str) -> tuple[str, int]:
    """Return host and port of a broker or of `HOST:PORT`."""
    host, _, port = re.sub("^mqtts?://", "", address).rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)
