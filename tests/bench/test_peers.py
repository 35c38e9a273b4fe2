"""`heatline bench peers`: interleaved turns of processes, and the answers that each system must give."""

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from heatline.bench.command import peers as command
from heatline.bench.peers.peers import ENGINE, OURS, SYSTEMS, PeersBench, Worker, check_turn, require_same_libraries
from heatline.bench.peers.prepare import Expected, Job, Prepared, as_anomalib_exports, find_difference
from heatline.bench.peers.serve import summary
from heatline.bench.result_file import read_result
from heatline.edge.errors import BenchError
from heatline.edge.geometry import Stitcher, TileGrid
from heatline.edge.inference.devices import shared_core
from heatline.export.openvino_ir import to_ir
from tests import small_bundle

TILE = small_bundle.TILE


def test_an_impossible_run_is_refused() -> None:
    for options, words in (
        (["--peers-python", "/no/python"], "which does not exist; make it with `make peers-env`"),
        (["--size", "640x200", "--peer", "grad-cam"], "--size is smaller than a tile of 224 px"),
    ):
        with pytest.raises(BenchError, match=words):
            CliRunner().invoke(command, ["--model", "mobilenetv3_large_d", *options], catch_exceptions=False)
    require_same_libraries({OURS: {"torch": "2.13.0"}, "anomalib": {"torch": "2.13.0+cpu"}})
    with pytest.raises(BenchError, match=r"torch.*heatline 2\.13\.0, anomalib 2\.12\.0; make the peers'"):
        require_same_libraries({OURS: {"torch": "2.13.0"}, "anomalib": {"torch": "2.12.0+cpu"}})


def test_the_graph_for_anomalib_has_its_scales_and_our_answers() -> None:
    ir = to_ir(small_bundle.graph())
    tiles = np.random.default_rng(3).integers(0, 256, (3, TILE, TILE, 3), np.uint8)
    tiles[1] //= 8  # darker, so a stronger defect
    logits, maps = small_bundle.answer(tiles)
    model = as_anomalib_exports(ir, TILE, threshold=60.0, score_range=90.0).read()
    compiled = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"image": tiles.transpose(0, 3, 1, 2).astype(np.float32) / 255})
    score = np.clip((logits - 60) / 90 + 0.5, 0, 1)
    large = np.stack([cv2.resize(np.clip((one - 60) / 90 + 0.5, 0, 1), (TILE, TILE)) for one in maps])
    np.testing.assert_allclose(found["pred_score"], score, atol=1e-4)
    np.testing.assert_allclose(found["anomaly_map"][:, 0], large, atol=1e-4)
    assert found["pred_label"].tolist() == [False, True, False]


Answers = list[tuple[Any, Any, bool]]
RNG = np.random.default_rng(0)
LOGITS, HEATMAPS = RNG.normal(size=(2, 6)).astype(np.float32), RNG.normal(size=(2, 40, 30)).astype(np.float32)
LOGITS[1, 3] = 5.0
CORRECT: Answers = [(one, heatmap, bool(one.max() >= 4)) for one, heatmap in zip(LOGITS, HEATMAPS, strict=True)]
"""Two frames of 6 tiles each; the second frame is defective."""
PREPARED = Prepared(
    Job(
        frames="", graphs={}, precision="f32", hint="f32", threads=1, batches=(1,), tile_px=8, overlap_px=0,
        origins_yx=[(0, 0)], map_hw=(1, 1), score_threshold=4.0, evidence_threshold=0.0, score_range=1.0, sample_px=4,
    ),
    Path(),
    {name: Expected(LOGITS, None if name == ENGINE else HEATMAPS) for name in SYSTEMS},
)  # fmt: skip


def changed(array: Any, place: Any, value: float) -> Any:
    copy = array.copy()
    copy[place] = value
    return copy


FIRST, SECOND = CORRECT
REQUESTS: Answers = [(LOGITS[0, :2], None, False)] * 3


@pytest.mark.parametrize(
    ("system", "answers", "wrong"),
    [
        (OURS, CORRECT, None),
        ("anomalib", [(logits[:-1], *rest) for logits, *rest in CORRECT], "its logits are off by inf"),
        ("anomalib", [(changed(FIRST[0], 2, 0.0), *FIRST[1:]), SECOND], r"logits are off by 0\.\d+ of their spread"),
        ("anomalib", [FIRST, (*SECOND[:2], False)], "its verdicts are not those of its logits"),
        ("anomalib", [FIRST, (SECOND[0], None, True)], "it makes no heatmap of some frame"),
        ("anomalib", [(FIRST[0], changed(FIRST[1], np.s_[20:, 10:], 0.0), False), SECOND], "its heatmaps are off by"),
        ("anomalib", [(FIRST[0], changed(FIRST[1], (1, 1), 99.0), False), SECOND], "its heatmaps peak where"),
        (ENGINE, [*REQUESTS[:2], (np.zeros(2, np.float32), None, False)], ""),
    ],
    ids=range(8),
)  # fmt: skip
def test_wrong_answers_of_a_system_are_detected(system: str, answers: Answers, wrong: str | None) -> None:
    if wrong is None:
        near = [(logits + np.float32(5e-4) * LOGITS.std(), *rest) for logits, *rest in answers]
        assert check_turn(system, summary(near, 4), PREPARED) == pytest.approx(5e-4, rel=0.01)
    else:
        with pytest.raises(BenchError, match=f"{system} gives wrong answers, .*{wrong}"):
            check_turn(system, summary(answers, 4), PREPARED)
    flat = [FIRST, (SECOND[0], SECOND[1] * 0, True)]
    sentence = find_difference(summary(flat, 4), Expected(LOGITS, None), "f32", 4, 4.0)
    assert sentence == "1 of its 2 heatmaps are flat or not finite"


def test_heatline_and_the_bare_engine_give_the_expected_answers(tmp_path: Path) -> None:
    white = small_bundle.white_frame((300, 460))
    frames = np.stack([white, small_bundle.dark_square(white, 40, 250, side=100)] * 2)
    grid = TileGrid((300, 460), TILE, 2)
    np.save(tmp_path / "frames.npy", frames)
    for name, data in to_ir(small_bundle.graph()).files("model_f32.xml").items():
        (tmp_path / name).write_bytes(data)
    tiles = np.stack([[frame[y : y + TILE, x : x + TILE] for y, x in grid.origins_yx] for frame in frames])
    logits, maps = small_bundle.answer(tiles.reshape(-1, TILE, TILE, 3))
    logits, maps = logits.reshape(tiles.shape[:2]), maps.reshape(*tiles.shape[:2], *maps.shape[1:])
    job = msgspec.structs.replace(
        PREPARED.job, frames=str(tmp_path / "frames.npy"), graphs={"heatline": str(tmp_path / "model_f32.xml")},
        batches=(1, 3), tile_px=TILE, overlap_px=grid.overlap_px, origins_yx=grid.origins_yx, map_hw=(14, 14),
        score_threshold=10.0, evidence_threshold=20.0,
    )  # fmt: skip
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(job))
    stitcher = Stitcher(grid, (14, 14))
    stitched = Expected(logits, np.stack([stitcher.stitch(of) for of in maps]))
    prepared = Prepared(job, tmp_path / "job.json", {OURS: stitched, ENGINE: Expected(logits, None)})
    for name in (ENGINE, OURS):
        with Worker(name, Path(sys.executable), SYSTEMS[name].module, prepared.job_file, tmp_path) as worker:
            _, answers = worker.turn()
        assert check_turn(name, answers, prepared) < 1e-3
    assert answers["defective"].tolist() == [False, True, False, True]
    (tmp_path / "model_f32.xml").write_bytes(b"no graph")
    with pytest.raises(BenchError, match=f"{OURS} failed: "):
        Worker(OURS, Path(sys.executable), SYSTEMS[OURS].module, prepared.job_file, tmp_path).__enter__()


@pytest.mark.long
def test_the_command_compares_heatline_and_grad_cam_with_the_bare_engine(tmp_path: Path) -> None:
    options = ["--size", "230x226", "--frames", "2", "--rounds", "2", "--peer", "grad-cam", "--json"]
    arguments = ["--model", "test_efficientnet", *options, "--out", str(tmp_path / "peers.json")]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert (printed["bench"], read_result(tmp_path / "peers.json")) == ("peers", printed)
    found = msgspec.convert(printed, PeersBench)
    assert [one.name for one in found.systems] == [ENGINE, OURS, "grad-cam"]
    assert max(one.logits_off for one in found.systems) < 1e-3
    assert found.systems[0].to_engine.median == found.systems[1].ours_to_it.median == 1.0
