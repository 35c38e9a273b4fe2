"""Drift: measures equal independent computations, and a line warns of a change before it rejects good frames."""

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
    expected_range,
    fit_reference,
    measure_picture,
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


def samples(pictures: Sequence[Picture]) -> list[dict[Measure, float]]:
    return [measure_picture(picture) for picture in pictures]


def test_saturation_is_the_share_of_colour_and_does_not_depend_on_the_light() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32], picture[32:] = (200, 100, 100), (80, 80, 80)
    expected = (200 - 100) / (200 + 80)  # the sums over both halves
    found = [saturation_of(each) for each in (picture, picture // 2, picture * 0)]
    assert found == pytest.approx([expected, expected, 0])


def test_a_reference_has_the_quantiles_of_its_frames_if_these_are_enough() -> None:
    pictures = [noisy(board(), seed, 1 + 0.01 * seed) for seed in range(12)]
    reference = fit_reference(samples(pictures), HW, [], [])
    for name in ("brightness", "sharpness"):
        values = [getattr(ImageStatistics.of(each), name) for each in pictures]
        cuts = statistics.quantiles(values, n=20, method="inclusive")
        expected = [min(values), cuts[0], statistics.median(values), cuts[-1], max(values)]
        assert reference.measures[name] == pytest.approx(expected)
    assert (reference.frame_hw, reference.frames) == (None, 12)
    grey = fit_reference(samples([each[..., :1].repeat(3, axis=2) for each in pictures[:10]]), HW, [], [])
    assert grey.unwatched["saturation"] == "the pictures are grey"
    assert fit_reference(samples(pictures[:9]), HW, [], []) is None


@pytest.mark.parametrize(
    ("at_px", "size", "low", "high"),
    [
        (3.0, 1.002, 3 - 200 / 256, 3 + 200 / 256),  # as calibrated
        (19.5, 1.0, 19.5 - 200 / 256, 20),  # not beyond half of what alignment accepts; the size is not known
        (30.0, 1.002, -20, 20),  # calibrated beyond it
        (None, 1.0, -20, 20),  # calibrated with another picture
    ],
)
def test_a_pose_is_watched_up_to_half_of_what_is_accepted(
    at_px: float | None, size: float, low: float, high: float
) -> None:
    pose = None if at_px is None else Pose(at_px, -1.0, 0.25, 0.9, 0.1, size)
    reference = fit_reference([measure_picture(board(), pose)] * 12, board().shape[:2], [], [])
    watched = CameraReference(reference, farthest={"shift_x": 40.0, "shift_y": 40.0, "turn": 1.5, "scale": 0.5})
    ranges = watched.expected()
    assert ranges["shift_x"] == pytest.approx((low, at_px if pose and at_px != 30 else 0, high))
    assert ranges["turn"] == pytest.approx((0.15, 0.25, 0.35) if pose else (-0.75, 0, 0.75))
    assert ("match" in ranges) == (pose is not None), "without poses, no confidence is known"
    assert ranges["scale"] == pytest.approx((0.1, 0.2, 0.25) if size != 1 else (-0.25, 0, 0.25))
    reference.measures.pop("scale", None)  # of a bundle from before it was measured
    assert watched.expected()["scale"] == (-0.25, 0, 0.25)
    values = watched.values(board(), Pose(22.0, 4.0, -1.5, 0.75, 0.1, 0.5))
    assert [values[each] for each in OF_POSE] == [22.0, 4.0, -1.5, -50, 0.75]


def expected_of(quantiles: list[float], measure: Measure = "score") -> ExpectedRange:
    return expected_range(Reference(frames=10, measures={measure: quantiles}, frame_hw=(600, 800)), measure)


def test_the_expected_range_exceeds_the_quantiles_by_the_margin_and_has_a_least_width() -> None:
    assert expected_of([-9, -4, 0, 8, 9]) == (-5, 0, 10)
    assert expected_of([1, 1, 1, 1, 1]) == (0.75, 1, 1.25)
    assert expected_of([100] * 5, "brightness") == (97, 100, 103)
    assert expected_of([0] * 5, "shift_x") == pytest.approx((-3.125, 0, 3.125))
    assert expected_of([0.5, 0.8, 0.9, 0.9, 1], "match").high is None


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


def view(right: int = 0) -> Picture:
    return PLANE[50:280, 50 - right : 350 - right]


CALIBRATION = [noisy(view(), seed) for seed in range(30)]


@pytest.fixture
def own(tmp_path: Path, openvino: Engine) -> Bundle:
    """The small bundle, which is dark-sensitive, with the reference that calibration frames give."""
    now = manifest()
    inspector = Inspector(now, openvino)
    pending = [inspector.start(Frame(Stamp("calibrate", 1), picture, "RGB8")) for picture in CALIBRATION]
    good = [GoodFrame.of(each.logits, inspector.finish(each).heatmap) for each in pending]
    scores, evidence = [each.highest_logit for each in good], [each.median_evidence for each in good]
    appearances = [Appearance((230, 300), ImageStatistics.of(each), None) for each in CALIBRATION]
    calibration = msgspec.structs.replace(
        now.calibration,
        score_threshold=max(scores) + 8,
        reference=fit_reference(samples(CALIBRATION), (230, 300), scores, evidence),
        plausible=fit_plausibility(appearances).plausible,
    )
    return write_bundle(tmp_path / "own.bundle", msgspec.structs.replace(now, calibration=calibration), contents_of())


CHANGES: dict[str, tuple[str, Callable[[float], Picture]]] = {
    "dimmed": ("brightness", lambda share: noisy(view(), 90, 1 - 0.4 * share)),
    "defocused": (
        "sharpness",
        lambda share: noisy(np.asarray(cv2.GaussianBlur(view(), (0, 0), 0.01 + share), np.uint8), 91),
    ),
}
"""By camera: what warns first, and the picture at a share of the change."""
STEADY, FRAMES = 8, 34
"""Frames before the change begins, and all frames."""


def test_a_line_warns_of_each_change_before_it_rejects_a_good_frame(tmp_path: Path, own: Bundle, address: str) -> None:
    cameras = {}
    for name, (_, change) in CHANGES.items():
        shares = [max(0, number - STEADY) / (FRAMES - STEADY) for number in range(FRAMES)]
        write_pictures(tmp_path / name, {f"{at:02d}.png": change(share) for at, share in enumerate(shares)})
        cameras[name] = {"kind": "folder", "path": name}
    tables = f'[journal]\nfolder = "{tmp_path}/journal"\n\n[drift]\nframes = 6\nevery_s = 0'
    line = write_line_with(tmp_path, own.path, address, cameras, tables)
    with running(line, address) as run:
        received = run.until_stopped()
        assert run.exit_code() == 0
    for name, (measure, _) in CHANGES.items():
        events = [e for e in received.in_order if isinstance(e, VerdictEvent | DriftEvent) and e.camera == name]
        kinds = [event.measure if isinstance(event, DriftEvent) else event.verdict for event in events]
        warned = kinds.index(measure)
        assert kinds[:STEADY] == ["GOOD"] * STEADY
        assert not set(kinds[:warned]) & {"DEFECT", "NO_VERDICT"}
        warning = events[warned]
        assert (warning.active, warning.bundle.digest) == (True, own.digest)
        assert not warning.low <= warning.value <= warning.high
        assert set(kinds[warned:]) & {"DEFECT", "NO_VERDICT"}, "later it rejects frames"
    assert received.last.drift["dimmed"]["brightness"].drifted
    shown = heatline("journal", "show", line, "-n", "200", "--topic", "drift", env={"COLUMNS": "300"})
    assert "the pictures are darker than at calibration: brightness" in shown.stdout


def inspecting(bundle: Bundle, engine: Engine, every_s: float) -> Callable[[Picture], Outcome]:
    """Return a function that inspects a picture by one setup."""
    drift = DriftSetup(references_of(bundle, {"top": WHOLE_FRAME}), window=6, every_s=every_s)
    setup = replace(setup_of(bundle, engine), drift=drift)

    def inspect(picture: Picture) -> Outcome:
        frame = Frame(Stamp("top", 1), picture, "RGB8")
        judged = setup.inspector.finish(setup.inspector.start(frame))
        return Outcome(frame.stamp, judgement=judged, setup=setup, frame=frame)

    return inspect


def test_only_frames_that_are_due_and_whose_setup_has_a_reference_count_and_another_setup_ends_the_warnings(
    own: Bundle, openvino: Engine
) -> None:
    emitted, now_s = list[tuple[str, str, bool]](), 0.0

    def emit(camera: str, measure: str, reading: DriftReading, _detail: str, _setup: Setup) -> None:
        emitted.append((camera, measure, reading.drifted))

    drift, inspect = LineDrift(emit, clock=lambda: now_s), inspecting(own, openvino, every_s=1.0)
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
    assert ("top", "brightness", True) in emitted
    assert {"score", "evidence"}.isdisjoint(measure for _, measure, _ in emitted)
    active = [each for each in emitted if each[2]]
    emitted.clear()
    drift.add(inspecting(own, openvino, every_s=0)(view()))
    assert sorted(emitted) == sorted((camera, measure, False) for camera, measure, _ in active)
    assert drift.state() == {"top": {}}, "a new window"
    drift.add(replace(outcome, setup=setup_of(own, openvino)))
    assert drift.state() == {}, "without a reference"
