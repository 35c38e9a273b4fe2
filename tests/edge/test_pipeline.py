"""All stages in this process: pixels are released once, a stop reports every frame, and a failure costs one frame."""

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
from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest
from heatline.edge.inference import Engine
from heatline.edge.inspection.inspector import Inspector, Outcome, PendingFrame
from heatline.edge.inspection.ledger import JUDGED_WAITING, UNJUDGED_WITH_PIXELS, Lane, Ledger
from heatline.edge.inspection.pipeline import FRAMES_WITH_ENGINE, Camera, Pipeline
from heatline.edge.wire.events import Account
from tests.edge.lines import setup_of
from tests.edge.secured import until
from tests.small_bundle import white_frame

WITHIN_SECONDS = 20.0
WHITE = white_frame((230, 240))
Grab = Callable[[Stamp], Frame]


def good(stamp: Stamp) -> Frame:
    return Frame(stamp, WHITE, "RGB8")


def late(stamp: Stamp) -> Frame:
    return good(replace(stamp, due_monotonic_ns=1))


def grey(stamp: Stamp) -> Frame:
    return Frame(stamp, WHITE[..., 0], "RGB8")


class Run(Inspector):
    """A pipeline with a scripted camera, its inspector and its reported outcomes. `hold`: the stage, `start` or
    `finish`, that holds each frame until `released` is set. `fails`: the frame ids that the engine fails on, by stage;
    None is a probe. `after`: what the camera does after its script: it ends, waits, or hangs until `let_go` is set."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        *script: Grab,
        lane: Lane = Lane(9, "block"),  # noqa: B008
        hold: str = "",
        fails: tuple[tuple[str, int | None], ...] = (),
        after: str = "end",
    ) -> None:
        super().__init__(bundle.manifest, engine)
        self.script, self.hold, self.fails, self.after, self.shown, self.started = script, hold, [*fails], after, 0, 0
        self.begun, self.released, self.let_go, self.probed, self._stop = (threading.Event() for _ in range(5))
        self.shown_all = threading.Event()
        self.releases, self.reported = list[int](), list[Outcome]()
        self.ledger = Ledger({"top": lane}, setup_of(bundle, engine, self))
        self.pipeline = Pipeline({"top": Camera(self, FrameRule())}, self.ledger, self.report, self.probed.set)
        self.pipeline.start()
        self.pipeline.begin()

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        if self.shown < len(self.script):
            self.shown += 1
            place = len(self.releases)
            self.releases.append(0)

            def release() -> None:
                self.releases[place] += 1

            return replace(self.script[place](Stamp("top", self.shown)), release=release)
        self.shown_all.set()
        if self.after == "hang":
            assert self.let_go.wait(WITHIN_SECONDS)
        if self.after == "end" or self._stop.wait(timeout_s):
            raise EndOfFrames
        return None

    def logged(self, number: int) -> None:
        assert number == self.shown

    def interrupt(self) -> None:
        self._stop.set()

    def report(self, outcome: Outcome) -> None:
        if outcome.frame is not None:
            assert self.releases[outcome.stamp.number - 1] == 0, "its pixels can still be read"
        assert outcome.judgement is None or outcome.frame is not None
        self.reported.append(outcome)

    def start(self, frame: Frame, area: RegionOfInterest = WHOLE_FRAME) -> PendingFrame:
        self.started += 1
        self._stage("start", frame)
        return super().start(frame, area)

    def finish(self, pending: PendingFrame) -> Any:
        judgement = super().finish(pending)
        self._stage("finish", pending.frame)
        return judgement

    def _stage(self, at: str, frame: Frame) -> None:
        if at == self.hold:
            self.begun.set()
            assert self.released.wait(WITHIN_SECONDS)
        if (at, frame.stamp.frame_id) in self.fails:
            self.fails.remove((at, frame.stamp.frame_id))
            raise EngineError("no answer")

    def outcomes(self) -> list[str]:
        return [each.unjudged.reason if each.unjudged else "judged" for each in self.reported]


@pytest.mark.parametrize(
    ("script", "lane", "account"),
    [
        ([good] * 12, Lane(2, "block"), Account(12, 10, {}, {"engine": 2})),
        ([good] * 60, Lane(1, "drop_oldest"), None),
        ([good, late] * 10, Lane(2, "block"), None),
        ([good, *[grey] * 20, good], Lane(2, "block"), Account(22, 2, {}, {"wrong_colour": 19, "engine": 1})),
    ],
    ids=["judged", "drop_oldest", "deadline", "bad"],
)
def test_each_frames_pixels_are_released_once_after_its_report_also_if_the_engine_fails(
    bundle: Bundle, openvino: Engine, script: list[Grab], lane: Lane, account: Account | None
) -> None:
    run = Run(bundle, openvino, *script, lane=lane, fails=(("start", 3), ("finish", 5)))
    until(lambda: run.pipeline.ended)
    assert run.pipeline.stop(WITHIN_SECONDS)
    run.pipeline.check()
    assert run.releases == [1] * len(script)
    found = run.ledger.accounts()["top"]
    assert (found.captured, found.in_flight, found.balanced) == (len(script), 0, True)
    assert account is None or found == account
    assert sum(each.stamp.frames for each in run.reported) == len(script)


def test_a_camera_has_slots_for_all_frames_that_the_line_may_hold() -> None:
    written, on_its_way, cut, judged, reported = [1] * 5
    waiting = JUDGED_WAITING + UNJUDGED_WITH_PIXELS  # to leave, in the ledger
    assert written + on_its_way + cut + FRAMES_WITH_ENGINE + judged + waiting + reported == SPARE_SLOTS


def test_frames_of_a_camera_that_hangs_at_the_stop_are_still_reported(bundle: Bundle, openvino: Engine) -> None:
    run = Run(bundle, openvino, good, good, after="hang")
    assert run.shown_all.wait(WITHIN_SECONDS)
    try:
        assert not run.pipeline.stop(1.5)  # not all stages ended in time
    finally:
        run.let_go.set()
    assert (run.outcomes(), run.ledger.accounts()["top"]) == (["judged"] * 2, Account(2, 2))


def test_frames_not_inspected_by_the_stops_deadline_are_stopped(bundle: Bundle, openvino: Engine) -> None:
    run = Run(bundle, openvino, *[good] * 4, hold="start", after="wait")
    assert run.shown_all.wait(WITHIN_SECONDS)
    assert run.begun.wait(WITHIN_SECONDS)
    run.pipeline.stop(0.3, lambda: None if run.ledger.waiting else run.released.set())
    run.released.set()
    assert run.pipeline.stop(WITHIN_SECONDS)
    run.pipeline.check()
    assert [(each.stamp.frame_id, each.stamp.frames) for each in run.reported] == [(1, 1), (2, 3)]
    assert (run.outcomes(), run.releases) == (["judged", "stopped"], [1] * 4)
    assert run.ledger.accounts()["top"] == Account(4, 1, {"stopped": 3})


def test_a_failed_probe_is_no_sign_of_life_one_is_pending_and_none_is_booked(bundle: Bundle, openvino: Engine) -> None:
    run = Run(bundle, openvino, hold="finish", fails=(("finish", None),), after="wait")
    for _ in range(5):
        run.pipeline.probe()
    assert run.begun.wait(WITHIN_SECONDS)
    assert (run.started, run.probed.is_set()) == (1, False), "while a stage hangs, none returns"
    run.released.set()

    def probed() -> bool:
        run.pipeline.probe()
        return run.probed.is_set()

    until(probed)
    assert run.pipeline.stop(WITHIN_SECONDS)
    assert run.started >= 2
    assert (run.reported, set(run.ledger.accounts())) == ([], {"top"})
