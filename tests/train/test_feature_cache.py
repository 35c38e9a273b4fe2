"""The feature cache: reading, deletion, damage and kills, with real files and processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.errors import TrainingError
from heatline.train.dense.cache import FeatureCache, Features, default_folder, key_of
from tests.edge.fault_disks import small_disk

SHAPES = ((4, 4, 3), (2, 2, 5))
FILE_BYTES = 2 * (4 * 4 * 3 + 2 * 2 * 5) + 8
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


def cache_in(
    folder: Path, *, tiles: int = 1000, identity: str = "trunk", lines: list[str] | None = None
) -> FeatureCache:
    lines = [] if lines is None else lines
    return FeatureCache(folder, identity, SHAPES, limit_bytes=tiles * FILE_BYTES, report_line=lines.append)


def fill(cache: FeatureCache, keys: Sequence[bytes]) -> None:
    missing = cache.missing(keys)
    if missing:
        cache.write(missing, features_of(missing))


def assert_holds(cache: FeatureCache, keys: Sequence[bytes]) -> None:
    for found, expected in zip(cache.read(keys), features_of(keys), strict=True):
        np.testing.assert_array_equal(found, expected)


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*.f16"))


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
    assert [stage.dtype for stage in second.read(asked)] == [np.float16] * 2
    assert all(stage[0].flags.c_contiguous for stage in second.read(asked))


@pytest.mark.parametrize("other", [("another trunk", SHAPES), ("trunk", ((2, 2, 5), (4, 4, 3)))])
def test_another_trunk_or_tile_size_has_separate_features(
    tmp_path: Path, other: tuple[str, Sequence[tuple[int, int, int]]]
) -> None:
    keys = keys_of(1, 2)
    one = cache_in(tmp_path)
    fill(one, keys)
    cache = FeatureCache(tmp_path, *other, report_line=pytest.fail)
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
def test_the_least_recently_used_features_are_deleted_at_the_limit(
    tmp_path_factory: pytest.TempPathFactory, trainings: list[set[int]]
) -> None:
    """Compared with a list in memory; the limit is 10 tiles, a training needs up to 8."""
    folder = tmp_path_factory.mktemp("features")
    used: list[int] = []  # the most recently used last
    for clock, numbers in enumerate(trainings):
        needed = sorted(numbers)
        cache = cache_in(folder, tiles=10)
        assert cache.missing(keys_of(*needed)) == keys_of(*(number for number in needed if number not in used))
        fill(cache, keys_of(*needed))
        unused = [number for number in used if number not in numbers]
        used = unused[max(0, len(unused) + len(needed) - 10) :] + needed
        cache = cache_in(folder, tiles=10)
        for age, number in enumerate(used):  # explicit times, as the clock of the file system may be coarse
            os.utime(cache._path(keys_of(number)[0]), ns=(0, clock * 100 + age))
        assert len(files_in(folder)) == len(used) <= 10


def test_features_that_another_training_just_used_are_not_deleted(tmp_path: Path) -> None:
    ours, theirs = keys_of(*range(6)), keys_of(*range(10, 16))
    cache = cache_in(tmp_path, tiles=10)
    fill(cache, ours)
    with pytest.raises(TrainingError, match="those that were used within the last hour"):
        cache.missing(theirs)
    fill(cache, theirs[:4])
    assert not cache.missing(ours)
    for path in files_in(tmp_path):
        os.utime(path, (0, 0))
    cache.read(ours[:2])
    fill(cache, theirs)
    assert not cache.missing(ours[:2])


def test_trunks_share_one_limit(tmp_path: Path) -> None:
    old = cache_in(tmp_path, tiles=10, identity="old trunk")
    fill(old, keys_of(*range(8)))
    for path in files_in(tmp_path):
        os.utime(path, (0, 0))
    new = cache_in(tmp_path, tiles=10, identity="new trunk")
    fill(new, keys_of(*range(6)))
    assert len(files_in(tmp_path)) == 10


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
    assert len(files_in(tmp_path)) == 300


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
        lines: list[str] = []
        cache = cache_in(tmp_path, tiles=10**6, lines=lines)
        keys = keys_of(*range(int(lines[-1]) + 1 if lines else 50 * (round_ + 1)))
        assert cache.missing(keys) == []
        assert_holds(cache, keys)
        assert lines == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: bytes(len(data)),
    ],
    ids=["shorter", "longer", "empty", "a bit", "zeros"],
)
def test_damaged_features_are_extracted_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    keys, lines = keys_of(*range(5)), list[str]()
    cache = cache_in(tmp_path, lines=lines)
    fill(cache, keys)
    path = files_in(tmp_path)[2]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TrainingError, match="give the same command again"):
        cache.read(keys)
    cache = cache_in(tmp_path, lines=lines)
    missing = cache.missing(keys)
    assert len(missing) == 1
    cache.write(missing, features_of(missing))
    assert_holds(cache, keys)
    assert lines == [f"the features of 1 tile in {tmp_path} are damaged, they are extracted again"]


def test_a_full_disk_is_reported_and_keeps_the_cached_features(tmp_path: Path) -> None:
    keys = keys_of(*range(400))
    with small_disk(tmp_path / "disk") as disk:
        cache = cache_in(disk)
        cache.missing(keys)
        with pytest.raises(TrainingError, match=r"\(No space left on device\); make room .* features\.folder"):
            cache.write(keys, features_of(keys))
        cache = cache_in(disk)
        present = len(keys) - len(cache.missing(keys))
        assert present > 0
        assert_holds(cache, keys[:present])


@pytest.mark.parametrize("name", ["a file", "a file/below"])
def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(TrainingError, match=r"features cannot be stored in .*; .* choose another folder"):
        cache_in(tmp_path / name)


def test_memory_stays_bounded_however_many_tiles_there_are(tmp_path: Path) -> None:
    code = """
import resource
shape = (64, 64, 8)  # 64 KiB a tile
cache = FeatureCache(Path(sys.argv[1]), 'trunk', [shape], report_line=print)
keys, block = keys_of(*range(2000)), np.zeros((8, *shape), np.float16)
features = Features(cache, keys, in_memory_bytes=2**20)
cache.missing(keys)
cache.write(keys[:8], [block])
features[np.arange(8)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for start in range(0, len(keys), 8):
    cache.write(keys[start:start + 8], [block])
assert not cache.missing(keys)
for start in range(0, len(keys), 40):
    features[np.arange(start, start + 40)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    out, err = python(code, tmp_path).communicate()
    assert err == ""
    assert int(out) < 16 * 1024  # KiB, of 128,000 that were written and read


@pytest.mark.parametrize("in_memory_bytes", [0, 2**30])
@given(rows=st.lists(st.integers(0, 9), max_size=12))
def test_rows_are_read_by_index_from_disk_or_memory(
    tmp_path_factory: pytest.TempPathFactory, in_memory_bytes: int, rows: list[int]
) -> None:
    folder, keys = tmp_path_factory.getbasetemp() / "view", keys_of(*range(10))
    cache = cache_in(folder)
    fill(cache, keys)
    features = Features(cache, keys, in_memory_bytes=in_memory_bytes)
    assert len(features) == 10
    for _ in range(2):
        found = features[np.asarray(rows, np.int64)]
        for stage, expected, shape in zip(found, features_of(keys), SHAPES, strict=True):
            assert stage.shape == (len(rows), *shape)
            np.testing.assert_array_equal(stage, expected[rows] if rows else expected[:0])


@pytest.mark.parametrize("in_memory_bytes", [0, 2**30])
def test_features_in_bf16_are_rounded_once_and_exact_ones_stay(tmp_path: Path, in_memory_bytes: int) -> None:
    keys, rows = keys_of(*range(6)), np.array([4, 1, 4])
    cache = cache_in(tmp_path)
    fill(cache, keys)
    features = Features(cache, keys, in_memory_bytes=in_memory_bytes, bf16=True)
    for _ in range(2):
        found, exact = features[rows], features.exact(rows)
        for stage, same, expected in zip(found, exact, features_of(keys), strict=True):
            np.testing.assert_array_equal(same, expected[rows])
            rounded = torch.from_numpy(expected[rows]).bfloat16()
            assert torch.equal(torch.from_numpy(stage).view(torch.bfloat16), rounded)


def test_features_in_memory_are_not_read_from_disk_again(tmp_path: Path) -> None:
    keys = keys_of(*range(4))
    cache = cache_in(tmp_path)
    fill(cache, keys)
    features = Features(cache, keys)
    first = features[np.array([2, 0])]
    for path in files_in(tmp_path):
        path.unlink()
    for now, then in zip(features[np.array([2, 0, 2])], first, strict=True):
        np.testing.assert_array_equal(now, then[[0, 1, 0]])
    with pytest.raises(TrainingError, match="deleted or damaged"):
        features[np.array([1])]
