"""Drift: measures equal independent computations, and a line warns of a change before it rejects good frames."""

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle, write_bundle
from heatline.edge.bundle.appearance import Appearance, ImageStatistics
from heatline.edge.bundle.manifest import Measure, Reference
from heatline.edge.bundle.plausibility import fit_plausibility
from heatline.edge.calibration.thresholds import GoodFrame
from heatline.edge.drift import (
    OF_POSE,
    CameraReference,
    DriftMonitor,
    DriftSetup,
    ExpectedRange,
    PictureSample,
    expected_range,
    fit_reference,
    references_of,
    saturation_of,
)
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import WHOLE_FRAME
from heatline.edge.inference import Engine
from heatline.edge.inspection.inspector import Inspector, Outcome, Setup, Unjudged
from heatline.edge.reference.alignment import Pose
from heatline.edge.service.events import LineDrift
from heatline.edge.wire.events import DriftEvent, DriftReading, VerdictEvent
from tests.command import heatline
from tests.edge.lines import running, setup_of, write_line_with, write_pictures
from tests.small_bundle import contents_of, manifest

HW = (150, 200)
Picture = NDArray[np.uint8]


def board(seed: int = 0, hw: tuple[int, int] = HW) -> Picture:
    """A colour picture of random rectangles, large enough to move a window over it."""
    rng = np.random.default_rng(seed)
    picture = np.full((*hw, 3), 200, np.uint8)
    for _ in range(60):
        y, x = rng.integers(0, hw[0]), rng.integers(0, hw[1])
        picture[y : y + int(rng.integers(4, 30)), x : x + int(rng.integers(4, 30))] = rng.integers(0, 256, 3)
    return picture


def noisy(picture: Picture, seed: int, gain: float = 1.0) -> Picture:
    noise = np.random.default_rng(seed).normal(0, 2, picture.shape)
    return np.clip(picture * gain + noise, 0, 255).astype(np.uint8)


def samples(pictures: Sequence[Picture]) -> list[PictureSample]:
    return [PictureSample.of(picture) for picture in pictures]


def test_saturation_is_the_share_of_colour_and_does_not_depend_on_the_light() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32], picture[32:] = (200, 100, 100), (80, 80, 80)
    expected = (200 - 100) / (200 + 80)  # the sums over both halves
    assert saturation_of(picture) == pytest.approx(expected)
    assert saturation_of(picture // 2) == pytest.approx(expected)
    assert saturation_of(picture * 0) == 0


def test_a_reference_has_the_quantiles_of_its_frames() -> None:
    pictures = [noisy(board(), seed, 1 + 0.01 * seed) for seed in range(12)]
    scores = [0.1 * number**2 for number in range(30)]
    reference = fit_reference(samples(pictures), scores, scores[::-1])
    assert reference is not None
    for name in ("brightness", "sharpness"):
        values = [getattr(ImageStatistics.of(each), name) for each in pictures]
        cuts = statistics.quantiles(values, n=20, method="inclusive")
        expected = [min(values), cuts[0], statistics.median(values), cuts[-1], max(values)]
        assert reference.measures[name] == pytest.approx(expected)
    assert reference.measures["score"] == reference.measures["evidence"]
    assert reference.unwatched == dict.fromkeys(OF_POSE, "the bundle compares frames with no reference")
    assert (reference.frame_hw, reference.frames) == (None, 12)


@pytest.mark.parametrize(
    ("at_px", "low", "high"),
    [
        (3.0, 3 - 200 / 256, 3 + 200 / 256),  # as calibrated
        (19.5, 19.5 - 200 / 256, 20),  # not beyond half of what alignment accepts
        (30.0, -20, 20),  # calibrated beyond it
        (None, -20, 20),  # calibrated with another picture
    ],
)
def test_with_a_reference_the_pose_is_watched_up_to_half_of_what_alignment_accepts(
    at_px: float | None, low: float, high: float
) -> None:
    pose = None if at_px is None else Pose(at_px, -1.0, 0.25, 0.9, 0.1)
    reference = fit_reference([replace(each, pose=pose) for each in samples([board()] * 12)], [], [])
    assert reference is not None
    watched = CameraReference(reference, farthest={"shift_x": 40.0, "shift_y": 40.0, "turn": 1.5})
    ranges = watched.expected()
    assert ranges["shift_x"] == pytest.approx((low, at_px if pose and at_px != 30 else 0, high))
    assert ranges["turn"] == pytest.approx((0.15, 0.25, 0.35) if pose else (-0.75, 0, 0.75))
    assert ("match" in ranges) == (pose is not None), "without poses, no confidence is known"
    values = watched.values(board(), Pose(22.0, 4.0, -1.5, 0.75, 0.1))
    assert [values[each] for each in ("shift_x", "shift_y", "turn", "match")] == [22.0, 4.0, -1.5, 0.75]


def test_grey_pictures_watch_no_saturation_and_few_frames_watch_nothing() -> None:
    grey = board()[..., :1].repeat(3, axis=2)
    reference = fit_reference(samples([noisy(grey, seed)[..., :1].repeat(3, axis=2) for seed in range(10)]), [], [])
    assert reference is not None
    assert reference.unwatched["saturation"] == "the pictures are grey"
    assert fit_reference(samples([board()] * 9), [], []) is None


def reference_of(quantiles: list[float], measure: Measure = "score") -> Reference:
    return Reference(frames=10, measures={measure: quantiles}, frame_hw=(600, 800))


def test_the_expected_range_exceeds_the_quantiles_by_the_margin_and_has_a_least_width() -> None:
    assert expected_range(reference_of([-9, -4, 0, 8, 9]), "score") == (-5, 0, 10)
    assert expected_range(reference_of([1, 1, 1, 1, 1]), "score") == (0.75, 1, 1.25)
    assert expected_range(reference_of([100] * 5, "brightness"), "brightness") == (97, 100, 103)
    assert expected_range(reference_of([0] * 5, "shift_x"), "shift_x") == pytest.approx((-3.125, 0, 3.125))
    assert expected_range(reference_of([0.5, 0.8, 0.9, 0.9, 1], "match"), "match").high is None


EXPECTED = {"score": ExpectedRange(-1.0, 0.0, 2.0)}


def reading_of(value: float, frames: int, drifted: bool, expected: ExpectedRange) -> DriftReading:
    low, calibrated, high = expected
    return DriftReading(value=value, calibrated=calibrated, low=low, high=high, frames=frames, drifted=drifted)


@given(st.lists(st.floats(-5, 5), max_size=60), st.integers(5, 12))
def test_a_measure_has_drifted_once_the_median_of_the_window_lies_outside(values: list[float], window: int) -> None:
    monitor, drifted = DriftMonitor(EXPECTED, window), False
    for number, value in enumerate(values, start=1):
        changes = list(monitor.add({"score": value, "evidence": 99.0}))
        last = values[max(0, number - window) : number]
        if len(last) < window / 2:
            assert monitor.readings == {}
            continue
        middle, before = float(np.median(last)), drifted
        # It ends a fifth of the way further in.
        drifted = not (-0.8 <= middle <= 1.6 if before else -1 <= middle <= 2)
        assert monitor.readings == {"score": reading_of(middle, len(last), drifted, EXPECTED["score"])}
        assert [reading.drifted for _, reading in changes] == ([drifted] if drifted != before else [])


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
        plausible=fit_plausibility(
            [Appearance((230, 300), ImageStatistics.of(each), None) for each in CALIBRATION]
        ).plausible,
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


def test_only_frames_that_are_due_and_whose_setup_has_a_reference_count(own: Bundle, openvino: Engine) -> None:
    emitted, now_s = Emitted(), 0.0
    drift, inspect = LineDrift(emitted, clock=lambda: now_s), inspecting(own, openvino, every_s=1.0)
    outcome, defective = inspect(view()), view().copy()
    for _ in range(8):
        now_s += 1
        drift.add(replace(outcome, judgement=None, unjudged=Unjudged("failed", "implausible", "dark")))
    assert drift.state() == {}
    for _ in range(60):
        now_s += 0.1
        drift.add(outcome)
    assert drift.state()["top"]["brightness"].frames == 6
    before = drift.state()["top"]["score"]
    defective[:150, :150] = 0
    for _ in range(12):
        now_s += 1
        drift.add(inspect(defective))
    assert drift.state()["top"]["score"] == before, "defective parts are no drift of the score"
    assert not [event for event in emitted.events if "score" in event or "evidence" in event]
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
