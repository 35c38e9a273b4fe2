"""From the maps of a 5 MP frame to heatmap and regions."""

import numpy as np
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from edge.geometry import Stitcher, TileGrid
from edge.inspection.verdict import Thresholds, judge

MAP_HW = (14, 14)


def _maps(tiles: int) -> NDArray[np.float32]:
    """Cold maps with one hot spot in every tenth tile."""
    maps = np.full((tiles, *MAP_HW), -5, np.float32)
    maps[::10, 6:8, 6:8] = 400
    return maps


def bench_stitch_5mp(benchmark: BenchmarkFixture, frame: NDArray[np.uint8]) -> None:
    stitcher = Stitcher(TileGrid((frame.shape[0], frame.shape[1])), MAP_HW)
    benchmark(stitcher.stitch, _maps(len(stitcher.grid)))


def bench_judge_5mp_with_12_defects(benchmark: BenchmarkFixture, frame: NDArray[np.uint8]) -> None:
    stitcher = Stitcher(TileGrid((frame.shape[0], frame.shape[1])), MAP_HW)
    maps = _maps(len(stitcher.grid))
    found = benchmark(judge, maps.mean(axis=(1, 2)), maps, stitcher, Thresholds(0.0, 100.0))
    assert len(found.regions) == 12
