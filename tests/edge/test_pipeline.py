"""All stages in this process: every frame is reported, and an error in a stage ends the pipeline."""

import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.bundle.appearance import Appearance, ImageStatistics
from heatline.edge.bundle.plausibility import fit_plausibility
from heatline.edge.cameras.base import EndOfFrames
from heatline.edge.cameras.child import SPARE_SLOTS
from heatline.edge.errors import EngineError
from heatline.edge.frames import BadFrame, Frame, FrameRule, Stamp
from heatline.edge.geometry.region_of_interest import WHOLE_FRAME, RegionOfInterest
from heatline.edge.inference import Engine
from heatline.edge.inspection.inspector import Inspector, Outcome, PendingFrame, Setup
from heatline.edge.inspection.ledger import JUDGED_WAITING, UNJUDGED_WITH_PIXELS, Lane, Ledger
from heatline.edge.inspection.pipeline import FRAMES_WITH_ENGINE, Camera, Pipeline
from heatline.edge.inspection.verdict import Thresholds
from heatline.edge.wire.events import Account
from tests.edge.secured import until
from tests.edge.setups import setup_of
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
        for thread in self.pipeline._grabbers:
            thread.join(WITHIN_SECONDS)
        assert self.pipeline.ended
        assert self.pipeline.stop(WITHIN_SECONDS)
        self.pipeline.check()
        return self.describe_outcomes()

    def start(self) -> None:
        self.pipeline.start()
        self.pipeline.begin()

    def describe_outcomes(self) -> list[str]:
        return [
            outcome.judgement.verdict
            if outcome.judgement
            else f"{outcome.unjudged.kind}.{outcome.unjudged.reason}"
            if outcome.unjudged
            else "nothing"
            for outcome in self.reported
        ]


@pytest.fixture
def setup(bundle: Bundle, openvino: Engine) -> Setup:
    return setup_of(bundle, openvino)


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


def test_frames_are_reported_in_order_and_the_ledger_balances(setup: Setup) -> None:
    run = Run(setup, Scripted("top", good, defective, good, good, defective))
    assert run.run_to_the_end() == ["GOOD", "DEFECT", "GOOD", "GOOD", "DEFECT"]
    assert [outcome.stamp.frame_id for outcome in run.reported] == [1, 2, 3, 4, 5]
    assert run.ledger.accounts() == {"top": Account(captured=5, inspected=5)}


def test_a_bad_frame_is_reported_with_its_reason(setup: Setup) -> None:
    run = Run(
        setup,
        Scripted(
            "top",
            good,
            lambda _: None,  # returns None, which is not a frame
            lambda stamp: BadFrame(stamp, "unreadable", "cut off"),
            lambda stamp: Frame(stamp, WHITE[:100], "RGB8"),
            lambda stamp: Frame(stamp, WHITE[..., 0], "Mono8"),
            lambda stamp: Frame(stamp, WHITE[..., 0], "RGB8"),  # a grey image with a colour format
            lambda stamp: Frame(stamp, WHITE.astype(np.uint16), "RGB8"),
            good,
        ),
    )
    expected = ["GOOD", "failed.unreadable", "failed.wrong_size", *["failed.wrong_colour"] * 3, "GOOD"]
    assert run.run_to_the_end() == expected
    (account,) = run.ledger.accounts().values()
    assert account == Account(7, 2, {}, {"unreadable": 1, "wrong_size": 1, "wrong_colour": 3}, 0)


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
    assert {own[0] for place, own in enumerate(pixels.releases, 1) if place in with_pixels} == {"report"}
    (account,) = run.ledger.accounts().values()
    assert account.balanced
    assert account.captured == len(script)


def test_pixels_of_frames_that_a_stop_drops_are_released(bundle: Bundle, openvino: Engine) -> None:
    pixels, held = Pixels(), HeldInspector(bundle, openvino, "start")
    source = Scripted("top", *[pixels(good)] * 8, ends=False)
    run = Run(setup_of(bundle, openvino, held), source, lane=Lane(9, "block"))
    run.start()
    assert source.shown_all.wait(WITHIN_SECONDS)
    assert held.begun.wait(WITHIN_SECONDS)
    run.pipeline.stop(0.1, lambda: held.released.set() if not run.ledger.waiting else None)
    held.released.set()
    for stage in run.pipeline._stages:
        stage.join(WITHIN_SECONDS)
    assert [len(own) for own in pixels.releases] == [1] * 8
    assert run.ledger.accounts()["top"] == Account(8, 1, {"stopped": 7})


def test_a_camera_has_slots_for_all_frames_that_the_line_may_hold() -> None:
    written, on_its_way, cut, judged, reported = [1] * 5
    waiting = JUDGED_WAITING + UNJUDGED_WITH_PIXELS  # to leave, in the ledger
    assert written + on_its_way + cut + FRAMES_WITH_ENGINE + judged + waiting + reported == SPARE_SLOTS


def test_an_engine_failure_affects_only_one_frames_verdict(bundle: Bundle, openvino: Engine) -> None:
    class Fails(Inspector):
        def finish(self, pending: PendingFrame) -> Any:
            judgement = super().finish(pending)
            if pending.frame.stamp.frame_id == 2:
                raise EngineError("the engine failed")
            return judgement

        def start(self, frame: Frame, area: RegionOfInterest = WHOLE_FRAME) -> PendingFrame:
            if frame.stamp.frame_id == 4:
                raise EngineError("no answer")
            return super().start(frame, area)

    run = Run(setup_of(bundle, openvino, Fails(bundle.manifest, openvino)), Scripted("top", *[good] * 5))
    assert run.run_to_the_end() == ["GOOD", "failed.engine", "GOOD", "failed.engine", "GOOD"]
    assert run.ledger.accounts()["top"].failed == {"engine": 2}


def test_frames_of_a_camera_that_hangs_at_the_stop_are_still_reported(setup: Setup) -> None:
    source = Scripted("top", good, defective, good, stuck=True)
    run = Run(setup, source)
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
    source, held = Scripted("top", *[good] * 4, ends=False), HeldInspector(bundle, openvino, "start")
    run = Run(setup_of(bundle, openvino, held), source, lane=Lane(9, "block"))
    run.start()
    assert source.shown_all.wait(WITHIN_SECONDS)
    assert held.begun.wait(WITHIN_SECONDS)

    def go_on_once_all_are_given_up() -> None:
        if not run.ledger.waiting:
            held.released.set()

    run.pipeline.stop(0.3, go_on_once_all_are_given_up)
    held.released.set()
    for stage in run.pipeline._stages:
        stage.join(WITHIN_SECONDS)
    run.pipeline.check()
    assert [(outcome.stamp.frame_id, outcome.stamp.frames) for outcome in run.reported] == [(1, 1), (2, 3)]
    assert run.describe_outcomes() == ["GOOD", "dropped.stopped"]
    assert run.ledger.accounts() == {"top": Account(4, 1, {"stopped": 3})}


def test_each_dropped_frame_of_a_fast_camera_is_reported(setup: Setup) -> None:
    run = Run(setup, Scripted("top", *[good] * 200), lane=Lane(1, "drop_oldest"))
    outcomes = run.run_to_the_end()
    reported = 0
    for outcome in run.reported:
        assert outcome.stamp.frame_id == outcome.stamp.number == reported + 1, "in order and without gaps"
        reported += outcome.stamp.frames
        assert outcome.stamp.last_frame_id in (None, reported)
    assert reported == 200
    judged = outcomes.count("GOOD")
    dropped = sum(outcome.stamp.frames for outcome in run.reported if outcome.unjudged)
    assert dropped > 0, "a camera that shows 200 frames at once outruns every engine"
    assert judged > 0
    assert run.ledger.accounts() == {"top": Account(200, judged, {"overload": dropped})}


def boom(*_: object) -> Any:
    raise ZeroDivisionError("boom")


@pytest.mark.parametrize("stage", ["grab", "infer", "judge", "report"])
def test_an_error_in_a_stage_ends_the_pipeline(
    bundle: Bundle, openvino: Engine, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspector = Inspector(bundle.manifest, openvino)
    if stage in ("infer", "judge"):
        monkeypatch.setattr(inspector, "start" if stage == "infer" else "finish", boom)
    source = Scripted("top", *[boom if stage == "grab" else good] * 20, ends=False)
    run = Run(setup_of(bundle, openvino, inspector), source, report=boom if stage == "report" else None)
    run.start()
    broken = next(thread for thread in run.pipeline._grabbers + run.pipeline._stages if thread.name.startswith(stage))
    broken.join(WITHIN_SECONDS)
    with pytest.raises(ZeroDivisionError, match="boom"):
        run.pipeline.check()
    run.pipeline.stop(60.0)  # returns soon, otherwise the test would time out
    (account,) = run.ledger.accounts().values()
    assert account.balanced
    # After a dead stage, a frame that waits for room is returned at the stop.
    assert set(account.dropped) <= {"stopped"}


def test_the_end_of_one_camera_does_not_end_another_and_a_stop_does(setup: Setup) -> None:
    short, long = Scripted("short", good), Scripted("long", *[good, defective] * 5, ends=False)
    run = Run(setup, short, long)
    run.start()
    assert long.shown_all.wait(WITHIN_SECONDS)
    assert not run.pipeline.ended
    assert run.pipeline.stop(WITHIN_SECONDS)
    assert run.ledger.accounts() == {"short": Account(1, 1), "long": Account(10, 10)}
    of_long = [outcome.stamp.frame_id for outcome in run.reported if outcome.stamp.camera == "long"]
    assert of_long == list(range(1, 11))


# Probes.


def test_a_probe_passes_all_stages_and_is_not_booked(setup: Setup) -> None:
    run = Run(setup, Scripted("top", good, ends=False))
    run.pipeline.start()
    run.pipeline.probe()
    assert run.probed.wait(WITHIN_SECONDS), "also before the first camera is shown"
    run.pipeline.begin()
    assert run.pipeline.stop(WITHIN_SECONDS)
    assert len(run.reported) <= 1
    assert set(run.ledger.accounts()) == {"top"}


def test_only_one_probe_is_pending_and_a_hung_stage_returns_none(bundle: Bundle, openvino: Engine) -> None:
    held = HeldInspector(bundle, openvino, "finish")
    run = Run(setup_of(bundle, openvino, held), Scripted("top", ends=False))
    run.start()
    for _ in range(5):
        run.pipeline.probe()
    assert not run.probed.is_set()
    held.released.set()
    assert run.probed.wait(WITHIN_SECONDS)
    assert run.pipeline.stop(WITHIN_SECONDS)
    assert held.frames == 1


def test_a_failed_probe_is_not_a_sign_of_life_and_another_follows(bundle: Bundle, openvino: Engine) -> None:
    class FailsOnce(HeldInspector):
        def finish(self, pending: PendingFrame) -> Any:
            again = self.begun.is_set()
            answer = super().finish(pending)
            if again:
                return answer
            raise EngineError("it answers nothing that can be used")

    fails = FailsOnce(bundle, openvino, "finish")
    fails.released.set()
    run = Run(setup_of(bundle, openvino, fails), Scripted("top", ends=False))
    run.start()
    run.pipeline.probe()
    until(lambda: not run.pipeline._probe_pending)
    assert fails.begun.is_set()
    assert not run.probed.is_set()
    run.pipeline.probe()
    assert run.probed.wait(WITHIN_SECONDS), "the second one goes the whole way"
    assert run.pipeline.stop(WITHIN_SECONDS)
    assert fails.frames == 2
    assert run.reported == []


# Exchange of the setup.


def test_each_frame_is_inspected_by_the_setup_active_at_its_capture(bundle: Bundle, openvino: Engine) -> None:
    """Frames in flight at the exchange are judged by their own setup, even much later."""
    before = setup_of(bundle, openvino, product="before")
    after = setup_of(bundle, openvino, product="after", thresholds=Thresholds(1e6, 1e6, None))
    run: Run

    def exchange(stamp: Stamp) -> Frame:
        run.ledger.activate(after)
        return defective(stamp)

    run = Run(before, Scripted("top", *[defective] * 4, exchange, *[defective] * 4), lane=Lane(9, "block"))
    assert run.run_to_the_end() == ["DEFECT"] * 4 + ["GOOD"] * 5
    assert [outcome.setup.product for outcome in run.reported if outcome.setup] == ["before"] * 4 + ["after"] * 5


def test_only_frames_in_flight_hold_a_setup_that_is_not_active_any_more(
    bundle: Bundle, openvino: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So its engine can be closed once the last frame that it inspects has left, even one beyond its deadline."""
    held, reported = HeldInspector(bundle, openvino, "start"), threading.Event()
    # The deadline passes while the engine works on the frame.
    monkeypatch.setattr("heatline.edge.inspection.ledger.time.monotonic_ns", lambda: 2 if held.begun.is_set() else 1)
    before = setup_of(bundle, openvino, held)
    verified = weakref.ref(before.verified)
    source = Scripted("top", lambda stamp: good(replace(stamp, due_monotonic_ns=2)), ends=False)
    run = Run(before, source, report=lambda _: reported.set())
    run.start()
    assert held.begun.wait(WITHIN_SECONDS)
    assert reported.wait(WITHIN_SECONDS), "at its deadline"
    run.ledger.activate(setup_of(bundle, openvino))
    del before
    assert verified() is not None
    held.released.set()
    for _ in range(2):  # the next frame, here a probe, takes the place of the last one in each stage
        until(lambda: not run.pipeline._probe_pending)
        run.pipeline.probe()
    until(lambda: verified() is None)
    assert run.pipeline.stop(WITHIN_SECONDS)


def test_a_frame_that_does_not_show_the_product_gets_no_verdict_and_a_probe_does(
    bundle: Bundle, openvino: Engine
) -> None:
    known = fit_plausibility([Appearance(WHITE.shape[:2], ImageStatistics.of(WHITE), None)])  # type: ignore[arg-type]
    inspector = Inspector(bundle.manifest, openvino, plausibility=known)

    def black(stamp: Stamp) -> Frame:
        return Frame(stamp, np.zeros_like(WHITE), "RGB8")

    run = Run(setup_of(bundle, openvino, inspector), Scripted("top", good, black, defective, ends=False))
    run.start()
    run.pipeline.probe()
    assert run.probed.wait(WITHIN_SECONDS)
    until(lambda: len(run.reported) == 3)
    assert run.pipeline.stop(WITHIN_SECONDS)
    run.pipeline.check()
    assert run.describe_outcomes() == ["GOOD", "failed.implausible", "DEFECT"]
    assert run.ledger.accounts()["top"] == Account(3, inspected=2, failed={"implausible": 1})
    unjudged = run.reported[1].unjudged
    assert unjudged is not None
    assert unjudged.detail.startswith("it does not look like the product: brightness 0, expected 153 to 255")
