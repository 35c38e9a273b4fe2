"""Running lines whose light dims, whose focus is lost and whose parts lie elsewhere: they warn before they reject."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle, open_bundle, write_bundle
from heatline.edge.bundle.appearance import Appearance, ImageStatistics
from heatline.edge.bundle.plausibility import fit_plausibility
from heatline.edge.calibration.thresholds import GoodFrame
from heatline.edge.drift import DriftSetup, PictureSample, fit_reference, references_of
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest
from heatline.edge.inference import Engine
from heatline.edge.inspection.inspector import Inspector, Outcome, Setup, Unjudged
from heatline.edge.service.events import LineDrift
from heatline.edge.wire.events import DriftEvent, DriftReading, VerdictEvent
from tests.command import heatline
from tests.edge.lines import running, write_line_with, write_pictures
from tests.edge.setups import setup_of
from tests.edge.test_drift import board, noisy
from tests.small_bundle import contents_of, manifest

HW = (230, 300)
PLANE = board(7, (330, 400))
Picture = NDArray[np.uint8]


def view(right: int = 0) -> Picture:
    return PLANE[50:280, 50 - right : 350 - right]


CALIBRATION = [noisy(view(), seed) for seed in range(30)]


def calibrated(path: Path, engine: Engine) -> Bundle:
    """Write the small bundle, which is dark-sensitive, with the reference that calibration frames give."""
    now = manifest()
    inspector = Inspector(now, engine)
    pending = [inspector.start(Frame(Stamp("calibrate", 1), picture, "RGB8")) for picture in CALIBRATION]
    good = [GoodFrame.of(each.logits, inspector.finish(each).heatmap) for each in pending]
    reference = fit_reference(
        [PictureSample.of(each) for each in CALIBRATION],
        [each.highest_logit for each in good],
        [each.median_evidence for each in good],
    )
    calibration = msgspec.structs.replace(
        now.calibration,
        score_threshold=max(each.highest_logit for each in good) + 8,
        reference=reference,
        plausible=fit_plausibility([Appearance(HW, ImageStatistics.of(each), None) for each in CALIBRATION]).plausible,
    )
    return write_bundle(path, msgspec.structs.replace(now, calibration=calibration), contents_of())


@pytest.fixture
def own(tmp_path: Path, openvino: Engine) -> Bundle:
    return calibrated(tmp_path / "own.bundle", openvino)


CHANGES: dict[str, Callable[[float], Picture]] = {
    "dimmed": lambda share: noisy(view(), 90, 1 - 0.4 * share),
    "defocused": lambda share: noisy(cv2.GaussianBlur(view(), (0, 0), 0.01 + share), 91),  # type: ignore[arg-type]
}
FIRST = {"dimmed": "brightness", "defocused": "sharpness"}
STEADY, FRAMES = 8, 34
"""Frames before the change begins, and all frames."""


def test_a_line_warns_of_each_change_before_it_rejects_a_good_frame(tmp_path: Path, own: Bundle, address: str) -> None:
    cameras = {}
    for name, change in CHANGES.items():
        pictures = {
            f"{number:02d}.png": change(max(0, number - STEADY) / (FRAMES - STEADY)) for number in range(FRAMES)
        }
        write_pictures(tmp_path / name, pictures)
        cameras[name] = {"kind": "folder", "path": name}
    tables = f'[journal]\nfolder = "{tmp_path}/journal"\n\n[drift]\nframes = 6\nevery_s = 0'
    line = write_line_with(tmp_path, own.path, address, cameras, tables)
    with running(line, address) as run:
        received = run.until_stopped()
        assert run.exit_code() == 0

    for name, measure in FIRST.items():
        of_camera = [
            event
            for event in received.in_order
            if isinstance(event, VerdictEvent | DriftEvent) and event.camera == name
        ]
        kinds = [event.measure if isinstance(event, DriftEvent) else event.verdict for event in of_camera]
        warned = kinds.index(measure)
        assert kinds[:STEADY] == ["GOOD"] * STEADY
        assert not set(kinds[:warned]) & {"DEFECT", "NO_VERDICT"}
        warning = of_camera[warned]
        assert isinstance(warning, DriftEvent)
        assert warning.active
        assert warning.high is not None
        assert not warning.low <= warning.value <= warning.high
        assert warning.bundle.digest == own.digest
        assert set(kinds[warned:]) & {"DEFECT", "NO_VERDICT"}, "later it rejects frames"
    assert received.last.drift["dimmed"]["brightness"].drifted

    shown = heatline("journal", "show", line, "-n", "200", "--topic", "drift", env={"COLUMNS": "300"})
    assert re.search(r"drift +brightness active ", shown.stdout), shown.stdout
    assert "the pictures are darker than at calibration: brightness" in shown.stdout


def inspecting(bundle: Bundle, engine: Engine, **settings: float) -> Callable[[Picture], Outcome]:
    """Return a function that inspects a picture by one setup."""
    drift = DriftSetup(references_of(bundle, {"top": WHOLE_FRAME}), window=6, every_s=settings.get("every_s", 0))
    setup = replace(setup_of(bundle, engine), drift=drift)

    def inspect(picture: Picture) -> Outcome:
        frame = Frame(Stamp("top", 1), picture, "RGB8")
        judged = setup.inspector.finish(setup.inspector.start(frame))
        return Outcome(frame.stamp, judgement=judged, setup=setup, frame=frame)

    return inspect


class Emitted:
    """Collects what a line's drift emits, as texts."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, camera: str, measure: str, reading: DriftReading, detail: str, _setup: Setup) -> None:
        self.events.append(f"{camera} {measure} {'active' if reading.drifted else 'over'}")


def test_a_run_of_defective_parts_is_no_drift_of_score_or_evidence(own: Bundle, openvino: Engine) -> None:
    inspect, emitted = inspecting(own, openvino), Emitted()
    drift = LineDrift(emitted)
    for seed in range(6):
        drift.add(inspect(noisy(view(), seed)))
    before = drift.state()["top"]["score"]
    defective = view().copy()
    defective[:150, :150] = 0
    for _ in range(12):
        outcome = inspect(defective)
        assert outcome.judgement is not None
        assert outcome.judgement.verdict == "DEFECT"
        drift.add(outcome)
    assert drift.state()["top"]["score"] == before
    assert not [event for event in emitted.events if "score" in event or "evidence" in event]


def test_a_frame_without_a_verdict_and_a_setup_without_a_reference_do_not_count(own: Bundle, openvino: Engine) -> None:
    drift, inspect = LineDrift(Emitted()), inspecting(own, openvino)
    outcome = inspect(view())
    for _ in range(8):
        drift.add(replace(outcome, judgement=None, unjudged=Unjudged("failed", "implausible", "dark")))
    assert drift.state() == {}
    for _ in range(3):
        drift.add(outcome)
    assert drift.state()["top"]["brightness"].frames == 3
    drift.add(replace(outcome, setup=setup_of(own, openvino)))
    assert drift.state() == {}


def test_another_setup_ends_the_warnings_and_begins_a_new_window(own: Bundle, openvino: Engine) -> None:
    emitted, dark = Emitted(), noisy(view(), 1, 0.9)
    drift, first, second = LineDrift(emitted), inspecting(own, openvino), inspecting(own, openvino)
    for _ in range(6):
        drift.add(first(dark))
    assert "top brightness active" in emitted.events
    active = len(emitted.events)
    drift.add(second(dark))
    assert emitted.events[active:] == [event.replace("active", "over") for event in emitted.events[:active]]
    assert drift.state() == {"top": {}}
    for _ in range(2):
        drift.add(second(dark))
    assert "top brightness active" in emitted.events[2 * active :]


def test_at_most_one_frame_is_measured_in_the_configured_time(own: Bundle, openvino: Engine) -> None:
    now_s = 0.0
    drift, inspect = LineDrift(Emitted(), clock=lambda: now_s), inspecting(own, openvino, every_s=1.0)
    for number in range(30):
        now_s = number / 10
        drift.add(inspect(view()))
    assert drift.state()["top"]["brightness"].frames == 3


def test_a_frame_that_cannot_be_measured_ends_the_watch_and_not_the_line(
    own: Bundle, openvino: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    drift, inspect = LineDrift(Emitted()), inspecting(own, openvino)
    outcome = inspect(view())
    assert outcome.frame is not None
    drift.add(replace(outcome, frame=replace(outcome.frame, image=np.zeros((2, 2, 5), np.uint8))))
    assert "its drift is not watched any more" in caplog.text
    drift.add(outcome)
    assert drift.state() == {}


def test_a_region_of_interest_that_was_not_calibrated_watches_no_score(own: Bundle) -> None:
    part = RegionOfInterest.from_polygons([[(0, 0), (100, 0), (100, 100)]])
    found = references_of(own, {"whole": WHOLE_FRAME, "part": part})
    assert found["whole"].expected().keys() - found["part"].expected().keys() == {"score", "evidence"}


def test_calibration_stores_the_reference(bundle: Bundle, tmp_path: Path) -> None:
    write_pictures(tmp_path / "good", {f"{seed:02d}.png": each for seed, each in enumerate(CALIBRATION)})
    result = heatline("calibrate", bundle.path, tmp_path / "good", "--to", tmp_path / "new", env={"COLUMNS": "400"})
    assert result.returncode == 0, result.stderr
    assert "brightness, sharpness, saturation, score, evidence; not by shift_x and shift_y and turn and match (" in (
        result.stdout
    )
    assert "; compared with 30 frames" in result.stdout
    new = open_bundle(tmp_path / "new")
    expected = fit_reference([PictureSample.of(each) for each in CALIBRATION], [], [])
    reference = new.manifest.calibration.reference
    assert expected is not None
    assert reference is not None
    assert reference.measures.items() >= expected.measures.items()
    assert reference.frames == 30
