"""Made-up features in a cache, without importing a network: processes that tests start and kill use them too."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatline.train.dense.cache import FeatureCache, key_of

SHAPES = ((4, 4, 3), (2, 2, 5))


TILE_BYTES = 2 * (4 * 4 * 3 + 2 * 2 * 5) + 16
"""Of one tile's features."""


def features_of(keys: Sequence[bytes], shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[NDArray[np.float16]]:
    """Different numbers for each key, always the same ones."""
    return [
        np.stack([np.random.default_rng(list(key)).standard_normal(shape).astype(np.float16) for key in keys])
        for shape in shapes
    ]


def keys_of(*numbers: int) -> list[bytes]:
    return [key_of("picture", number, 0) for number in numbers]


def cache_in(folder: Path, *, tiles: int = 1000, identity: str = "trunk") -> FeatureCache:
    return FeatureCache(folder, identity, SHAPES, limit_bytes=tiles * TILE_BYTES)


def fill(cache: FeatureCache, keys: Sequence[bytes]) -> None:
    missing = cache.missing(keys)
    if missing:
        cache.write(missing, features_of(missing))


def assert_holds(cache: FeatureCache, keys: Sequence[bytes]) -> None:
    for found, expected in zip(cache.read(keys).take(np.arange(len(keys))), features_of(keys), strict=True):
        np.testing.assert_array_equal(found, expected)
