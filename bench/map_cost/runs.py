"""What is timed: a graph as it runs on the line, or a way in PyTorch, over and over on the same tiles.

OpenVINO has a stream per core and one request more; ONNX Runtime and PyTorch have all cores on one request.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.bare_engine import BareEngine
from bench.torch_ways import Eager, WayToMaps
from edge.errors import BenchError, PrecisionError
from edge.inference import Precision
from edge.inference.devices import the_core
from export.openvino_ir import Ir

Answers = tuple[NDArray[np.float32], NDArray[np.float32] | None]
"""Logits [N], and maps [N, h, w] where there are any."""


class Timed(Protocol):
    """Infers that many batches, and returns when all are answered."""

    def __call__(self, batches: int) -> None: ...

    def answers(self) -> list[Answers]:
        """To the last batch; of several requests, to that of each: whether they do what they are timed for."""


class InOpenVino:
    """Raises: BenchError: OpenVINO cannot run the graph. PrecisionError: the processor has no such precision."""

    def __init__(self, ir: Ir, precision: Precision, tiles: NDArray[np.uint8], threads: int) -> None:
        self._engine = BareEngine(ir.read(), precision, tiles, threads=threads, streams=threads)
        self._engine.run(threads + 1)  # so that every request has an answer

    def __call__(self, batches: int) -> None:
        self._engine.run(batches)

    def answers(self) -> list[Answers]:
        return [(one["logit"], one.get("map")) for one in self._engine.answers()]


class InOnnxRuntime:
    """Raises: BenchError: ONNX Runtime cannot run the graph."""

    def __init__(self, graph: bytes, tiles: NDArray[np.uint8], threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Idle threads spin by default: those of the graph that ran before, on the cores that this one needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common base
            raise BenchError(f"ONNX Runtime cannot run the graph: {error}") from error
        self._names = [output.name for output in self._session.get_outputs()]
        self._tiles = tiles
        self(1)

    def __call__(self, batches: int) -> None:
        for _ in range(batches):
            self._last = self._session.run(None, {"tiles": self._tiles})

    def answers(self) -> list[Answers]:
        found = dict(zip(self._names, self._last, strict=True))
        return [(found["logit"], found.get("map"))]


class InPyTorch:
    """As many threads as torch has been set to."""

    def __init__(self, way: Eager | WayToMaps, tiles: NDArray[np.uint8]) -> None:
        self._way, self._tiles = way, tiles
        self(1)

    def __call__(self, batches: int) -> None:
        for _ in range(batches):
            self._last = self._way(self._tiles)

    def answers(self) -> list[Answers]:
        return [self._last if isinstance(self._last, tuple) else (self._last, None)]


def require_processor(precision: Precision) -> None:
    """See that OpenVINO computes in a precision here before anything is exported for it.

    Raises:
        PrecisionError: it does not.
    """
    if precision == "bf16" and "BF16" not in the_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise PrecisionError(
            "this processor has no bf16, OpenVINO would compute in f32 instead; choose another --precision"
        )
