"""How well scores put defective ones before good ones: average precision and AUROC, with a weight per item.

Both rest on the order alone; equal scores are one step. Torchmetrics has both without weights, and a bootstrap over
groups needs them a thousand times: so they are written here, and held to torchmetrics in the tests.
"""

import numpy as np
from numpy.typing import NDArray


def average_precision(
    scores: NDArray[np.float64], defective: NDArray[np.bool_], weight: NDArray[np.float64]
) -> float | None:
    """Sum over the thresholds of precision times the gain in recall; None where a class is missing.

    Args:
        scores, defective, weight: [N], weights not negative.
    """
    steps = _steps(scores, defective, weight)
    if steps is None:
        return None
    positive, negative = steps
    found = np.cumsum(positive)
    called = found + np.cumsum(negative)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return float((precision * positive).sum() / found[-1])


def auroc(scores: NDArray[np.float64], defective: NDArray[np.bool_], weight: NDArray[np.float64]) -> float | None:
    """Chance that a defective one scores above a good one, equal scores counting half; None without both classes."""
    steps = _steps(scores, defective, weight)
    if steps is None:
        return None
    positive, negative = steps
    above = np.cumsum(positive) - positive / 2
    return float((above * negative).sum() / (positive.sum() * negative.sum()))


def _steps(
    scores: NDArray[np.float64], defective: NDArray[np.bool_], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Weight of the defective and of the good ones at each score there is, highest score first."""
    values, step = np.unique(-scores, return_inverse=True)
    positive = np.bincount(step, weight * defective, len(values)).astype(np.float64)
    negative = np.bincount(step, weight * ~defective, len(values)).astype(np.float64)
    if not positive.sum() or not negative.sum():
        return None
    return positive, negative
