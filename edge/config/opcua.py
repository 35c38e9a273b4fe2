"""The OPC UA bridge's settings, in `line.toml`. docs/config.md describes every key."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heatline.edge.config.addresses import Listen
from heatline.edge.delivery.auth import is_local
from heatline.edge.errors import ConfigError
from heatline.edge.wire.following import CONSUMER_NAME, LARGEST_WINDOW, Start


class OpcuaConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The OPC UA server: its address, its certificates, and when a result counts as received."""

    listen: Listen = "127.0.0.1:4840"
    folder: Path | None = None
    """Folder of the certificates. None: the bridge's state folder (systemd); else `opcua` beside the line's file."""
    name: Annotated[str, Meta(pattern=CONSUMER_NAME, description="letters, digits, dots, hyphens, underscores")] = (
        "opcua"
    )
    """Name of the durable consumer."""
    start: Start = "next"
    """Where a new name begins: with the oldest event in the journal, or with the next event."""
    acknowledge: Literal["offered", "client"] = "client"
    """Whether a result is acknowledged to the line once it is offered, or once a client has acknowledged it."""
    hold: Annotated[int, Meta(ge=1, le=LARGEST_WINDOW)] = LARGEST_WINDOW
    """Number of results that clients can get."""
    unprotected: bool = False
    """Whether clients of this machine may read without a certificate."""

    @property
    def host_port(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


def check_opcua(opcua: OpcuaConfig) -> None:
    """Check what concerns more than one key.

    Raises:
        ConfigError: the address is not valid, or other machines could read without a certificate.
    """
    if opcua.unprotected and not is_local(f"tcp://{opcua.listen}"):
        raise ConfigError(
            f"opcua.unprotected is true, and opcua.listen is {opcua.listen!r}, which other machines can reach; remove "
            "unprotected, or listen on this machine alone, e.g. 127.0.0.1:4840"
        )
