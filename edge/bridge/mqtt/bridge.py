"""Runs the MQTT bridge of a line: from its journal to the broker, and the acknowledgements back."""

import logging
import signal
import threading
import time

from heatline.edge.bridge.line_file import load_with_table
from heatline.edge.bridge.line_state import LineState
from heatline.edge.bridge.mqtt.connection import Connection
from heatline.edge.bridge.mqtt.credentials import read_password, tls_context
from heatline.edge.bridge.mqtt.messages import Messages, now
from heatline.edge.bridge.mqtt.outbox import Outbox
from heatline.edge.config.mqtt import MqttConfig
from heatline.edge.delivery.client.follower import Follower
from heatline.edge.target import KeyFiles, endpoint_of, name_of
from heatline.edge.util.rate_limited_log import FaultLog
from heatline.edge.util.systemd import notify
from heatline.edge.wire.following import LARGEST_WINDOW

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
FIRST_PAUSE_SECONDS = 0.5
"""Also after a connection that worked: another client may have the same id, and end it each time."""
LONGEST_PAUSE_SECONDS = 10.0


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
    messages = Messages(config.prefix, name, heatmaps=config.heatmaps, need_subscriber=config.wait_for_subscriber)
    _require_files(config)
    journal, keys = endpoint_of(line, "journal", KeyFiles())
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
            keep_position=True,
            keys=keys,
        ) as follower,
        LineState(*endpoint_of(line, "events", KeyFiles())) as state,
    ):
        outbox = Outbox(follower, messages, config, ended.is_set)
        notify("READY=1")
        logger.info(
            "results come again until the broker has had them for %g s; if it stores its messages more rarely "
            "(mosquitto: set persistence true, autosave_interval %d, max_queued_messages 0), its death costs "
            "subscribers that are away results",
            config.republish_s,
            max(1, config.republish_s // 2),
        )
        log = FaultLog(logger, is_faulty=True)
        client_id = config.client_id or f"heatline-{name}-{config.name}"
        pause_s = FIRST_PAUSE_SECONDS
        while not ended.is_set():
            connection = Connection(config, client_id, messages.offline(), lambda: messages.state(state, outbox.fault))
            worked = _use(connection, config, messages, outbox, ended, log)
            if ended.is_set():
                break
            pause_s = FIRST_PAUSE_SECONDS if worked else min(2 * pause_s, LONGEST_PAUSE_SECONDS)
            log.begin(connection.fault, "; trying again until it works, and the line keeps its results meanwhile")
            notify(f"STATUS={connection.fault}")
            resume_s = time.monotonic() + pause_s
            while time.monotonic() < resume_s and not ended.wait(TICK_SECONDS):
                outbox.hold()
        notify("STOPPING=1")


def _use(
    connection: Connection,
    config: MqttConfig,
    messages: Messages,
    outbox: Outbox,
    ended: threading.Event,
    log: FaultLog,
) -> bool:
    """Publish on a connection, last the state `bridge_stopped`; return whether the broker accepted it."""
    try:
        while not connection.answered.wait(TICK_SECONDS) and not ended.is_set():
            outbox.hold()
        if not connection.is_up:
            return False
        log.end(f"connected to {config.broker}")
        notify(f"STATUS=connected to {config.broker}")
        outbox.carry(connection)
        return True
    finally:
        connection.close(messages.offline(now()))


def _require_files(config: MqttConfig) -> None:
    """Require that the files can be used now. When one is replaced by a bad one later, the bridge waits for a good one.

    Raises:
        AccessError: one cannot be used.
    """
    if config.has_tls:
        tls_context(config)
    if config.password_file is not None:
        read_password(config.password_file)
