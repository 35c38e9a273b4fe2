"""Drift: measures equal independent computations; warnings begin and end as documented."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.bundle.appearance import ImageStatistics
from heatline.edge.bundle.manifest import Measure, Reference
from heatline.edge.drift import (
    CHECK,
    MARGIN,
    OF_POSE,
    WHAT,
    CameraReference,
    DriftMonitor,
    ExpectedRange,
    PictureSample,
    choose_evenly,
    describe_drift,
    expected_range,
    fit_reference,
    saturation_of,
)
from heatline.edge.reference.alignment import Pose
from heatline.edge.wire.events import DriftReading

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


def test_of_a_very_large_frame_few_pixels_are_averaged_and_the_values_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = cv2.resize(board(4, (420, 500)), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    plane = noisy(plane, 1)
    still = plane[40:1576, 60:1900]
    small = cv2.resize(still, (64, 64), interpolation=cv2.INTER_AREA).astype(np.int64)
    spread = small.max(axis=2) - small.min(axis=2)
    assert saturation_of(still) == pytest.approx(spread.sum() / small.max(axis=2).sum(), abs=0.01)

    averaged: list[int] = []
    resize = cv2.resize

    def counting(picture: Picture, *arguments: Any, interpolation: int) -> Any:
        if interpolation == cv2.INTER_AREA:
            averaged.append(picture.shape[0] * picture.shape[1])
        return resize(picture, *arguments, interpolation=interpolation)

    monkeypatch.setattr(cv2, "resize", counting)
    PictureSample.of(np.zeros((3648, 5472, 3), np.uint8))
    assert averaged
    assert max(averaged) < 1 << 20, "the next verdict waits meanwhile"


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


FARTHEST: dict[Measure, float] = {"shift_x": 40.0, "shift_y": 40.0, "turn": 1.5}


@pytest.mark.parametrize(
    ("at_px", "expected"),
    [
        (3.0, (3 - 200 / 256, 3, 3 + 200 / 256)),  # as calibrated
        (19.5, (19.5 - 200 / 256, 19.5, 20)),  # not beyond half of what alignment accepts
        (30.0, (-20, 0, 20)),  # calibrated beyond it
        (None, (-20, 0, 20)),  # calibrated with another picture
    ],
)
def test_with_a_reference_the_pose_is_watched_up_to_half_of_what_alignment_accepts(
    at_px: float | None, expected: tuple[float, float, float]
) -> None:
    pose = None if at_px is None else Pose(at_px, -1.0, 0.25, 0.9, 0.1)
    reference = fit_reference([replace(each, pose=pose) for each in samples([board()] * 12)], [], [])
    assert reference is not None
    watched = CameraReference(reference, farthest=FARTHEST)
    ranges = watched.expected()
    assert ranges["shift_x"] == pytest.approx(expected)
    assert ranges["turn"] == pytest.approx((0.15, 0.25, 0.35) if pose else (-0.75, 0, 0.75))
    assert ("match" in ranges) == (pose is not None), "without poses, no confidence is known"
    values = watched.values(board(), Pose(22.0, 4.0, -1.5, 0.75, 0.1))
    assert (values["shift_x"], values["shift_y"], values["turn"], values["match"]) == (22.0, 4.0, -1.5, 0.75)
    begun = {measure: reading for _ in range(6) for measure, reading in DriftMonitor(ranges, 1).add(values)}
    assert "the part lies further right than at calibration: shift_x 22 px" in describe_drift(
        "shift_x", begun["shift_x"]
    )


def test_grey_pictures_watch_no_saturation_and_few_frames_watch_nothing() -> None:
    grey = board()[..., :1].repeat(3, axis=2)
    reference = fit_reference(samples([noisy(grey, seed)[..., :1].repeat(3, axis=2) for seed in range(10)]), [], [])
    assert reference is not None
    assert reference.unwatched["saturation"] == "the pictures are grey"
    assert fit_reference(samples([board()] * 9), [], []) is None


def test_scores_of_few_good_frames_are_not_watched_and_the_reason_says_how_many_are_needed() -> None:
    reference = fit_reference(samples([board()] * 12), [0.0] * 29, [0.0] * 29)
    assert reference is not None
    few = dict.fromkeys(("score", "evidence"), "this needs 30 good frames, and 29 came")
    assert reference.unwatched.items() >= few.items()


@given(st.integers(1, 2000))
def test_at_most_200_evenly_spread_frames_are_measured(count: int) -> None:
    chosen = sorted(choose_evenly(count))
    assert len(chosen) == min(count, 200)
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    steps = np.diff(chosen)
    assert not len(steps) or steps.max() - steps.min() <= 1


def reference_of(quantiles: list[float], measure: Measure = "score") -> Reference:
    return Reference(frames=10, measures={measure: quantiles}, frame_hw=(600, 800))


def test_the_expected_range_exceeds_the_quantiles_by_the_margin_and_has_a_least_width() -> None:
    assert expected_range(reference_of([-9, -4, 0, 8, 9]), "score") == (-4 * (1 + MARGIN), 0, 8 * (1 + MARGIN))
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


def test_a_drift_is_over_only_once_the_median_lies_well_inside() -> None:
    monitor, found = DriftMonitor(EXPECTED, 2), []
    for value in (2.1, 1.9, 1.9, 1.7, 1.5, 1.9):
        list(monitor.add({"score": value}))
        found.append(monitor.readings["score"].drifted)
    assert found == [True, True, True, True, False, False]


def test_fewer_than_half_of_the_frames_of_a_window_cause_no_warning() -> None:
    monitor = DriftMonitor(EXPECTED, 10)
    for value in [0.0] * 10 + [100.0] * 4 + [0.0] * 10:
        assert not list(monitor.add({"score": value}))


@pytest.mark.parametrize("measure", msgspec.inspect.type_info(Measure).values)  # type: ignore[attr-defined]
def test_each_measure_has_its_sentences(measure: Measure) -> None:
    low, high = (reading_of(value, 30, True, ExpectedRange(0, 1, 2)) for value in (-1.0, 3.0))
    assert describe_drift(measure, low).startswith(f"{WHAT[measure][0]} than at calibration: {measure} -1")
    assert describe_drift(measure, high).startswith(f"{WHAT[measure][1]} than at calibration: {measure} 3")
    assert CHECK[measure] in describe_drift(measure, high)
    over = reading_of(1.0, 30, False, ExpectedRange(0, 1, 2))
    assert describe_drift(measure, over).startswith(f"as at calibration again: {measure} 1")
