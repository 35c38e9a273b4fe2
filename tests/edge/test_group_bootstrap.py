"""The interval of a ratio over groups, compared with a bootstrap that repeats groups one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.calibration.statistics import ENDS, RESAMPLES, SEED, ratio_interval


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 5)), min_size=10, max_size=14, unique=True))
def test_the_interval_is_that_of_groups_drawn_one_by_one(pairs: list[tuple[int, int]]) -> None:
    """With groups that all differ, the draws are those of `heatline.train.evaluation.figures`, ordered by value."""
    pairs.sort()
    drawn = np.random.default_rng(SEED).multinomial(len(pairs), [1 / len(pairs)] * len(pairs), RESAMPLES)
    ratios = []
    for times in drawn.tolist():
        groups = [pair for pair, often in zip(pairs, times, strict=True) for _ in range(often)]
        ratios.append(sum(count for count, _ in groups) / sum(total for _, total in groups))
    counts, totals = np.array(pairs, np.int64).T
    low, high = np.quantile(ratios, ENDS)
    found = ratio_interval(counts, totals)
    assert found == (None if low == high else (pytest.approx(low), pytest.approx(high)))


def test_equal_groups_are_drawn_as_often_as_each_for_itself() -> None:
    """Of 1000 groups, 100 count: the share is binomial, 0.1 with a standard deviation of 0.0095."""
    counts = np.array([1] * 100 + [0] * 900, np.int64)
    low, high = ratio_interval(counts, np.ones(1000, np.int64)) or (0, 0)
    assert low == pytest.approx(0.1 - 1.96 * 0.0095, abs=0.003)
    assert high == pytest.approx(0.1 + 1.96 * 0.0095, abs=0.003)


@pytest.mark.parametrize(
    ("counts", "totals"),
    [
        ([1] * 4 + [0] * 5, [1] * 9),  # too few groups
        ([0] * 20, [4] * 20),  # none counts: the share is not certain to be 0
        ([1, 0] + [0] * 18, [2, 0] + [0] * 18),  # most resamples lack the one group with pictures
    ],
)
def test_no_interval_is_given_that_would_mislead(counts: list[int], totals: list[int]) -> None:
    assert ratio_interval(np.array(counts), np.array(totals)) is None
