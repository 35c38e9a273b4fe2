"""Student's t, held against SciPy's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

from edge.student import at_most, prediction_bound, quantile

DEGREES = st.integers(1, 2000)


@given(st.floats(-50, 50), DEGREES)
def test_the_distribution_is_that_of_scipy(value: float, degrees: int) -> None:
    assert at_most(value, degrees) == pytest.approx(t.cdf(value, degrees), abs=1e-10)


@given(st.floats(0.5, 0.9999), DEGREES)
def test_quantiles_are_those_of_scipy(share: float, degrees: int) -> None:
    assert quantile(share, degrees) == pytest.approx(t.ppf(share, degrees), rel=1e-6, abs=1e-6)


def test_of_many_values_the_bound_is_that_of_the_normal_distribution() -> None:
    values = norm.ppf([(place + 0.5) / 5000 for place in range(5000)]).tolist()
    assert prediction_bound(values, 0.01) == pytest.approx(norm.ppf(0.99), abs=0.01)
    assert prediction_bound(values[:2], 0.01) > values[1]
