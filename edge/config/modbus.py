"""The Modbus bridge's table in `line.toml`. docs/config.md describes every key."""

import ipaddress
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heatline.edge.config.addresses import Listen
from heatline.edge.delivery.auth import is_local
from heatline.edge.errors import ConfigError
from heatline.edge.wire.following import CONSUMER_NAME, Start

WordOrder = Literal["high_first", "low_first"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ModbusConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The Modbus bridge: its address, who may connect, and how results and integers are given."""

    listen: Listen = "127.0.0.1:1502"
    allow: list[str] = []
    """Networks whose clients may connect, beside this machine."""
    name: Annotated[str, Meta(pattern=CONSUMER_NAME, description="1 to 64 letters, digits, _, . and -")] = "modbus"
    """The name of the durable consumer."""
    start: Start = "next"
    """Where a new name begins: with the oldest event in the journal, or with the next event."""
    unit_id: Annotated[int, Meta(ge=1, le=247)] = 1
    acknowledge: Literal["plc", "offered"] = "plc"
    """Who acknowledges a result to the journal: the PLC, or the bridge as soon as the registers show it."""
    word_order: WordOrder = "high_first"
    max_connections: Annotated[int, Meta(ge=1, le=256)] = 8
    idle_s: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    """A connection without a request for so long is closed."""

    @property
    def networks(self) -> list[Network]:
        """The networks of `allow`.

        Raises:
            ConfigError: an entry is not a network.
        """
        return [_network(entry) for entry in self.allow]


def check_modbus(modbus: ModbusConfig) -> None:
    """Check what concerns more than one key.

    Raises:
        ConfigError: a key does not fit the others.
    """
    if not modbus.networks and not is_local(f"tcp://{modbus.listen}"):
        raise ConfigError(
            f"modbus.listen is {modbus.listen!r}, which other machines can reach, and Modbus has no login; name the "
            'PLC\'s address in modbus.allow, such as "10.0.0.5", or listen on this machine alone, e.g. 127.0.0.1:1502'
        )


def _network(entry: str) -> Network:
    try:
        return ipaddress.ip_network(entry)
    except ValueError as error:
        raise ConfigError(
            f"modbus.allow has {entry!r}, which is not an address or network ({error}); expected e.g. 10.0.0.5 or "
            "10.0.0.0/24"
        ) from error
