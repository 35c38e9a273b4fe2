"""The complete rollout in each engine, compared with a sort of its own attention, on boards and on uniform tiles.

Of a toy ViT, and of a ViT-tiny as it is: 197 tokens, twelve layers, three heads.
"""

import functools
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

from examples.drawn_boards.boards import draw_board
from heatline.edge.inference.devices import shared_core
from heatline.edge.inference.engine import ONNX_GRAPH, OPENVINO_GRAPH
from heatline.export.gate import TOLERANCE, pass_gate, torch_answers
from heatline.export.onnx_graph import Graphs, to_graphs
from heatline.export.openvino_ir import to_ir
from heatline.export.rollout_graph import UNDER_BF16
from heatline.train.config import VitConfig
from heatline.train.models.build import build_model
from heatline.train.models.vit import Fusion, RolloutClassifier

pytestmark = pytest.mark.usefixtures("one_thread")

REAL_PX = 224
HAS_BF16 = "BF16" in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
Floats = NDArray[np.float32]
Gone = Callable[[Floats, int], NDArray[np.bool_ | np.int64]]


@pytest.fixture(
    scope="module",
    params=[("toy", "max"), *(pytest.param(("real", fusion), marks=pytest.mark.long) for fusion in get_args(Fusion))],
    ids="-".join,
)
def model(request: pytest.FixtureRequest, discarding_vit: RolloutClassifier) -> RolloutClassifier:
    size, fusion = request.param
    if size == "toy":
        return discarding_vit
    torch.manual_seed(0)
    of_study = {"timm": "vit_tiny_patch16_224", "fusion": fusion, "discard_ratio": 0.9}
    model = build_model(VitConfig(name="x", weights="none", **of_study), REAL_PX)[0]
    assert isinstance(model, RolloutClassifier)
    with torch.no_grad():
        for block in model.network.blocks:
            block.attn.qkv.weight *= 4.0  # trained attention is not uniform
    return model.eval()


@pytest.fixture(scope="module")
def tiles(model: RolloutClassifier) -> NDArray[np.uint8]:
    side = tile_px(model)
    board = draw_board((0, 0), size_hw=(640, 1040)).image
    cut = [board[y : y + side, x : x + side] for y in (0, 200, 400) for x in (0, 200, 400, 600, 800)]
    return np.stack([*cut, np.full((side, side, 3), 90, np.uint8)])


@pytest.fixture(scope="module")
def graphs(request: pytest.FixtureRequest, model: RolloutClassifier, discarding_vit: RolloutClassifier) -> Graphs:
    shared: Graphs = request.getfixturevalue("vit_graphs") if model is discarding_vit else to_graphs(model, REAL_PX)
    return shared


def tile_px(model: RolloutClassifier) -> int:
    return int(model.network.patch_embed.img_size[0])


def with_attention(graph: bytes) -> tuple[onnx.ModelProto, list[str]]:
    """The graph with its attention as further outputs, and the names of these outputs."""
    model = onnx.load_from_string(graph)
    made = {output for node in model.graph.node for output in node.output}
    names = [name for layer in range(len(made)) if (name := f"attention_{layer}") in made]
    for name in names:
        shape = ["tiles", "heads", "tokens", "tokens"]
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model, names


def answered(graphs: Graphs, tiles: NDArray[np.uint8]) -> Iterator[tuple[str, Floats, Floats, list[Floats]]]:
    """Each engine's name, logit, map, and the attention that gives the map."""
    graph, names = with_attention(graphs.onnx)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    logit, maps, *attention = session.run(["logit", "map", *names], {"tiles": tiles})
    yield "ONNX Runtime", logit, maps, attention
    for hint in ("f32", "bf16") if HAS_BF16 else ("f32",):
        yield f"OpenVINO in {hint}", *in_openvino(graphs.onnx, hint, tiles)


def in_openvino(graph: bytes, hint: str, tiles: NDArray[np.uint8]) -> tuple[Floats, Floats, list[Floats]]:
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


def first_go(entries: Floats, discarded: int) -> NDArray[np.bool_ | np.int64]:
    """The discarded entries: among equal entries the first."""
    return np.argsort(entries, kind="stable")[:discarded]


def all_stay_that_share_the_first_bits(entries: Floats, discarded: int) -> NDArray[np.bool_ | np.int64]:
    key = entries.view(np.uint32) >> (23 - UNDER_BF16.mantissa)
    return key < np.sort(key)[discarded]


def relevance(attention: list[Floats], model: RolloutClassifier, gone: Gone = first_go) -> NDArray[np.float64]:
    """[patches], in float64, of the attention [heads, tokens, tokens] of one tile."""
    tokens = attention[0].shape[-1]
    row = np.eye(tokens)[0]
    for layer in reversed(attention):
        entries = fused(layer, model.fusion).flatten()
        entries[gone(entries, int(model.discard_ratio * len(entries)))] = 0
        mixed = entries.reshape(tokens, tokens).astype(np.float64) + np.eye(tokens)
        row = row @ (mixed / mixed.sum(axis=1, keepdims=True))
    return np.asarray(row[1:] / row[1:].mean())


def test_with_the_same_attention_the_map_equals_that_of_a_sort(
    model: RolloutClassifier, graphs: Graphs, tiles: NDArray[np.uint8]
) -> None:
    for who, logit, maps, attention in answered(graphs, tiles):
        assert np.abs(logit).min() > 1e-4, who
        for tile in range(len(tiles)):
            known = relevance([layer[tile] for layer in attention], model)
            came = maps[tile].ravel().astype(np.float64) / logit[tile]
            assert np.abs(came - known).max() <= 1e-4 * known.max(), (who, tile)


@pytest.mark.parametrize("hint", ["f32", "bf16"] if HAS_BF16 else ["f32"])
def test_the_bf16_graph_retains_all_entries_with_the_thresholds_first_bits(
    model: RolloutClassifier, graphs: Graphs, tiles: NDArray[np.uint8], hint: str
) -> None:
    logit, maps, attention = in_openvino(graphs.for_bf16, hint, tiles)
    for tile in range(len(tiles)):
        known = relevance([layer[tile] for layer in attention], model, all_stay_that_share_the_first_bits)
        came = maps[tile].ravel().astype(np.float64) / logit[tile]
        assert np.abs(came - known).max() <= 1e-4 * known.max(), tile


def test_a_rollout_passes_the_gate_with_its_map_rounding(
    model: RolloutClassifier, graphs: Graphs, tiles: NDArray[np.uint8], tmp_path: Path
) -> None:
    (tmp_path / ONNX_GRAPH).write_bytes(graphs.onnx)
    for name, data in to_ir(graphs.onnx).files(OPENVINO_GRAPH).items():
        (tmp_path / name).write_bytes(data)
    gate = pass_gate(torch_answers(model, tiles), tmp_path)
    assert max(gate.largest_difference.values()) <= TOLERANCE
    assert 0 < gate.map_rounding < 0.2
