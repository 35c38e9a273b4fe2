"""The discard in both engines' graphs, compared with a sort by the resulting row of the class token."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper

from heatline.edge.inference.devices import shared_core
from heatline.export import rollout_graph
from heatline.export.nodes import Nodes
from heatline.export.onnx_graph import OPSET
from heatline.export.rollout_graph import EXACT, UNDER_BF16, Digits, Rollout
from heatline.train.models.vit import discard_lowest

LAYERS = 2
Matrices = NDArray[np.float32]
"""[layers, N, tokens, tokens]"""
Run = Callable[[Matrices], NDArray[np.float32]]
"""To the row of the class token [N, tokens]."""

SHORT = ((3, 1), (3, 8), (9, 40), (9, 80))
SIZES = [
    pytest.param(tokens, discarded, marks=[] if (tokens, discarded) in SHORT else pytest.mark.long)
    for tokens in (3, 4, 9)
    for discarded in (1, tokens**2 // 2, tokens**2 - 1)
]
by_size = pytest.mark.parametrize(("tokens", "discarded"), SIZES)


def row_by_sorting(layers: Matrices, discarded: int) -> NDArray[np.float64]:
    """The expected result: among equal entries the first are discarded."""

    def without_lowest(entries: NDArray[np.float32]) -> None:
        entries[np.argsort(entries, kind="stable")[:discarded]] = 0

    return row_after(layers, without_lowest)


def row_by_truncating(layers: Matrices, discarded: int, mantissa_bits: int) -> NDArray[np.float64]:
    """The expected result of a coarse threshold: all entries with its exponent and first mantissa bits remain."""

    def without_lower(entries: NDArray[np.float32]) -> None:
        key = entries.view(np.uint32) >> (23 - mantissa_bits)
        entries[key < np.sort(key)[discarded]] = 0

    return row_after(layers, without_lower)


def row_after(layers: Matrices, discard: Callable[[NDArray[np.float32]], None]) -> NDArray[np.float64]:
    _, count, tokens, _ = layers.shape
    rows = np.zeros((count, tokens))
    for tile in range(count):
        row = np.eye(tokens)[0]
        for layer in layers[::-1, tile]:
            entries = layer.flatten()
            discard(entries)
            mixed = entries.reshape(tokens, tokens).astype(np.float64) + np.eye(tokens)
            row = row @ (mixed / mixed.sum(axis=1, keepdims=True))
        rows[tile] = row
    return rows


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


def fed(layers: Matrices) -> dict[str, Matrices]:
    return {f"fused_{number}": layer[:, None] for number, layer in enumerate(layers)}


def in_onnxruntime(graph: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options)


def in_openvino(graph: ModelProto) -> Run:
    core = shared_core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(graph.SerializeToString()), "CPU", settings)
    return lambda layers: np.array(compiled(fed(layers))[0])


@lru_cache
def counting(tokens: int, discarded: int) -> Run:
    return in_openvino(graph_of(EXACT, tokens, discarded))


@lru_cache
def counting_in_onnxruntime(tokens: int, discarded: int) -> Run:
    session = in_onnxruntime(graph_of(EXACT, tokens, discarded))
    return lambda layers: session.run(None, fed(layers))[0]  # type: ignore[no-any-return]


@lru_cache
def coarse_counting(tokens: int, discarded: int) -> Run:
    return in_openvino(graph_of(UNDER_BF16, tokens, discarded))


def assert_same(came: NDArray[np.float32], known: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(came, known, rtol=0, atol=1e-5 * known.max())


def matrices(tokens: int) -> st.SearchStrategy[Matrices]:
    """Of one to three tiles, with ties, zeros, matrices of one value, and neighbours in float32."""
    few = st.sampled_from([0.0, 2.0**-20, 0.1, float(np.nextafter(np.float32(0.1), np.float32(1))), 0.25, 1.0])
    any_value = st.floats(2.0**-20, 1.0, width=32)

    @st.composite
    def draw(draw: st.DrawFn) -> Matrices:
        shape = (LAYERS, draw(st.integers(1, 3)), tokens, tokens)
        pool = draw(st.lists(st.one_of(few, any_value), min_size=1, max_size=6))
        places = np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, len(pool), shape)
        return np.array(pool, np.float32)[places]

    return draw()


@by_size
@given(data=st.data())
def test_counting_retains_the_same_entries_as_a_sort(tokens: int, discarded: int, data: st.DataObject) -> None:
    layers = data.draw(matrices(tokens))
    assert_same(counting(tokens, discarded)(layers), row_by_sorting(layers, discarded))


@given(data=st.data())
def test_a_coarse_threshold_retains_all_entries_with_its_bits(data: st.DataObject) -> None:
    layers = data.draw(matrices(9))
    assert_same(coarse_counting(9, 40)(layers), row_by_truncating(layers, 40, UNDER_BF16.mantissa))


def attention(tokens: int, tiles: int, sharpness: float) -> Matrices:
    scores = sharpness * np.random.default_rng(tokens).normal(size=(LAYERS, tiles, tokens, tokens))
    powers = np.exp(scores)
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("discarded", [50, 1250, 2400])
def test_realistic_attention_gives_the_result_of_a_sort(discarded: int) -> None:
    layers = np.concatenate([attention(50, 2, 0.1), attention(50, 2, 3.0)], axis=1)
    known = row_by_sorting(layers, discarded)
    for run in (counting, counting_in_onnxruntime):
        assert_same(run(50, discarded)(layers), known)


def test_layers_in_several_groups_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_graph, "LAYERS_AT_ONCE", 1)
    layers = attention(9, 2, 1.0)
    apart = in_openvino(graph_of(EXACT, 9, 40))
    assert_same(apart(layers), row_by_sorting(layers, 40))


def test_another_order_of_ties_gives_the_same_result() -> None:
    layers = np.round(attention(9, 3, 1.0) * 16) / 16
    assert_same(counting_in_onnxruntime(9, 40)(layers), row_by_sorting(layers, 40))


@pytest.mark.parametrize("powers_of_ten", [(-18, -9), (-30, -20), (-36, 0)])
@pytest.mark.parametrize("discarded", [100, 1250, 2400])
def test_very_faint_attention_counts_in_the_map(discarded: int, powers_of_ten: tuple[int, int]) -> None:
    """The map comes from the remaining patches, however small; float32 begins to lose digits at 1e-38."""
    powers = np.random.default_rng(1).uniform(*powers_of_ten, (LAYERS, 2, 50, 50))
    layers = (10.0**powers).astype(np.float32)
    known = row_by_sorting(layers, discarded)[:, 1:]
    for run in (counting, counting_in_onnxruntime):
        patches = run(50, discarded)(layers)[:, 1:]
        np.testing.assert_allclose(patches, known, rtol=0, atol=1e-4 * known.max())


@given(tokens=st.integers(2, 60), discard_ratio=st.floats(0, 0.95))
@example(tokens=50, discard_ratio=0.29)
def test_the_graph_discards_as_many_as_the_model(tokens: int, discard_ratio: float) -> None:
    """In floats r * t * t is not r * (t * t), and 0.29 * 50 * 50 falls short of 725."""
    gone = int((discard_lowest(torch.rand(1, tokens, tokens) + 1, discard_ratio) == 0).sum())
    assert Rollout(tokens, 1, 1, (1, tokens - 1), "max", discard_ratio).discarded == gone
    assert gone == math.floor(discard_ratio * tokens**2)
