"""The state of a line for its bridges. A line that is silent is never ready."""

import math
import threading
import time
from collections.abc import Callable
from typing import Self

from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client.subscriber import SILENT_AFTER_SECONDS, Subscriber
from heatline.edge.errors import MessageError
from heatline.edge.util.process import NamedThread
from heatline.edge.wire.events import Handshake, Message, StatusEvent

TICK_SECONDS = 0.25


class LineState:
    """Receives a line's statuses on a thread of its own. Use it as a context; any thread may read it.

    Args:
        address: the line's `events.bind`.
        clock: monotonic, s.
    """

    def __init__(
        self, address: str, keys: ClientKeys | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address, self._keys, self._clock = address, keys, clock
        self._lock = threading.Lock()
        self._status: StatusEvent | None = None
        self._heard_s: float | None = None
        self._ended = threading.Event()
        self._thread = NamedThread("line state", self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def status(self) -> StatusEvent | None:
        """The last status that came; None: none has come."""
        with self._lock:
            return self._status

    @property
    def is_heard(self) -> bool:
        """Whether the line runs, as far as this program can know."""
        with self._lock:
            if self._status is None or self._heard_s is None or self._status.state == "STOPPED":
                return False
            return self._clock() - self._heard_s < SILENT_AFTER_SECONDS

    def handshake(self) -> Handshake:
        """Return the line's handshake; NOT_READY with the reason `stopped` or `unreachable` if the line is not heard.

        A heartbeat that stands still is never good: `heartbeat` of such a handshake is the last one that came.
        """
        status = self.status
        if status is None:
            return Handshake(
                state="NOT_READY", reason="unreachable", detail="no status came from the line", heartbeat=0
            )
        if self.is_heard:
            return status.handshake
        reason = "stopped" if status.state == "STOPPED" else "unreachable"
        detail = "the line has stopped" if reason == "stopped" else "nothing comes from the line"
        return Handshake(state="NOT_READY", reason=reason, detail=detail, heartbeat=status.handshake.heartbeat)

    def _run(self) -> None:
        with Subscriber(self._address, topics=["status"], timeout_s=TICK_SECONDS, keys=self._keys) as events:
            looked_s, old_until_s = self._clock(), -math.inf
            while not self._ended.is_set():
                try:
                    received = events.receive()
                except MessageError:  # a line of another version; the durable side reports it
                    continue
                now_s = self._clock()
                if now_s - looked_s > SILENT_AFTER_SECONDS:  # this process was stopped: what waits for it is old
                    old_until_s = now_s + SILENT_AFTER_SECONDS
                looked_s = now_s
                if received is None:
                    old_until_s = -math.inf
                elif now_s >= old_until_s and isinstance(received, Message) and isinstance(received.event, StatusEvent):
                    with self._lock:
                        self._status, self._heard_s = received.event, now_s
