"""Runs the MQTT bridge of a line: from its journal to the broker, and the acknowledgements back."""

import logging
import signal
import threading
import time
from collections.abc import Callable

from edge.bridge.line_file import load_with_table
from edge.bridge.line_state import LineState
from edge.bridge.mqtt.connection import Connection
from edge.bridge.mqtt.credentials import read_password, tls_context
from edge.bridge.mqtt.messages import Messages
from edge.bridge.mqtt.outbox import Outbox
from edge.cli.target import KeyFiles, endpoint_of, name_of
from edge.config.mqtt import MqttConfig
from edge.delivery.client.follower import Follower
from edge.errors import AccessError
from edge.service.systemd import notify
from edge.util.rate_limited_log import FaultLog, RateLimitedLog
from edge.wire.following import LARGEST_WINDOW

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
STABLE_AFTER_SECONDS = 2.0
UNSTABLE_PAUSE_SECONDS = 1.0
"""Longest pause after a connection that ended sooner: another client may have the same id."""


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

        def hold() -> None:
            notify("WATCHDOG=1")
            follower.hold()

        notify("READY=1")
        logger.info(
            "results come again until the broker has had them for %g s; if it stores its messages more rarely "
            "(mosquitto: set persistence true, autosave_interval %d, max_queued_messages 0), its death costs "
            "subscribers that are away results",
            config.republish_s,
            max(1, config.republish_s // 2),
        )
        outbox = Outbox(follower, messages, config, hold=hold, ended=ended.is_set)
        refused_states = RateLimitedLog(logger)

        def connect() -> Connection:
            return Connection(
                config,
                config.client_id or f"heatline-{name}-{config.name}",
                messages.last_will(),
                lambda: messages.state(state, outbox.fault),
                refused_states,
            )

        _keep_connected(config, connect, messages, outbox, hold, ended)
        notify("STOPPING=1")


def _keep_connected(
    config: MqttConfig,
    connect: Callable[[], Connection],
    messages: Messages,
    outbox: Outbox,
    hold: Callable[[], None],
    ended: threading.Event,
) -> None:
    """Publish on one connection after the other, until the end. The last message is the state `bridge_stopped`."""
    log = FaultLog(logger, is_faulty=True)
    pause_s = FIRST_PAUSE_SECONDS
    while not ended.is_set():
        began_s = None
        try:
            connection = connect()
        except AccessError as error:
            fault = str(error)
        else:
            try:
                while not connection.answered.wait(TICK_SECONDS) and not ended.is_set():
                    hold()
                if connection.is_up:
                    began_s = time.monotonic()
                    log.end(f"connected to {config.broker}")
                    notify(f"STATUS=connected to {config.broker}")
                    outbox.carry(connection)
            finally:
                connection.close(messages.farewell())
            fault = connection.fault
        if ended.is_set():
            return
        log.begin(fault, "; trying again until it works, and the line keeps its results meanwhile")
        notify(f"STATUS={fault}")
        if began_s is not None:
            is_stable = time.monotonic() - began_s >= STABLE_AFTER_SECONDS
            pause_s = FIRST_PAUSE_SECONDS if is_stable else min(pause_s, UNSTABLE_PAUSE_SECONDS)
        resume_s = time.monotonic() + pause_s
        while not ended.wait(min(TICK_SECONDS, max(0.0, resume_s - time.monotonic()))) and time.monotonic() < resume_s:
            hold()
        pause_s = min(2 * pause_s, LONGEST_PAUSE_SECONDS)


def _require_files(config: MqttConfig) -> None:
    """Require that the files can be used now. When one is replaced by a bad one later, the bridge waits for a good one.

    Raises:
        AccessError: one cannot be used.
    """
    if config.has_tls:
        tls_context(config)
    if config.password_file is not None:
        read_password(config.password_file)
