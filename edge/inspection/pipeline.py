"""The stages of inspection: grab, tile and infer, stitch and judge, report. Each stage has a thread of its own.

Every hand-off is bounded. The ledger gets one outcome for each frame, and the `report` stage books it. A probe passes
through all stages after the grabbing and is not counted: its arrival shows that every stage works while no camera sends
a frame.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from heatline.edge.cameras.base import EndOfFrames
from heatline.edge.errors import EngineError, GeometryError, InputError
from heatline.edge.frames import BadFrame, Frame, FrameRule, Stamp
from heatline.edge.geometry import WHOLE_FRAME
from heatline.edge.inference import Engine
from heatline.edge.inspection.inspector import (
    IS_COLLECTED,
    LineSetup,
    Outcome,
    PendingFrame,
    Setup,
    outcome_of,
    outcome_without,
)
from heatline.edge.inspection.ledger import PROBE, Ledger
from heatline.edge.util.process import NamedThread

logger = logging.getLogger(__name__)

GRAB_TIMEOUT_SECONDS = 0.5
AFTER_FAULT_SECONDS = 1.0
JOIN_STEP_SECONDS = 0.05
FRAME_POLL_SECONDS = 0.002
FRAMES_WITH_ENGINE = 2
"""How many frames may be with the engine or wait to be judged: one to infer, one to judge."""
PROBE_GREY, PROBE_PX = 128, 224


class Source(Protocol):
    """A source of one camera's frames, such as `heatline.edge.cameras.supervisor`."""

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        """Return the next frame, or a `BadFrame` for frames that are lost; None if none came in time. EndOfFrames: no
        more will come.
        """

    def logged(self, number: int) -> None:
        """Hear that the item that was grabbed last is logged as in flight, under this number of the ledger."""

    def interrupt(self) -> None:
        """Make `grab` return all announced frames and then raise EndOfFrames."""


@dataclass(frozen=True)
class Camera:
    """A source of frames, and the rule for its frames."""

    source: Source
    rule: FrameRule


class Pipeline:
    """Inspects the frames of all cameras. `start` starts the stages and `begin` the cameras; they run until the cameras
    end or `stop` is called.

    Args:
        cameras: by name.
        ledger: of the same cameras.
        report: called with each outcome, on one thread; those of one camera come in the order of its frames. The
            outcome's pixels are released when it returns.
        probed: called on the same thread when a probe was judged, after all earlier reports.
    """

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        ledger: Ledger,
        report: Callable[[Outcome], None],
        probed: Callable[[], None] = lambda: None,
    ) -> None:
        self._cameras, self._ledger, self._report, self._probed = cameras, ledger, report, probed
        self._started: queue.Queue[tuple[Setup, PendingFrame] | Outcome | None] = queue.Queue(FRAMES_WITH_ENGINE)
        self._probe_pending = self._begun = False
        self._fault: BaseException | None = None
        self._grabbers = [self._thread(f"grab {name}", self._grab, camera) for name, camera in cameras.items()]
        self._stages = [
            self._thread("infer", self._infer),
            self._thread("judge", self._judge),
            self._thread("report", self._report_outcomes),
        ]

    def start(self) -> None:
        """Start all stages but the cameras."""
        for thread in reversed(self._stages):
            thread.start()

    def begin(self) -> None:
        """Start to grab frames from the cameras."""
        for thread in self._grabbers:
            thread.start()
        self._begun = True

    @property
    def ended(self) -> bool:
        """Whether no camera will deliver another frame."""
        return self._begun and not any(thread.is_alive() for thread in self._grabbers)

    def probe(self) -> None:
        """Send a probe tile through all stages after the grabbing, unless one is pending. Call from one thread only."""
        if self._probe_pending:
            return
        self._probe_pending = True
        setup = self._ledger.setup
        side = setup.bundle.manifest.grid.tile_px if isinstance(setup, Setup) else PROBE_PX
        grey = np.full((side, side), PROBE_GREY, np.uint8)
        self._ledger.hand_over(self._ledger.announce(Frame(Stamp(PROBE, None), grey, "Mono8")))

    def check(self) -> None:
        """Raise the exception that ended a stage, if any: a pipeline with a dead stage inspects nothing."""
        if self._fault is not None:
            raise self._fault

    def stop(self, within_seconds: float, meanwhile: Callable[[], None] = lambda: None) -> bool:
        """Stop grabbing, then inspect and report the frames that were grabbed, and call `meanwhile` again and again.
        Return whether all ended in time.
        """
        for camera in self._cameras.values():
            camera.source.interrupt()
        # After a fault, some stages wait for a dead one for ever, so the wait is short.
        seconds = within_seconds if self._fault is None else AFTER_FAULT_SECONDS
        now = time.monotonic()
        # A camera that hangs must not use up the time that the grabbed frames need.
        in_time = not self._begun or _join(self._grabbers, now + seconds / 3, meanwhile)
        self._ledger.close()
        if not _join(self._stages, now + seconds * 2 / 3, meanwhile):
            self._ledger.drop_waiting()
        return _join(self._stages, now + seconds, meanwhile) and in_time

    # The stages, in order.

    def _grab(self, camera: Camera) -> None:
        while True:
            try:
                item = camera.source.grab(GRAB_TIMEOUT_SECONDS)
            except EndOfFrames:
                return
            if item is None:
                continue
            item = self._ledger.announce(item)
            camera.source.logged(item.stamp.number)
            if isinstance(item, BadFrame):
                self._ledger.complete(outcome_without(item))
                continue
            if isinstance(checked := camera.rule.check(item), BadFrame):
                self._ledger.complete(outcome_without(checked, item))
            else:
                self._ledger.hand_over(item)

    def _infer(self) -> None:
        engine: Engine | None = None
        while (taken := self._take(engine)) is not None:
            frame, setup = taken
            needed = setup.verified.engine if isinstance(setup, Setup) else None
            if needed is not engine:
                if engine is not None:
                    engine.drain()  # otherwise its last answers would wait until this engine gets a frame again
                engine = needed
            if not isinstance(setup, Setup):
                # By the judging stage, which must have completed the frames before it.
                self._started.put(Outcome(frame.stamp, unjudged=IS_COLLECTED, frame=frame))
                continue
            pending = self._start(frame, setup)
            if pending is not None:
                # The judging stage may wait for the engine's answers, which only this thread collects.
                while self._started.full() and setup.verified.engine.collect():
                    pass
                self._started.put((setup, pending))
        if engine is not None:
            engine.drain()
        self._started.put(None)

    def _take(self, engine: Engine | None) -> tuple[Frame, LineSetup] | None:
        """Wait for the next frame, and collect the engine's answers meanwhile."""
        while engine is not None and not self._ledger.waiting and engine.collect(FRAME_POLL_SECONDS):
            pass
        return self._ledger.take()

    def _start(self, frame: Frame, setup: Setup) -> PendingFrame | None:
        try:
            return setup.inspector.start(frame, setup.areas.get(frame.stamp.camera, WHOLE_FRAME))
        except GeometryError as error:
            reason, detail = "wrong_size", str(error)
        except InputError as error:
            frame.release()  # such pixels make no picture
            self._ledger.complete(outcome_without(BadFrame(frame.stamp, "wrong_colour", str(error))))
            return None
        except EngineError as error:
            reason, detail = "engine", str(error)
        self._ledger.complete(outcome_without(BadFrame(frame.stamp, reason, detail), frame))
        return None

    def _judge(self) -> None:
        while (started := self._started.get()) is not None:
            self._ledger.complete(started if isinstance(started, Outcome) else _judged(*started))
        self._ledger.finish()

    def _report_outcomes(self) -> None:
        while (outcome := self._ledger.pop()) is not None:
            if outcome.stamp.camera == PROBE:
                self._report_probe(outcome)
            else:
                self._report(outcome)
                outcome.release()
                self._ledger.book(outcome)

    def _report_probe(self, outcome: Outcome) -> None:
        if outcome.is_complete:
            self._probed()
        elif outcome.unjudged is not None and outcome.unjudged.kind == "failed":
            logger.error("a probe was not judged: %s", outcome.unjudged.detail)
        self._probe_pending = False

    def _thread(self, name: str, stage: Callable[..., None], *args: Camera) -> threading.Thread:
        def run() -> None:
            try:
                stage(*args)
            except BaseException as error:
                self._fault = error
                logger.critical("the stage %r broke", name, exc_info=True)

        return NamedThread(name, run)


def _judged(setup: Setup, pending: PendingFrame) -> Outcome:
    stamp = pending.frame.stamp
    try:
        judgement = setup.finish(pending)
    except EngineError as error:
        return outcome_without(BadFrame(stamp, "engine", str(error)), pending.frame)
    if stamp.camera == PROBE:  # a probe shows no product, so its appearance does not count
        return Outcome(stamp, judgement=judgement)
    return outcome_of(stamp, judgement, pending.frame)


def _join(threads: Sequence[threading.Thread], deadline: float, meanwhile: Callable[[], None]) -> bool:
    for thread in threads:
        while thread.is_alive() and (left_s := deadline - time.monotonic()) > 0:
            thread.join(min(left_s, JOIN_STEP_SECONDS))
            meanwhile()
    return not any(thread.is_alive() for thread in threads)
