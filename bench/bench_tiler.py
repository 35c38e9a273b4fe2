"""Cutting a 5 MP frame into tiles."""

import numpy as np
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from edge.geometry import TileGrid


def bench_cut_5mp(benchmark: BenchmarkFixture, frame: NDArray[np.uint8]) -> None:
    grid = TileGrid((frame.shape[0], frame.shape[1]))
    out = np.empty((len(grid), grid.tile_px, grid.tile_px, 3), np.uint8)
    benchmark.extra_info |= {"tiles": len(grid), "bytes": out.nbytes}
    benchmark(grid.cut, frame, out)
