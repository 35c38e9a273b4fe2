"""The OpenVINO IR, made from the ONNX graph."""

import tempfile
from pathlib import Path

import openvino as ov

from edge.errors import ExportError
from edge.inference.engine import ONNX_GRAPH, OPENVINO_GRAPH, OPENVINO_WEIGHTS


def to_openvino(onnx_graph: bytes) -> dict[str, bytes]:
    """The IR's two files, in f32, from an ONNX graph.

    OpenVINO runs what the first output needs first, so the map comes first: its nodes then read each layer's attention
    while it is in the cache. Outputs are found by their names.

    Raises:
        ExportError: OpenVINO cannot read the graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / ONNX_GRAPH, Path(folder) / OPENVINO_GRAPH
        source.write_bytes(onnx_graph)
        try:
            read = ov.Core().read_model(source)
            results = sorted(read.get_results(), key=lambda result: "map" not in result.output(0).get_names())
            model = ov.Model(results, read.get_parameters(), read.friendly_name)
            ov.save_model(model, target, compress_to_fp16=False)
            for tiles in (1, 3):  # a batch size that the model took for a constant shows here
                model.reshape({"tiles": [tiles, *list(model.input("tiles").partial_shape)[1:]]})
        except RuntimeError as error:
            raise ExportError(
                f"OpenVINO cannot take the exported graph for any number of tiles "
                f"({str(error).splitlines()[-1].strip()}); does the model fix its batch size, by len(x) for x.shape[0]?"
            ) from error
        return {name: (Path(folder) / name).read_bytes() for name in (OPENVINO_GRAPH, OPENVINO_WEIGHTS)}
