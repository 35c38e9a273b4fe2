"""Keeps one camera going: opens it, watches it, closes it when it is dead, and opens it again, without end.

One thread grabs, and does all of this meanwhile, so that nothing a camera does delays another one.
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

from edge.cameras.base import EndOfFrames, Opened
from edge.cameras.channel import Answer, Broken, Ended, Fired
from edge.cameras.health import Health
from edge.cameras.host import Arrived, Died, News
from edge.cameras.intake import Intake
from edge.cameras.liveness import Fault
from edge.cameras.restarts import RestartedProcess
from edge.cameras.settings import CameraSettings
from edge.cameras.state import CameraAlarm, CameraState, State
from edge.cameras.triggering import TriggerAnswer, TriggerRequest
from edge.errors import CameraError, HeatlineError, MissingExtraError
from edge.frames import BadFrame, Frame

logger = logging.getLogger(__name__)

CLOSE_WITHIN_SECONDS = 1.0
"""Then its process is killed: closing a camera that is gone takes seconds."""
TICK_SECONDS = 0.05


@dataclass(frozen=True)
class _Change:
    settings: CameraSettings
    opened: Callable[[str | None], None]
    keep_frames: bool


class SupervisedCamera:
    """A camera in a process of its own. One thread opens, grabs and closes; any may interrupt, trigger, change, look.

    Args:
        tell: hears of its death and its return, on the thread that grabs.
        captured: how many of its frames the ledger has; asked on the thread that grabs.
    """

    def __init__(
        self, settings: CameraSettings, tell: Callable[[CameraAlarm], None], captured: Callable[[], int] = lambda: 0
    ) -> None:
        self.name, self.settings = settings.name, settings
        self._process = RestartedProcess()
        self._intake = Intake(settings, captured)
        self._health = Health(settings.name, tell)
        self._ended = self._missing_extra = False
        self._left_ns = time.monotonic_ns()
        """When the thread that grabs was here last."""
        self._wanted_change: _Change | None = None
        self._changing: _Change | None = None
        """Begun, and not opened again."""
        self._interrupted = threading.Event()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def open(self, within_s: float | None = None) -> Opened | None:
        """Open it, once; `grab` goes on trying where this fails.

        Args:
            within_s: None is returned where it takes longer, or where it is interrupted.
        Raises:
            CameraError: it is not there or cannot be used.
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
            self._left_ns = time.monotonic_ns()
        return self._process.opened

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        """The next frame, or word of frames that were announced and cannot be had; None where nothing came in time.

        Raises:
            EndOfFrames: there will be no more. After `interrupt`, what had been announced comes first.
        """
        give_up_ns = time.monotonic_ns() + round(timeout_s * 1e9)
        self._held_up(time.monotonic_ns() - self._left_ns)
        try:
            while not self._intake.waiting:
                if self._interrupted.is_set():
                    self._let_go("stopped", "the line stopped before there was room for it")
                    self._refuse_changes()
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
            self._left_ns = time.monotonic_ns()

    def interrupt(self) -> None:
        """Have `grab` let go of the camera and end."""
        self._interrupted.set()
        self._wake_up()

    def close(self) -> None:
        """Let go of the camera and of all that waits for it."""
        self._interrupted.set()
        self._let_go("stopped", "the line stopped")
        self._refuse_changes()
        os.close(self._wake)

    def trigger(self, request: TriggerRequest) -> None:
        """Have a frame taken of a part, or say whose the next one is; the answer comes later, on another thread."""
        if self._interrupted.is_set():
            request.answer(TriggerAnswer(refused="stopping", detail="the line is stopping"))
        elif self._ended:
            request.answer(TriggerAnswer(refused="camera_dead", detail=f"camera {self.name} has shown its last frame"))
        else:
            self._intake.triggering.request(request)
            self._wake_up()

    def change(
        self, settings: CameraSettings, opened: Callable[[str | None], None], *, keep_frames: bool = True
    ) -> None:
        """Close it and open it with other settings of the camera itself, such as its exposure. One change at a time.

        Args:
            opened: hears None once it is open, else why it is not, on the thread that grabs: it brings no frame before
                this returns. Of a camera that is dead it hears at once: that is opened with these when it can be.
            keep_frames: whether frames that it had announced are still brought; else they are dropped as `changeover`.
        """
        if self._interrupted.is_set():
            opened("the line is stopping")
            return
        self._wanted_change = _Change(settings, opened, keep_frames)
        self._wake_up()

    def state(self) -> CameraState:
        """How it is now."""
        return self._health.state(self._process.openings, self._process.counters)

    # Steps, each on the thread that grabs.

    def _step(self, wait_s: float) -> None:
        """Take in what has come, see to all that is due, and wait a moment where there is nothing."""
        self._begin_change()
        if self.settings.triggered == "hardware":
            self._serve_triggers()  # which of the frames that have come shows a part is known by when it was announced
        came = self._take_next()
        self._tend(time.monotonic_ns(), all_taken=not came)
        if came or self._intake.waiting:
            return
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._process.running is not None:
            poll.register(self._process.running.fileno(), select.POLLIN)
        poll.poll(self._until_due_s(wait_s) * 1e3)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _until_due_s(self, wait_s: float) -> float:
        """How long nothing needs to be done, at most `wait_s`: a part's event must be out in time."""
        until_ns = self._intake.triggering.next_until_ns
        left_s = wait_s if until_ns is None else (until_ns - time.monotonic_ns()) / 1e9
        return max(min(wait_s, left_s), 0.001)

    def _begin_change(self) -> None:
        change, self._wanted_change = self._wanted_change, None
        if change is None:
            return
        # One that was dead has perhaps sent the first frame of its former settings.
        keep_frames = change.keep_frames and not self._health.is_dead
        self._let_go("changeover", "the camera was being set anew", keep_frames=keep_frames)
        self._intake.triggering.give_up("the camera is being set anew")
        self.settings = change.settings
        if self._health.is_dead or self._ended:
            change.opened(None)
            return
        self._changing = change
        self._process.start_now()
        self._health.set("OPENING")

    def _end_change(self, error: str | None) -> None:
        change, self._changing = self._changing, None
        if change is not None:
            began_ns = time.monotonic_ns()
            change.opened(error)
            self._held_up(time.monotonic_ns() - began_ns)

    def _refuse_changes(self) -> None:
        changes, self._changing, self._wanted_change = (self._changing, self._wanted_change), None, None
        for change in changes:
            if change is not None:
                change.opened("the line is stopping")

    def _take_next(self) -> bool:
        """Take in one piece of news; whether there was any."""
        news = self._process.receive()
        if news is not None:
            self._take(news, time.monotonic_ns())
        return news is not None

    def _serve_triggers(self) -> None:
        self._intake.triggering.serve(time.monotonic_ns(), self._process.fire)

    def _held_up(self, for_ns: int) -> None:
        """The line itself was busy elsewhere for so long: that is no silence of the camera."""
        self._intake.liveness.held_up(for_ns)
        self._process.held_up(for_ns)

    def _tend(self, now_ns: int, all_taken: bool) -> None:
        if self._process.running is None:
            if self._process.is_due(now_ns) and not self._ended:
                fault = self._process.start(self.settings, now_ns)
                if fault is not None:
                    self._fail(fault)
        elif (fault := self._overdue(now_ns)) is not None:
            self._fail(fault)
        else:
            self._ask(now_ns)
        # A part's frame may lie among what has come and was not taken in yet.
        for _ in range(self._intake.triggering.expire(now_ns) if all_taken else 0):
            if (fault := self._intake.liveness.missed_trigger()) is not None and self._process.opened is not None:
                self._fail(fault)
        self._serve_triggers()

    def _overdue(self, now_ns: int) -> Fault | None:
        fault = self._process.overdue(self.settings.opened_within_s, now_ns)
        if fault is None and self._process.opened is not None:
            fault = self._intake.liveness.silence(now_ns)
        return fault

    def _ask(self, now_ns: int) -> None:
        opened, health = self._process.opened, self._health
        if opened is None:
            return
        # A camera that sends frames need not be asked; one that waits for a trigger shows no other sign of life.
        shows_nothing = opened.can_be_asked and self.settings.triggered != "free"
        back_again = shows_nothing and health.fault is not None and not health.only_frames_disprove_it
        quiet_ns = self._intake.liveness.quiet_for_ns(now_ns) if shows_nothing else None
        self._process.ask(now_ns, quiet_ns, at_once=back_again)

    def _take(self, news: News, now_ns: int) -> None:
        match news:
            case Opened():
                self._process.is_open(news)
                self._intake.triggering.opened_again()
                self._intake.liveness.begin(news, now_ns)
                logger.info("camera %s is open: %s", self.name, news.found)
                if self._health.fault is None:
                    self._health.set("LIVE" if self.settings.triggered == "free" else "IDLE")
                self._end_change(None)
            case Arrived(frame, digest):
                self._arrived(frame, digest, now_ns)
            case BadFrame():
                self._arrived(news, None, now_ns)
            case Answer(camera_answers, counters):
                self._process.answered(counters, now_ns)
                if camera_answers is False:
                    self._fail(Fault("unreachable", "it does not answer when it is asked"))
                elif camera_answers and not self._health.only_frames_disprove_it:
                    self._live("IDLE")
            case Fired(number, error):
                self._intake.triggering.fired(number, error)
            case Ended():
                self._ended = True
                self._intake.triggering.give_up("the camera has shown its last frame")
                self._health.set("ENDED")
                self._process.kill()
            case Broken(error, missing_extra):
                self._missing_extra = missing_extra
                self._fail(Fault("broken" if self._process.opened else "open", error))
            case Died(detail):
                self._fail(Fault("process", detail))

    def _arrived(self, item: Frame | BadFrame, digest: int | None, now_ns: int) -> None:
        fault = self._intake.take(item, digest, now_ns)
        if fault is not None:
            if fault.closes:
                self._fail(fault)
        elif isinstance(item, Frame):
            self._live("LIVE")

    def _fail(self, fault: Fault) -> None:
        """The camera is dead: let go of it, tell, and open it again in a while."""
        self._health.die(fault)
        self._let_go(fault.reason, fault.detail, "failed", self._close_within_s())
        self._intake.triggering.give_up(f"the camera is dead: {fault.detail}")
        self._process.start_later()
        self._end_change(fault.detail)

    def _live(self, state: State) -> None:
        """The camera has shown that it is alive."""
        self._process.steady()
        self._health.live(state)

    def _close_within_s(self) -> float:
        """How long a camera that is dead may take to be let go of; nothing must wait that has a time to be told by."""
        urgent = self.settings.triggered != "free" or self.settings.deadline_ms is not None
        return 0.0 if urgent else CLOSE_WITHIN_SECONDS

    def _let_go(
        self,
        reason: str,
        detail: str,
        kind: Literal["dropped", "failed"] = "dropped",
        within_s: float = CLOSE_WITHIN_SECONDS,
        *,
        keep_frames: bool = False,
    ) -> None:
        """Close the camera; frames that it had announced, and parts that wait for one, are given up for this reason, or
        its frames are kept.
        """
        for news in self._process.close(within_s):
            if isinstance(news, Arrived | BadFrame):
                item = news.frame if isinstance(news, Arrived) else news
                self._intake.take_left_over(item, reason, detail, kind, keep=keep_frames)
        if self._interrupted.is_set():
            self._intake.triggering.give_up(detail)
            self._intake.triggering.refuse_all("stopping", "the line is stopping")

    def _error(self, fault: Fault) -> HeatlineError:
        return (MissingExtraError if self._missing_extra else CameraError)(_sentence(self.name, fault.detail))

    def _wake_up(self) -> None:
        os.eventfd_write(self._wake, 1)


def _sentence(camera: str, detail: str) -> str:
    return detail if detail.startswith("camera ") else f"camera {camera}: {detail}"
