"""ONNX Runtime on the processor: one request at a time, on all threads. The answer comes before `submit` returns."""

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort

from heatline.edge.errors import EngineError
from heatline.edge.inference.engine import DIFFERENCE, FEATURES, ONNX_GRAPH, Done, Engine, EngineKind, Failed, Fill


class OnnxRuntimeEngine(Engine):
    name: EngineKind = "onnxruntime"

    def __init__(self, folder: Path, tile_px: int, *, threads: int = 0, batch: int = 0) -> None:
        self.batch = batch or 8
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(folder / ONNX_GRAPH), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no other common base
            raise EngineError(f"ONNX Runtime cannot use {folder / ONNX_GRAPH}: {error}") from error
        self._outputs = ["logit", "map"]
        self._outputs += [FEATURES] if FEATURES in [output.name for output in self._session.get_outputs()] else []
        self._inputs = {"tiles": np.zeros((self.batch, tile_px, tile_px, 3), np.uint8)}
        for graph_input in self._session.get_inputs():
            if graph_input.name == DIFFERENCE:
                self._inputs[DIFFERENCE] = np.zeros((self.batch, *graph_input.shape[1:]), np.uint8)
        self.compares = DIFFERENCE in self._inputs

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        try:
            inputs = {name: array[:count] for name, array in self._inputs.items()}
            fill(*inputs.values())
            done(*self._session.run(self._outputs, inputs))
        except Exception as error:  # as above
            failed(error)
