"""The trunk's features: extraction, and the cache that keeps them through kills and full disks."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

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
from tests.train.dense.cached import SHAPES, TILE_BYTES, assert_holds, cache_in, features_of, fill, keys_of

pytestmark = pytest.mark.usefixtures("one_thread")


SPAWNED = """
import sys
from pathlib import Path
import numpy as np
from heatline.train.dense.cache import FeatureCache
from tests.train.dense.cached import *
"""


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SPAWNED + code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=Path(__file__).parents[3])


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
    exact = second.read(asked).take(np.arange(4))
    for stage, expected in zip(second.read(asked).take(np.arange(4), bf16=True), exact, strict=True):
        rounded = torch.from_numpy(stage).view(torch.bfloat16)
        assert torch.equal(rounded, torch.from_numpy(expected).float().bfloat16()), "as torch rounds"


def test_a_key_depends_on_every_part_and_not_on_how_a_number_is_stored() -> None:
    assert key_of("a", 1, 23) == key_of("a", np.int64(1), np.int32(23))
    keys = [key_of("a", 1, 23), key_of("a", 12, 3), key_of("a", "1", 23), key_of(b"a", 1, 23), key_of("a", 1)]
    assert len(set(keys)) == len(keys)


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


def test_features_that_another_training_deletes_can_still_be_read(tmp_path: Path) -> None:
    keys = keys_of(*range(4))
    fill(cache_in(tmp_path), keys)
    features = cache_in(tmp_path).read(keys)
    for path in tmp_path.glob("*.features"):
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


def test_a_training_killed_during_a_write_leaves_only_intact_features(tmp_path: Path) -> None:
    code = "cache = cache_in(Path(sys.argv[1]), tiles=10**6)\nkeys = keys_of(*range(10**4))\n"
    code += "cache.missing(keys)\nfor i, key in enumerate(keys):\n"
    code += "    cache.write([key], features_of([key]))\n    print(i, flush=True)"
    writer = python(code, tmp_path)
    assert writer.stdout is not None
    while int(writer.stdout.readline()) < 50:
        pass
    writer.send_signal(signal.SIGKILL)
    lines = [line for line in writer.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
    cache, keys = cache_in(tmp_path, tiles=10**6), keys_of(*range(int(lines[-1]) + 1 if lines else 50))
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


# Extraction.


TILE_PX = 32


class TinyTrunk(nn.Module):
    """Features of strides 8 and 16, random weights from a seed."""

    identity = "tiny"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.early = nn.Conv2d(3, 3, 9, stride=8, padding=4)
        self.late = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.eval()

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        early = self.early(tiles.permute(0, 3, 1, 2).float() / 255 - 0.5)
        return early, self.late(torch.relu(early))


TRUNK = TinyTrunk()


def tile_of(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (TILE_PX, TILE_PX, 3), np.uint8)


def key(number: int) -> bytes:
    return key_of("picture", number)


def filler(number: int) -> Callable[[NDArray[np.uint8]], None]:
    def fill(out: NDArray[np.uint8]) -> None:
        out[:] = tile_of(number)

    return fill


def trunk_cache(folder: Path) -> FeatureCache:
    return FeatureCache(folder, TRUNK.identity, [(4, 4, 3), (2, 2, 5)])


def assert_features_of_torch(cache: FeatureCache, numbers: list[int], *, rtol: float = 2e-3) -> None:
    """By default by the precision of float16, which has 11 bits."""
    if not numbers:
        return
    found = cache.read([key(number) for number in numbers]).take(np.arange(len(numbers)))
    with torch.inference_mode():
        expected = TRUNK(torch.from_numpy(np.stack([tile_of(number) for number in numbers])))
    for stage, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(stage, reference.permute(0, 2, 3, 1).numpy(), rtol=rtol, atol=rtol / 2)


@given(numbers=st.lists(st.integers(0, 60), min_size=1, max_size=5 * BATCH), short=st.integers(0, 5))
def test_each_tile_has_its_own_features_however_they_fall_into_batches(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], short: int
) -> None:
    """The features of the first few numbers are computed in bf16."""
    seen: list[tuple[int, int]] = []
    cache = trunk_cache(tmp_path_factory.mktemp("features"))
    tiles = [(key(number), filler(number)) for number in numbers]
    in_bf16 = {key(number) for number in range(short)}
    progress = lambda done, total: seen.append((done, total))  # noqa: E731
    count = extract(TRUNK, tiles, cache, tile_px=TILE_PX, in_bf16=in_bf16, progress=progress)
    assert_features_of_torch(cache, [number for number in numbers if number >= short])
    assert_features_of_torch(cache, [number for number in numbers if number < short], rtol=2**-6)
    assert count == len(set(numbers))
    assert seen == sorted(seen)
    assert seen[-1] == (count, count)


def test_only_missing_features_are_extracted(tmp_path: Path) -> None:
    cache, tiles = trunk_cache(tmp_path), [(key(number), filler(number)) for number in range(13)]
    assert extract(TRUNK, tiles[:10], cache, tile_px=TILE_PX) == 10
    known = [(name, lambda _: pytest.fail("made again")) for name, _ in tiles[:10]]
    assert extract(TRUNK, [*known, *tiles[10:]], trunk_cache(tmp_path), tile_px=TILE_PX) == 3
    assert_features_of_torch(trunk_cache(tmp_path), list(range(13)))


def test_a_tile_that_cannot_be_prepared_ends_the_extraction_but_keeps_the_others(tmp_path: Path) -> None:
    def unreadable(out: NDArray[np.uint8]) -> None:
        raise InputError("a picture that cannot be read")

    tiles = [(key(number), filler(number)) for number in range(10 * BATCH)]
    cache = trunk_cache(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        extract(TRUNK, [*tiles, *((key(1000 + i), unreadable) for i in range(10 * BATCH))], cache, tile_px=TILE_PX)
    missing = cache.missing([key for key, _ in tiles])
    there = [number for number in range(len(tiles)) if key(number) not in missing]
    assert there
    assert_features_of_torch(cache, there)


def assert_a_part_is_kept(folder: Path, done: int, total: int) -> None:
    cache = trunk_cache(folder)
    missing = set(cache.missing([key(number) for number in range(total)]))
    there = [number for number in range(total) if key(number) not in missing]
    assert done <= len(there) < total
    assert_features_of_torch(cache, there[:BATCH] + there[-BATCH:])


def test_ctrl_c_ends_the_extraction_and_keeps_the_extracted_features(tmp_path: Path) -> None:
    seen: list[int] = []

    def interrupt(done: int, total: int) -> None:
        seen.append(done)
        signal.raise_signal(signal.SIGINT)

    tiles = [(key(number), filler(number)) for number in range(3000)]
    with pytest.raises(KeyboardInterrupt):
        extract(TRUNK, tiles, trunk_cache(tmp_path), tile_px=TILE_PX, progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("extract")]
    assert len(seen) == 1
    assert_a_part_is_kept(tmp_path, seen[0], len(tiles))


@pytest.mark.long
def test_ctrl_c_ends_a_process_that_extracts_and_keeps_the_extracted_features(tmp_path: Path) -> None:
    process = python(
        """
from tests.train.dense.test_features import *
try:
    tiles = [(key(number), filler(number)) for number in range(30_000)]
    progress = lambda done, total: print(done, flush=True)
    extract(TRUNK, tiles, trunk_cache(Path(sys.argv[1])), tile_px=TILE_PX, progress=progress)
except KeyboardInterrupt:
    sys.exit(130)
""",
        tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, err) == (130, "")
    assert_a_part_is_kept(tmp_path, max((int(line) for line in out.splitlines()), default=BATCH), 30_000)
