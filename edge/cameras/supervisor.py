"""Keeps one camera open. Each opening runs in a new process, so that no fault of a driver reaches the line. Every frame
that a process announced is returned by `grab`, itself or as a `BadFrame`.
"""

import contextlib
import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Literal

from heatline.edge.cameras.base import EndOfFrames, Opened
from heatline.edge.cameras.liveness import Fault, Liveness
from heatline.edge.cameras.process import CameraProcess, Ended, Health, ProcessMessage, TriggerResult
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.cameras.triggering import Intake, PartRequest
from heatline.edge.errors import CameraError, MissingExtraError
from heatline.edge.frames import BadFrame, Frame
from heatline.edge.util.child_process import Restarts
from heatline.edge.wire.events import CameraState

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.25
MAX_BACKOFF_SECONDS = 5.0
CLOSE_WITHIN_SECONDS = 1.0
"""The camera's process is killed after this time: closing a camera that is gone takes seconds."""
IDLE_AFTER_SECONDS = 1.0
HEALTH_WITHIN_SECONDS = 3.0
"""A camera's process reports its health once a second."""
ENDED_BY_GOOD_FRAMES_ONLY = ("silent", "frozen", "stale", "frame_ids")
"""Faults of a camera that can be opened: only good frames disprove them."""
TICK_SECONDS = 0.05
HELD_AT_MOST_SECONDS = 60.0

State = Literal["OPENING", "LIVE", "IDLE", "DEAD", "ENDED"]
Reconfigured = tuple["Future[str | None]", threading.Event]
"""Gets None or why the camera cannot be opened; then no frame comes before the event."""


@dataclass(frozen=True)
class CameraAlarm:
    """Report that a camera died (`active`) or recovered."""

    camera: str
    reason: str
    detail: str
    active: bool
    began_at_ns: int
    """UTC, ns since 1970."""


class SupervisedCamera:
    """One thread opens, grabs and closes; it calls `on_alarm` when the camera dies and when it recovers. Any thread may
    interrupt, trigger, reconfigure and read the state.
    """

    def __init__(self, settings: CameraSettings, on_alarm: Callable[[CameraAlarm], None]) -> None:
        self.name, self.settings, self._on_alarm = settings.name, settings, on_alarm
        self._intake, self._liveness = Intake(settings), Liveness(settings)
        self._logged: Callable[[int], None]
        self._process: CameraProcess | None = None
        self._restarts = Restarts(FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
        self.opened: Opened | None = None
        """Describes the open camera; None: the camera is not open."""
        self._openings = 0
        self._counters: dict[str, int] = {}
        self._heard_ns = 0
        """When the process was started, or sent its last message."""
        self._state: tuple[State, int] = ("OPENING", time.time_ns())
        self._fault: Fault | None = None
        """What is wrong with the camera; None once it has shown that it is alive."""
        self._alarm: CameraAlarm | None = None
        """The alarm that was reported and has not ended."""
        self._library_is_missing = False
        self._requested: tuple[CameraSettings, Reconfigured, bool] | None = None
        """What `reconfigure` was given last, until it begins."""
        self._reconfigured: Reconfigured | None = None
        """Of the reconfiguration that has begun and whose camera is not open yet."""
        self._interrupted = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def open(self, within_s: float = math.inf) -> Opened | None:
        """Try to open the camera once; `grab` tries again after a failure. None: not in time, or interrupted. Errors
        as of `FrameSource.open`.
        """
        give_up = time.monotonic() + within_s
        while self.opened is None and not self._interrupted and time.monotonic() <= give_up:
            self._step(TICK_SECONDS)
            if self._fault is not None:
                detail = self._fault.detail
                prefix = "" if detail.startswith("camera ") else f"camera {self.name}: "
                raise (MissingExtraError if self._library_is_missing else CameraError)(prefix + detail)
        return self.opened

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        """Return the next frame, or a report of frames that cannot be delivered; None if nothing came in time.
        EndOfFrames: there are no more. After `interrupt`, the frames that were announced before come first.
        """
        give_up = time.monotonic() + timeout_s
        while not self._intake.waiting:
            if self._interrupted:
                self._close_process("stopped", "the line stopped before there was room for it")
                if not self._intake.waiting:
                    raise EndOfFrames
            elif self._state[0] == "ENDED":
                raise EndOfFrames
            elif (left_s := give_up - time.monotonic()) > 0:
                self._step(min(left_s, TICK_SECONDS))
            else:
                return None
        item, self._logged = self._intake.waiting.popleft()
        return item

    def logged(self, number: int) -> None:
        """Answer the trigger of the frame that was grabbed last, which is logged as in flight under this number."""
        self._logged(number)

    def interrupt(self) -> None:
        """Make `grab` close the camera and end."""
        self._interrupted = True
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Close the camera, and discard all that waits for it."""
        self._interrupted = True
        self._close_process("stopped", "the line stopped")
        os.close(self._wake)

    def trigger(self, request: PartRequest) -> None:
        """Request a frame of a part, or announce the part of the next frame; another thread gives the answer later."""
        if self._interrupted:
            request.refuse("stopping", "the line is stopping")
        elif self._state[0] == "ENDED":
            request.refuse("camera_dead", f"camera {self.name} has shown its last frame")
        else:
            self._intake.request(request)
            os.eventfd_write(self._wake, 1)

    def reconfigure(
        self, settings: CameraSettings, proceed: threading.Event, *, keep_frames: bool = True
    ) -> "Future[str | None]":
        """Close the camera and open it with other settings of its own, such as its exposure. Do so one at a time.

        Return what gets None once it is open, or the error; for a dead camera, which gets the settings when it can be
        opened again, at once.

        Args:
            proceed: no frame comes before it is set.
            keep_frames: whether frames that were announced before still come; else they are dropped as `changeover`.
        """
        opened = Future[str | None]()
        if self._interrupted:
            opened.set_result("the line is stopping")
        else:
            self._requested = settings, (opened, proceed), keep_frames
            os.eventfd_write(self._wake, 1)
        return opened

    def state(self) -> CameraState:
        (state, since_at_ns), fault = self._state, self._fault
        return CameraState(
            state=state,
            reason=fault.reason if fault else None,
            detail=fault.detail if fault else None,
            since_at_ns=since_at_ns,
            openings=self._openings,
            counters=self._counters,
        )

    # Steps of the thread that grabs.

    def _step(self, wait_s: float) -> None:
        """Handle one message and all work that is due; wait a moment if there is neither."""
        self._begin_reconfiguration()
        if self.settings.triggered == "hardware":
            self._serve_triggers()  # first: a frame shows the part that was announced before it was taken
        message = None if self._process is None else self._process.receive()
        if message is not None:
            self._heard_ns = time.monotonic_ns()
            self._handle(message)
        else:  # otherwise a frame may be among the messages that wait, if the line was busy elsewhere
            self._check_times()
        self._serve_triggers()
        if message is None and not self._intake.waiting:
            self._wait(wait_s)

    def _wait(self, wait_s: float) -> None:
        """Wait for a message or another thread, until work is due: the event of a part must be published in time."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._process is not None:
            poll.register(self._process.fileno(), select.POLLIN)
        if parts := self._intake.parts:
            wait_s = min(wait_s, (parts[0].since_ns + self._intake.within_ns - time.monotonic_ns()) / 1e9)
        poll.poll(max(wait_s, 0.001) * 1e3)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _serve_triggers(self) -> None:
        fire = None if self._process is None or self.opened is None else self._process.send
        self._intake.serve(time.monotonic_ns(), fire)

    def _check_times(self) -> None:
        if self._process is not None:
            if (timeout := self._find_timeout()) is not None:
                self._fail(timeout)
        elif self._restarts.due and self._state[0] != "ENDED":
            self._heard_ns = time.monotonic_ns()
            try:
                self._process = CameraProcess(self.settings)
            except OSError as error:
                self._fail(Fault("process", f"its process cannot be started: {error}"))
        for _ in range(self._intake.expire(time.monotonic_ns())):
            fault = self._liveness.record_missed_trigger()
            if fault is not None and self.opened is not None:
                self._fail(fault)

    def _find_timeout(self) -> Fault | None:
        now_ns = time.monotonic_ns()
        waited_s = (now_ns - self._heard_ns) / 1e9
        if self.opened is None:
            within_s = self.settings.opened_within_s
            return Fault("open", f"it was not opened within {within_s:.0f} s") if waited_s > within_s else None
        if waited_s > HEALTH_WITHIN_SECONDS:
            return Fault("unresponsive", f"its process did not answer within {waited_s:.1f} s")
        return self._liveness.check_silence(now_ns)

    def _handle(self, message: ProcessMessage) -> None:
        match message:
            case Opened():
                self.opened = message
                self._openings += 1
                self._intake.restart()
                self._liveness.begin(message, time.monotonic_ns())
                logger.info("camera %s is open: %s", self.name, message.found)
                needs_good_frame = self._fault is not None and self._fault.reason in ENDED_BY_GOOD_FRAMES_ONLY
                if self.settings.triggered != "free" and not needs_good_frame:
                    self._mark_alive("IDLE")
                elif self._fault is None:
                    self._set_state("LIVE")
                self._end_reconfiguration(None)
            case Frame() | BadFrame():
                self._handle_frame(message)
            case Health(counters):
                self._counters = counters
                is_quiet = self._liveness.quiet_for_ns(time.monotonic_ns()) > IDLE_AFTER_SECONDS * 1e9
                if is_quiet and self._fault is None and self.settings.triggered != "free":
                    self._set_state("IDLE")
            case TriggerResult(number, error):
                self._intake.record_result(number, error)
            case Ended(None):
                self._set_state("ENDED")
                self._close_process("stopped", "the camera has shown its last frame", within_s=0.0)
                self._intake.give_up("the camera has shown its last frame")
            case Ended(str(error), cause):
                self._library_is_missing = cause == "library"
                self._fail(Fault("process" if cause == "process" else "broken" if self.opened else "open", error))

    def _handle_frame(self, item: Frame | BadFrame) -> None:
        missing_ids, fault = self._liveness.missing_ids(item.stamp)
        digest = item.digest if isinstance(item, Frame) else None
        fault = self._liveness.check_frame(item.stamp, digest, time.monotonic_ns()) or fault
        if fault is None:
            self._intake.add(item, missing_ids, self._liveness.taken_ns)
            if isinstance(item, Frame):
                self._mark_alive("LIVE")
        else:
            bad = BadFrame(item.stamp, fault.reason, fault.detail, "failed")
            self._intake.add(item, missing_ids, self._liveness.taken_ns, instead=bad)
            if fault.closes:
                self._fail(fault)

    # Changes of the state.

    def _set_state(self, state: State) -> None:
        if state != self._state[0]:
            self._state = state, time.time_ns()

    def _mark_alive(self, state: State) -> None:
        self._restarts.reset()
        alarm, self._alarm, self._fault = self._alarm, None, None
        self._set_state(state)
        if alarm is not None:
            logger.info("camera %s is back", self.name)
            self._on_alarm(replace(alarm, active=False))

    def _fail(self, fault: Fault) -> None:
        """Report the camera's death unless an alarm is active, close it, and schedule its next opening."""
        self._fault = fault
        if self._alarm is None:
            logger.error("camera %s is dead (%s): %s", self.name, fault.reason, fault.detail)
            self._alarm = CameraAlarm(self.name, fault.reason, fault.detail, True, time.time_ns())
            self._set_state("DEAD")
            self._on_alarm(self._alarm)
        # Where an event has a deadline, a dead camera gets no time to close.
        urgent = self.settings.triggered != "free" or self.settings.deadline_ms is not None
        self._close_process(fault.reason, fault.detail, "failed", 0.0 if urgent else CLOSE_WITHIN_SECONDS)
        self._intake.give_up(f"the camera is dead: {fault.detail}")
        self._restarts.later()
        self._end_reconfiguration(fault.detail)

    def _close_process(
        self,
        reason: str,
        detail: str,
        kind: Literal["dropped", "failed"] = "dropped",
        within_s: float = CLOSE_WITHIN_SECONDS,
        *,
        keep_frames: bool = False,
    ) -> None:
        """Close the camera, and discard the frames that it had announced, unless `keep_frames` is set."""
        process, self._process = self._process, None
        for item in [] if process is None else process.close(within_s):
            if isinstance(item, Frame | BadFrame):
                missing_ids, _ = self._liveness.missing_ids(item.stamp)
                bad = None if keep_frames else BadFrame(item.stamp, reason, detail, kind)
                self._intake.add(item, missing_ids, item.stamp.captured_monotonic_ns, instead=bad)
        self.opened = None
        if self._interrupted:
            self._intake.give_up(detail)
            self._intake.refuse_all("stopping", "the line is stopping")
            self._end_reconfiguration("the line is stopping")
            if self._requested is not None:
                (_, self._reconfigured, _), self._requested = self._requested, None
                self._end_reconfiguration("the line is stopping")

    def _begin_reconfiguration(self) -> None:
        if self._requested is None:
            return
        (self.settings, reconfigured, keep_frames), self._requested = self._requested, None
        # A dead camera may have sent the first frame of its former settings.
        keep_frames = keep_frames and self._alarm is None
        self._close_process("changeover", "the camera was being reconfigured", keep_frames=keep_frames)
        self._intake.give_up("the camera is being reconfigured")
        self._reconfigured = reconfigured
        if self._alarm is not None or self._state[0] == "ENDED":
            self._end_reconfiguration(None)
        else:
            self._restarts.now()
            self._set_state("OPENING")

    def _end_reconfiguration(self, error: str | None) -> None:
        if self._reconfigured is not None:
            (opened, proceed), self._reconfigured = self._reconfigured, None
            opened.set_result(error)
            proceed.wait(HELD_AT_MOST_SECONDS)
