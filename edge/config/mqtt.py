"""The table `[mqtt]` of a line's file. docs/plant-mqtt.md describes the bridge that uses it."""

import re
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from heatline.edge.delivery.auth import is_local
from heatline.edge.errors import ConfigError
from heatline.edge.wire.following import CONSUMER_NAME, LARGEST_WINDOW, Start

Broker = Annotated[
    str,
    Meta(pattern=r"^mqtts?://[^/\s]+:[0-9]{1,5}\Z", description="mqtts://HOST:PORT, or mqtt://HOST:PORT without TLS"),
]
Prefix = Annotated[
    str,
    Meta(
        pattern=r"^[^$+#/\x00-\x1f][^+#/\x00-\x1f]*(/[^+#/\x00-\x1f]+)*\Z",
        max_length=200,
        description="levels of a topic such as acme/plant1/boards, without + and #",
    ),
]
ClientId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,128}\Z")]
ConsumerName = Annotated[str, Meta(pattern=CONSUMER_NAME)]


class MqttConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker to publish to, how to log in there, and what to publish."""

    broker: Broker
    prefix: Prefix = "heatline"
    """Levels of the topics before the line's name."""
    heatmaps: bool = False
    user: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    password_file: Path | None = None
    ca: Path | None = None
    """None: the authorities that this PC's system trusts."""
    certificate: Path | None = None
    key: Path | None = None
    name: ConsumerName = "mqtt"
    """Name of the durable consumer."""
    client_id: ClientId | None = None
    """None: made of the names of line and consumer."""
    start: Start = "next"
    """Where a new name begins: with the oldest event in the journal, or with the next event."""
    window: Annotated[int, Meta(ge=1, le=LARGEST_WINDOW // 2)] = 100
    """Number of messages that may wait for their PUBACK."""
    wait_for_subscriber: bool = True
    """Whether a result, or the report of a loss, that nobody subscribes to waits at the line until somebody does."""
    republish_s: Annotated[float, Meta(ge=0, le=3600)] = 60.0
    """What the broker took in the last seconds of a connection, or before this PC lost its power, is published again.
    The broker must store its messages more often."""
    keepalive_s: Annotated[int, Meta(ge=1, le=3600)] = 10
    allow_plaintext: bool = False
    """Whether messages may cross a network without TLS."""

    @property
    def has_tls(self) -> bool:
        return self.broker.startswith("mqtts:")

    @property
    def host(self) -> str:
        return _place(self.broker).rpartition(":")[0].removeprefix("[").removesuffix("]")

    @property
    def port(self) -> int:
        return int(_place(self.broker).rpartition(":")[2])


def check_mqtt(mqtt: MqttConfig) -> None:
    """Check what concerns more than one key.

    Raises:
        ConfigError: keys do not fit together.
    """
    if not 0 < mqtt.port <= 65535:
        raise ConfigError(f"mqtt.broker is {mqtt.broker!r}; expected PORT 1 to 65535")
    if (mqtt.certificate is None) != (mqtt.key is None):
        missing, given = ("certificate", "key") if mqtt.certificate is None else ("key", "certificate")
        raise ConfigError(f"mqtt.{given} is set and mqtt.{missing} is not; a client certificate needs both")
    if mqtt.password_file is not None and mqtt.user is None:
        raise ConfigError("mqtt.password_file is set and mqtt.user is not; set both")
    if mqtt.has_tls:
        return
    for key in ("ca", "certificate"):
        if getattr(mqtt, key) is not None:
            raise ConfigError(f"mqtt.{key} is set, but mqtt.broker is {mqtt.broker!r}, without TLS; expected mqtts://")
    if not mqtt.allow_plaintext and not is_local(f"tcp://{_place(mqtt.broker)}"):
        raise ConfigError(
            f"mqtt.broker is {mqtt.broker!r}, on another machine and without TLS, so that others could read and change "
            "results and the password; expected mqtts://, or set allow_plaintext = true in a network that you trust"
        )


def _place(broker: str) -> str:
    return re.sub("^mqtts?://", "", broker)
