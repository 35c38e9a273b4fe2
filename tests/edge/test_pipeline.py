"""All stages in this process: pixels are released once, a stop reports every frame, and an error ends the pipeline."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.cameras.base import EndOfFrames
from heatline.edge.cameras.child import SPARE_SLOTS
from heatline.edge.errors import EngineError
from heatline.edge.frames import BadFrame, Frame, FrameRule, Stamp
from heatline.edge.geometry.region_of_interest import WHOLE_FRAME, RegionOfInterest
from heatline.edge.inference import Engine
from heatline.edge.inspection.inspector import Inspector, Outcome, PendingFrame, Setup
from heatline.edge.inspection.ledger import JUDGED_WAITING, UNJUDGED_WITH_PIXELS, Lane, Ledger
from heatline.edge.inspection.pipeline import FRAMES_WITH_ENGINE, Camera, Pipeline
from heatline.edge.wire.events import Account
from tests.edge.lines import setup_of
from tests.edge.secured import until
from tests.small_bundle import dark_square, white_frame

WITHIN_SECONDS = 20.0
WHITE, DARK = white_frame((230, 240)), dark_square(white_frame((230, 240)), 50, 50)

Grab = Callable[[Stamp], Frame | BadFrame | None]


def good(stamp: Stamp) -> Frame:
    return Frame(stamp, WHITE, "RGB8")


def defective(stamp: Stamp) -> Frame:
    return Frame(stamp, DARK, "RGB8")


class Scripted:
    """A camera that follows a script, then ends, waits until it is interrupted, or hangs until `let_go` is set."""

    def __init__(self, name: str, *script: Grab, ends: bool = True, stuck: bool = False) -> None:
        self.name, self._script, self._ends, self._frame_id = name, list(script), ends, 0
        self._interrupted, self.shown_all, self.let_go = threading.Event(), threading.Event(), threading.Event()
        if not stuck:
            self.let_go.set()

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        if self._script:
            self._frame_id += 1
            return self._script.pop(0)(Stamp(self.name, self._frame_id))
        self.shown_all.set()
        self.let_go.wait(WITHIN_SECONDS)
        if self._ends:
            raise EndOfFrames
        if self._interrupted.wait(timeout_s):
            raise EndOfFrames
        return None

    def interrupt(self) -> None:
        self._interrupted.set()


class Run:
    """A pipeline with scripted cameras, and its reported outcomes."""

    def __init__(
        self,
        setup: Setup,
        *sources: Scripted,
        report: Callable[[Outcome], None] | None = None,
        lane: Lane | None = None,
    ) -> None:
        self.reported, self.probed = list[Outcome](), threading.Event()
        self.ledger = Ledger({source.name: lane or Lane(2, "block") for source in sources}, setup)
        self.pipeline = Pipeline(
            {source.name: Camera(source, FrameRule()) for source in sources},
            self.ledger,
            report or self.reported.append,
            self.probed.set,
        )

    def run_to_the_end(self) -> list[str]:
        """Run until the cameras end and everything is reported. Return the outcomes as text."""
        self.start()
        until(lambda: self.pipeline.ended)
        assert self.pipeline.stop(WITHIN_SECONDS)
        self.pipeline.check()
        return self.describe_outcomes()

    def start(self) -> None:
        self.pipeline.start()
        self.pipeline.begin()

    def describe_outcomes(self) -> list[str]:
        return [
            each.judgement.verdict if each.judgement else each.unjudged.reason if each.unjudged else "nothing"
            for each in self.reported
        ]


class HeldInspector(Inspector):
    """Holds every frame at `start` or at `finish` until `released` is set."""

    def __init__(self, bundle: Bundle, engine: Engine, at: str) -> None:
        super().__init__(bundle.manifest, engine)
        self._at, self.begun, self.released, self.frames = at, threading.Event(), threading.Event(), 0

    def start(self, frame: Frame, area: RegionOfInterest = WHOLE_FRAME) -> PendingFrame:
        self.frames += 1
        self._hold("start")
        return super().start(frame, area)

    def finish(self, pending: PendingFrame) -> Any:
        self._hold("finish")
        return super().finish(pending)

    def _hold(self, at: str) -> None:
        if at == self._at:
            self.begun.set()
            assert self.released.wait(WITHIN_SECONDS)


class Pixels:
    """Frames whose releases are counted."""

    def __init__(self) -> None:
        self.releases: list[list[str]] = []

    def __call__(self, show: Callable[[Stamp], Frame]) -> Grab:
        """Return a step of a script whose frame is counted."""

        def grab(stamp: Stamp) -> Frame:
            own: list[str] = []
            self.releases.append(own)
            return replace(show(stamp), release=lambda: own.append(threading.current_thread().name))

        return grab


def due(show: Callable[[Stamp], Frame]) -> Callable[[Stamp], Frame]:
    """Return a step whose frame comes too late for its deadline."""
    return lambda stamp: show(replace(stamp, due_monotonic_ns=1))


def resized(stamp: Stamp) -> Frame:
    return Frame(stamp, WHITE[:100], "RGB8")


def grey(stamp: Stamp) -> Frame:
    return Frame(stamp, WHITE[..., 0], "RGB8")


class FailsAtEach(Inspector):
    """The engine fails when frame 3 is started, and when frame 5 is finished."""

    def start(self, frame: Frame, area: RegionOfInterest = WHOLE_FRAME) -> PendingFrame:
        if frame.stamp.frame_id == 3:
            raise EngineError("no answer")
        return super().start(frame, area)

    def finish(self, pending: PendingFrame) -> Any:
        judgement = super().finish(pending)
        if pending.frame.stamp.frame_id == 5:
            raise EngineError("no answer")
        return judgement


@pytest.mark.parametrize(
    ("script", "lane"),
    [
        ([good, defective] * 6, Lane(2, "block")),
        ([good] * 60, Lane(1, "drop_oldest")),
        ([good] * 60, Lane(1, "drop_newest")),
        ([good, due(good)] * 10, Lane(2, "block")),
        ([good, *[resized, grey] * 20, good], Lane(2, "block")),
    ],
    ids=["judged", "drop_oldest", "drop_newest", "deadline", "bad"],
)
def test_each_frames_pixels_are_released_once_after_its_report(
    bundle: Bundle, openvino: Engine, script: list[Callable[[Stamp], Frame]], lane: Lane
) -> None:
    pixels, with_pixels = Pixels(), list[int]()

    def report(outcome: Outcome) -> None:
        if outcome.frame is not None:
            assert pixels.releases[outcome.stamp.number - 1] == [], "they can still be read"
            assert outcome.frame.stamp.number == outcome.stamp.number
            with_pixels.append(outcome.stamp.number)
        assert outcome.unjudged is None or outcome.unjudged.kind == "failed" or outcome.frame is None
        assert outcome.judgement is None or outcome.frame is not None

    inspector = FailsAtEach(bundle.manifest, openvino)
    run = Run(setup_of(bundle, openvino, inspector), Scripted("top", *map(pixels, script)), report=report, lane=lane)
    run.run_to_the_end()
    assert [len(own) for own in pixels.releases] == [1] * len(script)
    if lane.policy == "block" and script[:2] == [good, defective]:
        assert run.ledger.accounts()["top"] == Account(12, 10, {}, {"engine": 2})
    assert {own[0] for place, own in enumerate(pixels.releases, 1) if place in with_pixels} == {"report"}
    (account,) = run.ledger.accounts().values()
    assert account.balanced
    assert account.captured == len(script)


def test_a_camera_has_slots_for_all_frames_that_the_line_may_hold() -> None:
    written, on_its_way, cut, judged, reported = [1] * 5
    waiting = JUDGED_WAITING + UNJUDGED_WITH_PIXELS  # to leave, in the ledger
    assert written + on_its_way + cut + FRAMES_WITH_ENGINE + judged + waiting + reported == SPARE_SLOTS


def test_frames_of_a_camera_that_hangs_at_the_stop_are_still_reported(bundle: Bundle, openvino: Engine) -> None:
    source = Scripted("top", good, defective, good, stuck=True)
    run = Run(setup_of(bundle, openvino), source)
    run.start()
    assert source.shown_all.wait(WITHIN_SECONDS)
    try:
        assert not run.pipeline.stop(1.5)  # not all stages ended in time
    finally:
        source.let_go.set()
    assert run.describe_outcomes() == ["GOOD", "DEFECT", "GOOD"]
    assert run.ledger.accounts() == {"top": Account(captured=3, inspected=3)}


def test_frames_not_inspected_before_the_stops_deadline_are_reported_as_stopped(
    bundle: Bundle, openvino: Engine
) -> None:
    pixels, held = Pixels(), HeldInspector(bundle, openvino, "start")
    source = Scripted("top", *[pixels(good)] * 4, ends=False)
    run = Run(setup_of(bundle, openvino, held), source, lane=Lane(9, "block"))
    run.start()
    assert source.shown_all.wait(WITHIN_SECONDS)
    assert held.begun.wait(WITHIN_SECONDS)

    def go_on_once_all_are_given_up() -> None:
        if not run.ledger.waiting:
            held.released.set()

    run.pipeline.stop(0.3, go_on_once_all_are_given_up)
    held.released.set()
    assert run.pipeline.stop(WITHIN_SECONDS)
    run.pipeline.check()
    assert [len(own) for own in pixels.releases] == [1] * 4
    assert [(outcome.stamp.frame_id, outcome.stamp.frames) for outcome in run.reported] == [(1, 1), (2, 3)]
    assert run.describe_outcomes() == ["GOOD", "stopped"]
    assert run.ledger.accounts() == {"top": Account(4, 1, {"stopped": 3})}


def test_a_failed_probe_is_not_a_sign_of_life_and_another_follows(bundle: Bundle, openvino: Engine) -> None:
    class FailsOnce(HeldInspector):
        def finish(self, pending: PendingFrame) -> Any:
            again = self.begun.is_set()
            answer = super().finish(pending)
            if again:
                return answer
            raise EngineError("it answers nothing that can be used")

    fails = FailsOnce(bundle, openvino, "finish")
    run = Run(setup_of(bundle, openvino, fails), Scripted("top", ends=False))
    run.start()
    for _ in range(5):
        run.pipeline.probe()
    assert fails.begun.wait(WITHIN_SECONDS)
    run.pipeline.probe()
    assert (fails.frames, run.probed.is_set()) == (1, False), "one at a time, and while a stage hangs none returns"
    fails.released.set()

    def probed() -> bool:
        run.pipeline.probe()
        return run.probed.is_set()

    until(probed)
    assert run.pipeline.stop(WITHIN_SECONDS)
    assert fails.frames >= 2
    assert (run.reported, set(run.ledger.accounts())) == ([], {"top"})
