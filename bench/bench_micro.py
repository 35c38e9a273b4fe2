"""Micro-benches: a frame's tiles in each engine, a frame's picture, an event, and each stage of a 5 MP frame.

Grabbing begins with the trigger here, and publishing ends when the receipt is confirmed.
"""

from contextlib import ExitStack

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from heatline.bench.conftest import FRAME_HW
from heatline.bench.pictures import draw_shapes
from heatline.bench.stages import STAGES, Prepared
from heatline.edge.bundle import Bundle
from heatline.edge.inference import EngineKind, infer, open_engine
from heatline.edge.monitor.recorder import encode_frame
from heatline.edge.wire.events import from_frames, to_frames

TILES = 48
COLOUR = draw_shapes(FRAME_HW, seed=1)


@pytest.mark.parametrize(("kind", "batch"), [("openvino", 1), ("openvino", 8), ("onnxruntime", 1), ("onnxruntime", 8)])
def bench_infer_48_tiles(benchmark: BenchmarkFixture, bundle: Bundle, kind: EngineKind, batch: int) -> None:
    tile_px = bundle.manifest.grid.tile_px
    engine = open_engine(kind, bundle.path, tile_px, batch=batch)
    tiles = np.random.default_rng(0).integers(0, 256, (TILES, tile_px, tile_px, 3), np.uint8)
    difference = np.zeros((TILES, 1, 1, 1), np.uint8)  # nothing differs; only engines that compare read it
    benchmark.extra_info |= {"tiles": TILES, "model": bundle.manifest.model.name, "precision": engine.precision}
    benchmark.pedantic(infer, (engine, tiles, difference), rounds=10, warmup_rounds=2)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("image", [COLOUR, np.ascontiguousarray(COLOUR[..., 1])], ids=["colour", "grey"])
def bench_encode_frame_5mp(benchmark: BenchmarkFixture, image: NDArray[np.uint8]) -> None:
    data = benchmark(encode_frame, image)
    decoded = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
    assert (decoded if image.ndim == 2 else decoded[..., ::-1]).tobytes() == image.tobytes()


def bench_decode(benchmark: BenchmarkFixture, prepared: Prepared) -> None:
    message = prepared.message()
    assert benchmark(from_frames, to_frames(message)).event == message.event


@pytest.mark.parametrize("name", STAGES)
def bench_stage_5mp(benchmark: BenchmarkFixture, prepared: Prepared, name: str) -> None:
    with ExitStack() as at_end:
        stage = STAGES[name](prepared, at_end)
        stage.check(benchmark(stage.run))
