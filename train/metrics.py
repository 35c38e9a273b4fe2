"""Average precision and AUROC with a weight per item, which a bootstrap over groups needs and torchmetrics lacks."""

import numpy as np
from numpy.typing import NDArray


def average_precision(
    scores: NDArray[np.float64], defective: NDArray[np.bool_], weight: NDArray[np.float64]
) -> float | None:
    """Return the sum over all thresholds of precision times the gain in recall; None if a class is missing.

    Args:
        scores, defective, weight: [N], weights not negative.
    """
    positive, negative = _steps(scores, defective, weight)
    if not positive.any() or not negative.any():
        return None
    found = np.cumsum(positive)
    called = found + np.cumsum(negative)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return float((precision * positive).sum() / found[-1])


def auroc(scores: NDArray[np.float64], defective: NDArray[np.bool_], weight: NDArray[np.float64]) -> float | None:
    """Return the probability that a defective item scores above a good one; None if a class is missing.

    Equal scores count half. Arguments as for `average_precision`.
    """
    positive, negative = _steps(scores, defective, weight)
    if not positive.any() or not negative.any():
        return None
    above = np.cumsum(positive) - positive / 2
    return float((above * negative).sum() / (positive.sum() * negative.sum()))


def _steps(
    scores: NDArray[np.float64], defective: NDArray[np.bool_], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weight of the defective and of the good items at each score, highest score first."""
    values, step = np.unique(-scores, return_inverse=True)
    positive, negative = (np.bincount(step, weight * which, len(values)) for which in (defective, ~defective))
    return positive.astype(np.float64), negative.astype(np.float64)  # without items, they are of int
