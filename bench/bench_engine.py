"""Inference of a frame's tiles in each engine, in f32."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from heatline.edge.bundle import Bundle
from heatline.edge.inference import EngineKind, infer, open_engine

TILES = 48


@pytest.mark.parametrize(("kind", "batch"), [("openvino", 1), ("openvino", 8), ("onnxruntime", 1), ("onnxruntime", 8)])
def bench_infer_48_tiles(benchmark: BenchmarkFixture, bundle: Bundle, kind: EngineKind, batch: int) -> None:
    tile_px = bundle.manifest.grid.tile_px
    engine = open_engine(kind, bundle.path, tile_px, batch=batch)
    tiles = np.random.default_rng(0).integers(0, 256, (TILES, tile_px, tile_px, 3), np.uint8)
    benchmark.extra_info |= {"tiles": TILES, "model": bundle.manifest.model.name, "precision": engine.precision}
    difference = np.zeros((TILES, 1, 1, 1), np.uint8)  # nothing differs; only engines that compare read it
    benchmark.pedantic(infer, (engine, tiles, difference), rounds=10, warmup_rounds=2)  # type: ignore[no-untyped-call]
