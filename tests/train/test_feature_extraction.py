"""Extraction: the engine computes the trunk's features, each tile under its own key; an interruption loses little."""

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
from heatline.train.dense.extraction import BATCH, compile_trunk, extract

pytestmark = pytest.mark.usefixtures("one_thread")

TILE_PX = 32
ROOT = Path(__file__).parents[2]


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


def cache_in(folder: Path) -> FeatureCache:
    return FeatureCache(folder, TRUNK.identity, [(4, 4, 3), (2, 2, 5)])


def assert_features_of_torch(cache: FeatureCache, numbers: list[int], *, rtol: float = 2e-3) -> None:
    """By default by the precision of float16, which has 11 bits."""
    found = cache.read([key(number) for number in numbers]).take(np.arange(len(numbers)))
    with torch.inference_mode():
        expected = TRUNK(torch.from_numpy(np.stack([tile_of(number) for number in numbers])))
    for stage, reference in zip(found, expected, strict=True):
        channels_last = reference.permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(stage, channels_last, rtol=rtol, atol=rtol / 2)


@given(numbers=st.lists(st.integers(0, 60), min_size=1, max_size=5 * BATCH))
def test_each_tile_has_its_own_features_however_they_fall_into_batches(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int]
) -> None:
    seen: list[tuple[int, int]] = []
    cache = cache_in(tmp_path_factory.mktemp("features"))
    count = extract(
        TRUNK,
        [(key(number), filler(number)) for number in numbers],
        cache,
        tile_px=TILE_PX,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert_features_of_torch(cache, numbers)
    assert count == len(set(numbers))
    assert [total for _, total in seen] == [count] * len(seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (count, count)


def test_some_features_may_be_computed_in_bf16(tmp_path: Path) -> None:
    """Their reservation, the progress and the count are those of all tiles together."""
    seen: list[tuple[int, int]] = []
    cache = cache_in(tmp_path)
    tiles = [(key(number), filler(number)) for number in range(2 * BATCH)]
    count = extract(
        TRUNK,
        tiles,
        cache,
        tile_px=TILE_PX,
        in_bf16={key(number) for number in range(5)},
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (count, seen[-1]) == (2 * BATCH, (2 * BATCH, 2 * BATCH))
    assert_features_of_torch(cache, list(range(5, 2 * BATCH)))
    assert_features_of_torch(cache, list(range(5)), rtol=2**-6)
    assert not cache.missing([name for name, _ in tiles])


def test_the_engine_runs_batches_of_a_fixed_size_in_f32_and_gives_float16() -> None:
    compiled = compile_trunk(TRUNK, TILE_PX)
    assert list(compiled.input().shape) == [BATCH, TILE_PX, TILE_PX, 3]
    assert [list(output.shape) for output in compiled.outputs] == [[BATCH, 4, 4, 3], [BATCH, 2, 2, 5]]
    assert {output.element_type.to_string() for output in compiled.outputs} == {"f16"}
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


def test_only_missing_features_are_extracted(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    extract(TRUNK, [(key(number), filler(number)) for number in range(10)], cache, tile_px=TILE_PX)
    made: list[int] = []

    def noted(number: int) -> Callable[[NDArray[np.uint8]], None]:
        def fill(out: NDArray[np.uint8]) -> None:
            made.append(number)
            filler(number)(out)

        return fill

    cache = cache_in(tmp_path)
    assert extract(TRUNK, [(key(number), noted(number)) for number in range(13)], cache, tile_px=TILE_PX) == 3
    assert extract(TRUNK, [(key(number), noted(number)) for number in range(13)], cache, tile_px=TILE_PX) == 0
    assert_features_of_torch(cache, list(range(13)))
    assert sorted(made) == [10, 11, 12]


def test_a_tile_that_cannot_be_prepared_ends_the_extraction_but_keeps_the_others(tmp_path: Path) -> None:
    def unreadable(out: NDArray[np.uint8]) -> None:
        raise InputError("a picture that cannot be read")

    tiles = [(key(number), filler(number)) for number in range(10 * BATCH)]
    cache = cache_in(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        extract(TRUNK, [*tiles, *((key(1000 + i), unreadable) for i in range(10 * BATCH))], cache, tile_px=TILE_PX)
    missing = cache.missing([key for key, _ in tiles])
    there = [number for number in range(len(tiles)) if key(number) not in missing]
    assert there
    assert_features_of_torch(cache, there)


def test_a_trunk_that_the_engine_cannot_run_is_reported() -> None:
    class Sorting(nn.Module):
        def forward(self, tiles: Tensor) -> tuple[Tensor]:
            return (torch.linalg.qr(tiles.permute(0, 3, 1, 2).float()).R,)

    with pytest.raises(TrainingError, match="OpenVINO cannot use the trunk of this model: "):
        compile_trunk(Sorting().eval(), TILE_PX)


def assert_a_part_is_kept(folder: Path, done: int, total: int) -> None:
    cache = cache_in(folder)
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

    def extract_all(cache: FeatureCache) -> None:
        try:
            extract(TRUNK, tiles, cache, tile_px=TILE_PX, progress=interrupt)
        finally:  # the threads end before the error goes on, as the caller then closes the cache
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("extract")]

    cache = cache_in(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        extract_all(cache)
    assert len(seen) == 1
    assert_a_part_is_kept(tmp_path, seen[0], len(tiles))


@pytest.mark.long
def test_ctrl_c_ends_a_process_that_extracts_and_keeps_the_extracted_features(tmp_path: Path) -> None:
    code = """
import itertools, sys
from pathlib import Path
from tests.train.test_feature_extraction import *
cache = cache_in(Path(sys.argv[1]))
try:
    tiles = [(key(number), filler(number)) for number in range(30_000)]
    extract(TRUNK, tiles, cache, tile_px=TILE_PX, progress=lambda done, total: print(done, flush=True))
except KeyboardInterrupt:
    sys.exit(130)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, err) == (130, "")
    done = max((int(line) for line in out.splitlines()), default=BATCH)
    assert_a_part_is_kept(tmp_path, done, 30_000)
