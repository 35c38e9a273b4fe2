"""Counts of pixels, held to a loop over single ones, and the rates that follow from them."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from train.evaluation.pixels import PixelCounts

MASKS = arrays(np.bool_, (2, 5, 7))
COUNTS = st.builds(PixelCounts, *[st.integers(0, 10**12)] * 4)


def counts_by_loops(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> PixelCounts:
    hit = false = missed = rest = 0
    for y in range(found.shape[0]):
        for x in range(found.shape[1]):
            hit += bool(found[y, x] and true[y, x])
            false += bool(found[y, x] and not true[y, x])
            missed += bool(not found[y, x] and true[y, x])
            rest += bool(not found[y, x] and not true[y, x])
    return PixelCounts(hit, false, missed, rest)


@given(MASKS)
def test_pixels_are_counted_one_by_one(masks: NDArray[np.bool_]) -> None:
    assert PixelCounts.of(*masks) == counts_by_loops(*masks)


@given(st.lists(MASKS, min_size=1, max_size=4), st.randoms())
def test_counts_of_several_masks_are_those_of_one_that_holds_them_all(
    masks: list[NDArray[np.bool_]], order: random.Random
) -> None:
    together = PixelCounts.of(*np.concatenate(masks, axis=1))
    order.shuffle(masks)
    assert sum((PixelCounts.of(*one) for one in masks), PixelCounts()) == together


@given(COUNTS.filter(lambda counts: counts.true_positive > 0))
def test_f1_and_jaccard_agree_with_precision_and_recall(counts: PixelCounts) -> None:
    assert counts.f1 == pytest.approx(2 * counts.precision * counts.recall / (counts.precision + counts.recall))
    assert counts.jaccard == pytest.approx(counts.f1 / (2 - counts.f1))
    assert 0 < counts.jaccard <= counts.f1 <= 1


def test_rates_of_counts_by_hand() -> None:
    counts = PixelCounts(true_positive=30, false_positive=10, false_negative=20, true_negative=940)
    assert (counts.precision, counts.recall, counts.accuracy) == (0.75, 0.6, 0.97)
    assert (counts.f1, counts.jaccard) == (pytest.approx(2 / 3), 0.5)


def test_where_nothing_was_found_or_nothing_is_true_rates_are_zero() -> None:
    nothing = PixelCounts(true_negative=100)
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.jaccard, nothing.accuracy) == (0, 0, 0, 0, 1)
    missed = PixelCounts(false_negative=100)
    assert (missed.precision, missed.recall, missed.f1, missed.jaccard, missed.accuracy) == (0, 0, 0, 0, 0)
    assert PixelCounts().accuracy == 0
