"""Classifier and map as one ONNX graph."""

import io
import logging
import warnings

import onnx
import torch

from edge.errors import ExportError
from train.models.explained import ExplainedClassifier

OPSET = 20


def to_onnx(model: ExplainedClassifier, tile_px: int) -> bytes:
    """The graph of a model: `tiles` uint8 [N, tile, tile, 3] in; `logit` f32 [N] and `map` f32 [N, h, w] out; any N.

    Raises:
        ExportError: the model cannot be exported, or the graph is no valid ONNX.
    """
    model = model.eval()
    example = torch.zeros(2, tile_px, tile_px, 3, dtype=torch.uint8)
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own internals
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["tiles"],
                output_names=["logit", "map"],
                dynamic_shapes={"tiles": {0: torch.export.Dim("tiles_in_batch", min=1, max=65536)}},
                verbose=False,
            )
        assert program is not None
        program.save(buffer)  # type: ignore[arg-type]  # a file object will do
        graph = onnx.load_from_string(buffer.getvalue())
        _forget_the_makers_machine(graph)
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # exporter and checker raise whatever their parts raise
        raise ExportError(f"{type(model).__name__} cannot be exported to ONNX: {error}") from error
    return graph.SerializeToString()  # type: ignore[no-any-return]


def _forget_the_makers_machine(graph: onnx.ModelProto) -> None:
    """Clear what the exporter notes of its source: paths and lines of this machine, of no use on another."""
    functions = list(graph.functions)
    parts = [graph, graph.graph, *functions, *graph.graph.node, *(node for part in functions for node in part.node)]
    parts += [*graph.graph.input, *graph.graph.output, *graph.graph.value_info, *graph.graph.initializer]
    for part in parts:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
