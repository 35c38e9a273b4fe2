"""The effect of thresholds, compared with the verdict rule frame by frame."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from heatline.train.evaluation.charts import POSITIONS, Explorer, explore

LOGITS = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.floats(-20, 20, width=32), st.floats(-1e6, 1e6))
"""Scores, some of them equal."""
FRAMES = st.lists(st.tuples(LOGITS, st.booleans()), max_size=12)
"""Score of a frame, and whether the frame is defective."""


def explored(frames: list[tuple[float, bool]], calibrated: float) -> Explorer:
    defective, good = (np.array([score for score, is_bad in frames if is_bad is kind], float) for kind in (True, False))
    return explore(defective, good, calibrated)


@given(FRAMES, st.floats(-25, 25))
def test_every_position_counts_frames_by_the_verdict_rule(frames: list[tuple[float, bool]], calibrated: float) -> None:
    found = explored(frames, calibrated)
    assert found.thresholds[found.start] == calibrated
    assert (np.diff(found.thresholds) > 0).all()
    assert len(found.thresholds) <= POSITIONS + 5
    for at, threshold in enumerate(found.thresholds.tolist()):
        assert found.missed[at] == sum(score < threshold for score, defective in frames if defective)
        assert found.rejected[at] == sum(score >= threshold for score, defective in frames if not defective)
    assert (found.missed[0], found.rejected[0]) == (0, found.good)
    assert (found.missed[-1], found.rejected[-1]) == (found.defective, 0)


@given(FRAMES, st.floats(-25, 25))
def test_a_frame_is_judged_defect_before_its_own_position(frames: list[tuple[float, bool]], calibrated: float) -> None:
    found = explored(frames, calibrated)
    for score, _ in frames:
        for at, threshold in enumerate(found.thresholds.tolist()):
            assert (at < found.at(score)) == (score >= threshold)


def test_positions_are_printed_with_enough_digits_to_differ() -> None:
    for width in (0.0, 0.1, 1.0, 30.0, 5000.0):
        found = explored([(0.3, True), (0.3 + width, False)], 0.3)
        texts = [f"{threshold:.{found.digits}f}" for threshold in found.thresholds]
        assert len(set(texts)) == len(texts)
