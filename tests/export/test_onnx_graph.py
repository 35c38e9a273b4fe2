"""The exported graph: names, metadata, reproducible bytes, and stock engines."""

import contextlib
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from numpy.typing import NDArray

from heatline.edge.errors import EngineError, ExportError
from heatline.edge.inference import EngineKind, infer, open_engine
from heatline.edge.inference.devices import shared_core
from heatline.edge.inference.engine import ONNX_GRAPH, infer_features
from heatline.edge.reference.difference import CELL_PX, CHANNELS
from heatline.export.nodes import EXPLANATION
from heatline.export.onnx_graph import (
    Graphs,
    _name_the_explanation,
    to_attention,
    to_bare_onnx,
    to_graphs,
    with_rollout,
)
from heatline.export.openvino_ir import to_openvino
from heatline.train.evaluation.evaluated import TorchEngine
from heatline.train.models.dense import DenseClassifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import RolloutClassifier
from tests.export.conftest import TILE, build_cnn, build_dense
from tests.toy_vit import ToyViT

pytestmark = pytest.mark.usefixtures("one_thread")


SHARED = {"cnn": ("small_cnn", "cnn_graphs"), "vit-discard": ("discarding_vit", "vit_graphs")}


@pytest.fixture(
    scope="module", params=[*SHARED, *(pytest.param(each, marks=pytest.mark.long) for each in ("top-mean", "vit"))]
)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, family: str) -> ExplainedClassifier:
    if family in SHARED:
        shared: ExplainedClassifier = request.getfixturevalue(SHARED[family][0])
        return shared
    if family == "top-mean":
        cnn = build_cnn()
        cnn.top_cells = 5
        return cnn
    torch.manual_seed(0)
    return ToyViT(tile_px=TILE).eval()


@pytest.fixture(scope="module")
def attention(model: ExplainedClassifier) -> onnx.ModelProto | None:
    """A ViT's graph up to the attention of its layers, which is the start of `to_graphs`."""
    return to_attention(model, TILE) if isinstance(model, RolloutClassifier) else None


@pytest.fixture(scope="module")
def graphs(request: pytest.FixtureRequest, family: str, model: ExplainedClassifier) -> Graphs:
    if family in SHARED:
        shared: Graphs = request.getfixturevalue(SHARED[family][1])
        return shared
    attention = request.getfixturevalue("attention")
    if attention is not None:
        assert isinstance(model, RolloutClassifier)
        return with_rollout(attention, model)
    return to_graphs(model, TILE)


@pytest.fixture(scope="module")
def graph(graphs: Graphs) -> onnx.ModelProto:
    return onnx.load_from_string(graphs.onnx)


BY_FAMILY = pytest.mark.parametrize(
    "family", ["cnn", pytest.param("vit", marks=pytest.mark.long)], indirect=True, scope="module"
)


@BY_FAMILY
def test_two_exports_give_the_same_bytes(graphs: Graphs, model: ExplainedClassifier) -> None:
    assert to_graphs(model, TILE) == graphs


def test_bf16_has_a_graph_of_its_own_only_for_rollouts_with_a_discard_ratio(
    graphs: Graphs, model: ExplainedClassifier
) -> None:
    assert (graphs.onnx == graphs.for_bf16) == (not getattr(model, "discard_ratio", 0))


def test_inputs_outputs_and_metadata_are_named_and_described(
    graph: onnx.ModelProto, model: ExplainedClassifier
) -> None:
    tensors = {tensor.name: tensor.doc_string for tensor in (*graph.graph.input, *graph.graph.output)}
    assert list(tensors) == ["tiles", "logit", "map"]
    assert all(tensors.values())
    assert graph.producer_name == "heatline"
    assert {prop.key: prop.value for prop in graph.metadata_props} == {
        "map.method": model.method,
        "map.identity": "top-mean(map, 5) == logit" if model.top_cells else "mean(map) == logit",
    }


def test_nodes_that_only_the_map_needs_have_the_prefix(graph: onnx.ModelProto, model: ExplainedClassifier) -> None:
    """Without the nodes with the prefix, a ViT still has its logit, and a CNN its features."""
    makers = {output: node for node in graph.graph.node for output in node.output}
    explaining = {node.name for node in graph.graph.node if node.name.startswith(EXPLANATION)}
    assert explaining
    assert makers["map"].name in explaining
    wanted, needed = ["logit"], set()
    while wanted:
        node = makers.get(wanted.pop())
        if node is not None and node.name not in needed:
            needed.add(node.name)
            wanted += node.input
    if isinstance(model, ToyViT):
        assert not needed & explaining
    else:
        assert not any(node.op_type == "Conv" for node in graph.graph.node if node.name in explaining - needed)
        assert sum(node.op_type == "Conv" for node in graph.graph.node if node.name in explaining) == 1  # the head


def test_stock_engines_load_the_graph_and_agree(graphs: Graphs, model: ExplainedClassifier) -> None:
    tiles = np.random.default_rng(2).integers(0, 256, (3, TILE, TILE, 3), np.uint8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    answers = [onnxruntime.InferenceSession(graphs.onnx, options).run(["logit", "map"], {"tiles": tiles})]
    core = shared_core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    answered = core.compile_model(core.read_model(graphs.onnx), "CPU", settings)(tiles)
    answers.append([answered["logit"], answered["map"]])
    with torch.inference_mode():
        known = [output.numpy() for output in model(torch.from_numpy(tiles))]
    for answer in answers:
        for came, expected in zip(answer, known, strict=True):
            np.testing.assert_allclose(came, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_the_logit_of_each_tile_is_the_pooling_of_its_map_in_any_batch(
    graphs: Graphs, model: ExplainedClassifier
) -> None:
    session = onnxruntime.InferenceSession(graphs.onnx)
    tiles = np.random.default_rng(4).integers(0, 256, (5, TILE, TILE, 3), np.uint8)
    logit, maps = session.run(["logit", "map"], {"tiles": tiles})
    highest = np.sort(maps.reshape(5, -1), axis=1)[:, -(model.top_cells or 0) :]
    np.testing.assert_allclose(logit, highest.mean(axis=1), rtol=0, atol=1e-5 * np.abs(maps).max())
    for number in range(5):
        (alone,) = session.run(["logit"], {"tiles": tiles[number : number + 1]})
        np.testing.assert_allclose(alone, logit[number : number + 1], rtol=0, atol=1e-4 * np.abs(logit).max())


def test_the_ir_has_the_map_as_its_first_output(graphs: Graphs, tmp_path: Path) -> None:
    for number, graph in enumerate({graphs.onnx, graphs.for_bf16}):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, data in to_openvino(graph).items():
            (folder / name).write_bytes(data)
        read = shared_core().read_model(folder / "model_f32.xml")
        assert [sorted(output.get_names())[0] for output in read.outputs] == ["map", "logit"]
        assert read.input("tiles").element_type == openvino.Type.u8


@BY_FAMILY
def test_the_bare_classifier_has_the_same_logits_and_no_map(
    model: ExplainedClassifier, attention: onnx.ModelProto | None
) -> None:
    tiles = np.random.default_rng(3).integers(0, 256, (2, TILE, TILE, 3), np.uint8)
    with torch.inference_mode():
        known = model(torch.from_numpy(tiles))[0].numpy()
    graphs = [to_bare_onnx(model, TILE)]
    if attention is not None:
        graphs.append(attention.SerializeToString())
    for graph in graphs:
        session = onnxruntime.InferenceSession(graph)
        assert [output.name for output in session.get_outputs()] == ["logit"]
        (logit,) = session.run(None, {"tiles": tiles})
        np.testing.assert_allclose(logit, known, rtol=0, atol=1e-4 * np.abs(known).max())


def test_a_dense_model_has_one_input_or_two_if_it_compares(
    comparing_model: DenseClassifier, comparing_graphs: Graphs, tmp_path: Path
) -> None:
    for model, graphs in ((comparing_model, comparing_graphs), (build_dense(compares=False), None)):
        made = to_graphs(model, TILE)  # a second time for the model that compares
        assert graphs is None or made == graphs
        inputs = {each.name: each for each in onnx.load_from_string(made.onnx).graph.input}
        assert list(inputs) == ["tiles", "difference"][: 1 + model.compares]
        for each in inputs.values():
            assert each.doc_string
            assert each.type.tensor_type.shape.dim[0].dim_param == "tiles_in_batch"
        for name, data in {ONNX_GRAPH: made.onnx, **to_openvino(made.onnx)}.items():
            (tmp_path / name).write_bytes(data)
        for kind in ("onnxruntime", "openvino"):
            with contextlib.closing(open_engine(kind, tmp_path, TILE, threads=1)) as engine:
                assert engine.compares == model.compares


def test_stock_engines_answer_from_tiles_and_their_differences(
    comparing_model: DenseClassifier, comparing_graphs: Graphs
) -> None:
    inputs = tiles_and_differences(5)
    with torch.inference_mode():
        known = [each.numpy() for each in comparing_model.with_features(*map(torch.from_numpy, inputs))]
    outputs, by_name = ["logit", "map", "features"], dict(zip(("tiles", "difference"), inputs, strict=True))
    core = shared_core()
    compiled = core.compile_model(core.read_model(comparing_graphs.onnx), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answered = compiled(by_name)
    for answer in (
        onnxruntime.InferenceSession(comparing_graphs.onnx).run(outputs, by_name),
        [answered[name] for name in outputs],
    ):
        for came, expected in zip(answer, known, strict=True):
            np.testing.assert_allclose(came, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("kind", "batch"), [("onnxruntime", 2), ("openvino", 1), ("openvino", 2), ("torch", 16)])
def test_engines_answer_from_tiles_and_their_differences(
    comparing_model: DenseClassifier, comparing_graphs: Graphs, tmp_path: Path, kind: str, batch: int
) -> None:
    """5 tiles: the last batch is partial."""
    tiles, difference = tiles_and_differences(5)
    with torch.inference_mode():
        known = [
            each.numpy()
            for each in comparing_model.with_features(torch.from_numpy(tiles), torch.from_numpy(difference))
        ]
    graph = comparing_graphs.onnx
    for name, data in {ONNX_GRAPH: graph, **to_openvino(graph)}.items():
        (tmp_path / name).write_bytes(data)
    engine = (
        TorchEngine(comparing_model, TILE)
        if kind == "torch"
        else open_engine(cast(EngineKind, kind), tmp_path, TILE, threads=1, batch=batch)
    )
    with contextlib.closing(engine):
        assert engine.batch == batch
        found: list[NDArray[np.float32] | None] = [*infer(engine, tiles, difference), infer_features(engine, tiles)]
        with pytest.raises(EngineError, match="compares tiles with a reference, and got tiles alone"):
            infer(engine, tiles)
    for came, expected in zip(found, known, strict=True):
        if came is None:  # torch gives no features
            assert kind == "torch"
        else:
            np.testing.assert_allclose(came, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def tiles_and_differences(count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng, cells = np.random.default_rng(2), TILE // CELL_PX
    return (
        rng.integers(0, 256, (count, TILE, TILE, 3), np.uint8),
        rng.integers(0, 256, (count, cells, cells, CHANNELS), np.uint8),
    )


def test_a_missing_head_ends_the_export(graph: onnx.ModelProto) -> None:
    """Otherwise the explanation would silently be quantised with the features."""
    with pytest.raises(ExportError, match=r"has no head\.renamed, .* install heatline\[export\] again"):
        _name_the_explanation(graph, "head.renamed")
