"""Thresholds from good frames: at most the wanted share reaches them, and no lower threshold would do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.binomial import upper_bound
from edge.calibration import JUST_ABOVE_EVEN, GoodFrame, calibrate, calibrate_by_the_study, threshold
from edge.errors import InputError
from edge.geometry import Stitcher, TileGrid
from edge.inspection.verdict import Thresholds, judge

HIGHEST = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=60)
RATE = st.floats(0, 1, exclude_max=True)
HUNDRED = [float(value) for value in range(100)]


@pytest.mark.parametrize(
    ("highest", "rate", "just_above"),
    [
        ([4.0, 1.0, 3.0, 2.0], 0.25, 3.0),  # one of four may be rejected, in any order
        ([1.0, 2.0, 3.0, 4.0], 0.49, 3.0),  # rounded down: never more than wanted
        ([1.0, 2.0, 3.0, 4.0], 0.0, 4.0),  # none
        ([5.0], 0.9, 5.0),  # one frame
        ([2.0, 2.0, 2.0, 1.0], 0.25, 2.0),  # three of the same: none of them may reach it, else all do
        (HUNDRED, 0.01, 98.0),
        (HUNDRED, 0.07, 92.0),  # 0.07 * 100 is 7.000000000000001
        (HUNDRED, 0.29, 70.0),  # and 0.29 * 100 is 28.999999999999996
        ([1.0, 2.0], math.nextafter(1.0, 0.0), 1.0),  # the largest share that there is
    ],
)
def test_the_threshold_lies_just_above(highest: list[float], rate: float, just_above: float) -> None:
    assert threshold(highest, rate) == math.nextafter(just_above, math.inf)


@given(highest=HIGHEST, rate=RATE)
def test_at_most_the_wanted_share_reaches_it_and_it_is_the_lowest_such(highest: list[float], rate: float) -> None:
    came = threshold(highest, rate)
    allowed = math.floor(rate * len(highest) + 1e-9)
    assert sum(value >= came for value in highest) <= allowed
    lower = math.nextafter(came, -math.inf)
    assert sum(value >= lower for value in highest) > min(allowed, len(highest) - 1)


@given(highest=HIGHEST)
def test_frames_that_set_the_threshold_are_judged_good_by_it(highest: list[float]) -> None:
    """Calibration and verdict agree to the last bit, though the one works in float64 and the other gets float32."""
    stitcher = Stitcher(TileGrid((16, 16), 16, 0), (1, 1))
    limits = Thresholds(threshold(highest, 0.0), 0.0)
    for value in highest:
        logits = np.array([value], np.float32)
        assert judge(logits, logits.reshape(1, 1, 1), stitcher, limits).verdict == "GOOD"


def test_what_makes_no_sense_is_refused() -> None:
    for rate in (-0.01, 1.0, math.nan):
        with pytest.raises(InputError, match="makes no sense"):
            calibrate([GoodFrame(1, 1, 0)], rate, "frames")
    with pytest.raises(InputError, match="at least one good frame"):
        calibrate([], 0.01, "frames")
    for value in (math.nan, math.inf, -math.inf):  # no tile reaches a threshold of nan: every frame would be GOOD
        with pytest.raises(InputError, match="finite"):
            threshold([1.0, value, 2.0], 0.5)
        with pytest.raises(InputError, match="finite"):
            calibrate_by_the_study([GoodFrame(value, 0, 0)], "one")


def test_both_thresholds_come_from_the_same_share_of_the_same_frames() -> None:
    frames = [GoodFrame(float(i), float(10 * i), float(i % 3)) for i in range(10)]
    came = calibrate(frames, 0.2, "ten frames")
    assert came.score_threshold == math.nextafter(7.0, math.inf)
    assert came.evidence_threshold == math.nextafter(70.0, math.inf)
    assert came.background == 1.0
    assert (came.frames, came.frames_are, came.false_reject_per_frame) == (10, "ten frames", 0.2)


def test_a_good_frame_is_summed_up_by_its_highest_values_and_its_median() -> None:
    heatmap = np.array([[1, 2, np.nan], [3, 9, np.nan]], np.float32)
    assert GoodFrame.of(np.array([-3, 4], np.float32), heatmap) == GoodFrame(4.0, 9.0, 2.5)


# What a calibration says of the true rate.


@pytest.mark.parametrize(
    ("frames", "rate", "reach", "bound"), [(1, 0.01, 0, 0.95), (100, 0.01, 1, 0.0466), (299, 0.0, 0, 0.00997)]
)
def test_a_calibration_says_how_many_reach_it_and_the_bound(frames: int, rate: float, reach: int, bound: float) -> None:
    came = calibrate([GoodFrame(float(i), float(i), 0.0) for i in range(frames)], rate, "frames")
    assert (came.rule, came.rejected) == ("false-reject", reach)
    assert came.false_reject_at_most == pytest.approx(bound, rel=4e-3)


def test_the_true_rate_exceeds_the_bound_in_one_of_twenty_cases() -> None:
    """Logits are drawn, thresholds set, and the true rate is known: the share of the distribution above it."""
    draw = np.random.default_rng(11)
    exceeded = 0
    for _ in range(2000):
        logits = draw.random(60)  # the true rate of a threshold t is 1 - t
        came = calibrate([GoodFrame(float(logit), 0.0, 0.0) for logit in logits], 0.05, "drawn")
        assert came.false_reject_at_most is not None
        exceeded += 1 - came.score_threshold > came.false_reject_at_most
    assert 70 <= exceeded <= 130, "100 of 2000, give or take three standard deviations"


def test_ties_leave_the_bound_that_of_as_many_as_may_reach_it() -> None:
    came = calibrate([GoodFrame(2.0, 0, 0)] * 5 + [GoodFrame(1.0, 0, 0)] * 5, 0.3, "ties")
    assert came.rejected == 0
    assert came.false_reject_at_most == upper_bound(3, 10) > upper_bound(0, 10)


def test_the_studys_rule_sets_both_thresholds_just_above_even() -> None:
    frames = [GoodFrame(logit, 1.0, 0.5) for logit in (-1.0, 0.0, 1e-30, 3.0)]
    came = calibrate_by_the_study(frames, "four")
    assert came.score_threshold == came.evidence_threshold == JUST_ABOVE_EVEN
    assert 0 < np.float32(JUST_ABOVE_EVEN) == JUST_ABOVE_EVEN < 1e-37, "in single precision too"
    assert (came.rule, came.false_reject_per_frame, came.rejected) == ("study", None, 2), "0 itself does not exceed 0.5"
    assert came.false_reject_at_most == upper_bound(2, 4)
