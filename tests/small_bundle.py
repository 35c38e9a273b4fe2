"""A bundle small enough to know by heart: the map is each cell's mean darkness, the logit the mean of the map.

evidence of a cell = GAIN * (mean over its px and channels of (255 - value) / 255) - BIAS, so a white tile has -BIAS in
every cell, and a black square shows up exactly where it is. If it compares with a reference, the darkness counts only
a hundredth, and GAIN * (mean of the cell's differences / 255) is added: so nothing is found without the difference.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from heatline.edge.bundle import SCHEMA, Bundle, Calibration, GoldenTiles, Manifest, open_bundle, write_bundle
from heatline.edge.bundle import manifest as parts
from heatline.edge.bundle.store import MANIFEST
from heatline.edge.errors import BundleError
from heatline.edge.inference import PRECISIONS
from heatline.edge.inference.engine import ONNX_GRAPH, OPENVINO_GRAPH, Precision
from heatline.edge.reference.difference import CHANNELS
from heatline.edge.reference.reference import Reference
from heatline.export.openvino_ir import to_ir

TILE, CELLS, GAIN, BIAS = 224, 14, 100.0, 2.0
GOLDEN = "golden.npz"
INT8_GRAPH = "model_int8.xml"
TOLERANCES: Mapping[Precision, float] = {"f32": 1e-4, "bf16": 0.02, "int8": 0.05}
LEFT_OUT = "its regions are elsewhere"


def answer(
    tiles: NDArray[np.uint8], difference: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the answer of the bundle's graph for tiles [N, 224, 224, 3], in NumPy; difference [N, 28, 28, 8]. That
    for tiles of half the side takes a difference [N, 14, 14, 8]."""
    dark = (255.0 - tiles.astype(np.float64).mean(axis=3)) / 255  # (N, 224, 224)
    cell = TILE // CELLS
    cells = dark.shape[1] // cell
    maps = dark.reshape(len(tiles), cells, cell, cells, cell).mean(axis=(2, 4)) * GAIN
    if difference is not None:
        maps /= 100
        maps += difference.reshape(len(tiles), cells, 2, cells, 2, CHANNELS).mean(axis=(2, 4, 5)) * GAIN / 255
    maps -= BIAS
    return maps.mean(axis=(1, 2)).astype(np.float32), maps.astype(np.float32)


def to_openvino(onnx_graph: bytes) -> dict[str, bytes]:
    """Return the two files of the IR in f32, by their names in a bundle."""
    return to_ir(onnx_graph).files(OPENVINO_GRAPH)


def graph(gain: float = GAIN, *, compares: bool = False, tile_px: int = TILE) -> bytes:
    """The ONNX graph of `answer`; with another gain, of another model."""
    cells = tile_px * CELLS // TILE
    dark = gain / 100 if compares else gain
    weight = np.full((1, 3, TILE // CELLS, TILE // CELLS), -dark / 255 / 3 / (TILE // CELLS) ** 2, np.float32)
    axes, bias = np.array([1, 2], np.int64), np.array([dark - BIAS], np.float32)
    constants: dict[str, NDArray[Any]] = {"weight": weight, "bias": bias, "axes": axes}
    nodes = [
        helper.make_node("Cast", ["tiles"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "weight", "bias"], ["cells"], strides=[TILE // CELLS] * 2),
        helper.make_node("Squeeze", ["cells", "channel"], ["map"]),
        helper.make_node("ReduceMean", ["map", "axes"], ["logit"], keepdims=0),
    ]
    constants["channel"] = np.array([1], np.int64)
    inputs = {"tiles": [tile_px, tile_px, 3]}
    if compares:
        inputs["difference"] = [2 * cells, 2 * cells, CHANNELS]
        constants["compared"] = np.full((1, CHANNELS, 2, 2), gain / 255 / CHANNELS / 4, np.float32)
        nodes[3:3] = [
            helper.make_node("Cast", ["difference"], ["difference_float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["difference_float"], ["difference_nchw"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["difference_nchw", "compared"], ["beyond"], strides=[2, 2]),
            helper.make_node("Add", ["cells", "beyond"], ["sum"]),
        ]
        nodes[7].input[0] = "sum"
    return model_of(nodes, inputs, {"logit": ["n"], "map": ["n", cells, cells]}, constants)


def graph_with(*, map_cells: int = CELLS, map_name: str = "map", tiles_type: int = TensorProto.UINT8) -> bytes:
    """A graph of the same kind but for one thing: size of the map, an output's name, type of the input."""
    side = TILE // map_cells
    nodes = [
        helper.make_node("Cast", ["tiles"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["nchw"], ["cells"], kernel_shape=[side, side], strides=[side, side]),
        helper.make_node("ReduceMean", ["cells", "channel"], [map_name], keepdims=0),
        helper.make_node("ReduceMean", [map_name, "axes"], ["logit"], keepdims=0),
    ]
    constants = {"axes": np.array([1, 2], np.int64), "channel": np.array([1], np.int64)}
    outputs: dict[str, list[str | int]] = {"logit": ["n"], map_name: ["n", map_cells, map_cells]}
    return model_of(nodes, {"tiles": [TILE, TILE, 3]}, outputs, constants, tiles_type)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, list[int]],
    outputs: Mapping[str, list[str | int]],
    constants: Mapping[str, NDArray[Any]],
    input_type: int = TensorProto.UINT8,
) -> bytes:
    made = helper.make_graph(
        nodes,
        "darkness",
        [helper.make_tensor_value_info(name, input_type, ["n", *shape]) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def golden_tiles(*, compares: bool = False) -> GoldenTiles:
    rng = np.random.default_rng(5)
    tiles = rng.integers(0, 256, (4, TILE, TILE, 3), np.uint8)
    difference = rng.integers(0, 256, (4, 2 * CELLS, 2 * CELLS, CHANNELS), np.uint8) if compares else None
    return GoldenTiles(tiles, *answer(tiles, difference), difference=difference)


def manifest(references: Mapping[str, Reference] | None = None) -> Manifest:
    """Its manifest, without files. `references`: that it compares with, by camera; None: it compares with none."""
    compares = references is not None
    return Manifest(
        schema=SCHEMA,
        name="darkness",
        version="1",
        created_at="2026-01-01T00:00:00Z",
        made_by="tests",
        model=parts.Model("darkness", "written by hand", 769),
        tensors=parts.Tensors(
            parts.Tensor("tiles", "uint8", [None, TILE, TILE, 3]),
            parts.Tensor("logit", "float32", [None]),
            parts.Tensor("map", "float32", [None, CELLS, CELLS]),
            difference=parts.Tensor("difference", "uint8", [None, 2 * CELLS, 2 * CELLS, CHANNELS])
            if compares
            else None,
        ),
        grid=parts.Grid(),
        map=parts.Map("darkness", (CELLS, CELLS)),
        calibration=Calibration(
            score_threshold=-1.0,
            evidence_threshold=20.0,
            background=-BIAS,
            false_reject_per_frame=0.01,
            frames=1,
            frames_are="white frames",
        ),
        gate=parts.Gate(4, 1e-4, {"logit": 0.0, "map": 0.0}),
        tolerances={"f32": 1e-4},
        provenance={},
        files={},
        references={
            camera: parts.ProductReference(parts.product_picture_of(camera), each.frame_hw, each.frames, each.made_of)
            for camera, each in references.items()
        }
        if references
        else {},
    )


def small_bundle(path: Path) -> Bundle:
    """Write it to a new folder."""
    return write_bundle(path, manifest(), contents_of())


def contents_of(*, compares: bool = False) -> dict[str, bytes]:
    """Its files but for the manifest and references."""
    onnx_graph = graph(compares=compares)
    return {ONNX_GRAPH: onnx_graph, **to_openvino(onnx_graph), GOLDEN: golden_tiles(compares=compares).to_bytes()}


def comparing_bundle(path: Path, references: Mapping[str, Reference]) -> Bundle:
    """Write one whose graph compares frames with references, by camera, "" for all others, to a new folder."""
    pictures = {parts.product_picture_of(camera): each.to_png() for camera, each in references.items()}
    return write_bundle(path, manifest(references), contents_of(compares=True) | pictures)


def bundle_in(
    path: Path,
    precisions: Collection[Precision] = ("f32", "bf16", "int8"),
    *,
    int8_gain: float = GAIN * 1.01,
    tolerances: Mapping[Precision, float] = TOLERANCES,
    files: Mapping[str, bytes] | None = None,
) -> Bundle:
    """The small bundle in these precisions, the others left out for a reason; the gate's figures are made up.

    Nothing in int8 is quantised: what matters is that its graph is another, with another gain.

    Args:
        files: in place of those that it would have.
    """
    graphs = {"f32": OPENVINO_GRAPH, "bf16": OPENVINO_GRAPH, "int8": INT8_GRAPH}
    agreement = [parts.Agreement(1, 0.25, 2, 0.99, 0.9, 0.6), parts.Agreement(8, 0.5, 3, 0.98, 0.8, 0.7)]
    passed, missed = (
        parts.Attempt("without changes", agreement, []),
        parts.Attempt("all of it", agreement, [LEFT_OUT]),
    )
    gate = parts.MapGate(
        tiles=40,
        tiles_are="tiles of validation frames",
        tiles_with_region=12,
        tiles_on_threshold=1,
        score_threshold=-1.0,
        evidence_threshold=20.0,
        limits={"int8": {"flips": 4, "map_correlation": 0.95}},
        precisions={
            precision: parts.PrecisionGate(graphs[precision], None, [passed])
            if precision in precisions
            else parts.PrecisionGate(None, LEFT_OUT, [missed])
            for precision in PRECISIONS["openvino"]
        },
    )
    described = msgspec.structs.replace(
        manifest(), map_gate=gate, tolerances={one: tolerances[one] for one in tolerances if one in precisions}
    )
    made = contents_of()
    if "int8" in precisions:
        made |= {name.replace("f32", "int8"): data for name, data in to_openvino(graph(int8_gain)).items()}
    return write_bundle(path, described, made | dict(files or {}))


def parts_of(bundle: Bundle) -> dict[str, bytes]:
    """The contents of its files but for the manifest."""
    return {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}


def lenient_bundle(path: Path, bundle: Bundle) -> Bundle:
    """Write one that rejects nothing."""
    calibration = msgspec.structs.replace(bundle.manifest.calibration, score_threshold=50.0)
    changed = msgspec.structs.replace(bundle.manifest, name="lenient", calibration=calibration)
    return write_bundle(path, changed, parts_of(bundle))


def copy_of(bundle: Bundle, folder: Path) -> Path:
    """A copy of its own, for a test to spoil."""
    shutil.copytree(bundle.path, folder)
    return folder


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the manifest by hand."""
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))
    return folder


def put(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Replace files, and give their sha256 in the manifest: wrong, but not damaged."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return edit_manifest(
        folder,
        lambda content: content["files"].update({n: hashlib.sha256(data).hexdigest() for n, data in files.items()}),
    )


def refusal(path: Path) -> str:
    """The one line with which a bundle is refused."""
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def white_frame(hw: tuple[int, int] = (500, 700)) -> NDArray[np.uint8]:
    return np.full((*hw, 3), 255, np.uint8)


def dark_square(frame: NDArray[np.uint8], y: int, x: int, side: int = 48) -> NDArray[np.uint8]:
    """The frame with a black square whose top left corner is (y, x): a defect."""
    marked = frame.copy()
    marked[y : y + side, x : x + side] = 0
    return marked
