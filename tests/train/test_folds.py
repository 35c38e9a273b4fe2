"""Folds of a cross-validation: no group is divided, and each fold has its share of every kind."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.train.dense.cross_validation import divide_groups
from heatline.train.dense.tiles import LabelKind
from heatline.train.readers.labelled import assign_folds
from tests.train.dense.small import recipe_with, tiles_of

seeds = st.integers(0, 2**32 - 1)


def weights_of(seed: int, samples: int, kinds: int, rarity: float) -> NDArray[np.float64]:
    """Each sample is of one kind; the last is the most common."""
    rng = np.random.default_rng(seed)
    chances = rarity ** np.arange(kinds)[::-1]
    return np.eye(kinds)[rng.choice(kinds, samples, p=chances / chances.sum())]


@given(seeds, st.integers(1, 40), st.integers(1, 4), st.integers(2, 8))
def test_every_group_is_in_one_fold_and_no_fold_stays_empty(seed: int, groups: int, kinds: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    group = np.concatenate([np.arange(groups), rng.integers(0, groups, 200)])
    weight = weights_of(seed, len(group), kinds, 0.1)
    fold_of = assign_folds(group, weight, folds, seed)
    assert fold_of.shape == (groups,)
    assert set(fold_of.tolist()) == set(range(min(groups, folds)))
    assert np.array_equal(fold_of, assign_folds(group, weight, folds, seed))
    order = rng.permutation(len(group))  # the order of samples does not matter
    assert np.array_equal(fold_of, assign_folds(group[order], weight[order], folds, seed))


@given(seeds, st.integers(2, 60), st.integers(2, 8))
def test_folds_of_equal_groups_differ_by_one_group_at_most(seed: int, groups: int, folds: int) -> None:
    fold_of = assign_folds(np.repeat(np.arange(groups), 7), np.ones((7 * groups, 1)), folds, seed)
    counts = np.bincount(fold_of, minlength=folds)
    assert counts.max() - counts.min() <= 1


@given(seeds, st.integers(5, 60), st.integers(2, 8))
def test_no_fold_exceeds_another_by_more_than_the_largest_group(seed: int, groups: int, folds: int) -> None:
    """The bound of a greedy assignment of one kind."""
    sizes = np.random.default_rng(seed).integers(1, 100, groups)
    fold_of = assign_folds(np.repeat(np.arange(groups), sizes), np.ones((sizes.sum(), 1)), folds, seed)
    load = np.bincount(fold_of, sizes, minlength=folds)
    assert load.max() - load.min() <= sizes.max()


@given(seeds, st.integers(2, 30), st.integers(2, 6), st.data())
def test_a_rare_kind_is_spread_over_the_folds(seed: int, groups: int, folds: int, data: st.DataObject) -> None:
    rare = data.draw(st.sets(st.integers(0, groups - 1), min_size=1, max_size=groups))
    group = np.repeat(np.arange(groups), 10)
    is_rare = np.isin(group, list(rare)) & (np.arange(len(group)) % 10 == 0)
    fold_of = assign_folds(group, np.stack([~is_rare, is_rare], axis=1).astype(float), folds, seed)
    counts = np.bincount(fold_of[sorted(rare)], minlength=folds)
    assert counts.max() - counts.min() <= 1


def test_the_seed_draws_which_of_equal_groups_go_together() -> None:
    group, weight = np.repeat(np.arange(12), 3), np.ones((36, 1))
    assert len({assign_folds(group, weight, 4, seed).tobytes() for seed in range(10)}) > 5


@given(seeds, st.integers(2, 12), st.integers(2, 6))
def test_every_fold_leaves_good_tiles_to_train_on_where_two_groups_have_any(seed: int, groups: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    group = np.concatenate([np.arange(groups), rng.integers(0, groups, 40)])
    chances = rng.dirichlet(np.full(4, 0.4), groups)
    known = np.array([rng.choice(4, p=chances[each]) for each in group])
    with_good = np.unique(group[known == LabelKind.GOOD])
    assume(len(with_good) >= 2)
    fold_of = divide_groups(
        tiles_of([LabelKind(each) for each in known], group.tolist()), recipe_with(folds=folds), seed
    )
    assert len(np.unique(fold_of[with_good])) > 1


@pytest.mark.parametrize("groups", [1, 2, 4, 9])
def test_there_are_no_more_folds_than_groups(groups: int) -> None:
    tiles = tiles_of([LabelKind.GOOD] * groups, list(range(groups)))
    assert len(np.unique(divide_groups(tiles, recipe_with(folds=5), 0))) == min(5, groups)
