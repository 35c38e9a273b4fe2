"""Runs the MQTT bridge of a line: from its journal to the broker, and the acknowledgements back."""

import logging
import signal
import threading

from edge.bridge.line_file import load_with_table
from edge.bridge.line_state import LineState
from edge.bridge.mqtt.credentials import read_password, tls_context
from edge.bridge.mqtt.link import Link
from edge.bridge.mqtt.messages import Messages
from edge.bridge.mqtt.outbox import Outbox, taken_through
from edge.bridge.mqtt.recent import Entry
from edge.bridge.mqtt.topics import Topics
from edge.cli.target import KeyFiles, endpoint_of, name_of
from edge.config.mqtt import MqttConfig
from edge.delivery.client.follower import Follower
from edge.errors import EventsLostError, SchemaVersionError
from edge.service.systemd import notify
from edge.wire.following import LARGEST_WINDOW, Delivered

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25


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
    config = load_with_table(line, "mqtt", 'broker = "mqtts://HOST:PORT"').mqtt
    assert config is not None
    name = name_of(line)
    messages = Messages(
        Topics(config.prefix, name), name, heatmaps=config.heatmaps, need_subscriber=config.wait_for_subscriber
    )
    _require_files(config)
    journal, keys = endpoint_of(line, "journal", KeyFiles())
    events, events_keys = endpoint_of(line, "events", KeyFiles())
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with (
        Follower(
            journal,
            config.name,
            window=min(2 * config.window, LARGEST_WINDOW),  # the next batch is here when the one in hand is done
            heatmaps=config.heatmaps,
            start=config.start,
            timeout_s=TICK_SECONDS,
            keys=keys,
        ) as follower,
        LineState(events, events_keys) as state,
        Link(config, config.client_id or f"heatline-{name}-{config.name}", messages, state) as link,
    ):

        def hold() -> None:
            notify("WATCHDOG=1")
            follower.hold()

        notify("READY=1")
        outbox = Outbox(
            link,
            messages,
            window=config.window,
            republish_s=config.republish_s,
            hold=hold,
            ended=ended.is_set,
        )
        while not ended.is_set():
            notify("WATCHDOG=1")
            _carry_batch(follower, messages, outbox, config.window)
        notify("STOPPING=1")


def _carry_batch(follower: Follower, messages: Messages, outbox: Outbox, at_most: int) -> None:
    """Publish the next events, and acknowledge them to the line once the broker has taken all of them."""
    events: list[Delivered] = []
    entries: list[Entry] = []
    unknown: SchemaVersionError | None = None
    try:
        received = follower.receive_batch(at_most)  # acknowledges the batch before
    except EventsLostError as lost:
        logger.error("%s", lost)
        if outbox.deliver([Entry(messages.lost(lost))]):
            follower.acknowledge()
        return
    for event in received:
        try:
            entries += [Entry(publication, event) for publication in messages.of(event)]
        except SchemaVersionError as error:
            unknown = error
            break
        events.append(event)
    if outbox.deliver(entries) and unknown is None:
        follower.acknowledge()
        return
    last = taken_through(events, entries)
    if last is not None:
        follower.acknowledge(last)
    if unknown is not None:
        raise unknown


def _require_files(config: MqttConfig) -> None:
    """Require that the files can be used now. When one is replaced by a bad one later, the bridge waits for a good one.

    Raises:
        AccessError: one cannot be used.
    """
    if config.has_tls:
        tls_context(config)
    if config.password_file is not None:
        read_password(config.password_file)
