"""Student's t, compared with SciPy's, whose import takes a second and is left to the tests."""

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.calibration.statistics import prediction_bound, prediction_bound_of_groups, t_cdf, t_quantile

DEGREES = st.integers(1, 2000)


@given(st.floats(-50, 50), DEGREES)
def test_the_distribution_equals_that_of_scipy(value: float, degrees: int) -> None:
    from scipy.stats import t

    assert t_cdf(value, degrees) == pytest.approx(t.cdf(value, degrees), abs=1e-10)


@given(st.floats(0.5, 0.9999), DEGREES)
def test_quantiles_equal_those_of_scipy(share: float, degrees: int) -> None:
    from scipy.stats import t

    assert t_quantile(share, degrees) == pytest.approx(t.ppf(share, degrees), rel=1e-6, abs=1e-6)


def test_for_many_values_the_bound_equals_that_of_the_normal_distribution() -> None:
    values = [NormalDist().inv_cdf((place + 0.5) / 5000) for place in range(5000)]
    assert prediction_bound(values, 0.01) == pytest.approx(NormalDist().inv_cdf(0.99), abs=0.01)
    assert prediction_bound(values[:2], 0.01) > values[1]


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=30), st.floats(0.001, 0.5))
def test_if_each_value_is_a_group_the_bound_equals_that_of_values(values: list[float], beyond: float) -> None:
    alone = {str(place): [value] for place, value in enumerate(values)}
    assert prediction_bound_of_groups(alone, beyond) == pytest.approx(prediction_bound(values, beyond), abs=1e-6)


def test_the_missing_variance_within_groups_is_added() -> None:
    """The means 1 and 5 have variance 8, which contains half of a group's own variance 2; the other half is added."""
    found = prediction_bound_of_groups({"a": [0.0, 2.0], "b": [4.0, 6.0]}, 0.1)
    of_one_degree = math.tan(0.4 * math.pi)  # the 0.9 quantile of Student's t, there the Cauchy distribution
    assert found == pytest.approx(3 + of_one_degree * (1.5 * 8 + 0.5 * 2) ** 0.5)
