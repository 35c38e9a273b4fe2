"""Prototypes of good cells: how far the features of a cell are from all that was seen of good ones.

As PatchCore (Roth et al. 2022) has it, the distance to the nearest kept cell; here to one of few centres, by k-means,
of cells that are whitened, so that each direction counts by how much good cells differ in it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROTOTYPES = 256
ITERATIONS = 15
MOST_CELLS = 40_000
"""That whitening and prototypes come from."""
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prototypes:
    """Of good cells."""

    mean: Floats
    """[c]"""
    whitening: Floats
    """[c, c]"""
    centres: Floats
    """[n, c], whitened."""

    @classmethod
    def of(cls, good: Floats, seed: int) -> "Prototypes":
        """From features of good cells [n, c]."""
        mean = good.mean(axis=0)
        covariance = np.cov(good - mean, rowvar=False)
        variance, axes = np.linalg.eigh(covariance + 1e-4 * np.trace(covariance) / len(mean) * np.eye(len(mean)))
        whitening = (axes / np.sqrt(variance)).astype(np.float32)
        return cls(mean, whitening, k_means((good - mean) @ whitening, PROTOTYPES, seed))

    def distance(self, cells: NDArray[np.floating[Any]]) -> Floats:
        """Of features [n, c] to the nearest prototype, [n], in standard deviations of good cells."""
        nearest = _squares((cells - self.mean) @ self.whitening, self.centres).min(axis=1)
        return np.asarray(np.sqrt(np.maximum(nearest, 0)))


def k_means(points: Floats, count: int, seed: int) -> Floats:
    """Centres [count, c] of points [n, c], by Lloyd's iterations; fewer where there are fewer points."""
    centres = points[np.random.default_rng(seed).permutation(len(points))[:count]]
    for _ in range(ITERATIONS):
        nearest = _squares(points, centres).argmin(axis=1)
        is_of = (nearest == np.arange(len(centres))[:, None]).astype(np.float32)
        size = is_of.sum(axis=1, keepdims=True)
        centres = np.where(size > 0, is_of @ points / np.maximum(size, 1), centres)
    return centres


def _squares(points: NDArray[np.floating[Any]], centres: Floats) -> Floats:
    """Squared distances [n, m]."""
    square = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    return np.asarray(square, np.float32)
