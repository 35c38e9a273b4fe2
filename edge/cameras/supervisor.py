"""Keeps one camera going: opens it, watches it, closes it when it is dead, and opens it again, without end.

One thread grabs, and does all of this meanwhile, so that nothing a camera does delays another one.
"""

import collections
import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from edge.cameras.base import EndOfFrames, Opened
from edge.cameras.channel import Answer, Broken, Ended, Fired
from edge.cameras.host import Arrived, CameraProcess, Died, News
from edge.cameras.liveness import (
    ANSWER_WITHIN_SECONDS,
    ASK_EVERY_SECONDS,
    CAMERA_ANSWERS_WITHIN_SECONDS,
    Fault,
    Liveness,
)
from edge.cameras.settings import CameraSettings
from edge.cameras.state import CameraAlarm, CameraState, State
from edge.cameras.triggering import TriggerAnswer, Triggering, TriggerRequest
from edge.errors import CameraError, HeatlineError, MissingExtraError
from edge.frames import BadFrame, Frame

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.25
MOST_BACKOFF_SECONDS = 5.0
CLOSE_WITHIN_SECONDS = 1.0
"""Then its process is killed: closing a camera that is gone takes seconds."""
TICK_SECONDS = 0.05

ONLY_FRAMES_DISPROVE = ("silent", "frozen", "clock", "stale", "frame_ids")
"""Faults of a camera that answers all the while."""


@dataclass(frozen=True)
class _Change:
    settings: CameraSettings
    opened: Callable[[str | None], None]
    keep_frames: bool


class SupervisedCamera:
    """A camera in a process of its own. One thread opens, grabs and closes; any may interrupt, trigger, change, look.

    Args:
        tell: hears of its death and its return, on the thread that grabs.
    """

    def __init__(self, settings: CameraSettings, tell: Callable[[CameraAlarm], None]) -> None:
        self.name, self.settings, self._tell = settings.name, settings, tell
        self._liveness = Liveness(settings)
        self._triggering = Triggering(settings, self._announce, lambda: self._announced)
        self._items: collections.deque[Frame | BadFrame] = collections.deque()
        self._announced = 0
        """Frames that went through `_items`: whoever counts what `grab` returns counts the same."""
        self._process: CameraProcess | None = None
        self._opened: Opened | None = None
        self._ended = False
        self._openings = 0
        self._backoff_s = 0.0
        self._open_at_ns = self._opening_since_ns = self._left_ns = time.monotonic_ns()
        self._asked_ns: int | None = None
        self._asked_camera = False
        self._answered_ns = 0
        self._fault: Fault | None = None
        self._alarm: CameraAlarm | None = None
        """Told and not over."""
        self._missing_extra = False
        self._wanted_change: _Change | None = None
        self._changing: _Change | None = None
        """Begun, and not opened again."""
        self._interrupted = threading.Event()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._counters: dict[str, int] = {}
        self._state: tuple[State, int] = ("OPENING", time.time_ns())

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
            while self._opened is None and not self._interrupted.is_set():
                if give_up is not None and time.monotonic() > give_up:
                    break
                self._step(TICK_SECONDS)
                if self._fault is not None:
                    raise self._error(self._fault)
        finally:
            self._left_ns = time.monotonic_ns()
        return self._opened

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        """The next frame, or word of frames that were announced and cannot be had; None where nothing came in time.

        Raises:
            EndOfFrames: there will be no more. After `interrupt`, what had been announced comes first.
        """
        give_up_ns = time.monotonic_ns() + round(timeout_s * 1e9)
        self._held_up(time.monotonic_ns() - self._left_ns)
        try:
            while not self._items:
                if self._interrupted.is_set():
                    self._let_go("stopped", "the line stopped before there was room for it")
                    self._refuse_changes()
                    if not self._items:
                        raise EndOfFrames
                    break
                if self._ended:
                    raise EndOfFrames
                left_s = (give_up_ns - time.monotonic_ns()) / 1e9
                if left_s <= 0:
                    return None
                self._step(min(left_s, TICK_SECONDS))
            return self._items.popleft()
        finally:
            self._left_ns = time.monotonic_ns()

    def count_from(self, frames: int) -> None:
        """So many frames are in the ledger already, before its first. To be said before the first `grab`."""
        self._announced += frames

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
            self._triggering.request(request)
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
        (state, since_at_ns), fault = self._state, self._fault
        return CameraState(
            state=state,
            reason=fault.reason if fault else None,
            detail=fault.detail if fault else None,
            since_at_ns=since_at_ns,
            openings=self._openings,
            counters=self._counters,
        )

    # Steps, each on the thread that grabs.

    def _step(self, wait_s: float) -> None:
        """Take in what has come, see to all that is due, and wait a moment where there is nothing."""
        self._begin_change()
        if self.settings.triggered == "hardware":
            self._serve_triggers()  # which of the frames that have come shows a part is known by when it was announced
        came = self._take_next()
        self._tend(time.monotonic_ns(), all_taken=not came)
        if came or self._items:
            return
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._process is not None:
            poll.register(self._process.fileno(), select.POLLIN)
        poll.poll(self._until_due_s(wait_s) * 1e3)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _until_due_s(self, wait_s: float) -> float:
        """How long nothing needs to be done, at most `wait_s`: a part's event must be out in time."""
        until_ns = self._triggering.next_until_ns
        left_s = wait_s if until_ns is None else (until_ns - time.monotonic_ns()) / 1e9
        return max(min(wait_s, left_s), 0.001)

    def _begin_change(self) -> None:
        change, self._wanted_change = self._wanted_change, None
        if change is None:
            return
        # One that was dead has perhaps sent the first frame of its former settings.
        keep_frames = change.keep_frames and self._alarm is None
        self._let_go("changeover", "the camera was being set anew", keep_frames=keep_frames)
        self._triggering.give_up("the camera is being set anew")
        self.settings = change.settings
        if self._alarm is not None or self._ended:
            change.opened(None)
            return
        self._changing = change
        self._backoff_s, self._open_at_ns = 0.0, time.monotonic_ns()
        self._set_state("OPENING")

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
        if self._process is None:
            return False
        try:
            news = self._process.receive()
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            news = Died(f"what it sent cannot be taken: {error}")
        if news is None:
            return False
        self._take(news, time.monotonic_ns())
        return True

    def _serve_triggers(self) -> None:
        process = self._process if self._opened is not None else None
        self._triggering.serve(time.monotonic_ns(), process.fire if process is not None else None)

    def _held_up(self, for_ns: int) -> None:
        """The line itself was busy elsewhere for so long: that is no silence of the camera."""
        self._liveness.held_up(for_ns)
        if self._asked_ns is not None:
            self._asked_ns += for_ns

    def _tend(self, now_ns: int, all_taken: bool) -> None:
        if self._process is None:
            if now_ns >= self._open_at_ns and not self._ended:
                self._start(now_ns)
        elif (fault := self._overdue(now_ns)) is not None:
            self._fail(fault)
        else:
            self._ask(now_ns)
        # A part's frame may lie among what has come and was not taken in yet.
        for _ in range(self._triggering.expire(now_ns) if all_taken else 0):
            if (fault := self._liveness.missed_trigger()) is not None and self._opened is not None:
                self._fail(fault)
        self._serve_triggers()

    def _start(self, now_ns: int) -> None:
        self._asked_ns, self._answered_ns, self._opening_since_ns = None, now_ns, now_ns
        try:
            self._process = CameraProcess(self.settings)
        except OSError as error:
            self._fail(Fault("process", f"its process cannot be started: {error}"))

    def _overdue(self, now_ns: int) -> Fault | None:
        if self._asked_ns is not None:
            waited_s = (now_ns - self._asked_ns) / 1e9
            if waited_s > (CAMERA_ANSWERS_WITHIN_SECONDS if self._asked_camera else ANSWER_WITHIN_SECONDS):
                return Fault("unresponsive", f"its process did not answer within {waited_s:.1f} s")
        if self._opened is None:
            if now_ns - self._opening_since_ns > self.settings.opened_within_s * 1e9:
                return Fault("open", f"it was not opened within {self.settings.opened_within_s:.0f} s")
            return None
        return self._liveness.silence(now_ns)

    def _ask(self, now_ns: int) -> None:
        if self._asked_ns is not None or self._opened is None:
            return
        assert self._process is not None
        # A camera that sends frames need not be asked; one that waits for a trigger shows no other sign of life.
        camera_shows_nothing = self._opened.can_be_asked and self.settings.triggered != "free"
        back_again = camera_shows_nothing and self._fault is not None and not self._only_frames_disprove_it()
        if not back_again and now_ns - self._answered_ns < ASK_EVERY_SECONDS * 1e9:
            return
        self._asked_camera = camera_shows_nothing and (
            back_again or self._liveness.quiet_for_ns(now_ns) > ASK_EVERY_SECONDS * 1e9
        )
        self._asked_ns = now_ns
        self._process.ask(self._asked_camera)

    def _only_frames_disprove_it(self) -> bool:
        """Whether the camera is dead of something that it answers in spite of."""
        return self._fault is not None and self._fault.reason in ONLY_FRAMES_DISPROVE

    def _take(self, news: News, now_ns: int) -> None:
        match news:
            case Opened():
                self._opened = news
                self._openings += 1
                self._triggering.opened_again()
                self._liveness.begin(news, now_ns)
                logger.info("camera %s is open: %s", self.name, news.found)
                if self._fault is None:
                    self._set_state("LIVE" if self.settings.triggered == "free" else "IDLE")
                self._end_change(None)
            case Arrived(frame, digest):
                self._arrived(frame, digest, now_ns)
            case BadFrame():
                self._arrived(news, None, now_ns)
            case Answer(camera_answers, counters):
                self._asked_ns, self._answered_ns, self._counters = None, now_ns, counters
                if camera_answers is False:
                    self._fail(Fault("unreachable", "it does not answer when it is asked"))
                elif camera_answers and not self._only_frames_disprove_it():
                    self._live("IDLE")
            case Fired(number, error):
                self._triggering.fired(number, error)
            case Ended():
                self._ended = True
                self._triggering.give_up("the camera has shown its last frame")
                self._set_state("ENDED")
                self._kill()
            case Broken(error, missing_extra):
                self._missing_extra = missing_extra
                self._fail(Fault("broken" if self._opened else "open", error))
            case Died(detail):
                self._fail(Fault("process", detail))

    def _arrived(self, item: Frame | BadFrame, digest: int | None, now_ns: int) -> None:
        fault = None
        try:
            gap = self._liveness.gap(item.stamp)
        except ValueError as error:
            gap, fault = None, Fault("frame_ids", f"its frame ids cannot be followed: {error}")
        fault = self._liveness.frame(item.stamp, digest, now_ns) or fault
        item = self._triggering.frame(item, gap, self._liveness.taken_ns)
        if fault is not None:
            self._give_up(item, fault.reason, fault.detail, "failed")
            if fault.closes:
                self._fail(fault)
            return
        self._announce(item)
        if isinstance(item, Frame):
            self._live("LIVE")

    def _give_up(self, item: Frame | BadFrame, reason: str, detail: str, kind: Literal["dropped", "failed"]) -> None:
        if isinstance(item, Frame):
            item.release()
            item = BadFrame(item.stamp, reason, detail, kind)
        self._announce(item)

    def _announce(self, item: Frame | BadFrame) -> None:
        self._announced += item.stamp.frames
        self._items.append(item)

    def _fail(self, fault: Fault) -> None:
        """The camera is dead: let go of it, tell, and open it again in a while."""
        self._fault = fault
        if self._alarm is None:
            logger.error("camera %s is dead (%s): %s", self.name, fault.reason, fault.detail)
            self._alarm = CameraAlarm(self.name, fault.reason, fault.detail, True, time.time_ns())
            self._set_state("DEAD")
            self._tell(self._alarm)
        self._let_go(fault.reason, fault.detail, "failed", self._close_within_s())
        self._triggering.give_up(f"the camera is dead: {fault.detail}")
        self._backoff_s = min(max(self._backoff_s * 2, FIRST_BACKOFF_SECONDS), MOST_BACKOFF_SECONDS)
        self._open_at_ns = time.monotonic_ns() + round(self._backoff_s * 1e9)
        self._end_change(fault.detail)

    def _live(self, state: State) -> None:
        """The camera has shown that it is alive."""
        self._backoff_s = 0.0
        alarm, self._alarm, self._fault = self._alarm, None, None
        self._set_state(state)
        if alarm is not None:
            logger.info("camera %s is back", self.name)
            self._tell(replace(alarm, active=False))

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
        if self._process is not None:
            process, self._process, self._opened = self._process, None, None
            for news in process.close(within_s):
                if isinstance(news, Arrived | BadFrame):
                    item = self._left_over(news.frame if isinstance(news, Arrived) else news)
                    if keep_frames:
                        self._announce(item)
                    else:
                        self._give_up(item, reason, detail, kind)
        if self._interrupted.is_set():
            self._triggering.give_up(detail)
            self._triggering.refuse_all("stopping", "the line is stopping")

    def _left_over(self, item: Frame | BadFrame) -> Frame | BadFrame:
        """A frame that came while the camera was being closed, of its part."""
        gap = None
        with contextlib.suppress(ValueError):
            gap = self._liveness.gap(item.stamp)
        return self._triggering.frame(item, gap, item.stamp.captured_monotonic_ns)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _error(self, fault: Fault) -> HeatlineError:
        return (MissingExtraError if self._missing_extra else CameraError)(_sentence(self.name, fault.detail))

    def _set_state(self, state: State) -> None:
        if state != self._state[0]:
            self._state = state, time.time_ns()

    def _wake_up(self) -> None:
        os.eventfd_write(self._wake, 1)


def _sentence(camera: str, detail: str) -> str:
    return detail if detail.startswith("camera ") else f"camera {camera}: {detail}"
