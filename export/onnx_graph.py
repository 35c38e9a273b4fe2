"""Exports classifier and map as one ONNX graph."""

import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import nn

from heatline.edge import __version__
from heatline.edge.bundle.pooling import identity_of
from heatline.edge.errors import ExportError
from heatline.edge.inference.engine import DIFFERENCE, FEATURES
from heatline.edge.reference.difference import CHANNELS
from heatline.export.rollout_graph import EXACT, EXPLANATION, UNDER_BF16, Digits, Rollout, append_rollout
from heatline.train.models.dense import DenseClassifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import RolloutClassifier

OPSET = 20
MEANINGS = {
    "tiles": "RGB tiles uint8 [N, height, width, channel], as they are cut; normalisation is inside the graph.",
    DIFFERENCE: "What the tile's grey has beyond the reference's, uint8 [N, cells, cells, 8], cells of 8 px; "
    "docs/bundle.md says how it is computed.",
    "logit": "Evidence of a defect per tile, float32 [N]; 1 / (1 + exp(-logit)) is the probability.",
    FEATURES: "What cells of 32 px show, float32 [N, h, w, c]: features of stride 16. To see if it is the product.",
    "map": "Where in the tile that evidence lies, float32 [N, h, w], in logits; map.identity is how the logit follows.",
}


@dataclass(frozen=True)
class Graphs:
    onnx: bytes
    """The canonical graph, and the source of the IR in f32."""
    for_bf16: bytes
    """The source of the IR for bf16. It is the same, except for a ViT with a discard ratio."""


def to_graphs(model: ExplainedClassifier, tile_px: int) -> Graphs:
    """Export a model: `tiles` uint8 [N, tile, tile, 3] in; `logit` f32 [N] and `map` f32 [N, h, w] out; any N.

    A model that compares has a second input, `difference` uint8 [N, cells, cells, CHANNELS].
    Two exports of one model give the same bytes.

    Raises:
        ExportError: the model cannot be exported, or the graph is not valid ONNX.
    """
    if isinstance(model, RolloutClassifier):
        return with_rollout(to_attention(model, tile_px), model)
    if isinstance(model, DenseClassifier):
        difference = [*model.map_hw, CHANNELS] if model.compares else None
        graph = export_module(_Part(model, model.with_features), tile_px, ["logit", "map", FEATURES], difference)
        _name_the_explanation(graph, f"model.{model.explained_from}")
    else:
        graph = export_module(model, tile_px, ["logit", "map"])
        _name_the_explanation(graph, model.explained_from)
    data = _finish(graph, model)
    return Graphs(data, data)


def to_attention(model: RolloutClassifier, tile_px: int) -> onnx.ModelProto:
    """Export a ViT up to its `logit` and the attention of every layer; errors as in `to_graphs`.

    The graph is the same for every rollout, and serves as the classifier without its map.
    """
    graph = export_module(_Part(model, model.with_attention), tile_px, ["logit", *_attentions(model)])
    del graph.graph.output[1:]
    return graph


def with_rollout(attention: onnx.ModelProto, model: RolloutClassifier) -> Graphs:
    """Add the rollout of this ViT to the graph of `to_attention`; errors as in `to_graphs`."""

    network, cells = model.network, model.map_hw[0] * model.map_hw[1]
    rollout = Rollout(
        tokens=network.num_prefix_tokens + cells,
        prefix_tokens=network.num_prefix_tokens,
        heads=network.blocks[0].attn.num_heads,
        map_hw=model.map_hw,
        fusion=model.fusion,
        discard_ratio=model.discard_ratio,
    )

    def build(digits: Digits) -> bytes:
        graph = onnx.ModelProto()
        graph.CopyFrom(attention)
        append_rollout(graph, rollout, _attentions(model), "logit", digits)
        return _finish(graph, model)

    return Graphs(build(EXACT), build(UNDER_BF16))


class _Part(nn.Module):
    """A model whose forward pass is another of its methods."""

    def __init__(self, model: ExplainedClassifier, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.forward = model, forward


def _attentions(model: RolloutClassifier) -> list[str]:
    return [f"attention_{number}" for number in range(len(model.network.blocks))]


def export_module(
    module: nn.Module, tile_px: int, outputs: list[str], difference: list[int] | None = None
) -> onnx.ModelProto:
    """Export a module by torch's exporter, and remove the notes about the exporting machine.

    Args:
        difference: shape of the second input for one tile; None: there is none.
    """
    module = module.eval()
    shapes = {"tiles": [tile_px, tile_px, 3]} | ({} if difference is None else {DIFFERENCE: difference})
    batch = {0: torch.export.Dim("tiles_in_batch", min=1, max=65536)}
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's warnings concern its own internals
            program = torch.onnx.export(
                module,
                tuple(torch.zeros(2, *shape, dtype=torch.uint8) for shape in shapes.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=[*shapes],
                output_names=outputs,
                dynamic_shapes=dict.fromkeys(shapes, batch),
                verbose=False,
            )
        assert program is not None
        program.save(buffer)  # type: ignore[arg-type]  # a file object works too
        graph = onnx.load_from_string(buffer.getvalue())
    except Exception as error:  # the exporter's errors have no common base
        name = type(getattr(module, "model", module)).__name__
        raise ExportError(f"{name} cannot be exported to ONNX: {error}") from error
    # The exporter's notes are about the source code: paths and lines of this machine, which other machines lack.
    functions = list(graph.functions)
    parts = [graph, graph.graph, *functions, *graph.graph.node, *(node for part in functions for node in part.node)]
    parts += [*graph.graph.input, *graph.graph.output, *graph.graph.value_info, *graph.graph.initializer]
    for part in parts:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    return graph


def _name_the_explanation(graph: onnx.ModelProto, first: str) -> None:
    """Rename all nodes that depend on the weight `first`, to distinguish the explanation from the features."""
    reached = {first} & {weight.name for weight in graph.graph.initializer}
    if not reached:
        raise ExportError(
            f"the exported graph has no {first}, so the explanation cannot be distinguished from the features; install "
            "heatline[export] again, with the version of torch that it requires"
        )
    for node in graph.graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
            node.name = EXPLANATION + node.name


def _finish(graph: onnx.ModelProto, model: ExplainedClassifier) -> bytes:
    """Add descriptions to a graph, check it, and return its bytes."""
    graph.producer_name, graph.producer_version = "heatline", __version__
    graph.graph.name = model.method
    graph.doc_string = "Classifier of good and defective tiles, and its explanation map, in one pass."
    for tensor in (*graph.graph.input, *graph.graph.output):
        tensor.doc_string = MEANINGS[tensor.name]
    about = {"map.method": model.method, "map.identity": identity_of(model.top_cells)}
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, about)
    try:
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # the checker's parts have no common base
        raise ExportError(f"the exported graph of {type(model).__name__} is not valid ONNX: {error}") from error
    return graph.SerializeToString(deterministic=True)  # type: ignore[no-any-return]
