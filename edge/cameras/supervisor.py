"""Supervises one camera: opens it, watches it, closes it when it is dead, and opens it again, without end.

The thread that grabs does all of this, so that no camera delays another one.
"""

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from heatline.edge.cameras.base import EndOfFrames, Opened
from heatline.edge.cameras.health import Health
from heatline.edge.cameras.intake import FrameIntake
from heatline.edge.cameras.liveness import Fault
from heatline.edge.cameras.process import Broken, Ended, HealthReply, ProcessDied, ProcessMessage, TriggerResult
from heatline.edge.cameras.restarts import RestartedProcess
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.cameras.state import CameraAlarm, State
from heatline.edge.cameras.triggering import TriggerAnswer, TriggerRequest
from heatline.edge.errors import CameraError, HeatlineError, MissingExtraError
from heatline.edge.frames import BadFrame, Frame
from heatline.edge.wire.events import CameraState

logger = logging.getLogger(__name__)

CLOSE_WITHIN_SECONDS = 1.0
"""The camera's process is killed after this time: closing a camera that is gone takes seconds."""
TICK_SECONDS = 0.05


@dataclass(frozen=True)
class _Reconfiguration:
    settings: CameraSettings
    on_opened: Callable[[str | None], None]
    keep_frames: bool


class SupervisedCamera:
    """A camera in a process of its own.

    One thread opens, grabs and closes. Any thread may interrupt, trigger, reconfigure and read the state.

    Args:
        on_alarm: called on the thread that grabs when the camera dies and when it recovers.
        count_captured: called on the thread that grabs; returns how many of the camera's frames are in the ledger.
    """

    def __init__(
        self,
        settings: CameraSettings,
        on_alarm: Callable[[CameraAlarm], None],
        count_captured: Callable[[], int] = lambda: 0,
    ) -> None:
        self.name, self.settings = settings.name, settings
        self._process = RestartedProcess()
        self._intake = FrameIntake(settings, count_captured)
        self._health = Health(settings.name, on_alarm)
        self._ended = self._missing_extra = False
        self._last_step_ns = time.monotonic_ns()
        """When `open` or `grab` last returned."""
        self._requested: _Reconfiguration | None = None
        self._reconfiguring: _Reconfiguration | None = None
        """The reconfiguration that has begun and whose camera is not open yet."""
        self._interrupted = threading.Event()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def open(self, within_s: float | None = None) -> Opened | None:
        """Try to open the camera once; `grab` tries again after a failure.

        Args:
            within_s: the time limit. After it, and after `interrupt`, the method returns None.
        Raises:
            CameraError: the camera is missing or cannot be used.
            MissingExtraError: a library is not installed.
        """
        try:
            give_up = None if within_s is None else time.monotonic() + within_s
            while self._process.opened is None and not self._interrupted.is_set():
                if give_up is not None and time.monotonic() > give_up:
                    break
                self._step(TICK_SECONDS)
                if self._health.fault is not None:
                    raise self._error(self._health.fault)
        finally:
            self._last_step_ns = time.monotonic_ns()
        return self._process.opened

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        """Return the next frame, or a report of frames that cannot be delivered; None if nothing came in time.

        Raises:
            EndOfFrames: there are no more. After `interrupt`, the frames that were announced before come first.
        """
        give_up_ns = time.monotonic_ns() + round(timeout_s * 1e9)
        self._extend_deadlines(time.monotonic_ns() - self._last_step_ns)
        try:
            while not self._intake.waiting:
                if self._interrupted.is_set():
                    self._close_process("stopped", "the line stopped before there was room for it")
                    self._refuse_reconfigurations()
                    if not self._intake.waiting:
                        raise EndOfFrames
                    break
                if self._ended:
                    raise EndOfFrames
                left_s = (give_up_ns - time.monotonic_ns()) / 1e9
                if left_s <= 0:
                    return None
                self._step(min(left_s, TICK_SECONDS))
            return self._intake.waiting.popleft()
        finally:
            self._last_step_ns = time.monotonic_ns()

    def interrupt(self) -> None:
        """Make `grab` close the camera and end."""
        self._interrupted.set()
        self._wake_up()

    def close(self) -> None:
        """Close the camera, and discard all that waits for it."""
        self._interrupted.set()
        self._close_process("stopped", "the line stopped")
        self._refuse_reconfigurations()
        os.close(self._wake)

    def trigger(self, request: TriggerRequest) -> None:
        """Request a frame of a part, or announce the part of the next frame; another thread gives the answer later."""
        if self._interrupted.is_set():
            request.answer(TriggerAnswer(refused="stopping", detail="the line is stopping"))
        elif self._ended:
            request.answer(TriggerAnswer(refused="camera_dead", detail=f"camera {self.name} has shown its last frame"))
        else:
            self._intake.triggering.request(request)
            self._wake_up()

    def reconfigure(
        self, settings: CameraSettings, on_opened: Callable[[str | None], None], *, keep_frames: bool = True
    ) -> None:
        """Close the camera and open it with other settings of its own, such as its exposure. Do so one at a time.

        Args:
            on_opened: called on the thread that grabs, with None once the camera is open, else with the error. No frame
                comes before it returns. For a dead camera it is called at once, and the settings apply when the camera
                can be opened again.
            keep_frames: whether frames that were announced before still come; else they are dropped as `changeover`.
        """
        if self._interrupted.is_set():
            on_opened("the line is stopping")
            return
        self._requested = _Reconfiguration(settings, on_opened, keep_frames)
        self._wake_up()

    def state(self) -> CameraState:
        """Return the current state."""
        return self._health.state(self._process.openings, self._process.counters)

    # Steps of the thread that grabs.

    def _step(self, wait_s: float) -> None:
        """Handle one message and all work that is due; wait a moment if there is neither."""
        self._begin_reconfiguration()
        if self.settings.triggered == "hardware":
            self._serve_triggers()  # first: a frame shows the part that was announced before it was taken
        received = self._receive()
        self._do_due_work(time.monotonic_ns(), queue_is_empty=not received)
        if received or self._intake.waiting:
            return
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._process.running is not None:
            poll.register(self._process.running.fileno(), select.POLLIN)
        poll.poll(self._until_due_s(wait_s) * 1e3)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _until_due_s(self, wait_s: float) -> float:
        """Return how long no work is due, at most `wait_s`: the event of a part must be published in time."""
        give_up_ns = self._intake.triggering.next_give_up_ns
        left_s = wait_s if give_up_ns is None else (give_up_ns - time.monotonic_ns()) / 1e9
        return max(min(wait_s, left_s), 0.001)

    def _begin_reconfiguration(self) -> None:
        requested, self._requested = self._requested, None
        if requested is None:
            return
        # A dead camera may have sent the first frame of its former settings.
        keep_frames = requested.keep_frames and not self._health.is_dead
        self._close_process("changeover", "the camera was being reconfigured", keep_frames=keep_frames)
        self._intake.triggering.give_up("the camera is being reconfigured")
        self.settings = requested.settings
        if self._health.is_dead or self._ended:
            requested.on_opened(None)
            return
        self._reconfiguring = requested
        self._process.restarts.now()
        self._health.set_state("OPENING")

    def _end_reconfiguration(self, error: str | None) -> None:
        reconfiguring, self._reconfiguring = self._reconfiguring, None
        if reconfiguring is not None:
            began_ns = time.monotonic_ns()
            reconfiguring.on_opened(error)
            self._extend_deadlines(time.monotonic_ns() - began_ns)

    def _refuse_reconfigurations(self) -> None:
        refused, self._reconfiguring, self._requested = (self._reconfiguring, self._requested), None, None
        for reconfiguration in refused:
            if reconfiguration is not None:
                reconfiguration.on_opened("the line is stopping")

    def _receive(self) -> bool:
        """Handle one message of the camera's process; return whether there was one."""
        message = self._process.receive()
        if message is not None:
            self._handle(message, time.monotonic_ns())
        return message is not None

    def _serve_triggers(self) -> None:
        self._intake.triggering.serve(time.monotonic_ns(), self._process.fire)

    def _extend_deadlines(self, by_ns: int) -> None:
        """Do not count a time in which the line itself was busy elsewhere as silence of the camera."""
        self._intake.liveness.extend_deadlines(by_ns)
        self._process.extend_deadlines(by_ns)

    def _do_due_work(self, now_ns: int, queue_is_empty: bool) -> None:
        if self._process.running is None:
            if self._process.restarts.due and not self._ended:
                fault = self._process.start(self.settings, now_ns)
                if fault is not None:
                    self._fail(fault)
        elif (fault := self._check_timeouts(now_ns)) is not None:
            self._fail(fault)
        else:
            self._request_health(now_ns)
        # Otherwise the frame of a part may be among the messages that wait.
        for _ in range(self._intake.triggering.expire(now_ns) if queue_is_empty else 0):
            if (
                fault := self._intake.liveness.record_missed_trigger()
            ) is not None and self._process.opened is not None:
                self._fail(fault)
        self._serve_triggers()

    def _check_timeouts(self, now_ns: int) -> Fault | None:
        fault = self._process.check_timeouts(self.settings.opened_within_s, now_ns)
        if fault is None and self._process.opened is not None:
            fault = self._intake.liveness.check_silence(now_ns)
        return fault

    def _request_health(self, now_ns: int) -> None:
        opened, health = self._process.opened, self._health
        if opened is None:
            return
        # A camera that sends frames is not polled; a camera that waits for a trigger shows no other sign of life.
        needs_polling = opened.can_be_polled and self.settings.triggered != "free"
        may_be_back = needs_polling and health.fault is not None and not health.needs_good_frame
        quiet_ns = self._intake.liveness.quiet_for_ns(now_ns) if needs_polling else None
        self._process.request_health(now_ns, quiet_ns, at_once=may_be_back)

    def _handle(self, message: ProcessMessage, now_ns: int) -> None:
        match message:
            case Opened():
                self._process.record_opening(message)
                self._intake.triggering.reset()
                self._intake.liveness.begin(message, now_ns)
                logger.info("camera %s is open: %s", self.name, message.found)
                if self._health.fault is None:
                    self._health.set_state("LIVE" if self.settings.triggered == "free" else "IDLE")
                self._end_reconfiguration(None)
            case Frame() | BadFrame():
                self._handle_frame(message, now_ns)
            case HealthReply(camera_answers, counters):
                self._process.record_health_reply(counters, now_ns)
                if camera_answers is False:
                    self._fail(Fault("unreachable", "it does not answer when it is asked"))
                elif camera_answers and not self._health.needs_good_frame:
                    self._mark_alive("IDLE")
            case TriggerResult(number, error):
                self._intake.triggering.record_result(number, error)
            case Ended():
                self._ended = True
                self._intake.triggering.give_up("the camera has shown its last frame")
                self._health.set_state("ENDED")
                self._process.kill()
            case Broken(error, missing_extra):
                self._missing_extra = missing_extra
                self._fail(Fault("broken" if self._process.opened else "open", error))
            case ProcessDied(detail):
                self._fail(Fault("process", detail))

    def _handle_frame(self, item: Frame | BadFrame, now_ns: int) -> None:
        fault = self._intake.accept(item, now_ns)
        if fault is not None:
            if fault.closes:
                self._fail(fault)
        elif isinstance(item, Frame):
            self._mark_alive("LIVE")

    def _fail(self, fault: Fault) -> None:
        """Report that the camera is dead, close it, and schedule its next opening."""
        self._health.mark_dead(fault)
        self._close_process(fault.reason, fault.detail, "failed", self._close_within_s())
        self._intake.triggering.give_up(f"the camera is dead: {fault.detail}")
        self._process.restarts.later()
        self._end_reconfiguration(fault.detail)

    def _mark_alive(self, state: State) -> None:
        self._process.restarts.reset()
        self._health.mark_alive(state)

    def _close_within_s(self) -> float:
        """Return how long a dead camera may take to close: no time at all where an event has a deadline."""
        urgent = self.settings.triggered != "free" or self.settings.deadline_ms is not None
        return 0.0 if urgent else CLOSE_WITHIN_SECONDS

    def _close_process(
        self,
        reason: str,
        detail: str,
        kind: Literal["dropped", "failed"] = "dropped",
        within_s: float = CLOSE_WITHIN_SECONDS,
        *,
        keep_frames: bool = False,
    ) -> None:
        """Close the camera, and discard frames that it had announced for this reason, unless `keep_frames` is set."""
        for message in self._process.close(within_s):
            if isinstance(message, Frame | BadFrame):
                self._intake.accept_late(message, reason, detail, kind, keep=keep_frames)
        if self._interrupted.is_set():
            self._intake.triggering.give_up(detail)
            self._intake.triggering.refuse_all("stopping", "the line is stopping")

    def _error(self, fault: Fault) -> HeatlineError:
        return (MissingExtraError if self._missing_extra else CameraError)(_prefix(self.name, fault.detail))

    def _wake_up(self) -> None:
        os.eventfd_write(self._wake, 1)


def _prefix(camera: str, detail: str) -> str:
    return detail if detail.startswith("camera ") else f"camera {camera}: {detail}"
