"""Tests of two samples, compared with an enumeration of all outcomes."""

import itertools
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heatline.edge.calibration.two_samples import fisher_exact, mann_whitney


@given(first_n=st.integers(1, 30), second_n=st.integers(1, 30), data=st.data())
def test_fisher_is_twice_the_smaller_tail_of_all_tables_with_the_same_sums(
    first_n: int, second_n: int, data: st.DataObject
) -> None:
    first, second = data.draw(st.integers(0, first_n)), data.draw(st.integers(0, second_n))
    counted = first + second
    chance = {
        k: Fraction(comb(second_n, k) * comb(first_n, counted - k), comb(first_n + second_n, counted))
        for k in range(counted + 1)
    }
    low = sum(share for k, share in chance.items() if k <= second)
    high = sum(share for k, share in chance.items() if k >= second)
    came = fisher_exact(first, first_n, second, second_n)
    assert came.p == pytest.approx(float(min(1, 2 * min(low, high))), rel=1e-9)
    if low != high:
        assert came.second_is == ("higher" if high < low else "lower")


@pytest.mark.parametrize(("first_n", "second_n", "may"), [(5, 5, 0), (6, 4, 1), (4, 6, 2)])
def test_fisher_is_valid_if_the_first_sample_set_the_threshold(first_n: int, second_n: int, may: int) -> None:
    """All orders of the pooled frames are equally likely; the threshold is just above the (may + 1)-th of the first."""
    orders = list(
        itertools.combinations(range(first_n + second_n), first_n)
    )  # ranks of the first sample, the highest is 0
    above = [places[may] - may for places in orders]  # how many of the second sample lie above the threshold
    for second in range(second_n + 1):
        claimed = fisher_exact(may, first_n, second, second_n)
        as_many = sum(k >= second for k in above) / len(orders)
        as_few = sum(k <= second for k in above) / len(orders)
        truth = as_many if claimed.second_is == "higher" else as_few
        assert claimed.p >= min(1.0, 2 * truth) - 1e-12
        if claimed.second_is == "higher":
            assert claimed.p == pytest.approx(min(1.0, 2 * truth))


def exact_ranks(first: list[int], second: list[int]) -> float:
    """Twice the smaller tail of the second sample's wins, over all splits into two samples."""

    def wins(above: list[int], below: list[int]) -> float:
        return sum((a > b) + 0.5 * (a == b) for a in above for b in below)

    pooled = [*first, *second]
    all_wins = []
    for chosen in itertools.combinations(range(len(pooled)), len(second)):
        rest = [value for place, value in enumerate(pooled) if place not in chosen]
        all_wins.append(wins([pooled[place] for place in chosen], rest))
    came = wins(second, first)
    tails = [sum(w <= came for w in all_wins), sum(w >= came for w in all_wins)]
    return min(1.0, 2 * min(tails) / len(all_wins))


@settings(max_examples=10)  # each is 462 splits
@given(values=st.permutations(range(11)))
def test_the_rank_test_is_close_to_the_enumeration_of_all_splits(values: list[int]) -> None:
    assert mann_whitney(values[:5], values[5:]).p == pytest.approx(exact_ranks(values[:5], values[5:]), abs=0.03)


def test_the_rank_test_is_close_to_the_enumeration_with_ties() -> None:
    first, second = [1, 2, 2, 3, 4, 4], [2, 4, 5, 5, 6, 6]
    assert mann_whitney(first, second).p == pytest.approx(exact_ranks(first, second), abs=0.03)


def test_for_separate_small_samples_the_rank_test_is_conservative() -> None:
    for m, n in ((1, 1), (1, 9), (4, 6), (7, 7)):
        came = mann_whitney(list(range(m)), list(range(100, 100 + n)))
        exact = min(1.0, 2 / comb(m + n, n))
        assert came.second_is == "higher"
        assert came.p >= exact or (exact >= 0.01 and came.p >= 0.01)


def test_the_rank_test_returns_the_side_and_finds_no_difference_in_equal_samples() -> None:
    higher, lower = mann_whitney([1, 2, 3] * 5, [7, 8, 9] * 5), mann_whitney([7, 8, 9] * 5, [1, 2, 3] * 5)
    assert (higher.second_is, lower.second_is) == ("higher", "lower")
    assert higher.p == lower.p < 1e-5
    assert mann_whitney([5.0] * 4, [5.0] * 9).p == 1.0
    assert mann_whitney([1.0], [2.0]).p > 0.3
