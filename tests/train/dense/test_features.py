"""The trunk's features: extraction, and the cache that keeps them through kills and full disks."""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from heatline.edge.errors import InputError, TrainingError
from heatline.train.dense.cache import FeatureCache, key_of
from heatline.train.dense.extraction import BATCH, extract
from tests.edge.fault_disks import small_disk

pytestmark = pytest.mark.usefixtures("one_thread")
FORKS = multiprocessing.get_context("fork")


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
    if missing := cache.missing(keys):
        cache.write(missing, features_of(missing))


def assert_holds(cache: FeatureCache, keys: Sequence[bytes]) -> None:
    for found, expected in zip(cache.read(keys).take(np.arange(len(keys))), features_of(keys), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_next_training_reads_written_features_in_the_order_of_its_keys(tmp_path: Path) -> None:
    keys = keys_of(*range(20))
    first = cache_in(tmp_path)
    assert first.missing([*keys, keys[3]]) == keys
    first.write(keys[:12], features_of(keys[:12]))
    second = cache_in(tmp_path)
    assert second.missing(keys) == keys[12:]
    asked = [keys[i] for i in (7, 0, 11, 7)]
    assert_holds(second, asked)
    second.write(keys[12:], features_of(keys[12:]))
    assert_holds(cache_in(tmp_path), keys[::-1])
    for others in (("another trunk", SHAPES), ("trunk", ((2, 2, 5), (4, 4, 3)))):
        assert FeatureCache(tmp_path, *others).missing(keys) == keys
    read = second.read(asked)
    for stage, expected in zip(read.take(np.arange(4), bf16=True), read.take(np.arange(4)), strict=True):
        rounded = torch.from_numpy(stage).view(torch.bfloat16)
        assert torch.equal(rounded, torch.from_numpy(expected).float().bfloat16()), "as torch rounds"

    # A key depends on every part, and not on how a number is stored.
    assert key_of("a", 1, 23) == key_of("a", np.int64(1), np.int32(23))
    others = [key_of("a", 1, 23), key_of("a", 12, 3), key_of("a", "1", 23), key_of(b"a", 1, 23), key_of("a", 1)]
    assert len(set(others)) == len(others)


@given(st.lists(st.sets(st.integers(0, 15), min_size=1, max_size=8), min_size=1, max_size=8))
def test_the_files_of_the_least_recent_trainings_are_deleted_at_the_limit(
    tmp_path_factory: pytest.TempPathFactory, trainings: list[set[int]]
) -> None:
    """The limit is 10 tiles, a training needs up to 8; trunks share it. What the last training used stays."""
    folder = tmp_path_factory.mktemp("features")
    for clock, numbers in enumerate(trainings):
        keys = keys_of(*sorted(numbers))
        fill(cache_in(folder, tiles=10, identity=f"trunk {clock % 2}"), keys)
        cache = cache_in(folder, tiles=10, identity=f"trunk {clock % 2}")
        assert not cache.missing(keys)
        assert_holds(cache, keys)
        assert sum(path.stat().st_size for path in folder.glob("*.features")) <= 10 * TILE_BYTES
    with pytest.raises(TrainingError, match=r"features of 11 tiles take .* allows .*; raise features\.limit_gb"):
        cache_in(folder, tiles=10).missing(keys_of(*range(20, 31)))
    assert not cache.missing(keys), "nothing is deleted for what is refused"
    features = cache.read(keys)
    for path in folder.glob("*.features"):
        path.unlink()  # by another training; features that are read stay readable
    for found, expected in zip(features.take(np.array([0])), features_of(keys), strict=True):
        np.testing.assert_array_equal(found, expected[:1])
    with pytest.raises(TrainingError, match=r"deleted during the training; raise .* give the same command"):
        cache.read(keys)


def write_and_read(folder: Path) -> None:
    cache, keys = cache_in(folder), keys_of(*range(300))
    cache.missing(keys)
    cache.write(keys, features_of(keys))
    assert_holds(cache, keys)


def test_two_trainings_that_write_the_same_features_both_read_them(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, FORKS) as pool:
        assert [*pool.map(write_and_read, [tmp_path] * 2)] == [None] * 2


def test_a_training_killed_during_a_write_leaves_only_intact_features(tmp_path: Path) -> None:
    keys, (ours, theirs) = keys_of(*range(10**4)), FORKS.Pipe(duplex=False)

    def write() -> None:
        cache = cache_in(tmp_path, tiles=10**6)
        cache.missing(keys)
        for key in keys:
            cache.write([key], features_of([key]))
            theirs.send(key)

    writer = FORKS.Process(target=write)
    writer.start()
    while ours.recv() != keys[50]:
        pass
    writer.kill()
    writer.join()
    cache = cache_in(tmp_path, tiles=10**6)
    missing = {*cache.missing(keys)}
    written = [key for key in keys if key not in missing]
    assert (written[:51], len(written) < len(keys)) == (keys[:51], True)
    assert_holds(cache, written)


def test_a_full_disk_is_reported_and_keeps_the_cached_features(tmp_path: Path) -> None:
    keys = keys_of(*range(100))
    with small_disk(tmp_path / "disk") as disk:
        cache = FeatureCache(disk, "trunk", [(64, 64, 3)])
        assert cache.missing(keys) == keys
        with pytest.raises(TrainingError, match=r"\(No space left on device\); make room .* features\.folder"):
            cache.write(keys, features_of(keys, [(64, 64, 3)]))  # 24 KB a tile
        present = len(keys) - len(cache.missing(keys))
        assert 0 < present < len(keys)
        [found] = cache.read(keys[:present]).take(np.arange(present))
        np.testing.assert_array_equal(found, features_of(keys[:present], [(64, 64, 3)])[0])


# Extraction.


TILE_PX = 32


class TinyTrunk(nn.Module):
    """Features of strides 8 and 16, random weights from a seed."""

    identity = "tiny"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.early, self.late = nn.Conv2d(3, 3, 9, stride=8, padding=4), nn.Conv2d(3, 5, 3, stride=2, padding=1)

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        early = self.early(tiles.permute(0, 3, 1, 2).float() / 255 - 0.5)
        return early, self.late(torch.relu(early))


class Extraction:
    """Tiles by number, a cache for their features, and how many of them are extracted."""

    def __init__(self, folder: Path) -> None:
        self.trunk, self.reports = TinyTrunk(), list[tuple[int, int]]()
        self.cache = FeatureCache(folder, self.trunk.identity, [(4, 4, 3), (2, 2, 5)])

    @staticmethod
    def tile(number: int) -> NDArray[np.uint8]:
        return np.random.default_rng(number).integers(0, 256, (TILE_PX, TILE_PX, 3), np.uint8)

    def run(self, numbers: Iterable[int], on_report: Callable[[int], object] = bool, **options: Any) -> int:
        """Extract the features of tiles; a negative number is a tile that cannot be prepared."""

        def fill(out: NDArray[np.uint8], number: int) -> None:
            if number < 0:
                raise InputError("a picture that cannot be read")
            out[:] = self.tile(number)

        def progress(done: int, total: int) -> None:
            self.reports.append((done, total))
            on_report(done)

        tiles = [(key_of(number), partial(fill, number=number)) for number in numbers]
        return extract(self.trunk, tiles, self.cache, tile_px=TILE_PX, progress=progress, **options)

    def there(self, numbers: Iterable[int]) -> list[int]:
        """Return those whose features are in the cache."""
        every = dict.fromkeys(numbers)
        missing = set(self.cache.missing([key_of(number) for number in every]))
        return [number for number in every if key_of(number) not in missing]

    def check(self, numbers: list[int], rtol: float = 2e-3) -> None:
        """Compare with torch, by default by the precision of float16, which has 11 bits."""
        if not numbers:
            return
        found = self.cache.read([key_of(number) for number in numbers]).take(np.arange(len(numbers)))
        with torch.inference_mode():
            expected = self.trunk(torch.from_numpy(np.stack([self.tile(number) for number in numbers])))
        for stage, reference in zip(found, expected, strict=True):
            np.testing.assert_allclose(stage, reference.permute(0, 2, 3, 1).numpy(), rtol=rtol, atol=rtol / 2)


@given(numbers=st.lists(st.integers(0, 60), min_size=1, max_size=5 * BATCH), short=st.integers(0, 5))
def test_each_missing_tile_gets_its_own_features_however_they_fall_into_batches(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], short: int
) -> None:
    """The features of the first few numbers are computed in bf16."""
    extraction = Extraction(tmp_path_factory.mktemp("features"))
    count = extraction.run(numbers, in_bf16={key_of(number) for number in range(short)})
    assert count == len(set(numbers))
    assert (extraction.reports, extraction.reports[-1]) == (sorted(extraction.reports), (count, count))
    extraction.check([number for number in numbers if number >= short])
    extraction.check([number for number in numbers if number < short], rtol=2**-6)
    assert extraction.run([*numbers, 100, 101]) == 2
    extraction.check([100, 101])


def test_a_tile_that_cannot_be_prepared_ends_the_extraction_but_keeps_the_others(tmp_path: Path) -> None:
    extraction, numbers = Extraction(tmp_path), range(10 * BATCH)
    with pytest.raises(InputError, match="cannot be read"):
        extraction.run([*numbers, *range(-10 * BATCH, 0)])
    assert extraction.there(numbers)
    extraction.check(extraction.there(numbers))


@pytest.mark.parametrize("count", [3_000, pytest.param(30_000, marks=pytest.mark.long)])
def test_ctrl_c_ends_the_extraction_and_keeps_the_extracted_features(tmp_path: Path, count: int) -> None:
    extraction = Extraction(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        extraction.run(range(count), lambda done: signal.raise_signal(signal.SIGINT))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("extract")]
    ((done, _),), there = extraction.reports, extraction.there(range(count))
    assert done <= len(there) < count
    extraction.check(there[:BATCH] + there[-BATCH:])
