"""A frame's way through the line PC: grab, tile and infer, stitch and judge, report, each on a thread of its own.

Every hand-off is bounded. Whatever happens to a frame, it leaves through `report`, and only there it is booked.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edge.cameras.base import EndOfFrames, FrameSource
from edge.errors import CameraError, EngineError, InputError
from edge.frames import BadFrame, Frame
from edge.inspection.frame_rule import FrameRule
from edge.inspection.handoff import Handoff, Lane
from edge.inspection.inspector import Inspector, PendingFrame
from edge.inspection.ledger import Ledger
from edge.inspection.outcome import Outcome, Unjudged

logger = logging.getLogger(__name__)

GRAB_TIMEOUT_SECONDS = 0.5
RETRY_AFTER_SECONDS = 1.0
AFTER_FAULT_SECONDS = 1.0
FRAMES_WITH_ENGINE = 2
"""Frames whose tiles may be with the engine or done and not yet judged: one to infer, one to judge."""


@dataclass(frozen=True)
class Camera:
    """A source of frames, how they wait for inspection, and what they must look like."""

    source: FrameSource
    lane: Lane
    rule: FrameRule


class Pipeline:
    """Runs from `start` until its cameras end or `stop` is called.

    Args:
        cameras: by name.
        report: takes each frame's outcome, on one thread, in the order of judging.
    """

    def __init__(
        self, cameras: Mapping[str, Camera], inspector: Inspector, ledger: Ledger, report: Callable[[Outcome], None]
    ) -> None:
        self._cameras, self._inspector, self._ledger, self._report = cameras, inspector, ledger, report
        self._grabbed: Handoff[Frame | BadFrame] = Handoff({name: camera.lane for name, camera in cameras.items()})
        self._started: queue.Queue[PendingFrame | Outcome | None] = queue.Queue(FRAMES_WITH_ENGINE)
        self._finished: queue.Queue[Outcome | None] = queue.Queue(FRAMES_WITH_ENGINE)
        self._stopping = threading.Event()
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
        self._stopping.set()
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
        camera = self._cameras[name]
        lost_camera = False
        while not self._stopping.is_set():
            try:
                item = camera.source.grab(GRAB_TIMEOUT_SECONDS)
            except EndOfFrames:
                return
            except CameraError as error:
                if not lost_camera:
                    logger.error("camera %s is lost: %s", name, error)
                lost_camera = True
                self._stopping.wait(RETRY_AFTER_SECONDS)
                continue
            if item is None:
                continue
            if lost_camera:
                logger.info("camera %s is back", name)
                lost_camera = False
            self._ledger.captured(name)
            lost = self._grabbed.put(name, item)
            if lost is not None:
                self._finished.put(_dropped(lost, "stopped" if lost is item else "overload"))

    def _infer(self) -> None:
        while (item := self._grabbed.get()) is not None:
            if isinstance(item, Frame):
                item = self._cameras[item.stamp.camera].rule.check(item)
            if isinstance(item, BadFrame):
                self._started.put(_failed(item))
                continue
            try:
                self._started.put(self._inspector.start(item))
            except InputError as error:
                self._started.put(_failed(BadFrame(item.stamp, "wrong_colour", str(error))))
            except EngineError as error:
                self._started.put(_failed(BadFrame(item.stamp, "engine", str(error))))
        self._started.put(None)

    def _judge(self) -> None:
        while (item := self._started.get()) is not None:
            if isinstance(item, PendingFrame):
                item = self._judged(item)
            self._finished.put(item)
        self._finished.put(None)

    def _judged(self, pending: PendingFrame) -> Outcome:
        try:
            return Outcome(pending.frame.stamp, judgement=self._inspector.finish(pending))
        except EngineError as error:
            return _failed(BadFrame(pending.frame.stamp, "engine", str(error)))

    def _report_outcomes(self) -> None:
        while (outcome := self._finished.get()) is not None:
            self._report(outcome)
            if outcome.unjudged is None:
                self._ledger.inspected(outcome.stamp.camera)
            elif outcome.unjudged.kind == "dropped":
                self._ledger.dropped(outcome.stamp.camera, outcome.unjudged.reason)
            else:
                self._ledger.failed(outcome.stamp.camera, outcome.unjudged.reason)

    def _thread(self, name: str, stage: Callable[..., None], *args: str) -> threading.Thread:
        def run() -> None:
            try:
                stage(*args)
            except BaseException as error:
                self._fault = error
                logger.critical("the stage %r broke", name, exc_info=True)

        return threading.Thread(target=run, name=name, daemon=True)


def _dropped(item: Frame | BadFrame, reason: Literal["overload", "stopped"]) -> Outcome:
    details = {
        "overload": "newer frames came before there was time to inspect it",
        "stopped": "the line stopped before there was room for it",
    }
    return Outcome(item.stamp, unjudged=Unjudged("dropped", reason, details[reason]))


def _failed(frame: BadFrame) -> Outcome:
    return Outcome(frame.stamp, unjudged=Unjudged("failed", frame.reason, frame.detail))


def _join(threads: Sequence[threading.Thread], give_up: float) -> bool:
    for thread in threads:
        thread.join(max(give_up - time.monotonic(), 0.0))
    return not any(thread.is_alive() for thread in threads)
