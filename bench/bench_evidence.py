"""Encoding of a 5 MP frame for the evidence store."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from heatline.bench.conftest import FRAME_HW
from heatline.bench.pictures import draw_shapes
from heatline.edge.monitor.recorder import encode_frame

COLOUR = draw_shapes(FRAME_HW, seed=1)


@pytest.mark.parametrize("image", [COLOUR, np.ascontiguousarray(COLOUR[..., 1])], ids=["colour", "grey"])
def bench_encode_frame_5mp(benchmark: BenchmarkFixture, image: NDArray[np.uint8]) -> None:
    data = benchmark(encode_frame, image)
    decoded = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
    assert (decoded if image.ndim == 2 else decoded[..., ::-1]).tobytes() == image.tobytes()
    benchmark.extra_info["bytes"] = len(data)
