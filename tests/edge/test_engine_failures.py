"""A graph that fails while it runs, on some tiles only: both engines say so for these and go on with the next."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edge.bundle import Bundle
from edge.errors import EngineError
from edge.inference import EngineKind, infer, open_engine
from edge.inference.engine import ONNX_GRAPH
from export.openvino_ir import to_openvino

SIDE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that splits its rows into 7 and 9, but, where a pixel is black, into 8 and 9, which is one too many."""
    nodes = [
        helper.make_node("Cast", ["tiles"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMin", ["float"], ["darkest"], keepdims=0),
        helper.make_node("Cast", ["darkest"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Min", ["whole", "one"], ["is_bright"]),
        helper.make_node("Sub", ["eight", "is_bright"], ["first"]),
        helper.make_node("Concat", ["first", "nine"], ["lengths"], axis=0),
        helper.make_node("Split", ["float", "lengths"], ["upper", "lower"], axis=1),
        helper.make_node("ReduceMean", ["upper", "axes"], ["a"], keepdims=0),
        helper.make_node("ReduceMean", ["lower", "axes"], ["b"], keepdims=0),
        helper.make_node("Add", ["a", "b"], ["logit"]),
        helper.make_node("Reshape", ["logit", "column"], ["map"]),
    ]
    constants = {"one": [1], "eight": [8], "nine": [9], "axes": [1, 2, 3], "column": [-1, 1, 1]}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "fails on black",
            [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
            [
                helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["n"]),
                helper.make_tensor_value_info("map", TensorProto.FLOAT, ["n", 1, 1]),
            ],
            [onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    path: Path = tmp_path_factory.mktemp("fails")
    graph = bytes(model.SerializeToString())
    for name, data in {ONNX_GRAPH: graph, **to_openvino(graph)}.items():
        (path / name).write_bytes(data)
    return path


def bright(count: int) -> NDArray[np.uint8]:
    return np.full((count, SIDE, SIDE, 3), 9, np.uint8)


@pytest.mark.parametrize(("kind", "batch"), [("openvino", 1), ("openvino", 2), ("onnxruntime", 1), ("onnxruntime", 8)])
def test_a_tile_on_which_the_graph_fails_is_an_engine_error_and_the_next_tiles_are_fine(
    folder: Path, kind: EngineKind, batch: int
) -> None:
    engine = open_engine(kind, folder, SIDE, threads=1, batch=batch)
    black = bright(4)
    black[2, 0, 0] = 0
    np.testing.assert_allclose(infer(engine, bright(4))[0], 18, rtol=1e-5)
    with pytest.raises(EngineError, match=kind):
        infer(engine, black)
    np.testing.assert_allclose(infer(engine, bright(4))[0], 18, rtol=1e-5)


def test_more_failures_than_there_are_requests_do_not_use_the_engine_up(folder: Path) -> None:
    engine = open_engine("openvino", folder, SIDE, threads=1, batch=1)
    for _ in range(2):
        with pytest.raises(EngineError, match="could not infer"):
            infer(engine, np.zeros((3, SIDE, SIDE, 3), np.uint8))
    np.testing.assert_allclose(infer(engine, bright(5))[0], 18, rtol=1e-5)


ENDS_AT_WORK = """
import sys
from pathlib import Path
from edge.inference import open_engine

engine = open_engine("openvino", Path(sys.argv[1]), 224, batch=8)
for _ in engine._requests:
    engine.submit(8, lambda tiles: tiles.fill(7), lambda logit, map: print("answered"), print)
"""


def test_a_process_that_ends_while_openvino_is_at_work_waits_for_its_answers() -> None:
    """An answer that finds Python ended would take it down by SIGABRT."""
    bundle = Path(__file__).parents[2] / "examples" / "drawn_boards" / "bundle"  # takes some time to answer
    ended = subprocess.run([sys.executable, "-c", ENDS_AT_WORK, bundle], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert set(ended.stdout.split()) == {"answered"}


CLOSED_AND_FORGOTTEN = """
import sys, weakref
from pathlib import Path
from edge.bundle import open_bundle, open_proven_engine

bundle = open_bundle(Path(sys.argv[1]))
for _ in range(5):
    proven = open_proven_engine(bundle)
    graph = weakref.ref(proven.engine._compiled)
    proven.engine.close()
    del proven
    assert graph() is None, "its graph is still in memory"
print("forgotten every time")
"""


def test_an_engine_that_is_closed_gives_back_its_memory_and_leaves_the_process_alive(bundle: Bundle) -> None:
    """OpenVINO keeps what is called back, for ever; and it aborts if its own thread is the last to know a graph."""
    result = subprocess.run(
        [sys.executable, "-c", CLOSED_AND_FORGOTTEN, bundle.path],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "forgotten every time\n"), result.stderr
