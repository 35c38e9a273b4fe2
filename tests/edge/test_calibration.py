"""Thresholds from good frames, and the bounds of what they reject, compared with exact sums, SciPy and simulation."""

import math
from dataclasses import replace
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from heatline.edge.calibration import statistics
from heatline.edge.calibration.statistics import cdf, prediction_bound, t_cdf, t_quantile, upper_bound
from heatline.edge.calibration.thresholds import (
    STORED_AT_LEAST,
    STRONG_SHARE,
    GoodFrame,
    calibrate,
    describe_support,
    lowest_defect_of,
    pooled_threshold,
    score_threshold,
    threshold,
)
from heatline.edge.errors import InputError
from heatline.edge.geometry import Stitcher, TileGrid
from heatline.edge.inspection.verdict import Thresholds, judge

LOGIT = st.floats(-30, 30, width=32)
LOGITS = st.lists(LOGIT, min_size=1, max_size=60)
TOP_CELLS = 16


def good_frame(logit: float, evidence: float = 0.0, group: str | None = None) -> GoodFrame:
    """A frame with one cell, which has this evidence."""
    return GoodFrame(logit, evidence, 1, np.array([evidence], np.float32), group)


def with_heatmaps(*heatmaps: NDArray[np.float32], logit: float = 1e6) -> list[GoodFrame]:
    return [GoodFrame.of(np.array([logit], np.float32), heatmap) for heatmap in heatmaps]


def rejected(threshold: float, spread: float = 1.0) -> float:
    return 1 - NormalDist(0, spread).cdf(threshold)


@example([float(value) for value in range(100)], 0.07)  # 0.07 * 100 is 7.000000000000001
@example([float(value) for value in range(100)], 0.29)  # and 0.29 * 100 is 28.999999999999996
@example([2.0, 2.0, 2.0, 1.0], 0.25)  # three are equal: if one reached the threshold, all would
@given(LOGITS, st.floats(0, 1, exclude_max=True))
def test_the_threshold_is_the_lowest_that_at_most_the_share_reaches(highest: list[float], rate: float) -> None:
    came, allowed = threshold(highest, rate), math.floor(rate * len(highest) + 1e-9)
    assert sum(value >= came for value in highest) <= allowed
    lower = math.nextafter(came, -math.inf)
    assert sum(value >= lower for value in highest) > min(allowed, len(highest) - 1)
    stitcher, limits = Stitcher(TileGrid((16, 16), 16, 0), (1, 1)), Thresholds(threshold(highest, 0.0), 0.0, None)
    logits = np.array([max(highest)], np.float32)
    judged = judge(logits, logits.reshape(1, 1, 1), stitcher, limits).verdict
    assert judged == "GOOD", "calibration in float64 and the verdict on float32 agree to the last bit"


def test_invalid_values_are_refused() -> None:
    for rate in (-0.01, 1.0, math.nan):
        with pytest.raises(InputError, match="makes no sense"):
            calibrate([good_frame(1)], rate, "frames")
    with pytest.raises(InputError, match="at least one good frame"):
        calibrate([], 0.01, "frames")
    blank = np.zeros((3, 3), np.float32)
    for frames, top_cells in (  # no tile reaches a threshold of nan: every frame would be GOOD
        ([good_frame(math.nan), good_frame(1)], None),
        ([good_frame(math.inf), good_frame(1)], None),
        (with_heatmaps(blank, blank * np.nan), None),
        (with_heatmaps(blank, blank + np.float32(np.inf)), TOP_CELLS),
    ):
        with pytest.raises(InputError, match="finite"):
            calibrate(frames, 0.0, "bad", top_cells=top_cells)
    with pytest.raises(InputError, match="finite"):
        lowest_defect_of([math.nan])


def test_both_thresholds_use_the_same_share_of_the_same_frames() -> None:
    came = calibrate([good_frame(i, 10 * i) for i in range(30)], 0.2, "thirty frames")
    thresholds = came.score_threshold, came.evidence_threshold
    assert thresholds == (math.nextafter(23.0, math.inf), math.nextafter(230.0, math.inf))
    assert (came.background, came.strong_evidence) == (145.0, None), "only a top-mean has strong evidence"
    frame = GoodFrame.of(np.array([-3, 4], np.float32), np.array([[1, 2, np.nan], [3, 9, np.nan]], np.float32))
    assert (frame.highest_logit, frame.highest_cells.max(), frame.median_evidence, frame.cells) == (4.0, 9.0, 2.5, 4)


@given(
    st.lists(hnp.arrays(np.float32, (2, 3), elements=LOGIT), min_size=1, max_size=30), st.sampled_from([0.0, 0.1, 0.3])
)
def test_strong_evidence_is_reached_by_a_tenth_of_the_frames_or_by_the_wanted_share(
    heatmaps: list[NDArray[np.float32]], share: float
) -> None:
    came = calibrate(with_heatmaps(*heatmaps, logit=-100), share, "drawn", top_cells=TOP_CELLS)
    assert came.strong_evidence >= max(came.score_threshold, came.evidence_threshold)
    allowed = math.floor(max(share, STRONG_SHARE) * len(heatmaps))
    assert sum(float(heatmap.max()) >= came.strong_evidence for heatmap in heatmaps) <= allowed
    if came.strong_evidence > came.score_threshold:  # no lower value would do
        lower = math.nextafter(came.strong_evidence, -math.inf)
        assert sum(float(heatmap.max()) >= lower for heatmap in heatmaps) > allowed


@given(
    seed=st.integers(0, 2**32 - 1), frames=st.integers(1, 40), side=st.integers(1, 120),
    uncovered=st.floats(0, 0.9), spread=st.floats(0, 1),
)  # fmt: skip
def test_stored_cells_give_the_exact_evidence_threshold_unless_one_frame_dominates(
    seed: int, frames: int, side: int, uncovered: float, spread: float
) -> None:
    """Compared with complete heatmaps. The result is exact if no more cells reach the threshold than are stored."""
    draw = np.random.default_rng(seed)
    heatmaps = (draw.normal(size=(frames, side, side)) + draw.normal(size=(frames, 1, 1)) * spread).astype(np.float32)
    heatmaps[draw.random(heatmaps.shape) < uncovered] = np.nan
    heatmaps[:, 0, 0] = 0
    covered = heatmaps[~np.isnan(heatmaps)].astype(np.float64)
    expected = np.nextafter(np.quantile(covered, 0.999, method="inverted_cdf"), np.inf)
    kept = with_heatmaps(*heatmaps, logit=2.0)
    stored, cells = (
        np.array(each) for each in zip(*[(len(one.highest_cells), one.cells) for one in kept], strict=True)
    )
    assert all(one.highest_cells.base is None for one in kept), "a frame does not retain its heatmap"
    came = pooled_threshold(kept)
    reaching = (heatmaps >= np.nextafter(expected, -np.inf)).sum(axis=(1, 2))
    assert (came == expected) if (reaching <= stored).all() else (came <= expected)
    assert cells.sum() == len(covered)
    assert (stored == np.minimum(cells, np.maximum(np.ceil(0.02 * cells), STORED_AT_LEAST))).all()
    made = calibrate(kept, 0.0, "drawn", top_cells=TOP_CELLS)
    assert made.evidence_threshold == min(made.score_threshold, came)


@pytest.mark.parametrize(
    ("logits", "per_group", "rate", "held_out", "bound"),
    [
        (range(1), 0, 0.01, None, 0.95),
        (range(600), 0, 0.1, 120, 0.1225),
        (range(40), 4, 0.0, 8, upper_bound(0, 10)),  # the highest groups exceed what all other groups set
        (range(4), 4, 0.0, None, 0.95),  # there is no other group
        ([2] * 5 + [1] * 5, 0, 0.3, 0, upper_bound(3, 10)),  # ties do not change the bound
    ],
)
def test_a_calibration_states_the_held_out_rejects_and_the_bound(
    logits: list[int], per_group: int, rate: float, held_out: int | None, bound: float
) -> None:
    """Each fifth of the frames is judged by a threshold from the others; only the last fifth lies above these."""
    groups = [str(place // per_group) if per_group else None for place in range(len(logits))]
    frames = [good_frame(logit, group=group) for logit, group in zip(logits, groups, strict=True)]
    came = calibrate(frames, rate, "frames", lowest_defect=-99.0)
    assert came.held_out_rejected == held_out
    assert came.false_reject_at_most == pytest.approx(bound, rel=4e-3)


@given(
    good=LOGITS,
    share=st.sampled_from([0.0, 0.01, 0.05, 0.3]),
    defective=st.lists(LOGIT, max_size=30),
    groups=st.integers(1, 40),
)
def test_the_score_threshold_is_never_lower_than_the_quantile_nor_lowered_by_groups(
    good: list[float], share: float, defective: list[float], groups: int
) -> None:
    lowest, quantile = lowest_defect_of(defective), threshold(good, share)
    found, by = score_threshold(good, share, lowest)
    assert found >= quantile
    assert (by == "quantile") == (found == quantile)
    assert (by == "margin") == (lowest is not None and lowest > quantile)
    if lowest is not None and by == "margin":
        assert quantile < found < lowest
        assert sum(value < found for value in defective) <= 0.05 * len(defective)
    assert score_threshold(good, share, lowest, [str(place) for place in range(len(good))]) == (found, by)
    assert score_threshold(good, share, lowest, [str(place % groups) for place in range(len(good))]) >= (found, by)


def test_a_normal_tail_rejects_the_wanted_share_of_new_frames_and_of_new_groups() -> None:
    """The quantile alone rejects 1 in 13 of 12 frames; without groups, a new group loses three times the share."""
    draw, share = np.random.default_rng(0), 0.02
    tail = quantile = alone = grouped = 0.0
    for _ in range(2000):
        good = draw.normal(size=12).tolist()
        tail += rejected(score_threshold(good, share)[0]) / 2000
        quantile += rejected(threshold(good, share)) / 2000
    assert (tail, quantile) == (pytest.approx(share, abs=0.003), pytest.approx(1 / 13, abs=0.006))
    groups = [str(number) for number, size in enumerate([1] * 6 + [30] * 4) for _ in range(size)]
    for _ in range(200):
        means = draw.normal(0, 3, 10)
        good = [float(means[int(group)] + draw.normal()) for group in groups]
        alone += rejected(score_threshold(good, share)[0], math.hypot(3, 1)) / 200
        grouped += rejected(score_threshold(good, share, None, groups)[0], math.hypot(3, 1)) / 200
    assert grouped < share < 2.5 * share < alone


def test_the_score_threshold_lies_in_the_middle_of_a_gap_to_defects_or_on_a_tail_of_eight() -> None:
    good = [-3.0, -2.0, -1.0, -2.0, -2.5, -3.0, -2.5, -1.5]
    assert score_threshold(good, 0.01)[1] == "tail"
    assert score_threshold(good[:7], 0.01) == (threshold(good[:7], 0.01), "quantile")
    assert score_threshold(good, 0.01, 10.0) == (pytest.approx(4.5), "margin")
    assert score_threshold(good, 0.01, -2.0) == (threshold(good, 0.01), "quantile")
    logits, groups = [float(at // 4) for at in range(30)], [str(at // 4) for at in range(30)]
    assert score_threshold(logits[:28], 0.01, None, groups[:28]) == score_threshold(logits[:28], 0.01), "7 groups"
    assert score_threshold(logits, 0.01, None, groups) > score_threshold(logits, 0.01)
    defects = [40.0, 0.5], [20.0] * 9 + [-0.9], list(map(float, range(41)))
    assert list(map(lowest_defect_of, defects)) == [0.5, -0.9, 2.0]


def test_groups_count_once_in_the_bound_and_few_groups_cause_a_warning() -> None:
    frames = [good_frame(float(number), group=str(number // 5)) for number in range(200)]
    grouped, each = calibrate(frames, 0.01, "frames"), calibrate([replace(one, group=None) for one in frames], 0.01, "")
    assert (grouped.score_by, grouped.groups, each.groups) == ("tail", 40, None)
    assert (grouped.false_reject_at_most, each.false_reject_at_most) == (upper_bound(1, 40), upper_bound(2, 200))
    warning = str(describe_support(grouped))
    assert warning.startswith("200 good frames of 40 groups cannot show a false-reject rate of 1 %: with 95 % ")
    assert "up to 3 of 41 new parts may be rejected; 299 good frames of the line" in warning
    assert describe_support(calibrate([good_frame(float(number)) for number in range(400)], 0.01, "")) is None


COUNTED = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


def exact_tail(count: int, n: int, share: float | Fraction) -> Fraction:
    """P(X <= count), term by term."""
    p = Fraction(share)
    return sum((math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(count + 1)), Fraction(0))


@given(COUNTED)
def test_bounds_solve_the_equations_of_clopper_and_pearson(counted: tuple[int, int]) -> None:
    n, count = counted
    low, high = statistics.interval(count, n)
    assert 0 <= low <= count / n <= high <= 1
    assert ((low == 0), (high == 1)) == ((count == 0), (count == n))
    if count < n:
        assert float(exact_tail(count, n, upper_bound(count, n))) == pytest.approx(0.05, rel=1e-8)
        assert float(exact_tail(count, n, high)) == pytest.approx(0.025, rel=1e-8)
    if count > 0:
        assert float(1 - exact_tail(count - 1, n, low)) == pytest.approx(0.025, rel=1e-6)


@given(st.integers(0, 60), st.integers(1, 50), st.sampled_from([1e-9, 0.03, 0.5, 0.97]))
def test_the_binomial_distribution_equals_scipys(count: int, n: int, share: float) -> None:
    from scipy.stats import binom

    assert cdf(count % n, n, share) == pytest.approx(binom.cdf(count % n, n, share), rel=1e-9, abs=1e-12)


@given(st.floats(-50, 50), st.floats(0.5, 0.9999), st.integers(1, 2000))
def test_students_distribution_and_quantiles_equal_those_of_scipy(value: float, share: float, degrees: int) -> None:
    from scipy.stats import t

    assert t_cdf(value, degrees) == pytest.approx(t.cdf(value, degrees), abs=1e-10)
    assert t_quantile(share, degrees) == pytest.approx(t.ppf(share, degrees), rel=1e-6, abs=1e-6)


def test_the_missing_variance_within_groups_is_added() -> None:
    """The means 1 and 5 have variance 8, which contains a third of a group's own variance 1; two thirds are added."""
    found = prediction_bound([[0.0, 1.0, 2.0], [4.0, 5.0, 6.0]], 0.1)
    of_one_degree = math.tan(0.4 * math.pi)  # the 0.9 quantile of Student's t, there the Cauchy distribution
    assert found == pytest.approx(3 + of_one_degree * (1.5 * 8 + 2 / 3) ** 0.5)
