"""The feature cache: reading, deletion and kills, with real files and processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.errors import TrainingError
from heatline.train.dense.cache import FeatureCache, default_folder, key_of
from tests.edge.fault_disks import small_disk

SHAPES = ((4, 4, 3), (2, 2, 5))
TILE_BYTES = 2 * (4 * 4 * 3 + 2 * 2 * 5) + 16
"""Of one tile's features."""
SPAWNED = """
import sys
from pathlib import Path
import numpy as np
from tests.train.test_feature_cache import *
"""


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


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.features"))


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SPAWNED + code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=Path(__file__).parents[2])


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
    assert len(files_in(tmp_path)) == 2
    assert [stage.dtype for stage in second.read(asked).take(np.array([1]))] == [np.float16] * 2


@pytest.mark.parametrize("other", [("another trunk", SHAPES), ("trunk", ((2, 2, 5), (4, 4, 3)))])
def test_another_trunk_or_tile_size_has_separate_features(
    tmp_path: Path, other: tuple[str, Sequence[tuple[int, int, int]]]
) -> None:
    keys = keys_of(1, 2)
    one = cache_in(tmp_path)
    fill(one, keys)
    cache = FeatureCache(tmp_path, *other)
    assert cache.missing(keys) == keys


def test_a_key_depends_on_every_part_and_not_on_how_a_number_is_stored() -> None:
    assert key_of("a", 1, 23) == key_of("a", np.int64(1), np.int32(23))
    keys = [key_of("a", 1, 23), key_of("a", 12, 3), key_of("a", "1", 23), key_of(b"a", 1, 23), key_of("a", 1)]
    assert len(set(keys)) == len(keys)


def test_the_default_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "heatline" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "heatline" / "features"


@given(st.lists(st.sets(st.integers(0, 15), min_size=1, max_size=8), min_size=1, max_size=8))
def test_the_files_of_the_least_recent_trainings_are_deleted_at_the_limit(
    tmp_path_factory: pytest.TempPathFactory, trainings: list[set[int]]
) -> None:
    """The limit is 10 tiles, a training needs up to 8; trunks share it."""
    folder = tmp_path_factory.mktemp("features")
    for clock, numbers in enumerate(trainings):
        keys = keys_of(*sorted(numbers))
        fill(cache_in(folder, tiles=10, identity=f"trunk {clock % 2}"), keys)
        cache = cache_in(folder, tiles=10, identity=f"trunk {clock % 2}")
        assert not cache.missing(keys)
        assert_holds(cache, keys)
        assert sum(path.stat().st_size for path in files_in(folder)) <= 10 * TILE_BYTES


def test_what_the_last_trainings_used_stays(tmp_path: Path) -> None:
    old, new, next_ = keys_of(*range(4)), keys_of(*range(10, 14)), keys_of(*range(20, 24))
    for keys in (old, new):
        fill(cache_in(tmp_path, tiles=10), keys)
    for age, path in enumerate(files_in(tmp_path)):
        os.utime(path, ns=(0, age))
    assert not cache_in(tmp_path, tiles=10).missing(old)
    fill(cache_in(tmp_path, tiles=10), next_)
    assert not cache_in(tmp_path, tiles=10).missing([*old, *next_])


def test_features_that_another_training_deletes_can_still_be_read(tmp_path: Path) -> None:
    keys = keys_of(*range(4))
    fill(cache_in(tmp_path), keys)
    features = cache_in(tmp_path).read(keys)
    for path in files_in(tmp_path):
        path.unlink()
    for found, expected in zip(features.take(np.array([2, 0])), features_of(keys), strict=True):
        np.testing.assert_array_equal(found, expected[[2, 0]])
    with pytest.raises(TrainingError, match=r"deleted during the training; raise .* give the same command"):
        cache_in(tmp_path).read(keys)


def test_more_than_the_limit_is_refused_before_anything_is_computed_or_deleted(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, tiles=10)
    fill(cache, keys_of(*range(10)))
    cache = cache_in(tmp_path, tiles=10)
    with pytest.raises(TrainingError, match=r"features of 11 tiles take .* allows .*; raise features\.limit_gb"):
        cache.missing(keys_of(*range(11)))
    assert not cache.missing(keys_of(*range(10)))


def test_two_trainings_that_write_the_same_features_both_read_them(tmp_path: Path) -> None:
    code = "cache = cache_in(Path(sys.argv[1]))\nkeys = keys_of(*range(300))\n"
    code += "cache.missing(keys)\ncache.write(keys, features_of(keys))\nassert_holds(cache, keys)"
    both = [python(code, tmp_path) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in both] == [("", 0)] * 2
    assert len(files_in(tmp_path)) == 2


def test_a_training_killed_during_a_write_leaves_only_intact_features(tmp_path: Path) -> None:
    code = "cache = cache_in(Path(sys.argv[1]), tiles=10**6)\nkeys = keys_of(*range(10**4))\n"
    code += "cache.missing(keys)\nfor i, key in enumerate(keys):\n"
    code += "    cache.write([key], features_of([key]))\n    print(i, flush=True)"
    for round_ in range(2):
        writer = python(code, tmp_path)
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < 50 * (round_ + 1):
            pass
        writer.send_signal(signal.SIGKILL)
        lines = [line for line in writer.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
        cache = cache_in(tmp_path, tiles=10**6)
        keys = keys_of(*range(int(lines[-1]) + 1 if lines else 50 * (round_ + 1)))
        assert cache.missing(keys) == []
        assert_holds(cache, keys)


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


@pytest.mark.parametrize("name", ["a file", "a file/below"])
def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(TrainingError, match=r"features cannot be stored in .*; .* choose another folder"):
        cache_in(tmp_path / name)


@given(rows=st.lists(st.integers(0, 9), max_size=12))
def test_rows_are_read_by_index(tmp_path_factory: pytest.TempPathFactory, rows: list[int]) -> None:
    folder, keys = tmp_path_factory.getbasetemp() / "view", keys_of(*range(10))
    fill(cache_in(folder), keys)
    features = cache_in(folder).read(keys)
    assert len(features) == 10
    for stage, expected, shape in zip(
        features.take(np.asarray(rows, np.int64)), features_of(keys), SHAPES, strict=True
    ):
        assert stage.shape == (len(rows), *shape)
        np.testing.assert_array_equal(stage, expected[rows] if rows else expected[:0])


def test_rows_are_rounded_to_bf16_as_torch_rounds(tmp_path: Path) -> None:
    keys, rows = keys_of(*range(10)), np.array([3, 9, 3])
    fill(cache_in(tmp_path), keys)
    features = cache_in(tmp_path).read(keys)
    for stage, exact in zip(features.take(rows, bf16=True), features.take(rows), strict=True):
        rounded = torch.from_numpy(stage).view(torch.bfloat16)
        assert torch.equal(rounded, torch.from_numpy(exact).float().bfloat16())
