"""The exported graph: reproducible bytes, named tensors, and a rollout that equals a sort of its own attention."""

import copy
import functools
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper

from examples.drawn_boards.boards import draw_board
from heatline.edge.inference.devices import shared_core
from heatline.edge.inference.engine import ONNX_GRAPH, OPENVINO_GRAPH
from heatline.export import rollout_graph
from heatline.export.gate import TOLERANCE, pass_gate, torch_answers
from heatline.export.onnx_graph import OPSET, Graphs, to_graphs
from heatline.export.openvino_ir import to_ir, write_graphs
from heatline.export.rollout_graph import EXACT, EXPLANATION, UNDER_BF16, Digits, Nodes, Rollout
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import RolloutClassifier, discard_lowest
from tests.export.conftest import TILE, build_cnn
from tests.toy_vit import ToyViT

pytestmark = pytest.mark.usefixtures("one_thread")
Floats = NDArray[np.float32]


def test_exports_give_the_same_bytes(small_cnn: ExplainedClassifier, cnn_graphs: Graphs, vit_graphs: Graphs) -> None:
    """bf16 has a graph of its own only for rollouts with a discard ratio."""
    assert to_graphs(small_cnn, TILE) == cnn_graphs
    assert cnn_graphs.onnx == cnn_graphs.for_bf16
    assert vit_graphs.onnx != vit_graphs.for_bf16


@pytest.mark.parametrize(
    "family", ["cnn", "vit-discard", *(pytest.param(each, marks=pytest.mark.long) for each in ("top-mean", "vit"))]
)
def test_tensors_metadata_and_what_only_the_map_needs_are_named(request: pytest.FixtureRequest, family: str) -> None:
    """Without the nodes with the prefix, a ViT still has its logit, and a CNN its features."""
    shared = {"cnn": ("small_cnn", "cnn_graphs"), "vit-discard": ("discarding_vit", "vit_graphs")}
    if family in shared:
        model, graphs = map(request.getfixturevalue, shared[family])
    else:
        model = build_cnn() if family == "top-mean" else ToyViT(tile_px=TILE).eval()
        model.top_cells = 5 if family == "top-mean" else None
        graphs = to_graphs(model, TILE)
    made = onnx.load_from_string(graphs.onnx)
    tensors = {tensor.name: tensor for tensor in (*made.graph.input, *made.graph.output)}
    assert list(tensors) == ["tiles", "logit", "map"]
    assert all(tensor.doc_string for tensor in tensors.values())
    tiles = tensors["tiles"].type.tensor_type
    assert (tiles.elem_type, bool(tiles.shape.dim[0].dim_param)) == (TensorProto.UINT8, True)
    assert {prop.key: prop.value for prop in made.metadata_props} == {
        "map.method": model.method,
        "map.identity": "top-mean(map, 5) == logit" if model.top_cells else "mean(map) == logit",
    }
    makers = {output: node for node in made.graph.node for output in node.output}
    explaining = {node.name for node in made.graph.node if node.name.startswith(EXPLANATION)}
    wanted, needed = ["logit"], set()
    while wanted:
        node = makers.get(wanted.pop())
        if node is not None and node.name not in needed:
            needed.add(node.name)
            wanted += node.input
    assert makers["map"].name in explaining
    if isinstance(model, ToyViT):
        assert not needed & explaining
    else:
        assert sum(node.op_type == "Conv" for node in made.graph.node if node.name in explaining) == 1  # the head


# The discard of a rollout, compared with a sort. By the resulting row of the class token.

LAYERS = 2
Matrices = NDArray[np.float32]
"""[layers, N, tokens, tokens]"""
Gone = Callable[[Floats, int], NDArray[np.bool_ | np.int64]]
SHORT = ((3, 8), (9, 40))
SIZES = [
    pytest.param(tokens, discarded, marks=[] if (tokens, discarded) in SHORT else pytest.mark.long)
    for tokens in (3, 4, 9)
    for discarded in (1, tokens**2 // 2, tokens**2 - 1)
]


def first_go(entries: Floats, discarded: int) -> NDArray[np.bool_ | np.int64]:
    """The discarded entries: among equal entries the first."""
    return np.argsort(entries, kind="stable")[:discarded]


def all_stay_that_share_the_first_bits(entries: Floats, discarded: int) -> NDArray[np.bool_ | np.int64]:
    """Those of a coarse threshold: all entries with its exponent and first mantissa bits remain."""
    key = entries.view(np.uint32) >> (23 - UNDER_BF16.mantissa)
    return key < np.sort(key)[discarded]


def row_of(fused: list[Floats], discarded: int, gone: Gone = first_go) -> NDArray[np.float64]:
    """The row of the class token [tokens] of one tile, in float64, from its attention [tokens, tokens] per layer."""
    tokens = fused[0].shape[-1]
    row = np.eye(tokens)[0]
    for layer in reversed(fused):
        entries = layer.flatten()
        entries[gone(entries, discarded)] = 0
        mixed = entries.reshape(tokens, tokens).astype(np.float64) + np.eye(tokens)
        row = row @ (mixed / mixed.sum(axis=1, keepdims=True))
    return np.asarray(row)


def rows_of(layers: Matrices, discarded: int, gone: Gone = first_go) -> NDArray[np.float64]:
    return np.stack([row_of(list(layers[:, tile]), discarded, gone) for tile in range(layers.shape[1])])


def graph_of(digits: Digits, tokens: int, discarded: int) -> ModelProto:
    """From `fused_0`, `fused_1` [N, 1, tokens, tokens] to `row`."""
    rollout = Rollout(tokens, 1, 1, (1, tokens - 1), "max", (discarded + 0.5) / tokens**2)
    assert rollout.discarded == discarded
    nodes, names = Nodes(), [f"fused_{number}" for number in range(LAYERS)]
    row = rollout_graph.class_token_row(nodes, rollout, names, digits)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1, tokens, tokens]) for name in names]
    outputs = [helper.make_tensor_value_info(row, TensorProto.FLOAT, ["N", tokens])]
    graph = helper.make_graph([], "discard", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    nodes.append_to(model)
    checker.check_model(model, full_check=True)
    return model


@lru_cache
def discarding(engine: str, digits: Digits, tokens: int, discarded: int) -> Callable[[Matrices], Floats]:
    """From attention to the row of the class token [N, tokens], in an engine."""
    graph = graph_of(digits, tokens, discarded).SerializeToString()

    def fed(layers: Matrices) -> dict[str, Matrices]:
        return {f"fused_{number}": layer[:, None] for number, layer in enumerate(layers)}

    if engine == "onnxruntime":
        session = onnxruntime.InferenceSession(graph)
        return lambda layers: session.run(None, fed(layers))[0]  # type: ignore[no-any-return]
    core = shared_core()
    compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda layers: np.array(compiled(fed(layers))[0])


@st.composite
def matrices(draw: st.DrawFn, tokens: int) -> Matrices:
    """Of one to three tiles, with ties, zeros, matrices of one value, and neighbours in float32."""
    few = st.sampled_from([0.0, 2.0**-20, 0.1, float(np.nextafter(np.float32(0.1), np.float32(1))), 0.25, 1.0])
    shape = (LAYERS, draw(st.integers(1, 3)), tokens, tokens)
    pool = draw(st.lists(st.one_of(few, st.floats(2.0**-20, 1.0, width=32)), min_size=1, max_size=6))
    places = np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, len(pool), shape)
    return np.array(pool, np.float32)[places]


@pytest.mark.parametrize(("tokens", "discarded"), SIZES)
@given(data=st.data())
def test_counting_retains_the_same_entries_as_a_sort(tokens: int, discarded: int, data: st.DataObject) -> None:
    layers = data.draw(matrices(tokens))
    for engine in ("openvino", "onnxruntime"):
        known, came = rows_of(layers, discarded), discarding(engine, EXACT, tokens, discarded)(layers)
        np.testing.assert_allclose(came, known, rtol=0, atol=1e-5 * known.max())
    known = rows_of(layers, discarded, all_stay_that_share_the_first_bits)
    came = discarding("openvino", UNDER_BF16, tokens, discarded)(layers)
    np.testing.assert_allclose(came, known, rtol=0, atol=1e-5 * known.max())


def test_very_faint_attention_counts_in_the_map() -> None:
    """The map comes from the remaining patches, however small; float32 begins to lose digits at 1e-38."""
    rng = np.random.default_rng(1)
    ranges = (-2, 0), (-18, -9), (-30, -20), (-36, 0)
    powers = np.stack([rng.uniform(*each, (LAYERS, 50, 50)) for each in ranges], axis=1)
    layers = (10.0**powers).astype(np.float32)
    known = rows_of(layers, 1250)[:, 1:]
    for engine in ("openvino", "onnxruntime"):
        patches = discarding(engine, EXACT, 50, 1250)(layers)[:, 1:]
        assert (np.abs(patches - known).max(axis=1) <= 1e-4 * known.max(axis=1)).all(), engine


HAS_BF16 = "BF16" in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module", params=["max", *(pytest.param(at, marks=pytest.mark.long) for at in ("mean", "min"))])
def exported(
    request: pytest.FixtureRequest, discarding_vit: RolloutClassifier, vit_graphs: Graphs
) -> tuple[RolloutClassifier, Graphs]:
    """The toy ViT, by each fusion of its heads."""
    if request.param == discarding_vit.fusion:
        return discarding_vit, vit_graphs
    model = copy.deepcopy(discarding_vit)
    model.fusion = request.param
    return model, to_graphs(model, TILE)


@pytest.fixture(scope="module")
def tiles() -> NDArray[np.uint8]:
    board = draw_board((0, 0), size_hw=(640, 1040)).image
    cut = [board[y : y + TILE, x : x + TILE] for y in (0, 200, 400) for x in (0, 200, 400, 600, 800)]
    return np.stack([*cut, np.full((TILE, TILE, 3), 90, np.uint8)])


def with_attention(graph: bytes) -> tuple[onnx.ModelProto, list[str]]:
    """The graph with its attention as further outputs, and the names of these outputs."""
    model = onnx.load_from_string(graph)
    made = {output for node in model.graph.node for output in node.output}
    names = [name for layer in range(len(made)) if (name := f"attention_{layer}") in made]
    for name in names:
        shape = ["tiles", "heads", "tokens", "tokens"]
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model, names


def explained_in_openvino(graph: bytes, hint: str, tiles: NDArray[np.uint8]) -> tuple[Floats, Floats, list[Floats]]:
    core = shared_core()
    explained, names = with_attention(graph)
    read = core.read_model(explained.SerializeToString())
    found = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": hint})({"tiles": tiles})
    attention = [np.array(found[name]) for name in names]
    return np.array(found["logit"]), np.array(found["map"]), attention


def fused(attention: Floats, fusion: str) -> Floats:
    if fusion == "mean":
        return functools.reduce(np.add, attention) * np.float32(1 / len(attention))
    return attention.min(axis=0) if fusion == "min" else attention.max(axis=0)


def test_with_the_same_attention_the_map_equals_that_of_a_sort(
    exported: tuple[RolloutClassifier, Graphs], tiles: NDArray[np.uint8]
) -> None:
    """In each engine and precision; the graph for bf16 retains all entries with the threshold's first bits."""
    model, graphs = exported
    graph, names = with_attention(graphs.onnx)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    logit, maps, *attention = session.run(["logit", "map", *names], {"tiles": tiles})
    found: list[tuple[str, Gone, Any]] = [("ONNX Runtime", first_go, (logit, maps, attention))]
    for hint in ("f32", "bf16") if HAS_BF16 else ("f32",):
        found.append((hint, first_go, explained_in_openvino(graphs.onnx, hint, tiles)))
        coarse = explained_in_openvino(graphs.for_bf16, hint, tiles)
        found.append((f"for bf16 in {hint}", all_stay_that_share_the_first_bits, coarse))
    for who, gone, (logit, maps, attention) in found:
        assert np.abs(logit).min() > 1e-4, who
        for tile in range(len(tiles)):
            layers = [fused(layer[tile], model.fusion) for layer in attention]
            row = row_of(layers, int(model.discard_ratio * layers[0].size), gone)[1:]
            known, came = row / row.mean(), maps[tile].ravel().astype(np.float64) / logit[tile]
            assert np.abs(came - known).max() <= 1e-4 * known.max(), (who, tile)


def test_a_rollout_passes_the_gate_with_its_map_rounding(
    discarding_vit: RolloutClassifier, vit_graphs: Graphs, tiles: NDArray[np.uint8], tmp_path: Path
) -> None:
    (tmp_path / ONNX_GRAPH).write_bytes(vit_graphs.onnx)
    write_graphs(tmp_path, to_ir(vit_graphs.onnx).files(OPENVINO_GRAPH))
    gate = pass_gate(torch_answers(discarding_vit, tiles[::4]), tmp_path)
    assert max(gate.largest_difference.values()) <= TOLERANCE
    assert 0 < gate.map_rounding < 0.2


@given(tokens=st.integers(2, 60), discard_ratio=st.floats(0, 0.95))
@example(tokens=50, discard_ratio=0.29)
def test_the_graph_discards_as_many_as_the_model(tokens: int, discard_ratio: float) -> None:
    """In floats r * t * t is not r * (t * t), and 0.29 * 50 * 50 falls short of 725."""
    gone = int((discard_lowest(torch.rand(1, tokens, tokens) + 1, discard_ratio) == 0).sum())
    assert Rollout(tokens, 1, 1, (1, tokens - 1), "max", discard_ratio).discarded == gone
    assert gone == math.floor(discard_ratio * tokens**2)
