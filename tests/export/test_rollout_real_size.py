"""The rollout of a ViT-tiny as it is: 197 tokens, twelve layers, three heads, on boards and on tiles of one grey."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edge.inference.devices import the_core
from edge.inference.engine import ONNX_GRAPH, OPENVINO_GRAPH
from export.gate import TOLERANCE, pass_gate, torch_answers
from export.onnx_graph import Graphs, to_graphs
from export.openvino_ir import to_ir
from export.threshold_graph import UNDER_BF16
from train.boards import draw_board
from train.config import VitConfig
from train.models.build import build_model
from train.models.rollout import Fusion
from train.models.vit import RolloutClassifier

pytestmark = pytest.mark.long

TILE, TOKENS, LAYERS, RATIO = 224, 197, 12, 0.9
DISCARDED = 34_928
HAS_BF16 = "BF16" in the_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
Floats = NDArray[np.float32]
Gone = Callable[[Floats], NDArray[np.bool_ | np.int64]]


@pytest.fixture(scope="module")
def tiles() -> NDArray[np.uint8]:
    board = draw_board((0, 0), flawless=False).image
    cut = [board[y : y + TILE, x : x + TILE] for y in (0, 200, 400) for x in (0, 200, 400, 600, 800)]
    return np.stack([*cut, np.full((TILE, TILE, 3), 90, np.uint8)])


@pytest.fixture(scope="module", params=get_args(Fusion))
def model(request: pytest.FixtureRequest) -> RolloutClassifier:
    torch.manual_seed(0)
    config = VitConfig(name="x", timm="vit_tiny_patch16_224", weights="none", fusion=request.param, discard_ratio=RATIO)
    model = build_model(config, TILE)[0].eval()
    assert isinstance(model, RolloutClassifier)
    with torch.no_grad():
        for block in model.network.blocks:
            block.attn.qkv.weight *= 4.0  # trained attention is not even
    return model


@pytest.fixture(scope="module")
def graphs(model: RolloutClassifier) -> Graphs:
    return to_graphs(model, TILE)


def with_attention(graph: bytes) -> onnx.ModelProto:
    """The graph, which also tells the attention that its map is made of."""
    model = onnx.load_from_string(graph)
    for layer in range(LAYERS):
        shape = ["tiles", "heads", TOKENS, TOKENS]
        model.graph.output.append(helper.make_tensor_value_info(f"attention_{layer}", TensorProto.FLOAT, shape))
    return model


def answered(graphs: Graphs, tiles: NDArray[np.uint8]) -> Iterator[tuple[str, Floats, Floats, list[Floats]]]:
    """Who, logit, map, and the attention that the map is made of."""
    names = ["logit", "map", *(f"attention_{layer}" for layer in range(LAYERS))]
    session = onnxruntime.InferenceSession(with_attention(graphs.onnx).SerializeToString())
    logit, maps, *attention = session.run(names, {"tiles": tiles})
    yield "ONNX Runtime", logit, maps, attention
    for hint in ("f32", "bf16") if HAS_BF16 else ("f32",):
        yield f"OpenVINO in {hint}", *in_openvino(graphs.for_openvino, hint, tiles)


def in_openvino(graph: bytes, hint: str, tiles: NDArray[np.uint8]) -> tuple[Floats, Floats, list[Floats]]:
    core = the_core()
    read = core.read_model(with_attention(graph).SerializeToString())
    found = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": hint})({"tiles": tiles})
    attention = [np.array(found[f"attention_{layer}"]) for layer in range(LAYERS)]
    return np.array(found["logit"]), np.array(found["map"]), attention


def fused(attention: Floats, fusion: str) -> Floats:
    if fusion == "mean":
        return (attention[0] + attention[1] + attention[2]) * np.float32(1 / 3)
    return attention.min(axis=0) if fusion == "min" else attention.max(axis=0)


def first_go(entries: Floats) -> NDArray[np.bool_ | np.int64]:
    """Which entries go: of equal ones the first."""
    return np.argsort(entries, kind="stable")[:DISCARDED]


def all_stay_that_share_the_first_bits(entries: Floats) -> NDArray[np.bool_ | np.int64]:
    key = entries.view(np.uint32) >> (23 - UNDER_BF16.mantissa)
    return key < np.sort(key)[DISCARDED]


def relevance(attention: list[Floats], fusion: str, gone: Gone = first_go) -> NDArray[np.float64]:
    """[patches], in float64, of the attention [heads, tokens, tokens] of one tile."""
    row = np.eye(TOKENS)[0]
    for layer in reversed(attention):
        entries = fused(layer, fusion).flatten()
        entries[gone(entries)] = 0
        mixed = entries.reshape(TOKENS, TOKENS).astype(np.float64) + np.eye(TOKENS)
        row = row @ (mixed / mixed.sum(axis=1, keepdims=True))
    return np.asarray(row[1:] / row[1:].mean())


def test_given_the_same_attention_the_map_is_that_of_a_sort_under_bf16_too(
    model: RolloutClassifier, graphs: Graphs, tiles: NDArray[np.uint8]
) -> None:
    for who, logit, maps, attention in answered(graphs, tiles):
        assert np.abs(logit).min() > 1e-4, who
        for tile in range(len(tiles)):
            known = relevance([layer[tile] for layer in attention], model.fusion)
            came = maps[tile].ravel().astype(np.float64) / logit[tile]
            assert np.abs(came - known).max() <= 1e-4 * known.max(), (who, tile)


@pytest.mark.parametrize("hint", ["f32", "bf16"] if HAS_BF16 else ["f32"])
def test_the_graph_for_bf16_keeps_all_that_share_the_first_bits_of_the_lowest_to_keep(
    model: RolloutClassifier, graphs: Graphs, tiles: NDArray[np.uint8], hint: str
) -> None:
    logit, maps, attention = in_openvino(graphs.for_openvino_bf16, hint, tiles)
    for tile in range(len(tiles)):
        known = relevance([layer[tile] for layer in attention], model.fusion, all_stay_that_share_the_first_bits)
        came = maps[tile].ravel().astype(np.float64) / logit[tile]
        assert np.abs(came - known).max() <= 1e-4 * known.max(), tile


def test_the_gate_lets_it_through_and_counts_what_rounding_moves_apart(
    model: RolloutClassifier, graphs: Graphs, tiles: NDArray[np.uint8], tmp_path: Path
) -> None:
    (tmp_path / ONNX_GRAPH).write_bytes(graphs.onnx)
    for name, data in to_ir(graphs.for_openvino).files(OPENVINO_GRAPH).items():
        (tmp_path / name).write_bytes(data)
    gate = pass_gate(torch_answers(model, tiles), tmp_path)
    assert max(gate.largest_difference.values()) <= TOLERANCE
    assert 0 < gate.map_rounding < 0.2
