"""A graph that fails on some tiles: both engines report these and go on with the next."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from heatline.edge.bundle import Bundle
from heatline.edge.errors import EngineError
from heatline.edge.inference import EngineKind, infer, open_engine
from heatline.edge.inference.engine import ABANDONED_REQUESTS, ONNX_GRAPH
from heatline.edge.inference.openvino_engine import TILES_PER_WAKEUP, OpenVinoEngine, _Request
from tests.command import WITHIN_SECONDS
from tests.small_bundle import to_openvino

SIDE = 16
REAL_BUNDLE = Path(__file__).parents[2] / "examples" / "drawn_boards" / "bundle"


def in_python(program: str, bundle: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    command = [sys.executable, "-c", program, bundle]
    return subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_SECONDS, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that splits its rows into 7 and 9; for a black pixel into 8 and 9, which is one row too many."""
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


@pytest.mark.parametrize(("kind", "batch"), [("openvino", 1), ("openvino", 2), ("onnxruntime", 8)])
def test_a_failed_tile_is_an_engine_error_and_later_tiles_succeed(folder: Path, kind: EngineKind, batch: int) -> None:
    engine = open_engine(kind, folder, SIDE, threads=1, batch=batch)
    one_black, all_black = bright(4), np.zeros((4, SIDE, SIDE, 3), np.uint8)
    one_black[2, 0, 0] = 0
    for black in (one_black, all_black, all_black):  # more failures than the engine has requests
        np.testing.assert_allclose(infer(engine, bright(4))[0], 18, rtol=1e-5)
        with pytest.raises(EngineError, match=kind):
            infer(engine, black)
    np.testing.assert_allclose(infer(engine, bright(4))[0], 18, rtol=1e-5)


ENDS_AT_WORK = """
import sys
from pathlib import Path
from heatline.edge.inference import open_engine

engine = open_engine("openvino", Path(sys.argv[1]), 224, batch=8)
for _ in list(engine._idle):
    engine.submit(8, lambda tiles: tiles.fill(7), lambda logit, map: print("answered"), print)
"""


def test_a_process_may_end_while_openvino_is_at_work() -> None:
    """An answer that comes after Python has ended must not cause a SIGABRT."""
    ended = in_python(ENDS_AT_WORK, REAL_BUNDLE)  # it needs some time to answer
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


CLOSED_ON_ANOTHER_THREAD = """
import os, signal, sys, threading, weakref
from pathlib import Path
from heatline.edge.bundle import open_bundle, open_verified_engine

signal.signal(signal.SIGHUP, lambda *_: print("heard"))
bundle = open_bundle(Path(sys.argv[1]))
for _ in range(3):
    verified = open_verified_engine(bundle)
    graph = weakref.ref(verified.engine._compiled)
    retiring = threading.Thread(target=lambda engine: engine.close(), args=(verified.engine,))
    del verified
    retiring.start()
    retiring.join()
    del retiring
    assert graph() is None, "its graph is still in memory"
    os.kill(os.getpid(), signal.SIGHUP)
"""


def test_closing_an_engine_frees_its_memory(bundle: Bundle) -> None:
    """OpenVINO unmaps the signal stack of the thread that loaded it, which could cause a SIGSEGV at the next signal."""
    ended = in_python(CLOSED_ON_ANOTHER_THREAD, bundle.path)
    assert (ended.returncode, ended.stdout) == (0, "heard\n" * 3), ended.stderr


def test_an_abandoned_request_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The destructor of a request waits for it, so an abandoned request must stay in memory."""
    monkeypatch.setattr("heatline.edge.inference.openvino_engine.ANSWER_WITHIN_SECONDS", 0.001)
    monkeypatch.setattr("heatline.edge.inference.openvino_engine.WAIT_STEP_MS", 1)
    engine = OpenVinoEngine(REAL_BUNDLE, 224, threads=1, batch=64)  # a request takes most of a second
    answered, failed = [], []
    engine.submit(64, lambda tiles: None, lambda *_: answered.append(1), failed.append)
    given_up = engine._at_work[0]._request
    engine.drain()
    assert (answered, [str(error) for error in failed]) == ([], ["OpenVINO did not answer within 0 s"])
    assert not given_up.wait_for(0), "it was waited for, or is too quick for this test"
    engine.close()
    assert ABANDONED_REQUESTS.pop()._request.wait_for(600_000)  # so that this process can end


class SlowRequest:
    """A stand-in for OpenVINO's request. It ends when it is waited for, when its name is in `ended`, or never."""

    def __init__(self, ended: list[str], name: str, *, never: bool = False) -> None:
        self.ended, self.name, self.never = ended, name, never

    def get_tensor(self, name: str) -> object:
        shape = {"tiles": (1, SIDE, SIDE, 3), "logit": (1,), "map": (1, 1, 1)}[name]
        return type("Tensor", (), {"data": np.zeros(shape, np.uint8 if name == "tiles" else np.float32)})

    def start_async(self) -> None:
        """Start nothing: the test decides when the request ends."""

    def wait_for(self, milliseconds: int) -> bool:
        if self.never:
            return False
        if milliseconds and self.name not in self.ended:
            self.ended.append(self.name)
        return self.name in self.ended


class Fakes:
    """An engine with these requests instead of OpenVINO's, and its answers by tile number."""

    def __init__(self, folder: Path, *requests: SlowRequest) -> None:
        self.engine = OpenVinoEngine(folder, SIDE, threads=1)
        self.engine._idle = [_Request(request) for request in reversed(requests)]
        self.answered, self.failed, self.submitted = list[int](), list[str](), 0

    def submit(self, tiles: int = 1) -> None:
        for number in range(self.submitted, self.submitted + tiles):
            self.engine.submit(
                1,
                lambda _: None,
                lambda *_, number=number: self.answered.append(number),
                lambda error: self.failed.append(str(error)),
            )
        self.submitted += tiles


def test_an_ended_request_is_reused_before_an_older_pending_one(folder: Path) -> None:
    ended: list[str] = []
    fakes = Fakes(folder, SlowRequest(ended, "a"), SlowRequest(ended, "b"))
    fakes.submit(2)
    ended.append("b")
    fakes.submit()
    assert (fakes.answered, ended) == ([1], ["b"])
    fakes.engine.drain()
    assert fakes.answered == [1, 0, 2]


def test_several_requests_end_before_the_next_is_filled(folder: Path) -> None:
    ended: list[str] = []
    fakes = Fakes(folder, *(SlowRequest(ended, str(number)) for number in range(TILES_PER_WAKEUP + 2)))
    fakes.submit(TILES_PER_WAKEUP + 3)
    assert ended == [str(TILES_PER_WAKEUP - 1)]
    assert fakes.answered == [TILES_PER_WAKEUP - 1]
    fakes.engine.drain()
    assert sorted(fakes.answered) == list(range(TILES_PER_WAKEUP + 3))


def test_an_unanswered_request_fails_and_is_not_reused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heatline.edge.inference.openvino_engine.ANSWER_WITHIN_SECONDS", 0.001)
    ended: list[str] = []
    fakes = Fakes(folder, SlowRequest(ended, "a"), SlowRequest(ended, "b", never=True))
    fakes.submit(5)
    fakes.engine.drain()
    assert fakes.answered == [0, 2, 3, 4]
    assert fakes.failed == ["OpenVINO did not answer within 0 s"]
    assert len(fakes.engine._idle) == 1
    assert ABANDONED_REQUESTS.pop()._request.name == "b"


def test_an_engine_without_any_answer_raises_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes(folder, SlowRequest([], "a", never=True))
    fakes.submit()
    assert fakes.engine.collect(0.002), "a moment later it is still under way"
    assert fakes.engine._at_work[0].waited_for_ms == 2
    monkeypatch.setattr("heatline.edge.inference.openvino_engine.ANSWER_WITHIN_SECONDS", 0.0)
    with pytest.raises(EngineError, match="to any request"):
        fakes.submit()
    assert len(fakes.failed) == 1
    ABANDONED_REQUESTS.clear()
