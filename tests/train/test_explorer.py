"""The page's slider, compared with the verdict rule frame by frame."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.train.evaluation.line_view import (
    BINS,
    DEFECTIVE_COLOUR,
    GOOD_COLOUR,
    POSITIONS,
    line_view,
    score_bars,
    slider_places,
)
from heatline.train.evaluation.result import FrameAnswer
from heatline.train.evaluation.rows import Row, StoredEvaluation
from tests.train.evaluations import evaluation, subject

LOGITS = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.floats(-20, 20, width=32), st.floats(-1e6, 1e6))
"""Scores, some of them equal."""
FRAMES = st.lists(st.tuples(LOGITS, st.booleans()), max_size=12)
"""Score of a frame, and whether the frame is defective."""


def viewed(frames: list[tuple[float, bool]], calibrated: float) -> dict[str, Any]:
    answers = [FrameAnswer(f"{at}.png", None, is_bad, score) for at, (score, is_bad) in enumerate(frames)]
    made = evaluation(subject(), frames=answers)
    calibration = msgspec.structs.replace(made.calibration, score_threshold=calibrated)
    made = msgspec.structs.replace(made, calibration=calibration)
    return line_view(Row("lite", (StoredEvaluation(made, Path("none")),)))


@given(FRAMES, st.floats(-25, 25))
def test_every_position_counts_frames_by_the_verdict_rule(frames: list[tuple[float, bool]], calibrated: float) -> None:
    places, start, _ = slider_places([score - calibrated for score, _ in frames])
    view = viewed(frames, calibrated)
    positions, good, bad = view["positions"], *(sum(is_bad is kind for _, is_bad in frames) for kind in (False, True))
    assert (positions["start"], places[start]) == (start, 0)
    assert (np.diff(places) > 0).all()
    assert len(positions["threshold"]) == len(places) <= POSITIONS + 5
    for at, place in enumerate(places.tolist()):
        assert positions["missed"][at] == sum(score - calibrated < place for score, is_bad in frames if is_bad)
        assert positions["rejected"][at] == sum(score - calibrated >= place for score, is_bad in frames if not is_bad)
    assert (positions["missed"][0], positions["rejected"][0]) == (0, good)
    assert (positions["missed"][-1], positions["rejected"][-1]) == (bad, 0)
    assert positions["missed"][start] == sum(score < calibrated for score, is_bad in frames if is_bad)
    listed = [(each.note, each.at) for side in ("missed", "rejected") for each in view[side]]
    assert len(listed) == len(frames)
    above = sorted(score - calibrated for score, _ in frames)
    for score, position in zip(above, sorted(position for _, position in listed), strict=True):
        for at, place in enumerate(places.tolist()):
            assert (at < position) == (score >= place), "a frame is judged DEFECT before its own position"


@pytest.mark.parametrize("width", [0.0, 0.1, 1.0, 30.0, 5000.0])
def test_positions_are_printed_with_enough_digits_to_differ(width: float) -> None:
    texts = viewed([(0.3, True), (0.3 + width, False)], 0.3)["positions"]["threshold"]
    assert len(set(texts)) == len(texts)


@given(FRAMES)
def test_every_frame_is_in_a_bar_on_its_side_of_the_calibrated_threshold(frames: list[tuple[float, bool]]) -> None:
    """Good frames are above the axis, defective ones below it; widths and heights are percent of the chart."""
    good, bad = ([score for score, is_bad in frames if is_bad is kind] for kind in (False, True))
    places = slider_places([*good, *bad])[0]
    bars = score_bars(good, bad, places)
    zero = 100 * -places[0] / (places[-1] - places[0])
    for scores, colour in ((good, GOOD_COLOUR), (bad, DEFECTIVE_COLOUR)):
        mine = [bar for bar in bars if bar.colour == colour]
        for score in scores:
            at = 100 * (score - places[0]) / (places[-1] - places[0])
            assert any(bar.left - 1e-6 <= at <= bar.left + 100 / BINS + 1e-6 for bar in mine)
        for bar in mine:
            assert bar.top + bar.height == pytest.approx(50) if colour == GOOD_COLOUR else bar.top == 50
            assert bar.left >= zero - 1e-6 or bar.left + 100 / BINS <= zero + 1e-6
    assert len(bars) <= len(frames)


def test_the_height_of_a_bar_is_the_root_of_its_count() -> None:
    good, bad = score_bars([-3.0], [3.0] * 4, slider_places([-3.0, 3.0])[0])
    assert (good.height, bad.height) == (25, 50)
