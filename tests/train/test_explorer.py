"""The effect of thresholds, compared with the verdict rule frame by frame, and its intervals with the figures'."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.train.evaluation.charts import POSITIONS, Explorer, Scores, explore
from heatline.train.evaluation.figures import FrameColumns, TileColumns, compute_figures, compute_intervals

LOGITS = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.floats(-20, 20, width=32), st.floats(-1e6, 1e6))
"""Scores, some of them equal."""
FRAMES = st.lists(st.tuples(LOGITS, st.booleans()), max_size=12)
"""Score of a frame, and whether the frame is defective."""


def explored(frames: list[tuple[float, bool]], calibrated: float, groups: tuple[str, ...] = ()) -> Explorer:
    of = {
        kind: Scores(
            np.array([score for score, is_bad in frames if is_bad is kind], np.float64),
            tuple(group for group, (_, is_bad) in zip(groups, frames, strict=False) if is_bad is kind),
        )
        for kind in (True, False)
    }
    return explore(of[True], of[False], calibrated)


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


def columns(scores: list[float], defective: list[bool], calibrated: float, groups: int) -> FrameColumns:
    """Return frames that alternate between the groups."""
    count = len(scores)
    none = np.zeros(count, np.int64)
    logit = np.array(scores, np.float64)
    return FrameColumns(
        group=np.arange(count) % groups,
        logit=logit,
        defective=np.array(defective, np.bool_),
        rejected=logit >= calibrated,
        placed=none > 0,
        defects=none,
        hit=none,
        false_regions=none,
        line_px=np.zeros((count, 4), np.int64),
    )


@pytest.mark.parametrize("calibrated", [-1.0, 0.5, 9.0])
def test_intervals_at_the_calibrated_threshold_are_those_of_the_figures(calibrated: float) -> None:
    rng = np.random.default_rng(4)
    defective = (rng.random(60) < 0.5).tolist()
    scores = (rng.normal(0, 1, 60) + np.array(defective)).tolist()
    frames = columns(scores, defective, calibrated, groups=12)
    none = np.zeros(0, np.int64)
    tiles = TileColumns(none, none * 1.0, none > 0, none > 0, *[none * 1.0] * 3, none.reshape(0, 4))
    sure, _ = compute_intervals(lambda weights: compute_figures(tiles, frames, 16.0, weights), 12)
    names = tuple(f"{at % 12:02}" for at in range(60))
    found = explored(list(zip(scores, defective, strict=True)), calibrated, names)
    for mine, name in ((found.missed_interval, "escape_rate"), (found.rejected_interval, "false_reject_rate")):
        assert mine[found.start] == pytest.approx(sure.get(f"frame.{name}"))
        assert mine[0] is None, "all resamples agree"
        assert mine[-1] is None


def test_too_few_groups_and_frames_without_a_group_have_no_interval() -> None:
    frames = [(float(at % 7), at % 2 == 0) for at in range(40)]
    for groups in ((), tuple(f"{at % 9}" for at in range(40)), tuple(f"{at}" for at in range(39))):
        found = explored(frames, 3.0, groups)
        assert {*found.missed_interval, *found.rejected_interval} == {None}
    assert any(explored(frames, 3.0, tuple(f"{at % 10}" for at in range(40))).missed_interval)
