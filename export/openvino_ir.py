"""The OpenVINO IR, made from the ONNX graph."""

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import openvino as ov
from openvino.passes import ConstantFolding, Manager

from heatline.edge.errors import BundleError, ExportError, last_line
from heatline.edge.inference.devices import shared_core
from heatline.edge.inference.engine import ONNX_GRAPH, weights_of
from heatline.edge.util.files import writing


def writing_graph(folder: Path) -> "contextlib.AbstractContextManager[None]":
    """Blame the disk, and not the model, by a BundleError if a graph cannot be written into a temporary folder."""
    return writing(folder, BundleError, or_else=", or set TMPDIR to a folder on another disk")


def write_graphs(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a temporary folder; errors as `writing_graph`."""
    with writing_graph(folder):
        for name, data in files.items():
            (folder / name).write_bytes(data)


@dataclass(frozen=True)
class Ir:
    """A graph and its weights, as the two files hold them."""

    xml: bytes
    weights: bytes

    @classmethod
    def of(cls, model: ov.Model) -> "Ir":
        """Serialise a model by `openvino.save_model`, without compression; errors as `writing_graph`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.xml"
            with writing_graph(Path(folder)):
                try:
                    ov.save_model(model, path, compress_to_fp16=False)
                except RuntimeError as error:  # OpenVINO's error where a file cannot grow
                    raise OSError(None, last_line(error)) from error
            return cls(path.read_bytes(), path.with_suffix(".bin").read_bytes())

    def read(self) -> ov.Model:
        return shared_core().read_model(self.xml, self.weights)

    def files(self, graph: str) -> dict[str, bytes]:
        """Return the contents by file name, for a graph with this file name."""
        return {graph: self.xml, weights_of(graph): self.weights}


def to_ir(onnx_graph: bytes) -> Ir:
    """Convert an ONNX graph to an IR in f32.

    OpenVINO first runs the nodes of the first output, so the map is the first output: its nodes then read each layer's
    attention while it is in the cache. Readers find outputs by name.

    Raises:
        ExportError: OpenVINO cannot read the graph.
        BundleError: the temporary folder cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / ONNX_GRAPH
        write_graphs(source.parent, {ONNX_GRAPH: onnx_graph})
        try:
            read = shared_core().read_model(source)
            results = sorted(read.get_results(), key=lambda result: "map" not in result.output(0).get_names())
            model = ov.Model(results, read.get_parameters(), read.friendly_name)
            folding = Manager()  # without it, each bias depends on a subgraph of shapes, and NNCF sees an activation
            folding.register_pass(ConstantFolding())
            folding.run_passes(model)
            ir = Ir.of(model)
            for tiles in (1, 3):  # fails if the model has a constant batch size
                model.reshape({each: [tiles, *list(each.partial_shape)[1:]] for each in model.inputs})
        except RuntimeError as error:
            raise ExportError(
                f"OpenVINO cannot use the exported graph with every number of tiles "
                f"({last_line(error)}); check whether the model fixes its batch size, e.g. by len(x) for x.shape[0]"
            ) from error
        return ir
