"""A camera's process over all its restarts: starts it when it is due, checks its health, and ends it."""

import time
from collections.abc import Callable

from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.liveness import (
    ANSWER_WITHIN_SECONDS,
    ASK_EVERY_SECONDS,
    CAMERA_ANSWERS_WITHIN_SECONDS,
    Fault,
)
from heatline.edge.cameras.process import CameraProcess, FireTrigger, HealthRequest, ProcessMessage
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.util.child_process import Restarts

FIRST_BACKOFF_SECONDS = 0.25
MAX_BACKOFF_SECONDS = 5.0


class RestartedProcess:
    """The process of one camera, which may be absent until the next start. One thread uses it."""

    def __init__(self) -> None:
        self.running: CameraProcess | None = None
        self.opened: Opened | None = None
        """Describes the open camera; None: the camera is not open."""
        self.openings = 0
        self.counters: dict[str, int] = {}
        self.restarts = Restarts(FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
        self._started_ns = time.monotonic_ns()
        self._requested_ns: int | None = None
        """When the health request was sent that has no reply yet."""
        self._polls_camera = False
        self._replied_ns = 0

    @property
    def fire(self) -> Callable[[int, int], None] | None:
        """Function that triggers the camera; None: the camera is not open."""
        running = self.running
        if running is None or self.opened is None:
            return None
        return lambda number, not_after_ns: running.send(FireTrigger(number, not_after_ns))

    def start(self, settings: CameraSettings, now_ns: int) -> Fault | None:
        """Start the process, which opens the camera; return the fault if that fails."""
        self._requested_ns, self._replied_ns, self._started_ns = None, now_ns, now_ns
        try:
            self.running = CameraProcess(settings)
        except OSError as error:
            return Fault("process", f"its process cannot be started: {error}")
        return None

    def receive(self) -> ProcessMessage | None:
        """Return the next message of the process; None: there is none."""
        return None if self.running is None else self.running.receive()

    def record_opening(self, opened: Opened) -> None:
        """Record that the process has opened the camera."""
        self.opened = opened
        self.openings += 1

    def check_timeouts(self, opened_within_s: float, now_ns: int) -> Fault | None:
        """Return a fault if the process has not replied, or not opened the camera, in time."""
        if self._requested_ns is not None:
            waited_s = (now_ns - self._requested_ns) / 1e9
            if waited_s > (CAMERA_ANSWERS_WITHIN_SECONDS if self._polls_camera else ANSWER_WITHIN_SECONDS):
                return Fault("unresponsive", f"its process did not answer within {waited_s:.1f} s")
        if self.opened is None and now_ns - self._started_ns > opened_within_s * 1e9:
            return Fault("open", f"it was not opened within {opened_within_s:.0f} s")
        return None

    def request_health(self, now_ns: int, quiet_ns: int | None, *, at_once: bool) -> None:
        """Send a health request if one is due.

        Args:
            quiet_ns: time since the last frame of a camera that shows no other sign of life; after a while the camera
                itself is polled. None: the camera is not polled.
            at_once: send the request and poll the camera however recent the last reply is.
        """
        if self._requested_ns is not None or self.running is None:
            return
        if at_once or now_ns - self._replied_ns >= ASK_EVERY_SECONDS * 1e9:
            self._polls_camera = at_once or (quiet_ns is not None and quiet_ns > ASK_EVERY_SECONDS * 1e9)
            self._requested_ns = now_ns
            self.running.send(HealthRequest(self._polls_camera))

    def record_health_reply(self, counters: dict[str, int], now_ns: int) -> None:
        """Record the reply to the health request."""
        self._requested_ns, self._replied_ns, self.counters = None, now_ns, counters

    def extend_deadlines(self, by_ns: int) -> None:
        """Extend the time for a reply by a time in which the line itself was busy elsewhere and read none."""
        if self._requested_ns is not None:
            self._requested_ns += by_ns

    def close(self, within_s: float) -> list[ProcessMessage]:
        """Make the process close the camera, kill it if that takes longer, and return its last messages."""
        running, self.running, self.opened = self.running, None, None
        return [] if running is None else running.close(within_s)

    def kill(self) -> None:
        """Kill the process at once."""
        if self.running is not None:
            self.running.close(0.0)
            self.running = None
