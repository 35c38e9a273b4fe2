"""Malicious bundles: graphs that contradict the manifest, or claim more data than they have."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from heatline.edge.bundle import Bundle, check_golden, open_bundle
from heatline.edge.errors import BundleError, EngineError
from heatline.edge.inference import EngineKind, open_engine
from heatline.edge.inference.engine import ONNX_GRAPH, OPENVINO_GRAPH, OPENVINO_WEIGHTS
from tests.command import complaint, heatline
from tests.small_bundle import GAIN, TILE, copy_of, edit_manifest, graph, graph_with, put, refusal, to_openvino

ENGINES: tuple[EngineKind, ...] = ("openvino", "onnxruntime")


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the small bundle, which the test damages."""
    return copy_of(bundle, tmp_path / "b")


@pytest.mark.parametrize(
    "onnx_graph",
    [
        graph_with(map_cells=7),  # coarser maps than the manifest states
        graph_with(map_cells=1),  # one cell, which numpy would broadcast to all cells
        graph_with(tile=112, map_cells=14),  # smaller tiles
        graph_with(map_name="cam"),  # an output with another name
        graph_with(tiles_type=TensorProto.FLOAT),  # tiles with another type
    ],
    ids=["coarse-map", "one-cell", "small-tiles", "other-name", "float-tiles"],
)
def test_a_graph_that_contradicts_the_manifest_is_refused(folder: Path, onnx_graph: bytes) -> None:
    opened = open_bundle(put(folder, {ONNX_GRAPH: onnx_graph, **to_openvino(onnx_graph)}))
    for kind in ENGINES:
        with pytest.raises((BundleError, EngineError)):
            check_golden(opened.golden(), open_engine(kind, opened.path, TILE), opened.manifest)


def test_an_edited_graph_is_found_by_its_sum_or_its_golden_tiles(folder: Path) -> None:
    edited = graph(GAIN * 1.01)
    (folder / ONNX_GRAPH).write_bytes(edited)
    assert "it was changed or damaged" in refusal(folder)
    opened = open_bundle(put(folder, {ONNX_GRAPH: edited, **to_openvino(edited)}))
    for kind in ENGINES:
        with pytest.raises(BundleError, match="this bundle must not be used here"):
            check_golden(opened.golden(), open_engine(kind, folder, TILE), opened.manifest)


def with_weight(change: Callable[[TensorProto], None]) -> bytes:
    """The ONNX graph with its largest constant changed."""
    model = onnx.load_from_string(graph())
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "weight")
    change(weight)
    return bytes(model.SerializeToString())


def claim(*dims: int) -> Callable[[TensorProto], None]:
    def change(weight: TensorProto) -> None:
        weight.dims[:] = dims

    return change


def lie_in(location: str) -> Callable[[TensorProto], None]:
    def change(weight: TensorProto) -> None:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "0", "length": "3072"}.items():
            entry = weight.external_data.add()
            entry.key, entry.value = key, value

    return change


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no graph",
        with_weight(claim(2, 1, 2**14, 2**14)),
        with_weight(claim(2**40, 2**40)),
        b"\x08\x09\x3a\xff\xff\xff\xff\x07" + graph(),  # the protobuf claims a message of 2 GB
        with_weight(lie_in("../outside")),
        with_weight(lie_in("/etc/hostname")),
    ],
    ids=["empty", "none", "2-gb", "exabytes", "protobuf", "climbs-out", "absolute"],
)
def test_onnx_runtime_refuses_a_graph_that_claims_too_much(folder: Path, data: bytes) -> None:
    (folder.parent / "outside").write_bytes(bytes(3072))
    assert open_bundle(put(folder, {ONNX_GRAPH: data}))
    with pytest.raises(EngineError, match=ONNX_GRAPH):
        open_engine("onnxruntime", folder, TILE)


def constant(shape: str, offset: int, size: int) -> dict[str, bytes]:
    """The IR with another shape, offset or size of its largest constant."""
    files = to_openvino(graph())
    before = b'shape="1, 3, 16, 16" offset="32" size="3072"'
    assert files[OPENVINO_GRAPH].count(before) == 1
    after = f'shape="{shape}" offset="{offset}" size="{size}"'.encode()
    return files | {OPENVINO_GRAPH: files[OPENVINO_GRAPH].replace(before, after)}


@pytest.mark.parametrize(
    "files",
    [
        {OPENVINO_GRAPH: b""},
        {OPENVINO_GRAPH: b"<?xml version='1.0'?><net/>"},
        {OPENVINO_WEIGHTS: b"\x00\x00"},
        constant("1, 3, 16384, 16384", 32, 3 * 2**30),
        constant("1, 3, 16384, 16384", 32, 3072),
        constant("4294967296, 4294967296, 16, 16", 32, 3072),
        constant("1, 3, 16, 16", 2**40, 3072),
        constant("1, 3, 16, 16", 2**64 - 1, 3072),
    ],
    ids=["empty", "no-net", "short", "3-gb", "shape-only", "overflow", "beyond-the-end", "beyond-numbers"],
)
def test_openvino_refuses_a_graph_that_claims_too_much(folder: Path, files: dict[str, bytes]) -> None:
    assert open_bundle(put(folder, files))
    with pytest.raises(EngineError, match=OPENVINO_GRAPH):
        open_engine("openvino", folder, TILE)


# The commands.


@pytest.mark.parametrize(("kind", "name"), [("openvino", OPENVINO_GRAPH), ("onnxruntime", ONNX_GRAPH)])
def test_a_graph_that_cannot_be_compiled_is_exit_code_6(folder: Path, kind: str, name: str) -> None:
    result = heatline("bundle", "verify", put(folder, {name: b"no graph"}), "--engine", kind)
    assert result.returncode == 6
    assert name in complaint(result)


def test_every_command_refuses_a_hostile_bundle_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    assert heatline("bundle", "keygen", tmp_path / "k").returncode == 0
    (folder / ONNX_GRAPH).write_bytes(b"another graph")
    more = {"show": [], "verify": [], "sign": ["--key", tmp_path / "k"], "diff": [folder]}
    for command, arguments in more.items():
        result = heatline("bundle", command, folder, *arguments)
        assert (result.returncode, result.stdout) == (4, ""), command
        assert "it was changed or damaged" in complaint(result)


def test_control_characters_of_a_manifest_do_not_reach_the_terminal(bundle: Bundle, folder: Path) -> None:
    edit_manifest(folder, lambda m: m.update(provenance={"\x1b[1A": "\x1b]0;title\x07"}))
    assert "\x1b" not in heatline("bundle", "show", folder).stdout
    text = heatline("bundle", "diff", bundle.path, folder).stdout
    assert "\x1b" not in text
    assert r"\x1b[1A" in text
    edit_manifest(folder, lambda m: m.update(name="\x1b[2Jevil"))
    assert "at `$.name`" in complaint(heatline("bundle", "show", folder))
    edit_manifest(folder, lambda m: m.update({"\x1b[2J": 1}, name="named"))
    assert r"\x1b[2J" in complaint(heatline("bundle", "show", folder))
