"""Thresholds from good frames: at most the wanted share reaches them, and no lower threshold would do."""

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from heatline.edge.calibration.statistics import upper_bound
from heatline.edge.calibration.thresholds import (
    EVIDENCE_QUANTILE,
    STORED_AT_LEAST,
    STRONG_SHARE,
    GoodFrame,
    calibrate,
    count_allowed_rejects,
    describe_support,
    lowest_defect_of,
    pooled_threshold,
    score_threshold,
    threshold,
)
from heatline.edge.errors import InputError
from heatline.edge.geometry import Stitcher, TileGrid
from heatline.edge.inspection.verdict import Thresholds, judge

HIGHEST = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=60)
RATE = st.floats(0, 1, exclude_max=True)
HUNDRED = [float(value) for value in range(100)]
TOP_CELLS = 16
EVIDENCE = st.floats(-30, 30, width=32)
HEATMAPS = st.lists(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=EVIDENCE), min_size=1, max_size=8
)
MANY_HEATMAPS = st.lists(hnp.arrays(np.float32, (2, 3), elements=EVIDENCE), min_size=1, max_size=30)


def good_frame(logit: float, evidence: float = 0.0, median: float = 0.0, group: str | None = None) -> GoodFrame:
    """A frame with one cell, which has this evidence."""
    return GoodFrame(logit, median, 1, np.array([evidence], np.float32), group)


def with_heatmaps(*heatmaps: NDArray[np.float32], logit: float = 1e6) -> list[GoodFrame]:
    """Frames with these heatmaps; the score threshold lies above all of them."""
    return [GoodFrame.of(np.array([logit], np.float32), heatmap) for heatmap in heatmaps]


@pytest.mark.parametrize(
    ("highest", "rate", "just_above"),
    [
        ([4.0, 1.0, 3.0, 2.0], 0.25, 3.0),  # one of four may be rejected, in any order
        ([1.0, 2.0, 3.0, 4.0], 0.49, 3.0),  # rounded down: never more than wanted
        ([1.0, 2.0, 3.0, 4.0], 0.0, 4.0),  # none
        ([5.0], 0.9, 5.0),  # one frame
        ([2.0, 2.0, 2.0, 1.0], 0.25, 2.0),  # three are equal: if one reached the threshold, all would
        (HUNDRED, 0.01, 98.0),
        (HUNDRED, 0.07, 92.0),  # 0.07 * 100 is 7.000000000000001
        (HUNDRED, 0.29, 70.0),  # and 0.29 * 100 is 28.999999999999996
        ([1.0, 2.0], math.nextafter(1.0, 0.0), 1.0),  # the largest possible share
    ],
)
def test_the_threshold_lies_just_above_the_next_highest_value(
    highest: list[float], rate: float, just_above: float
) -> None:
    assert threshold(highest, rate) == math.nextafter(just_above, math.inf)


@given(highest=HIGHEST, rate=RATE)
def test_the_threshold_is_the_lowest_that_at_most_the_share_reaches(highest: list[float], rate: float) -> None:
    came = threshold(highest, rate)
    allowed = math.floor(rate * len(highest) + 1e-9)
    assert sum(value >= came for value in highest) <= allowed
    lower = math.nextafter(came, -math.inf)
    assert sum(value >= lower for value in highest) > min(allowed, len(highest) - 1)


@given(highest=HIGHEST)
def test_frames_just_below_the_threshold_are_judged_good(highest: list[float]) -> None:
    """Calibration in float64 and the verdict on float32 agree to the last bit."""
    stitcher = Stitcher(TileGrid((16, 16), 16, 0), (1, 1))
    limits = Thresholds(threshold(highest, 0.0), 0.0, None)
    for value in highest:
        logits = np.array([value], np.float32)
        assert judge(logits, logits.reshape(1, 1, 1), stitcher, limits).verdict == "GOOD"


def test_invalid_values_are_refused() -> None:
    for rate in (-0.01, 1.0, math.nan):
        with pytest.raises(InputError, match="makes no sense"):
            calibrate([good_frame(1)], rate, "frames")
    with pytest.raises(InputError, match="at least one good frame"):
        calibrate([], 0.01, "frames")
    for value in (math.nan, math.inf, -math.inf):  # no tile reaches a threshold of nan: every frame would be GOOD
        with pytest.raises(InputError, match="finite"):
            threshold([1.0, value, 2.0], 0.5)
        with pytest.raises(InputError, match="finite"):
            calibrate([good_frame(value)], 0.5, "one")


def test_both_thresholds_use_the_same_share_of_the_same_frames() -> None:
    frames = [good_frame(i, 10 * i, i % 3) for i in range(30)]
    came = calibrate(frames, 0.2, "thirty frames")
    assert came.score_threshold == math.nextafter(23.0, math.inf)
    assert came.evidence_threshold == math.nextafter(230.0, math.inf)
    assert came.background == 1.0
    assert (came.frames, came.frames_are, came.false_reject_per_frame) == (30, "thirty frames", 0.2)


@given(heatmaps=MANY_HEATMAPS, share=st.sampled_from([0.0, 0.3]))
def test_the_highest_cells_of_few_frames_are_strong_evidence_which_only_a_top_mean_has(
    heatmaps: list[NDArray[np.float32]], share: float
) -> None:
    frames = with_heatmaps(*heatmaps, logit=-100)
    came = calibrate(frames, share, "drawn", top_cells=TOP_CELLS)
    assert came.strong_evidence is not None
    assert came.strong_evidence >= max(came.score_threshold, came.evidence_threshold)
    reached = [float(heatmap.max()) >= came.strong_evidence for heatmap in heatmaps]
    allowed = math.floor(max(share, STRONG_SHARE) * len(frames))
    assert sum(reached) <= allowed
    if came.strong_evidence > came.score_threshold:  # no lower value would do
        lower = math.nextafter(came.strong_evidence, -math.inf)
        assert sum(float(heatmap.max()) >= lower for heatmap in heatmaps) > allowed
    assert calibrate(frames, share, "drawn").strong_evidence is None


@pytest.mark.parametrize(("share", "just_above"), [(0.0, 26.0), (0.1, 26.0), (0.2, 23.0)])
def test_strong_evidence_is_reached_by_a_tenth_of_the_frames_or_by_the_wanted_share(
    share: float, just_above: float
) -> None:
    frames = [good_frame(-100.0, float(evidence)) for evidence in range(30)]
    came = calibrate(frames, share, "thirty frames", top_cells=TOP_CELLS)
    assert came.strong_evidence == math.nextafter(just_above, math.inf)
    high = [good_frame(50.0, float(evidence)) for evidence in range(30)]
    above = calibrate(high, share, "high tiles", top_cells=TOP_CELLS)
    assert above.strong_evidence == above.score_threshold == math.nextafter(50.0, math.inf)


def test_a_good_frame_stores_its_highest_values_and_its_median() -> None:
    heatmap = np.array([[1, 2, np.nan], [3, 9, np.nan]], np.float32)
    frame = GoodFrame.of(np.array([-3, 4], np.float32), heatmap)
    assert (frame.highest_logit, frame.highest_evidence, frame.median_evidence, frame.cells) == (4.0, 9.0, 2.5, 4)


# The evidence threshold if the logit is the mean of the highest cells.


@given(heatmaps=HEATMAPS)
def test_the_cells_of_all_frames_together_set_the_evidence_threshold_of_a_top_mean(
    heatmaps: list[NDArray[np.float32]],
) -> None:
    """Compared with numpy's quantile; each heatmap is small enough to be stored completely."""
    cells = np.concatenate([heatmap.ravel() for heatmap in heatmaps]).astype(np.float64)
    came = calibrate(with_heatmaps(*heatmaps), 0.0, "drawn", top_cells=TOP_CELLS)
    assert came.evidence_threshold == np.nextafter(np.quantile(cells, 0.999, method="inverted_cdf"), np.inf)
    assert came.evidence_quantile == EVIDENCE_QUANTILE == 0.999


@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 40),
    side=st.integers(1, 120),
    uncovered=st.floats(0, 0.9),
    spread=st.floats(0, 1),
)
def test_stored_cells_give_the_exact_threshold_unless_one_frame_dominates(
    seed: int, frames: int, side: int, uncovered: float, spread: float
) -> None:
    """Compared with complete heatmaps. The result is exact if no more cells reach the threshold than are stored."""
    draw = np.random.default_rng(seed)
    heatmaps = (draw.normal(size=(frames, side, side)) + draw.normal(size=(frames, 1, 1)) * spread).astype(np.float32)
    heatmaps[draw.random(heatmaps.shape) < uncovered] = np.nan
    heatmaps[:, 0, 0] = 0
    covered = heatmaps[~np.isnan(heatmaps)].astype(np.float64)
    expected = np.nextafter(np.quantile(covered, 0.999, method="inverted_cdf"), np.inf)
    frames_stored = with_heatmaps(*heatmaps)
    stored = np.array([len(frame.highest_cells) for frame in frames_stored])
    came = pooled_threshold(frames_stored)
    reaching = (heatmaps >= np.nextafter(expected, -np.inf)).sum(axis=(1, 2))
    assert (came == expected) if (reaching <= stored).all() else (came <= expected)
    cells = np.array([frame.cells for frame in frames_stored])
    assert cells.sum() == len(covered)
    assert (stored == np.minimum(cells, np.maximum(np.ceil(0.02 * cells), STORED_AT_LEAST))).all()


def test_a_frame_that_is_hot_everywhere_counts_with_two_percent_of_its_cells() -> None:
    low, high = np.zeros((300, 300), np.float32), np.full((300, 300), 9, np.float32)
    for lows, just_above in ((18, 9.0), (19, 0.0)):  # 2 % of the high frame are 0.1 % of 20 frames
        assert pooled_threshold(with_heatmaps(*[low] * lows, high)) == math.nextafter(just_above, math.inf)


def test_a_stored_frame_does_not_retain_its_heatmap() -> None:
    (frame,) = with_heatmaps(np.zeros((300, 300), np.float32))
    assert frame.highest_cells.base is None
    assert frame.highest_cells.nbytes == 4 * 1800


@given(heatmaps=HEATMAPS, logit=st.floats(-30, 30, width=32))
def test_the_evidence_threshold_of_a_top_mean_is_never_above_the_score_threshold(
    heatmaps: list[NDArray[np.float32]], logit: float
) -> None:
    frames = with_heatmaps(*heatmaps, logit=logit)
    came = calibrate(frames, 0.0, "drawn", top_cells=TOP_CELLS)
    assert came.score_threshold == math.nextafter(logit, math.inf)
    assert came.evidence_threshold == min(came.score_threshold, pooled_threshold(frames))


def test_cells_that_are_not_finite_set_no_threshold() -> None:
    for heatmap in (np.full((3, 3), np.nan, np.float32), np.array([[1, np.inf]], np.float32)):
        for top_cells in (None, TOP_CELLS):
            with pytest.raises(InputError, match="finite"):
                calibrate(with_heatmaps(np.zeros((3, 3), np.float32), heatmap), 0.0, "bad", top_cells=top_cells)
    with pytest.raises(InputError, match="at least one good frame"):
        pooled_threshold([])


# The bound of the true rate.


@pytest.mark.parametrize(
    ("frames", "rate", "held_out", "bound"),
    [(1, 0.01, None, 0.95), (13, 0.01, 2, 0.206), (100, 0.01, 20, 0.0466), (600, 0.1, 120, 0.1225)],
)
def test_a_calibration_states_the_held_out_rejects_and_the_bound(
    frames: int, rate: float, held_out: int | None, bound: float
) -> None:
    """Each fifth of the frames is judged by a threshold from the others; only the last fifth lies above these."""
    came = calibrate([good_frame(i, i) for i in range(frames)], rate, "frames", lowest_defect=-99.0)
    assert came.held_out_rejected == held_out
    assert came.false_reject_at_most == pytest.approx(bound, rel=4e-3)


def test_frames_of_one_group_are_held_out_together() -> None:
    """The highest groups reach the threshold that the other groups set with all their frames."""
    frames = [good_frame(float(number), group=str(number // 4)) for number in range(40)]
    assert calibrate(frames, 0.0, "frames", lowest_defect=-99.0).held_out_rejected == 8
    assert calibrate(frames[:4], 0.0, "frames").held_out_rejected is None, "there is no other group"


@pytest.mark.parametrize(("frames", "least", "most"), [(120, 70, 130), (60, 0, 130)], ids=["quantile", "tail"])
def test_the_true_rate_exceeds_the_bound_in_at_most_one_of_twenty_cases(frames: int, least: int, most: int) -> None:
    """Logits are drawn from a known distribution, so the true rate of each threshold is known."""
    draw = np.random.default_rng(11)
    exceeded = 0
    for _ in range(2000):
        logits = draw.random(frames)  # the true rate of a threshold t is 1 - t
        came = calibrate([good_frame(float(logit)) for logit in logits], 0.05, "drawn")
        assert came.false_reject_at_most is not None
        exceeded += 1 - came.score_threshold > came.false_reject_at_most
    assert least <= exceeded <= most, "100 of 2000, give or take three standard deviations; fewer where a tail is set"


@pytest.mark.parametrize("sizes", [[5] * 40, [10] * 5, [1 + 7 * group % 29 for group in range(40)]])
@pytest.mark.parametrize("share", [0.01, 0.1])
def test_the_bound_of_groups_holds_in_nineteen_of_twenty_cases(sizes: list[int], share: float) -> None:
    """Groups and frames within them are drawn from normal distributions, so the true rate for a new group is known."""
    draw, between = np.random.default_rng(12), 3.0
    groups, known = np.repeat(np.arange(len(sizes)), sizes), NormalDist(0, math.hypot(between, 1))
    exceeded = 0
    for _ in range(200):
        logits = draw.normal(0, between, len(sizes))[groups] + draw.normal(0, 1, len(groups))
        frames = [good_frame(float(logit), group=str(group)) for logit, group in zip(logits, groups, strict=True)]
        came = calibrate(frames, share, "drawn", lowest_defect=-99.0)  # defects overlap: the quantile counts
        assert came.false_reject_at_most is not None
        exceeded += 1 - known.cdf(came.score_threshold) > came.false_reject_at_most
    assert exceeded <= 200 // 20


def test_ties_do_not_change_the_bound() -> None:
    came = calibrate([good_frame(2)] * 5 + [good_frame(1)] * 5, 0.3, "ties")
    assert came.held_out_rejected == 0
    assert came.false_reject_at_most == upper_bound(3, 10) > upper_bound(0, 10)


# Few frames, and a gap to defective frames.

SCORES = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=60)


@given(SCORES, st.floats(0.001, 0.4), st.lists(st.floats(-30, 30, width=32), max_size=30))
def test_the_score_threshold_is_never_lower_than_the_quantile(
    good: list[float], share: float, defective: list[float]
) -> None:
    lowest = lowest_defect_of(defective)
    found, by = score_threshold(good, share, lowest)
    quantile = threshold(good, share)
    assert found >= quantile
    assert (by == "quantile") == (found == quantile)
    assert (by == "margin") == (lowest is not None and lowest > quantile)
    if by == "margin":
        assert lowest is not None
        assert quantile < found < lowest
        assert sum(value < found for value in defective) <= 0.05 * len(defective)
    if count_allowed_rejects(len(good), share) >= 5 and not defective:
        assert (found, by) == (quantile, "quantile")


@given(SCORES, st.floats(0.001, 0.4), st.floats(-20, 20, width=16))
def test_a_shift_of_all_logits_shifts_the_score_threshold(good: list[float], share: float, by: float) -> None:
    moved, how = score_threshold([value + by for value in good], share)
    assert how in ("quantile", "tail")
    assert moved == pytest.approx(score_threshold(good, share)[0] + by, abs=1e-3)


def test_for_few_frames_a_normal_tail_rejects_the_wanted_share() -> None:
    """The average over many draws of 12 normal values; the quantile alone rejects 1 in 13."""
    rng = np.random.default_rng(0)
    rejected_by = {"tail": 0.0, "quantile": 0.0}
    for _ in range(4000):
        good = rng.normal(size=12)
        rejected_by["tail"] += 1 - NormalDist().cdf(score_threshold(good.tolist(), 0.02)[0])
        rejected_by["quantile"] += 1 - NormalDist().cdf(threshold(good, 0.02))
    assert rejected_by["tail"] / 4000 == pytest.approx(0.02, abs=0.003)
    assert rejected_by["quantile"] / 4000 == pytest.approx(1 / 13, abs=0.006)


def test_the_threshold_lies_in_the_middle_of_a_gap_to_defects() -> None:
    good = [-3.0, -2.0, -1.0, -2.0, -2.5, -3.0, -2.5, -1.5]
    assert score_threshold(good, 0.01)[1] == "tail"
    assert score_threshold(good[:7], 0.01) == (threshold(good[:7], 0.01), "quantile")
    assert score_threshold(good, 0.01, 10.0) == (pytest.approx(4.5), "margin")
    assert score_threshold(good, 0.01, -0.9) == (pytest.approx(-0.95), "margin")
    assert score_threshold(good, 0.01, -2.0) == (threshold(good, 0.01), "quantile")


def test_the_lowest_of_few_defective_frames_counts() -> None:
    assert lowest_defect_of([]) is None
    assert lowest_defect_of([40.0, 0.5]) == 0.5
    assert lowest_defect_of([20.0] * 9 + [-0.9]) == -0.9
    assert lowest_defect_of([float(number) for number in range(41)]) == 2.0
    with pytest.raises(InputError, match="finite"):
        lowest_defect_of([math.nan])


def test_groups_count_once_in_the_bound_and_few_groups_cause_a_warning() -> None:
    frames = [replace(good_frame(float(number)), group=str(number // 5)) for number in range(200)]
    grouped, each = calibrate(frames, 0.01, "frames"), calibrate([replace(one, group=None) for one in frames], 0.01, "")
    assert (grouped.groups, each.groups) == (40, None)
    assert grouped.score_threshold > each.score_threshold, "a new group lies farther off than a frame"
    assert each.false_reject_at_most == upper_bound(2, 200)
    assert grouped.false_reject_at_most == upper_bound(1, 40)
    warning = describe_support(grouped)
    assert warning is not None
    assert warning.startswith(
        "200 good frames of 40 groups cannot show a false-reject rate of 1 %: with 95 % confidence "
    )
    assert "up to 3 of 41 new parts may be rejected; 299 good frames of the line" in warning
    assert describe_support(calibrate([good_frame(float(number)) for number in range(400)], 0.01, "")) is None
    few = [replace(good_frame(float(number)), group=str(number % 2)) for number in range(200)]
    for warning in (describe_support(calibrate(few, 0.01, "")), describe_support(calibrate(few[:20], 0.01, ""))):
        assert warning is not None
        assert ("up to one new part in 3 may be rejected" in warning) == warning.startswith("20 good")


# Groups of frames that are alike.


@given(
    good=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40),
    share=st.sampled_from([0.0, 0.01, 0.05, 0.3]),
    lowest=st.one_of(st.none(), st.floats(-30, 30, width=32)),
    groups=st.integers(1, 40),
)
def test_groups_never_lower_the_score_threshold(
    good: list[float], share: float, lowest: float | None, groups: int
) -> None:
    alone = score_threshold(good, share, lowest)
    assert score_threshold(good, share, lowest, [str(place) for place in range(len(good))]) == alone
    assert score_threshold(good, share, lowest, [str(place % groups) for place in range(len(good))]) >= alone


def test_for_groups_that_differ_a_new_group_has_the_wanted_share() -> None:
    """Without groups, three times the wanted share of a new group's frames is rejected."""
    draw, share, spread = np.random.default_rng(0), 0.02, math.hypot(3, 1)
    groups = [str(number) for number, size in enumerate([1] * 6 + [30] * 4) for _ in range(size)]
    rejected_by = {"alone": 0.0, "grouped": 0.0}
    for _ in range(200):
        means = draw.normal(0, 3, 10)
        good = [float(means[int(group)] + draw.normal()) for group in groups]
        for how, known in (("alone", None), ("grouped", groups)):
            above = 1 - NormalDist(0, spread).cdf(score_threshold(good, share, None, known)[0])
            rejected_by[how] += above / 200
    assert rejected_by["grouped"] < share < 2.5 * share < rejected_by["alone"]


def test_fewer_than_eight_groups_set_no_tail() -> None:
    good, groups = [float(place // 4) for place in range(28)], [str(place // 4) for place in range(28)]
    assert score_threshold(good, 0.01, None, groups) == score_threshold(good, 0.01)
    good, groups = [*good, 7.0, 7.0], [*groups, "7", "7"]
    assert score_threshold(good, 0.01, None, groups) > score_threshold(good, 0.01)


def test_frames_with_groups_are_calibrated_by_groups() -> None:
    frames = [replace(good_frame(place // 3 + place % 3 / 10), group=str(place // 3)) for place in range(30)]
    grouped, alone = (
        calibrate(each, 0.01, "drawn") for each in (frames, [replace(frame, group=None) for frame in frames])
    )
    assert (grouped.score_by, grouped.groups, alone.groups) == ("tail", 10, None)
    assert grouped.score_threshold > alone.score_threshold
