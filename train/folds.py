"""Assigns groups to the folds of a cross-validation."""

import numpy as np
from numpy.typing import NDArray


def assign_folds(group: NDArray[np.int64], weight: NDArray[np.float64], folds: int, seed: int) -> NDArray[np.int64]:
    """Assign each group a fold, so that all folds have about the same weight of every kind.

    This is a greedy, stratified assignment: groups come in descending order of their rarest kind's weight, the rarest
    kind first, and each goes to the fold with the least weight of that kind so far. `seed` orders equal groups.

    Args:
        group: [N], group of each sample, from 0.
        weight: [N, kinds], weight of each sample by kind: for example a column of defective and one of good samples.
    Returns:
        [groups], from 0 to at most `folds` - 1.
    """
    groups = int(group.max()) + 1
    share = np.zeros((groups, weight.shape[1]))
    np.add.at(share, group, weight)
    share /= np.maximum(share.sum(axis=0), 1e-12)
    rarest_first = np.argsort((share > 0).sum(axis=0), kind="stable")
    has = share[:, rarest_first] > 0
    kind = rarest_first[np.where(has.any(axis=1), has.argmax(axis=1), -1)]  # each group's rarest kind
    drawn = np.random.default_rng(seed).permutation(groups)
    order = sorted(drawn, key=lambda each: (has[each].argmax(), -share[each, kind[each]]))
    fold_of, load, count = np.zeros(groups, np.int64), np.zeros((folds, weight.shape[1])), np.zeros(folds)
    for each in order:
        fold = min(range(folds), key=lambda fold: (load[fold, kind[each]], load[fold].sum(), count[fold]))
        fold_of[each] = fold
        load[fold] += share[each]
        count[fold] += 1
    return fold_of
