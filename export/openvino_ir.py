"""The OpenVINO IR, made from the ONNX graph."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import openvino as ov
from openvino.passes import ConstantFolding, Manager

from edge.errors import ExportError, last_line
from edge.inference.devices import shared_core
from edge.inference.engine import ONNX_GRAPH, OPENVINO_GRAPH, weights_of


@dataclass(frozen=True)
class Ir:
    """A graph and its weights, as the two files hold them."""

    xml: bytes
    weights: bytes

    @classmethod
    def of(cls, model: ov.Model) -> "Ir":
        """As `openvino.save_model` writes it, nothing compressed."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.xml"
            ov.save_model(model, path, compress_to_fp16=False)
            return cls(path.read_bytes(), path.with_suffix(".bin").read_bytes())

    def read(self) -> ov.Model:
        return shared_core().read_model(self.xml, self.weights)

    def files(self, graph: str) -> dict[str, bytes]:
        """Contents by file name, for a graph named so."""
        return {graph: self.xml, weights_of(graph): self.weights}


def to_openvino(onnx_graph: bytes) -> dict[str, bytes]:
    """The two files of the IR in f32, by their names in a bundle; errors as `to_ir`."""
    return to_ir(onnx_graph).files(OPENVINO_GRAPH)


def to_ir(onnx_graph: bytes) -> Ir:
    """The IR in f32, from an ONNX graph.

    OpenVINO runs what the first output needs first, so the map comes first: its nodes then read each layer's attention
    while it is in the cache. Outputs are found by their names.

    Raises:
        ExportError: OpenVINO cannot read the graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / ONNX_GRAPH
        source.write_bytes(onnx_graph)
        try:
            read = shared_core().read_model(source)
            results = sorted(read.get_results(), key=lambda result: "map" not in result.output(0).get_names())
            model = ov.Model(results, read.get_parameters(), read.friendly_name)
            folding = Manager()  # else each bias hangs on a subgraph of shapes, and NNCF takes it for an activation
            folding.register_pass(ConstantFolding())
            folding.run_passes(model)
            ir = Ir.of(model)
            for tiles in (1, 3):  # a batch size that the model took for a constant shows here
                model.reshape({"tiles": [tiles, *list(model.input("tiles").partial_shape)[1:]]})
        except RuntimeError as error:
            raise ExportError(
                f"OpenVINO cannot take the exported graph for any number of tiles "
                f"({last_line(error)}); does the model fix its batch size, by len(x) for x.shape[0]?"
            ) from error
        return ir
