"""A frame's way through the line PC: grab, tile and infer, stitch and judge, report, each on a thread of its own.

Every hand-off is bounded. Whatever happens to a frame, it is settled in the docket and leaves through `report`, and
only there it is booked.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from edge.cameras.base import EndOfFrames
from edge.errors import EngineError, GeometryError, InputError
from edge.frames import BadFrame, Frame
from edge.geometry.area_of_interest import WHOLE_FRAME, AreaOfInterest
from edge.inspection.docket import Docket
from edge.inspection.flight_recorder import FlightRecorder
from edge.inspection.frame_rule import FrameRule
from edge.inspection.handoff import Handoff, Lane
from edge.inspection.inspector import Inspector, PendingFrame
from edge.inspection.ledger import Ledger
from edge.inspection.outcome import Outcome, Unjudged

logger = logging.getLogger(__name__)

GRAB_TIMEOUT_SECONDS = 0.5
AFTER_FAULT_SECONDS = 1.0
FRAMES_WITH_ENGINE = 2
"""Frames whose tiles may be with the engine or done and not yet judged: one to infer, one to judge."""


class Source(Protocol):
    """Where a camera's frames come from; `edge.cameras.supervisor` keeps it going."""

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        """The next frame, or word of frames that cannot be had; None where nothing came in time.

        Raises:
            EndOfFrames: there will be no more.
        """

    def interrupt(self) -> None:
        """Have `grab` tell of all frames that had been announced, and then end by EndOfFrames."""


@dataclass(frozen=True)
class Camera:
    """A source of frames, how they wait for inspection, what they must look like, and where to look."""

    source: Source
    lane: Lane
    rule: FrameRule
    area: AreaOfInterest = WHOLE_FRAME


class Pipeline:
    """Runs from `start` until its cameras end or `stop` is called.

    Args:
        cameras: by name.
        report: takes each outcome, on one thread; those of one camera in the order of its frames.
        recorder: notes what is in flight.
    """

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        inspector: Inspector,
        ledger: Ledger,
        report: Callable[[Outcome], None],
        recorder: FlightRecorder | None = None,
    ) -> None:
        self._recorder = recorder
        self._cameras, self._inspector, self._ledger, self._report = cameras, inspector, ledger, report
        self._grabbed: Handoff[Frame] = Handoff({name: camera.lane for name, camera in cameras.items()})
        self._started: queue.Queue[PendingFrame | None] = queue.Queue(FRAMES_WITH_ENGINE)
        self._docket = Docket(cameras, FRAMES_WITH_ENGINE)
        self._fault: BaseException | None = None
        self._grabbers = [self._thread(f"grab {name}", self._grab, name) for name in cameras]
        self._stages = [
            self._thread("infer", self._infer),
            self._thread("judge", self._judge),
            self._thread("report", self._report_outcomes),
        ]

    def start(self) -> None:
        """Start all stages, the last first."""
        for thread in [*reversed(self._stages), *self._grabbers]:
            thread.start()

    @property
    def ended(self) -> bool:
        """Whether no camera will bring another frame."""
        return not any(thread.is_alive() for thread in self._grabbers)

    def check(self) -> None:
        """Raise what ended a stage that should have gone on: a pipeline with a dead stage inspects nothing."""
        if self._fault is not None:
            raise self._fault

    def stop(self, within_seconds: float) -> bool:
        """Grab no more, finish what was grabbed, report it; whether all was done in time."""
        for camera in self._cameras.values():
            camera.source.interrupt()
        # After a fault, some stages wait for a dead one for ever: they get no more than a moment.
        seconds = within_seconds if self._fault is None else AFTER_FAULT_SECONDS
        now = time.monotonic()
        # A camera that hangs must not take the time that its frames need to be finished.
        in_time = _join(self._grabbers, now + seconds / 3)
        self._grabbed.close()
        return _join(self._stages, now + seconds) and in_time

    # Stages, in the order of a frame's way.

    def _grab(self, name: str) -> None:
        source = self._cameras[name].source
        while True:
            try:
                item = source.grab(GRAB_TIMEOUT_SECONDS)
            except EndOfFrames:
                return
            if item is None:
                continue
            number = self._ledger.captured(name, item.stamp.frames)
            item = replace(item, stamp=item.stamp.numbered(number))
            if self._recorder is not None:
                self._recorder.announced(item.stamp)
            self._docket.admit(item.stamp)
            if isinstance(item, Frame):
                item = self._checked(item)
            if isinstance(item, BadFrame):
                self._docket.settle(_unjudged(item))
                continue
            lost = self._grabbed.put(name, item)
            if lost is not None:
                lost.release()
                self._docket.settle(_dropped(lost, "stopped" if self._grabbed.closed else "overload"))

    def _checked(self, frame: Frame) -> Frame | BadFrame:
        checked = self._cameras[frame.stamp.camera].rule.check(frame)
        if isinstance(checked, BadFrame):
            frame.release()
        return checked

    def _infer(self) -> None:
        while (frame := self._grabbed.get()) is not None:
            pending = self._start(frame)
            frame.release()
            if pending is not None:
                self._started.put(pending)
        self._started.put(None)

    def _start(self, frame: Frame) -> PendingFrame | None:
        if not self._docket.is_open(frame.stamp):
            return None  # too late: its tiles would only delay others
        try:
            return self._inspector.start(frame, self._cameras[frame.stamp.camera].area)
        except GeometryError as error:
            reason, detail = "wrong_size", str(error)
        except InputError as error:
            reason, detail = "wrong_colour", str(error)
        except EngineError as error:
            reason, detail = "engine", str(error)
        self._docket.settle(_unjudged(BadFrame(frame.stamp, reason, detail)))
        return None

    def _judge(self) -> None:
        while (pending := self._started.get()) is not None:
            self._docket.settle(self._judged(pending))
        self._docket.close()

    def _judged(self, pending: PendingFrame) -> Outcome:
        try:
            return Outcome(pending.frame.stamp, judgement=self._inspector.finish(pending))
        except EngineError as error:
            return _unjudged(BadFrame(pending.frame.stamp, "engine", str(error)))

    def _report_outcomes(self) -> None:
        while (outcome := self._docket.take()) is not None:
            self._report(outcome)
            if self._recorder is not None:
                self._recorder.told(outcome.stamp)
            camera, frames = outcome.stamp.camera, outcome.stamp.frames
            if outcome.unjudged is None:
                self._ledger.inspected(camera)
            elif outcome.unjudged.kind == "dropped":
                self._ledger.dropped(camera, outcome.unjudged.reason, frames)
            else:
                self._ledger.failed(camera, outcome.unjudged.reason, frames)

    def _thread(self, name: str, stage: Callable[..., None], *args: str) -> threading.Thread:
        def run() -> None:
            try:
                stage(*args)
            except BaseException as error:
                self._fault = error
                logger.critical("the stage %r broke", name, exc_info=True)

        return threading.Thread(target=run, name=name, daemon=True)


def _dropped(frame: Frame, reason: Literal["overload", "stopped"]) -> Outcome:
    details = {
        "overload": "frames came faster than there was time to inspect them",
        "stopped": "the line stopped before there was room for it",
    }
    return Outcome(frame.stamp, unjudged=Unjudged("dropped", reason, details[reason]))


def _unjudged(bad: BadFrame) -> Outcome:
    return Outcome(bad.stamp, unjudged=Unjudged(bad.kind, bad.reason, bad.detail))


def _join(threads: Sequence[threading.Thread], give_up: float) -> bool:
    for thread in threads:
        thread.join(max(give_up - time.monotonic(), 0.0))
    return not any(thread.is_alive() for thread in threads)
