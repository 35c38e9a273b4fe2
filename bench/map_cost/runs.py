"""What is timed: a graph as it runs on the line, or a way in PyTorch, over and over on the same tiles.

OpenVINO has a stream per core and one request more; ONNX Runtime and PyTorch have all cores on one request.
"""

from typing import Protocol

import numpy as np
import openvino
from numpy.typing import NDArray

from bench.torch_ways import Eager, WayToMaps
from edge.errors import BenchError, PrecisionError
from edge.inference import Precision
from export.openvino_ir import Ir

Answers = tuple[NDArray[np.float32], NDArray[np.float32] | None]
"""Logits [N], and maps [N, h, w] where there are any."""


class Timed(Protocol):
    """Infers that many batches, and returns when all are answered."""

    def __call__(self, batches: int) -> None: ...

    def answers(self) -> Answers:
        """To one batch: whether it does what it is timed for."""


class InOpenVino:
    """Raises: BenchError: OpenVINO cannot run the graph. PrecisionError: the processor has no such precision."""

    def __init__(self, ir: Ir, precision: Precision, tiles: NDArray[np.uint8], threads: int) -> None:
        hint = "bf16" if precision == "bf16" else "f32"
        settings = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
        }
        try:
            model = ir.read()
            model.reshape({"tiles": list(tiles.shape)})
            compiled = openvino.Core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise BenchError(f"OpenVINO cannot run the graph: {error}") from error
        computes_in = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if computes_in != hint:  # it takes the hint, and says so only if it is asked
            raise PrecisionError(no_precision(hint, computes_in))
        self._compiled, self._tiles = compiled, tiles
        self._requests = openvino.AsyncInferQueue(compiled, threads + 1)
        for request in self._requests:
            request.set_tensor("tiles", openvino.Tensor(tiles))

    def __call__(self, batches: int) -> None:
        for _ in range(batches):
            self._requests.start_async()
        self._requests.wait_all()

    def answers(self) -> Answers:
        found = self._compiled.create_infer_request().infer({"tiles": self._tiles})
        named = {name: value for output, value in found.items() for name in output.get_names()}
        return named["logit"], named.get("map")


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
        self._tiles = tiles

    def __call__(self, batches: int) -> None:
        for _ in range(batches):
            self._session.run(None, {"tiles": self._tiles})

    def answers(self) -> Answers:
        names = [output.name for output in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(None, {"tiles": self._tiles}), strict=True))
        return found["logit"], found.get("map")


class InPyTorch:
    """As many threads as torch has been set to."""

    def __init__(self, way: Eager | WayToMaps, tiles: NDArray[np.uint8]) -> None:
        self._way, self._tiles = way, tiles

    def __call__(self, batches: int) -> None:
        for _ in range(batches):
            self._way(self._tiles)

    def answers(self) -> Answers:
        if isinstance(self._way, Eager):
            return self._way(self._tiles), None
        return self._way(self._tiles)


def no_precision(hint: str, computes_in: str) -> str:
    return f"this processor has no {hint}, OpenVINO computes in {computes_in}; choose another --precision"


def require_processor(precision: Precision) -> None:
    """See that OpenVINO computes in a precision here before anything is exported for it.

    Raises:
        PrecisionError: it does not.
    """
    if precision == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise PrecisionError(no_precision("bf16", "f32"))
