"""The bare engine: a graph in OpenVINO and nothing else.

No pixel moves: every request infers the content of its own input again and again, and answers are read only on demand.
"""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import BenchError, last_line
from heatline.edge.inference import Precision
from heatline.edge.inference.engine import DIFFERENCE, weights_of

if TYPE_CHECKING:  # a bench must not map its libraries: shared with the service, they would count half there
    import openvino as ov

BATCHES = (1, 2, 4, 8, 16, 32)


def read_graph(path: Path) -> "ov.Model":
    """Read an IR of a bundle."""
    from heatline.edge.inference.devices import shared_core

    return shared_core().read_model(path, path.with_name(weights_of(path.name)))


class BareEngine:
    """One request per stream and one more, which infer the same tiles again and again.

    Args:
        model: gets the shape of the tiles.
        tiles: [batch, tile, tile, 3], which every request infers.
        difference: [batch, cells, cells, channels], if the graph compares.
    Raises:
        BenchError: OpenVINO cannot run the graph.
        PrecisionError: the processor has no such precision.
    """

    def __init__(
        self,
        model: "ov.Model",
        precision: Precision,
        tiles: NDArray[np.uint8],
        difference: NDArray[np.uint8] | None = None,
        *,
        threads: int,
        streams: int,
    ) -> None:
        from openvino import AsyncInferQueue

        from heatline.edge.inference.devices import require_bf16, shared_core

        hint = "bf16" if precision == "bf16" else "f32"
        if hint == "bf16":
            require_bf16(shared_core(), "CPU")
        settings = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
        }
        inputs = {"tiles": tiles} if difference is None else {"tiles": tiles, DIFFERENCE: difference}
        try:
            model.reshape({name: list(values.shape) for name, values in inputs.items()})
            compiled = shared_core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise BenchError(f"OpenVINO cannot run the graph: {last_line(error)}") from error
        self.batch, self.threads, self.streams = len(tiles), threads, streams
        self._requests = AsyncInferQueue(compiled, streams + 1)
        for request in self._requests:
            for name, values in inputs.items():
                request.get_tensor(name).data[:] = values

    def run(self, requests: int) -> None:
        """Run a number of requests of `batch` tiles; return when all are answered."""
        for _ in range(requests):
            self._requests.start_async()
        self._requests.wait_all()

    def tiles_per_s(self, seconds: float) -> float:
        """Measure its rate while it is busy, without start and end."""
        for _ in range(self.streams + 2):  # from here on, each start waits for an answer
            self._requests.start_async()
        began, answers = perf_counter(), 0
        while perf_counter() - began < seconds or not answers:
            self._requests.start_async()
            answers += 1
        took = perf_counter() - began
        self._requests.wait_all()
        return answers * self.batch / took

    def answers(self) -> list[dict[str, NDArray[np.float32]]]:
        """Return the last answer of each request, by the output's name: `logit` [batch], `map` [batch, h, w] if any."""
        return [
            {
                name: request.get_tensor(name).data.copy()
                for output in request.model_outputs
                for name in output.get_names()
            }
            for request in self._requests
        ]


def find_wrong_answer(engine: BareEngine, expected: NDArray[np.float32], tolerance: float) -> str | None:
    """Return how an answer differs from that which the same tiles must have; None: all are right.

    Args:
        expected: logits [batch].
        tolerance: share of the largest of them.
    """
    allowed = tolerance * max(1.0, float(np.abs(expected).max()))
    for answer in engine.answers():
        off = float(np.abs(answer["logit"] - expected).max())
        if not off <= allowed:
            return f"its logits are off by {off:.4g}, allowed are {allowed:.4g}"
    return None


class Settings(msgspec.Struct, frozen=True):
    """Settings of an engine."""

    streams: int
    batch: int
    """Tiles per request."""

    def __str__(self) -> str:
        return f"{self.streams} streams of {self.batch} tiles"


def all_settings(cores: int) -> list[Settings]:
    """Return the settings to try: a stream per core, one for two, or one; and 1 to 32 tiles a request.

    >>> [(each.streams, each.batch) for each in all_settings(2)][:7]
    [(2, 1), (2, 2), (2, 4), (2, 8), (2, 16), (2, 32), (1, 1)]
    """
    streams = dict.fromkeys((cores, max(1, cores // 2), 1))
    return [Settings(each, batch) for each in streams for batch in BATCHES]
