"""Groups divided into folds of a cross-validation."""

import numpy as np
from numpy.typing import NDArray


def assign_folds(group: NDArray[np.int64], weight: NDArray[np.float64], folds: int, seed: int) -> NDArray[np.int64]:
    """A fold for each group, so that every fold has about as much of everything.

    Groups are taken in the order of their weights, the rarest kind of weight first, and each goes to the fold that has
    the least of it so far (a greedy, stratified division); equal groups in an order drawn from `seed`.

    Args:
        group: [N], the group of each sample, from 0.
        weight: [N, kinds], what each sample counts for: e.g. 1 for defective and 1 for good ones, in two columns.
    Returns:
        [groups], from 0 to at most `folds` - 1.
    """
    groups = int(group.max()) + 1
    share = np.zeros((groups, weight.shape[1]))
    np.add.at(share, group, weight)
    share /= np.maximum(share.sum(axis=0), 1e-12)
    rarest_first = np.argsort((share > 0).sum(axis=0), kind="stable")
    has = share[:, rarest_first] > 0
    kind = rarest_first[np.where(has.any(axis=1), has.argmax(axis=1), -1)]  # of each group, the rarest that it has
    drawn = np.random.default_rng(seed).permutation(groups)
    order = sorted(drawn, key=lambda each: (has[each].argmax(), -share[each, kind[each]]))
    fold_of, load, count = np.zeros(groups, np.int64), np.zeros((folds, weight.shape[1])), np.zeros(folds)
    for each in order:
        fold = min(range(folds), key=lambda fold: (load[fold, kind[each]], load[fold].sum(), count[fold]))
        fold_of[each] = fold
        load[fold] += share[each]
        count[fold] += 1
    return fold_of
