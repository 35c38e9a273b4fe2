"""The graphs that are timed. Each is exported once, as an export takes up to a minute and serves many rows."""

import io
from contextlib import redirect_stderr
from functools import cached_property

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from heatline.bench.map_cost.plan import Setting
from heatline.edge.inference import Precision
from heatline.export.onnx_graph import Graphs, to_attention, to_bare_onnx, to_graphs, with_rollout
from heatline.export.openvino_ir import Ir, to_ir
from heatline.export.quantise import Quantisation, quantise
from heatline.train.config import CnnConfig, VitConfig
from heatline.train.models.build import build_model
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import RolloutClassifier

WITH_MAP = "with map"


class ModelGraphs:
    """A model with random weights, which is as fast as a trained one, and its graphs.

    Args:
        samples: tiles uint8 [N, tile, tile, 3] for the ranges of int8; a few, as only the speed is measured.
    Raises:
        ConfigError: it cannot be built for such tiles.
    """

    def __init__(self, config: CnnConfig | VitConfig, tile_px: int, samples: NDArray[np.uint8]) -> None:
        self._config = msgspec.structs.replace(config, weights="none")
        self._tile_px, self._samples = tile_px, samples
        self._model = self._build(self._config)
        self._fused: dict[str, Graphs] = {}
        self._irs: dict[tuple[bytes, Precision], Ir] = {}

    def model(self, setting: Setting) -> ExplainedClassifier:
        """Return the model with the setting's map; its weights are the same for every map."""
        if not isinstance(self._config, VitConfig) or setting.fusion is None:
            return self._model
        changed = {"fusion": setting.fusion, "discard_ratio": setting.discard_ratio}
        return self._build(msgspec.structs.replace(self._config, **changed))

    def onnx(self, setting: Setting) -> dict[str, bytes]:
        """Return the classifier with its map, and the classifier alone, for the setting's engine and precision.

        Raises:
            ExportError: a graph cannot be exported.
        """
        graphs = self._graphs(self.model(setting))
        for_openvino = graphs.for_openvino_bf16 if setting.precision == "bf16" else graphs.for_openvino
        return {WITH_MAP: for_openvino if setting.engine == "openvino" else graphs.onnx, **self._bare}

    def ir(self, graph: bytes, precision: Precision) -> Ir:
        """Convert a graph for OpenVINO; int8 is made by NNCF's defaults.

        Raises:
            ExportError: it cannot be converted or quantised.
        """
        precision = "int8" if precision == "int8" else "f32"  # the engine converts to bf16
        if (graph, precision) not in self._irs:
            ir = to_ir(graph)
            if precision == "int8":
                with redirect_stderr(io.StringIO()):  # NNCF draws bars
                    ir = quantise(ir, (self._samples,), Quantisation(), transformer=self._config.family == "vit")
            self._irs[graph, precision] = ir
        return self._irs[graph, precision]

    def _build(self, config: CnnConfig | VitConfig) -> ExplainedClassifier:
        torch.manual_seed(0)
        return build_model(config, self._tile_px)[0].eval()

    def _graphs(self, model: ExplainedClassifier) -> Graphs:
        if model.method not in self._fused:
            self._fused[model.method] = (
                with_rollout(self._attention, model)
                if isinstance(model, RolloutClassifier)
                else to_graphs(model, self._tile_px)
            )
        return self._fused[model.method]

    @cached_property
    def _attention(self) -> ModelProto:
        assert isinstance(self._model, RolloutClassifier)
        return to_attention(self._model, self._tile_px)

    @cached_property
    def _bare(self) -> dict[str, bytes]:
        """The classifier as other projects export it; of a ViT both variants, of which the faster counts."""
        if isinstance(self._model, RolloutClassifier):
            return {
                "fused attention": to_bare_onnx(self._model, self._tile_px),
                "explicit attention": self._attention.SerializeToString(deterministic=True),
            }
        return {"pooling": to_bare_onnx(self._model, self._tile_px)}
