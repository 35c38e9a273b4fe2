"""Fisher's exact test, compared with an enumeration of all outcomes."""

import itertools
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.train.adequacy import fisher_tail


@given(first_n=st.integers(1, 30), second_n=st.integers(1, 30), data=st.data())
def test_the_tail_is_that_of_all_tables_with_the_same_sums(first_n: int, second_n: int, data: st.DataObject) -> None:
    first, second = data.draw(st.integers(0, first_n)), data.draw(st.integers(0, second_n))
    counted = first + second
    ways = comb(first_n + second_n, counted)
    tail = sum(Fraction(comb(second_n, k) * comb(first_n, counted - k), ways) for k in range(second, counted + 1))
    assert fisher_tail(first, first_n, second, second_n) == pytest.approx(float(tail), rel=1e-9)


@pytest.mark.parametrize(("first_n", "second_n", "may"), [(5, 5, 0), (6, 4, 1), (4, 6, 2)])
def test_it_is_valid_if_the_first_sample_set_the_threshold(first_n: int, second_n: int, may: int) -> None:
    """All orders of the pooled frames are equally likely; the threshold is just above the (may + 1)-th of the first."""
    orders = list(itertools.combinations(range(first_n + second_n), first_n))  # ranks of the first; the highest is 0
    above = [places[may] - may for places in orders]  # how many of the second sample lie above the threshold
    for second in range(second_n + 1):
        as_many = sum(k >= second for k in above) / len(orders)
        assert fisher_tail(may, first_n, second, second_n) == pytest.approx(as_many)
