"""A frame's way through the line PC: grab, tile and infer, stitch and judge, report, each on a thread of its own.

Every hand-off is bounded. The reorder buffer gets one outcome for each frame. The frame leaves through `report`, which
alone counts it in the ledger. A probe goes the same way from the hand-off on and is not counted: its arrival shows that
every stage works while no camera sends a frame.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from edge.cameras.base import EndOfFrames
from edge.errors import EngineError, GeometryError, InputError
from edge.frames import BadFrame, Frame, Stamp
from edge.geometry.region_of_interest import WHOLE_FRAME
from edge.inference import Engine
from edge.inspection.frame_rule import FrameRule
from edge.inspection.handoff import Handoff, Lane
from edge.inspection.in_flight_log import InFlightLog
from edge.inspection.inspector import PendingFrame
from edge.inspection.ledger import Ledger
from edge.inspection.outcome import Outcome, Unjudged, outcome_of
from edge.inspection.reorder_buffer import ReorderBuffer
from edge.inspection.setup import Setup
from edge.util.threads import NamedThread

logger = logging.getLogger(__name__)

GRAB_TIMEOUT_SECONDS = 0.5
AFTER_FAULT_SECONDS = 1.0
LOOK_AROUND_EVERY_SECONDS = 0.05
LOOK_FOR_FRAMES_EVERY_SECONDS = 0.002
FRAMES_WITH_ENGINE = 2
"""Frames whose tiles may be with the engine or done and not yet judged: one to infer, one to judge."""
PROBE = ""
"""No camera is called so."""
PROBE_GREY = 128


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
    """A source of frames, how they wait for inspection, and what they must look like."""

    source: Source
    lane: Lane
    rule: FrameRule


class Pipeline:
    """Its stages run from `start`, its cameras from `begin`, until these end or `stop` is called.

    Args:
        cameras: by name.
        setup: what frames are inspected by until another one is put in force.
        report: takes each outcome, on one thread; those of one camera in the order of its frames.
        probed: hears on the same thread, after all that was reported before, that a probe was judged.
        in_flight: notes each frame that was announced.
    """

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        setup: Setup,
        ledger: Ledger,
        report: Callable[[Outcome], None],
        probed: Callable[[], None] = lambda: None,
        in_flight: InFlightLog | None = None,
    ) -> None:
        self._cameras, self._ledger, self._report, self._probed = cameras, ledger, report, probed
        lanes = {name: camera.lane for name, camera in cameras.items()}
        self._grabbed: Handoff[Frame] = Handoff({**lanes, PROBE: Lane(1, "drop_newest")})
        self._started: queue.Queue[tuple[Setup, PendingFrame] | None] = queue.Queue(FRAMES_WITH_ENGINE)
        self._reorder_buffer = ReorderBuffer([*cameras, PROBE], FRAMES_WITH_ENGINE, setup)
        self._in_flight = in_flight
        self._probes = 0
        self._probe_is_out = False
        self._begun = False
        self._fault: BaseException | None = None
        self._grabbers = [self._thread(f"grab {name}", self._grab, name) for name in cameras]
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
        """Take frames from the cameras."""
        for thread in self._grabbers:
            thread.start()
        self._begun = True

    @property
    def ended(self) -> bool:
        """Whether no camera will bring another frame."""
        return self._begun and not any(thread.is_alive() for thread in self._grabbers)

    @property
    def setup(self) -> Setup:
        """What frames are inspected by that are taken from their camera now."""
        return self._reorder_buffer.setup

    def put_in_force(self, setup: Setup) -> None:
        """Inspect by this what is taken from its camera from now on; what was taken before is still inspected by the
        setup before.
        """
        self._reorder_buffer.activate(setup)

    def probe(self) -> None:
        """Send a tile the whole way from the hand-off on, unless one is on it already. One thread."""
        if self._probe_is_out:
            return
        self._probes += 1
        side = self.setup.bundle.manifest.grid.tile_px
        probe = Frame(Stamp(PROBE, None, number=self._probes), np.full((side, side), PROBE_GREY, np.uint8), "Mono8")
        self._probe_is_out = True
        self._reorder_buffer.register(probe.stamp)
        lost = self._grabbed.put(PROBE, probe)
        assert lost is None or self._grabbed.closed

    def check(self) -> None:
        """Raise what ended a stage that should have gone on: a pipeline with a dead stage inspects nothing."""
        if self._fault is not None:
            raise self._fault

    def stop(self, within_seconds: float, meanwhile: Callable[[], None] = lambda: None) -> bool:
        """Grab no more, finish what was grabbed, report it; whether all was done in time.

        Args:
            meanwhile: called again and again.
        """
        for camera in self._cameras.values():
            camera.source.interrupt()
        # After a fault, some stages wait for a dead one for ever: they get no more than a moment.
        seconds = within_seconds if self._fault is None else AFTER_FAULT_SECONDS
        now = time.monotonic()
        # A camera that hangs must not take the time that its frames need to be finished.
        in_time = not self._begun or _join(self._grabbers, now + seconds / 3, meanwhile)
        self._grabbed.close()
        if not _join(self._stages, now + seconds * 2 / 3, meanwhile):
            self._give_up_what_waits()
        return _join(self._stages, now + seconds, meanwhile) and in_time

    def _give_up_what_waits(self) -> None:
        while (frame := self._grabbed.get()) is not None:
            frame.release()
            self._reorder_buffer.complete(_dropped(frame, "stopped"))

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
            item = replace(item, stamp=item.stamp.with_number(number))
            if self._in_flight is not None:
                self._in_flight.announced(item.stamp)
            self._reorder_buffer.register(item.stamp)
            if isinstance(item, Frame):
                item = self._checked(item)
            if isinstance(item, BadFrame):
                self._reorder_buffer.complete(_unjudged(item))
                continue
            lost = self._grabbed.put(name, item)
            if lost is not None:
                lost.release()
                self._reorder_buffer.complete(_dropped(lost, "stopped" if self._grabbed.closed else "overload"))

    def _checked(self, frame: Frame) -> Frame | BadFrame:
        checked = self._cameras[frame.stamp.camera].rule.check(frame)
        if isinstance(checked, BadFrame):
            frame.release()
        return checked

    def _infer(self) -> None:
        engine: Engine | None = None
        while (frame := self._next_frame(engine)) is not None:
            setup = self._reorder_buffer.acquire_setup(frame.stamp)
            if setup is not None and setup.verified.engine is not engine:
                if engine is not None:
                    engine.drain()  # else its last answers would lie there until a frame comes back to it
                engine = setup.verified.engine
            pending = None if setup is None else self._start(frame, setup)
            frame.release()
            if setup is None:
                continue
            if pending is None:
                self._reorder_buffer.release_setup(setup)
            else:
                self._hand_on((setup, pending))
        if engine is not None:
            engine.drain()
        self._started.put(None)

    def _next_frame(self, engine: Engine | None) -> Frame | None:
        """The next frame; while there is none, take in what the engine answers, and look again and again."""
        while engine is not None and not self._grabbed.waiting() and engine.collect(LOOK_FOR_FRAMES_EVERY_SECONDS):
            pass
        return self._grabbed.get()

    def _hand_on(self, started: tuple[Setup, PendingFrame]) -> None:
        """Wait for room; meanwhile take in what the engine answers, or those who make room might wait for that."""
        engine = started[0].verified.engine
        while self._started.full() and engine.collect():
            pass
        self._started.put(started)

    def _start(self, frame: Frame, setup: Setup) -> PendingFrame | None:
        try:
            return setup.inspector.start(frame, setup.areas.get(frame.stamp.camera, WHOLE_FRAME))
        except GeometryError as error:
            reason, detail = "wrong_size", str(error)
        except InputError as error:
            reason, detail = "wrong_colour", str(error)
        except EngineError as error:
            reason, detail = "engine", str(error)
        self._reorder_buffer.complete(_unjudged(BadFrame(frame.stamp, reason, detail)))
        return None

    def _judge(self) -> None:
        while (started := self._started.get()) is not None:
            self._reorder_buffer.complete(_judged(*started))
            self._reorder_buffer.release_setup(started[0])
        self._reorder_buffer.close()

    def _report_outcomes(self) -> None:
        while (outcome := self._reorder_buffer.pop()) is not None:
            if outcome.stamp.camera == PROBE:
                self._report_probe(outcome)
                continue
            self._report(outcome)
            camera, frames = outcome.stamp.camera, outcome.stamp.frames
            if outcome.unjudged is None:
                self._ledger.inspected(camera)
            elif outcome.unjudged.kind == "dropped":
                self._ledger.dropped(camera, outcome.unjudged.reason, frames)
            else:
                self._ledger.failed(camera, outcome.unjudged.reason, frames)

    def _report_probe(self, outcome: Outcome) -> None:
        if outcome.unjudged is None:
            self._probed()
        elif outcome.unjudged.kind == "failed":
            logger.error("a probe was not judged: %s", outcome.unjudged.detail)
        self._probe_is_out = False

    def _thread(self, name: str, stage: Callable[..., None], *args: str) -> threading.Thread:
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
        judgement = setup.inspector.finish(pending)
    except EngineError as error:
        return _unjudged(BadFrame(stamp, "engine", str(error)))
    if stamp.camera == PROBE:  # it shows no product
        return Outcome(stamp, judgement=judgement)
    return outcome_of(stamp, judgement)


def _dropped(frame: Frame, reason: Literal["overload", "stopped"]) -> Outcome:
    details = {
        "overload": "frames came faster than there was time to inspect them",
        "stopped": "the line stopped before there was room for it",
    }
    return Outcome(frame.stamp, unjudged=Unjudged("dropped", reason, details[reason]))


def _unjudged(bad: BadFrame) -> Outcome:
    return Outcome(bad.stamp, unjudged=Unjudged(bad.kind, bad.reason, bad.detail))


def _join(threads: Sequence[threading.Thread], give_up: float, meanwhile: Callable[[], None]) -> bool:
    for thread in threads:
        while thread.is_alive() and (left_s := give_up - time.monotonic()) > 0:
            thread.join(min(left_s, LOOK_AROUND_EVERY_SECONDS))
            meanwhile()
    return not any(thread.is_alive() for thread in threads)
