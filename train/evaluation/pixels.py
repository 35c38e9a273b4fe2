"""Pixel counts of a prediction against a truth, and their rates. Needs no torch."""

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of any number of tiles or frames, by prediction (positive: found) and truth. A rate of 0/0 is 0."""

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    @classmethod
    def of(cls, found: NDArray[np.bool_], true: NDArray[np.bool_]) -> "PixelCounts":
        """Count the pixels of two masks of the same shape."""
        hit, positive, defective = (int(np.count_nonzero(mask)) for mask in (found & true, found, true))
        return cls(hit, positive - hit, defective - hit, true.size - positive - defective + hit)

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        return PixelCounts(*(mine + others for mine, others in zip(astuple(self), astuple(other), strict=True)))

    @property
    def precision(self) -> float:
        return ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        return ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        wrong = self.false_positive + self.false_negative
        return ratio(2 * self.true_positive, 2 * self.true_positive + wrong)

    @property
    def jaccard(self) -> float:
        return ratio(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def accuracy(self) -> float:
        right = self.true_positive + self.true_negative
        return ratio(right, right + self.false_positive + self.false_negative)


def ratio(part: float, whole: float) -> float:
    """Return `part / whole`, and 0 if `whole` is 0."""
    return part / whole if whole else 0.0
