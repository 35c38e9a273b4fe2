"""Tile, infer, stitch, judge: the same answer whatever the engine, the batch and the order of answers."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx.parser
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.errors import EngineError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest, Stitcher, TileGrid
from heatline.edge.inference import Engine, EngineKind, infer, open_engine
from heatline.edge.inference.engine import ABANDONED_REQUESTS, ONNX_GRAPH, Done, Failed, Fill
from heatline.edge.inference.openvino_engine import OpenVinoEngine
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.inspection.verdict import Judgement, Thresholds, judge
from heatline.edge.reference.reference import Reference
from heatline.edge.wire.events import DriftEvent
from tests.command import DRAWN_BOARDS, heatline, in_python
from tests.edge.boards import board, board_bundle, moved
from tests.edge.lines import running, write_line_with, write_pictures
from tests.small_bundle import CELLS, TILE, answer, dark_square, to_openvino, white_frame


def frame_of(rgb: NDArray[np.uint8], number: int = 1) -> Frame:
    return Frame(Stamp("test", number), rgb, "RGB8")


def inspect(inspector: Inspector, rgb: NDArray[np.uint8], area: RegionOfInterest = WHOLE_FRAME) -> Judgement:
    return inspector.finish(inspector.start(frame_of(rgb), area))


def tiles(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, TILE, TILE, 3), np.uint8)


class NumpyEngine(Engine):
    """An engine that answers by numpy in a given order."""

    name: EngineKind = "onnxruntime"

    def __init__(self, batch: int = 1, *, last_first: bool = False) -> None:
        self.batch, self._last_first = batch, last_first
        self._waiting: list[Callable[[], None]] = []

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        batch = np.zeros((count, TILE, TILE, 3), np.uint8)
        fill(batch)
        self._waiting.append(lambda: done(*answer(batch)))
        if not self._last_first:
            self.drain()

    def drain(self) -> None:
        while self._waiting:
            self._waiting.pop()()


@pytest.mark.parametrize(("kind", "batch"), [("openvino", 1), ("openvino", 3), ("onnxruntime", 3)])
def test_a_tiles_answer_is_the_oracles_among_any_neighbours(bundle: Bundle, kind: EngineKind, batch: int) -> None:
    engine = open_engine(kind, bundle.path, TILE, threads=1, batch=batch)
    shown, order = tiles(7), np.random.default_rng(1).permutation(7)  # not a multiple of the batch
    shown[1] = 0  # the answer must not depend on earlier data in the engine's input
    logits, maps = answer(shown)
    alone = [infer(engine, shown[i : i + 1]) for i in range(7)]
    for came_logits, came_maps, at in [
        (*infer(engine, shown), np.arange(7)),
        (*infer(engine, shown[order]), order),
        (np.concatenate([logit for logit, _ in alone]), np.concatenate([one for _, one in alone]), np.arange(7)),
    ]:
        np.testing.assert_allclose(came_logits, logits[at], atol=1e-4 * np.abs(logits).max())
        np.testing.assert_allclose(came_maps, maps[at], atol=1e-4 * np.abs(maps).max())


FRAMES = {
    "white": (white_frame(), []),
    "on a seam": (dark_square(white_frame(), 200, 210), [(234, 224)]),  # one region, although several tiles contain it
    "in the corner": (dark_square(white_frame(), 452, 652), [(676, 476)]),
    "two": (dark_square(dark_square(white_frame(), 10, 10), 400, 500), [(34, 34), (524, 424)]),
    "smaller than a tile": (dark_square(white_frame((100, 90)), 20, 20), [(44, 44)]),
}
"""Pictures, and the middle (x, y) of each black square in them."""
TWO = FRAMES["two"][0]


@pytest.mark.parametrize("name", FRAMES)
def test_both_engines_and_the_oracle_find_a_black_square_at_its_place(
    bundle: Bundle, openvino: Engine, onnxruntime: Engine, name: str
) -> None:
    rgb, places = FRAMES[name]
    expected = inspect(Inspector(bundle.manifest, NumpyEngine()), rgb)
    boxes = [region.box_xyxy for region in expected.regions]
    assert (expected.verdict, len(boxes)) == ("DEFECT" if places else "GOOD", len(places))
    for (left, top, right, bottom), (x, y) in zip(sorted(boxes), places, strict=True):
        assert left <= x < right
        assert top <= y < bottom
        assert max(right - left, bottom - top) <= 48 + 2 * 16, "at most a map cell beyond the square on each side"
    for engine in (openvino, onnxruntime):
        judgement = inspect(Inspector(bundle.manifest, engine), rgb)
        assert (judgement.verdict, [region.box_xyxy for region in judgement.regions]) == (expected.verdict, boxes)
        assert judgement.score == pytest.approx(expected.score, abs=1e-3)
        np.testing.assert_allclose(judgement.heatmap, expected.heatmap, atol=2e-3)


PART = RegionOfInterest.from_polygons([[(0, 0), (699, 0), (0, 499)]], [[(0, 0), (100, 0), (0, 100)]])


@pytest.mark.parametrize("area", [WHOLE_FRAME, PART], ids=["whole frame", "part"])
@pytest.mark.parametrize("batch", [5, 100])
@pytest.mark.parametrize("last_first", [False, True])
def test_the_order_of_answers_and_the_batch_change_nothing(
    bundle: Bundle, area: RegionOfInterest, batch: int, last_first: bool
) -> None:
    expected = inspect(Inspector(bundle.manifest, NumpyEngine()), TWO, area)
    engine = NumpyEngine(batch, last_first=last_first)
    inspector = Inspector(bundle.manifest, engine)
    pending = inspector.start(frame_of(TWO), area)
    engine.drain()
    came = inspector.finish(pending)
    assert (came.verdict, came.score, came.regions) == (expected.verdict, expected.score, expected.regions)
    np.testing.assert_array_equal(came.heatmap, expected.heatmap)


@pytest.mark.parametrize(("value", "in_map"), [(math.nan, True), (math.inf, False)])
def test_a_frame_whose_answers_are_not_finite_has_no_verdict(bundle: Bundle, value: float, in_map: bool) -> None:
    class NanEngine(NumpyEngine):
        def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
            logits, maps = np.full(count, -5, np.float32), np.zeros((count, CELLS, CELLS), np.float32)
            (maps if in_map else logits).flat[-1] = value
            done(logits, maps)

    with pytest.raises(EngineError, match=r"frame 1 cannot be judged: .* not finite"):
        inspect(Inspector(bundle.manifest, NanEngine()), white_frame())


@given(
    corners=st.lists(st.tuples(st.integers(0, 699), st.integers(0, 499)), min_size=3, max_size=5),
    squares=st.lists(st.tuples(st.integers(0, 452), st.integers(0, 652)), max_size=4),
)
def test_only_tiles_in_the_region_of_interest_decide_verdict_and_regions(
    bundle: Bundle, corners: list[tuple[int, int]], squares: list[tuple[int, int]]
) -> None:
    inspector, frame = Inspector(bundle.manifest, NumpyEngine(4)), white_frame()
    for y, x in squares:
        frame = dark_square(frame, y, x)
    whole = inspector.start(frame_of(frame))
    part = inspector.start(frame_of(frame), RegionOfInterest.from_polygons([corners]))
    grid, judgement = part.stitcher.grid, inspector.finish(part)
    assert part.maps.shape == (len(grid.origins_yx), CELLS, CELLS), "other tiles are not inferred"
    logits = dict(zip(whole.stitcher.grid.origins_yx, whole.logits, strict=True))
    assert part.logits.tolist() == [logits[origin] for origin in grid.origins_yx]
    assert judgement.score == max(part.logits)
    assert judgement.verdict == ("DEFECT" if judgement.score >= inspector.thresholds.score else "GOOD")
    assert bool(judgement.regions) is (judgement.verdict == "DEFECT")
    for region in judgement.regions:
        x, y = region.peak_xy
        assert any(top <= y < top + TILE and left <= x < left + TILE for top, left in grid.origins_yx)
        assert np.isfinite(region.score)


STITCHER = Stitcher(TileGrid((60, 100), 32, 4), (4, 4))
TILES = len(STITCHER.grid)


@given(
    logits=arrays(np.float32, TILES, elements=st.floats(-30, 30, width=32)),
    maps=arrays(np.float32, (TILES, 4, 4), elements=st.floats(-100, 100, width=32)),
    score=st.floats(-30, 30),
    evidence=st.floats(-30, 30),
    strong=st.none() | st.floats(-30, 30),
    at=st.none() | st.sampled_from([-math.inf, 0.0, math.inf]),
)
@example(np.full(TILES, 0.1), np.zeros((TILES, 4, 4)), 0.1, 0.0, None, None)  # float32(0.1) lies above 0.1
@example(np.full(TILES, 0.7), np.zeros((TILES, 4, 4)), 0.7, 0.0, None, None)  # float32(0.7) lies below 0.7
@example(np.full(TILES, -0.0), np.zeros((TILES, 4, 4)), 0.0, 0.0, None, None)
def test_a_frame_is_a_defect_if_and_only_if_a_tile_reaches_the_threshold(
    logits: NDArray[Any], maps: NDArray[Any], score: float, evidence: float, strong: float | None, at: float | None
) -> None:
    """With `at`, the threshold is the highest logit or next to it, which float32 cannot tell apart."""
    logits = logits.astype(np.float32)
    highest = max(float(logit) for logit in logits)
    if at is not None:
        score = math.nextafter(highest, at) if at else highest
    judgement = judge(logits, maps.astype(np.float32), STITCHER, Thresholds(score, evidence, strong))
    assert judgement.verdict == ("DEFECT" if highest >= score else "GOOD")
    assert (bool(judgement.regions), judgement.score) == (judgement.verdict == "DEFECT", highest)
    assert judgement.heatmap.shape == STITCHER.heatmap_hw


def test_strong_evidence_comes_from_the_bundle_and_is_never_below_the_score_threshold(bundle: Bundle) -> None:
    own = bundle.manifest.calibration
    score, evidence = own.score_threshold, own.evidence_threshold
    with_strong = msgspec.structs.replace(own, strong_evidence=score + 1)
    assert Thresholds.of(own) == Thresholds(score, evidence, None)
    assert Thresholds.of(with_strong) == Thresholds(score, evidence, score + 1)
    assert Thresholds.of(with_strong, score + 3, 1.0) == Thresholds(score + 3, 1.0, score + 3)


def test_a_small_defect_in_a_tile_below_the_threshold_is_a_region_only_beside_a_defective_tile() -> None:
    """The logit of its tile is the mean of more cells than the defect has."""
    maps = np.full((TILES, 4, 4), -5, np.float32)
    maps[0], maps[-1, 1:3, 1:3] = 3, 9
    logits = np.array([3, *[-5] * (TILES - 2), -1], np.float32)
    beside = judge(logits, maps, STITCHER, Thresholds(2.0, 1.0, strong=2.0))
    assert len(beside.regions) == 2
    assert beside.regions[0].score > 5
    assert len(judge(logits, maps, STITCHER, Thresholds(2.0, 1.0, None)).regions) == 1
    logits[0] = 0
    assert judge(logits, maps, STITCHER, Thresholds(2.0, 1.0, strong=2.0)).regions == []


SIDE = 16


FAILS_ON_BLACK = """
<ir_version: 9, opset_import: ["": 18]>
fails_on_black (uint8[n, 16, 16, 3] tiles) => (float[n] logit, float[n, 1, 1] map)
<int64[1] one = {1}, int64[1] eight = {8}, int64[1] nine = {9}, int64[3] axes = {1, 2, 3}, int64[3] column = {-1, 1, 1}>
{
    float = Cast <to = 1> (tiles)
    darkest = ReduceMin <keepdims = 0> (float)
    whole = Cast <to = 7> (darkest)
    is_bright = Min (whole, one)
    first = Sub (eight, is_bright)
    lengths = Concat <axis = 0> (first, nine)
    upper, lower = Split <axis = 1> (float, lengths)
    a = ReduceMean <keepdims = 0> (upper, axes)
    b = ReduceMean <keepdims = 0> (lower, axes)
    logit = Add (a, b)
    map = Reshape (logit, column)
}
"""
"""Splits its rows into 7 and 9; for a black pixel into 8 and 9, which is one row too many."""


@pytest.mark.parametrize(("kind", "batch"), [("openvino", 1), ("openvino", 2), ("onnxruntime", 8)])
def test_a_failed_tile_is_an_engine_error_and_later_tiles_succeed(tmp_path: Path, kind: EngineKind, batch: int) -> None:
    graph = bytes(onnx.parser.parse_model(FAILS_ON_BLACK).SerializeToString())
    for name, data in {ONNX_GRAPH: graph, **to_openvino(graph)}.items():
        (tmp_path / name).write_bytes(data)
    engine = open_engine(kind, tmp_path, SIDE, threads=1, batch=batch)
    bright, all_black = np.full((4, SIDE, SIDE, 3), 9, np.uint8), np.zeros((4, SIDE, SIDE, 3), np.uint8)
    one_black = bright.copy()
    one_black[2, 0, 0] = 0
    for black in (one_black, all_black, all_black):  # more failures than the engine has requests
        with pytest.raises(EngineError, match=kind):
            infer(engine, black)
        np.testing.assert_allclose(infer(engine, bright)[0], 18, rtol=1e-5)


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
    ended = in_python(ENDS_AT_WORK, DRAWN_BOARDS)  # it needs some time to answer
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
    engine = OpenVinoEngine(DRAWN_BOARDS, 224, threads=1, batch=64)  # a request takes most of a second
    answered, failed = [], []
    engine.submit(64, lambda tiles: None, lambda *_: answered.append(1), failed.append)
    engine.drain()
    assert (answered, [str(error) for error in failed]) == ([], ["OpenVINO did not answer within 0 s"])
    engine.close()
    given_up = ABANDONED_REQUESTS.pop()._request
    assert not given_up.wait_for(0), "it was waited for, or is too quick for this test"
    assert given_up.wait_for(600_000)  # so that this process can end


BOARD = board()


def test_a_line_compares_each_frame_and_gives_no_verdict_where_it_cannot(tmp_path: Path, address: str) -> None:
    comparing = board_bundle(tmp_path / "boards.bundle", {"": Reference(BOARD)})
    shown = {
        "1-good.png": moved(BOARD, 9, -6),
        "2-defect.png": dark_square(moved(BOARD, 9, -6), 300, 400),
        "3-too-far.png": moved(BOARD, 150, 0),
        "4-turned.png": BOARD[::-1, ::-1],
        "5-cut.png": BOARD[:, :500],
    }
    write_pictures(tmp_path / "top", shown)
    write_pictures(tmp_path / "side", {f"{number}.png": moved(BOARD, 22, 0, 0, 0.8) for number in range(4)})
    both = {
        "kind": "folder",
        "scale.size": [560, 446],
        "scale.homography": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        "scale.error_mm": 0,
        "scale.measured_at": comparing.manifest.created_at,
    }
    cameras = {
        "top": {**both, "path": "top", "size": "any"},
        "side": {**both, "path": "side", "scale.measured_at": "2025-12-31T23:59:59Z"},
    }
    tables = f'[journal]\nfolder = "{tmp_path}/journal"\n\n[drift]\nframes = 5\nevery_s = 0'
    line = write_line_with(tmp_path, comparing.path, address, cameras, tables)
    with running(line, address) as run:
        received = run.until_stopped()
    top = [event for event in received.verdicts if event.camera == "top"]
    assert [event.reason or event.verdict for event in top] == ["GOOD", "DEFECT", *["failed.misaligned"] * 3]
    for event in top[:2]:
        assert (event.pose.x_px, event.pose.y_px, event.pose.degrees) == pytest.approx((9, -6, 0), abs=0.3)
        assert event.pose.confidence > 0.8
    assert top[1].regions[0].box_xyxy[0] <= 424 < top[1].regions[0].box_xyxy[2]
    assert [event.pose is None for event in top[2:]] == [False, False, True], "one of another size has none"
    assert "confidence" in str(top[2].detail)
    assert received.last.ledger["top"].failed == {"misaligned": 3}
    assert received.last.handshake.heartbeat > 0, "probes are judged, although they show no product"
    drifts = {event.measure: event for event in received.in_order if isinstance(event, DriftEvent)}
    assert {(measure, event.camera) for measure, event in drifts.items()} == {("shift_x", "side"), ("scale", "side")}
    assert (drifts["shift_x"].high, drifts["scale"].value) == (20, pytest.approx(0.8, abs=0.05))
    assert "the part is shown larger than at calibration: scale 0." in drifts["scale"].detail
    assert "2025-12-31T23:59:59Z, when the camera's scale was measured, lengths in mm are off by 0." in (
        drifts["scale"].detail
    )
    assert "was made after the scale of camera side was measured" in heatline("check", line).stderr
