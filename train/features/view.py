"""The features of a training's tiles by their index, in memory where they fit."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from train.features.cache import FeatureCache

IN_MEMORY_BYTES = 3 * 2**29
"""1.5 GiB: some 5,500 tiles of EfficientNet-lite0."""


class Features:
    """Reads rows of the cache by their index in `keys`; each only once if all of them fit `in_memory_bytes`."""

    def __init__(self, cache: FeatureCache, keys: Sequence[bytes], *, in_memory_bytes: int = IN_MEMORY_BYTES) -> None:
        self._cache, self._keys = cache, keys
        self._rows: NDArray[np.uint8] | None = None
        empty = cache.read_rows([])
        if len(keys) * empty.shape[1] <= in_memory_bytes:
            self._rows = np.empty((len(keys), empty.shape[1]), np.uint8)  # the kernel gives memory as rows are read
        self._is_read = np.zeros(len(keys), np.bool_)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float16], ...]:
        """Each stage float16 [n, h, w, c] of tiles by index.

        Raises:
            TrainingError: some are no longer in the cache.
        """
        if self._rows is None:
            return self._cache.read([self._keys[row] for row in rows])
        if len(new := np.unique(rows[~self._is_read[rows]])):
            self._rows[new] = self._cache.read_rows([self._keys[row] for row in new])
            self._is_read[new] = True
        return self._cache.split(self._rows[rows])
