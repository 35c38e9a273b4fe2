"""Keeps a connection to the broker, and the line's retained state there current."""

import contextlib
import logging
import threading
import time
from typing import Self

from edge.bridge.line_state import LineState
from edge.bridge.mqtt.connection import Connection, NotConnectedError
from edge.bridge.mqtt.messages import Messages
from edge.config.mqtt import MqttConfig
from edge.errors import AccessError, DeliveryError
from edge.service.systemd import notify
from edge.util.threads import NamedThread

logger = logging.getLogger(__name__)

STATE_EVERY_SECONDS = 1.0
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
STABLE_AFTER_SECONDS = 2.0
UNSTABLE_PAUSE_SECONDS = 1.0
"""Longest pause after a connection that ended sooner: another client may have the same id."""
ENDED_WITHIN_SECONDS = 0.8


class Link:
    """Connects again whenever the connection ends, on a thread of its own. Use it as a context.

    Args:
        line: where the state comes from.
    """

    def __init__(self, config: MqttConfig, client_id: str, messages: Messages, line: LineState) -> None:
        self._config, self._client_id, self._messages, self._line = config, client_id, messages, line
        self._changed = threading.Condition()
        self._connection: Connection | None = None
        self._logged: str | None = None
        self._delivery_fault: str | None = None
        self._ended, self._wake = threading.Event(), threading.Event()
        self._thread = NamedThread("mqtt link", self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Publish the state `bridge_stopped`, and log off."""
        self._ended.set()
        self._wake.set()
        self._thread.join(ENDED_WITHIN_SECONDS)  # it may be connecting, which does not end sooner

    def wait_for_connection(self, timeout_s: float) -> Connection | None:
        """Return the connection; None: there was none in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._up() is not None, timeout_s)
            return self._up()

    def set_delivery_fault(self, fault: str | None) -> None:
        """Log why results wait although the broker is connected, and publish it in the state; None: they do not."""
        if fault not in (None, self._delivery_fault):
            logger.error("%s", fault)
        elif fault is None and self._delivery_fault is not None:
            logger.info("the broker takes results again")
        self._delivery_fault = fault

    def _up(self) -> Connection | None:
        return self._connection if self._connection is not None and self._connection.is_up else None

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_SECONDS
        while not self._ended.is_set():
            self._wake.clear()
            try:
                connection = Connection(self._config, self._client_id, self._messages.last_will(), self._wake.set)
            except (AccessError, DeliveryError) as error:
                self._report(str(error))
            else:
                self._report(None)
                with self._changed:
                    self._connection = connection
                    self._changed.notify_all()
                began_s = time.monotonic()
                self._publish_states(connection)
                self._report(connection.fault)
                is_stable = time.monotonic() - began_s >= STABLE_AFTER_SECONDS
                pause_s = FIRST_PAUSE_SECONDS if is_stable else min(pause_s, UNSTABLE_PAUSE_SECONDS)
            self._ended.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_SECONDS)

    def _publish_states(self, connection: Connection) -> None:
        """Publish the state each second until the connection ends, or this link does."""
        with contextlib.suppress(NotConnectedError):
            while not self._ended.is_set():
                connection.publish_state(self._messages.state(self._line, self._delivery_fault))
                self._wake.wait(STATE_EVERY_SECONDS)
            connection.publish(self._messages.farewell())
        connection.close()

    def _report(self, fault: str | None) -> None:
        """Log a fault once, and its end."""
        if self._ended.is_set():
            return
        if fault is not None and fault != self._logged:
            logger.warning("%s; trying again until it works, and the line keeps its results meanwhile", fault)
            notify(f"STATUS={fault}")
        elif fault is None:
            logger.info("connected to %s", self._config.broker)
            notify(f"STATUS=connected to {self._config.broker}")
        self._logged = fault
