"""Prototypes of good cells, and the distance of a cell's features to the nearest one.

PatchCore (Roth et al. 2022, https://arxiv.org/abs/2106.08265) uses the distance to the nearest stored cell. Here it is
the distance to the nearest of few k-means centres of whitened cells: whitening scales each direction by the variation
of good cells in it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatline.edge.util.sampling import k_means, squared_distances

PROTOTYPES = 256
MOST_CELLS = 40_000
"""Maximum number of cells that whitening and prototypes are computed from."""
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prototypes:
    """Whitening and centres of good cells with c features each."""

    mean: Floats
    """[c]"""
    whitening: Floats
    """[c, c]: (x - mean) @ whitening has unit covariance over good cells x."""
    centres: Floats
    """[n, c], whitened."""

    @classmethod
    def of(cls, good: Floats, seed: int) -> "Prototypes":
        """Compute prototypes from features of good cells [n, c]."""
        mean = good.mean(axis=0)
        covariance = np.cov(good - mean, rowvar=False)
        variance, axes = np.linalg.eigh(covariance + 1e-4 * np.trace(covariance) / len(mean) * np.eye(len(mean)))
        whitening = (axes / np.sqrt(variance)).astype(np.float32)
        return cls(mean, whitening, k_means((good - mean) @ whitening, PROTOTYPES, seed))

    def distance(self, cells: NDArray[np.floating[Any]]) -> Floats:
        """Return the distance [n] of features [n, c] to the nearest prototype, in standard deviations of good cells."""
        nearest = squared_distances((cells - self.mean) @ self.whitening, self.centres).min(axis=1)
        return np.asarray(np.sqrt(np.maximum(nearest, 0)))
