"""A camera's process and its restarts: started when it is due, asked whether it is there, ended, and started again."""

import time
from collections.abc import Callable

import msgspec

from edge.cameras.base import Opened
from edge.cameras.host import CameraProcess, Died, News
from edge.cameras.liveness import ANSWER_WITHIN_SECONDS, ASK_EVERY_SECONDS, CAMERA_ANSWERS_WITHIN_SECONDS, Fault
from edge.cameras.settings import CameraSettings

FIRST_BACKOFF_SECONDS = 0.25
MOST_BACKOFF_SECONDS = 5.0


class RestartedProcess:
    """The process of one camera, or its absence until the next start. One thread uses it."""

    def __init__(self) -> None:
        self.running: CameraProcess | None = None
        self.opened: Opened | None = None
        """What was found when the camera was opened; None: it is not open."""
        self.openings = 0
        self.counters: dict[str, int] = {}
        self._backoff_s = 0.0
        self._start_at_ns = self._started_ns = time.monotonic_ns()
        self._asked_ns: int | None = None
        """When it was asked what it has not answered yet."""
        self._asked_camera = False
        self._answered_ns = 0

    @property
    def fire(self) -> Callable[[int, int], None] | None:
        """Triggers the camera; None: it is not open."""
        return self.running.fire if self.running is not None and self.opened is not None else None

    def is_due(self, now_ns: int) -> bool:
        """Whether it is not running, and should be."""
        return self.running is None and now_ns >= self._start_at_ns

    def start(self, settings: CameraSettings, now_ns: int) -> Fault | None:
        """Start it, and have it open the camera; why that failed."""
        self._asked_ns, self._answered_ns, self._started_ns = None, now_ns, now_ns
        try:
            self.running = CameraProcess(settings)
        except OSError as error:
            return Fault("process", f"its process cannot be started: {error}")
        return None

    def receive(self) -> News | None:
        """The next piece of news; None: there is none."""
        if self.running is None:
            return None
        try:
            return self.running.receive()
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            return Died(f"what it sent cannot be taken: {error}")

    def is_open(self, opened: Opened) -> None:
        """The camera was opened."""
        self.opened = opened
        self.openings += 1

    def overdue(self, opened_within_s: float, now_ns: int) -> Fault | None:
        """Why it has not answered, or not opened the camera, in time."""
        if self._asked_ns is not None:
            waited_s = (now_ns - self._asked_ns) / 1e9
            if waited_s > (CAMERA_ANSWERS_WITHIN_SECONDS if self._asked_camera else ANSWER_WITHIN_SECONDS):
                return Fault("unresponsive", f"its process did not answer within {waited_s:.1f} s")
        if self.opened is None and now_ns - self._started_ns > opened_within_s * 1e9:
            return Fault("open", f"it was not opened within {opened_within_s:.0f} s")
        return None

    def ask(self, now_ns: int, quiet_ns: int | None, *, at_once: bool) -> None:
        """Ask whether it is there, where that was not done for a while.

        Args:
            quiet_ns: for how long the camera has shown no frame, where it shows no other sign of life: then it is asked
                itself. None: it need not be.
            at_once: whether to ask both, however short ago they answered.
        """
        if self._asked_ns is not None or self.running is None:
            return
        if at_once or now_ns - self._answered_ns >= ASK_EVERY_SECONDS * 1e9:
            self._asked_camera = at_once or (quiet_ns is not None and quiet_ns > ASK_EVERY_SECONDS * 1e9)
            self._asked_ns = now_ns
            self.running.ask(self._asked_camera)

    def answered(self, counters: dict[str, int], now_ns: int) -> None:
        """It answered."""
        self._asked_ns, self._answered_ns, self.counters = None, now_ns, counters

    def held_up(self, for_ns: int) -> None:
        """The line itself was busy elsewhere for so long, and took no answer."""
        if self._asked_ns is not None:
            self._asked_ns += for_ns

    def close(self, within_s: float) -> list[News]:
        """Have it let go of the camera, and kill it where that takes longer; what it said up to its end."""
        running, self.running, self.opened = self.running, None, None
        return [] if running is None else running.close(within_s)

    def kill(self) -> None:
        """End it at once."""
        if self.running is not None:
            self.running.kill()
            self.running = None

    def start_later(self) -> None:
        """Start it again in a while, each time in a longer one."""
        self._backoff_s = min(max(self._backoff_s * 2, FIRST_BACKOFF_SECONDS), MOST_BACKOFF_SECONDS)
        self._start_at_ns = time.monotonic_ns() + round(self._backoff_s * 1e9)

    def start_now(self) -> None:
        """Start it again as soon as possible."""
        self._start_at_ns = time.monotonic_ns()
        self.steady()

    def steady(self) -> None:
        """The camera has shown that it is alive: after the next end, it is started again soon."""
        self._backoff_s = 0.0
