"""Binomial bounds, compared with sums of exact fractions and closed forms."""

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heatline.edge.calibration.statistics import cdf, interval, upper_bound


def exact_tail(count: int, n: int, share: float | Fraction) -> Fraction:
    """P(X <= count), term by term."""
    p = Fraction(share)
    return sum((math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(count + 1)), Fraction(0))


@example(n=3, count=-1, share=0.5)
@example(n=3, count=2, share=1.0)
@given(n=st.integers(1, 40), count=st.integers(-1, 41), share=st.floats(0, 1))
def test_the_cdf_is_the_sum_of_its_terms(n: int, count: int, share: float) -> None:
    assert cdf(count, n, share) == pytest.approx(float(exact_tail(min(count, n), n, share)), rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_the_cdf_of_many_frames_is_the_sum_of_its_terms(share: float) -> None:
    n = 500
    for count in (0, 1, 5, n // 2, n - 1):
        exact = exact_tail(
            count, n, Fraction(share).limit_denominator(1000)
        )  # a short fraction, otherwise the sums take a minute
        assert cdf(count, n, share) == pytest.approx(float(exact), rel=1e-9, abs=1e-13)


@given(n=st.integers(1, 40), data=st.data())
def test_the_bound_solves_the_equation_of_clopper_and_pearson(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n - 1))
    bound = upper_bound(count, n)
    assert count / n < bound < 1
    assert float(exact_tail(count, n, bound)) == pytest.approx(0.05, rel=1e-8)


@pytest.mark.parametrize("n", [1, 2, 299, 100_000])
def test_the_bound_of_none_and_of_all_but_one_has_a_closed_form(n: int) -> None:
    assert upper_bound(0, n) == pytest.approx(-math.expm1(math.log(0.05) / n), rel=1e-9)
    assert upper_bound(n - 1, n) == pytest.approx(0.95 ** (1 / n), rel=1e-9)
    assert upper_bound(n, n) == 1.0


def test_for_many_frames_the_bound_equals_that_of_the_normal_distribution() -> None:
    n = 100_000
    assert upper_bound(n // 2, n) == pytest.approx(0.5 + 1.6448536 * 0.5 / math.sqrt(n), abs=0.6 / n)


@given(n=st.integers(1, 40), data=st.data())
def test_each_side_of_the_interval_fails_in_at_most_one_of_forty_cases(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    low, high = interval(count, n)
    assert 0 <= low <= count / n <= high <= 1
    if count < n:
        assert float(exact_tail(count, n, high)) == pytest.approx(0.025, rel=1e-8)
    if count > 0:
        assert float(1 - exact_tail(count - 1, n, low)) == pytest.approx(0.025, rel=1e-6)
    assert (low == 0) is (count == 0)
    assert (high == 1) is (count == n)
