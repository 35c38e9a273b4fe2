"""`heatline bench peers`: turns between processes, what each must answer, and what is said of those that cannot."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import bench.peers.worker as worker_module
import bench.peers.workers.serve as serve
from bench.commands.peers import peers as command
from bench.peers import expected
from bench.peers.cannot import CANNOT, NOT_IN
from bench.peers.expected import Expected, Scale, TileAnswers, logits_off, what_differs
from bench.peers.net import as_anomalib_exports
from bench.peers.peers import PeersBench, checked, faults, in_order, require_same_libraries, to_facts
from bench.peers.prepare import Job, Prepared
from bench.peers.systems import ENGINE, OURS, PEERS, SystemName
from bench.peers.worker import Ready, Turn, Worker
from bench.peers.workers.serve import FINALISTS, TURNS, summary
from bench.result_file import read_result
from edge.errors import BenchError
from edge.geometry import Stitcher, TileGrid
from edge.inference import open_engine
from edge.inference.devices import the_core
from export.openvino_ir import Ir, to_ir
from tests import small_bundle
from tests.bench import stand_in_system

ROOT = Path(__file__).parents[2]
WORKERS = ROOT / "bench" / "peers" / "workers"
TILE = small_bundle.TILE


# Processes and their turns.


@pytest.fixture
def worker_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Worker]:
    """The stand-in on three frames, whose means are 0, 1 and 2."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    frames = np.stack([np.full((6, 8, 3), number, np.uint8) for number in range(3)])
    np.save(tmp_path / "frames.npy", frames)

    def on(**job: object) -> Worker:
        (tmp_path / "job.json").write_text(
            json.dumps(
                {"frames": str(tmp_path / "frames.npy"), "sample_px": 2, "diary": str(tmp_path / "diary"), **job}
            )
        )
        return Worker("one", Path(sys.executable), "tests.bench.stand_in_system", tmp_path / "job.json", tmp_path)

    return on


def diary(folder: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in (folder / "diary").read_text().splitlines()]


def test_a_system_tries_all_settings_and_runs_with_the_fastest(
    worker_on: Callable[..., Worker], tmp_path: Path
) -> None:
    said: list[str] = []
    with worker_on() as worker:
        ready = worker.become_ready(said.append)
    settings = [one["work"] for one in stand_in_system.settings({})]
    assert said[: len(settings)] == [f"one: trying work {work}" for work in settings]
    assert len(said) == len(settings) + FINALISTS * TURNS
    assert sorted(one.settings["work"] for one in ready.tried) == sorted(settings)
    assert max(ready.tried[:FINALISTS], key=lambda one: one.frames_per_s).settings == ready.settings
    assert [one.turns for one in ready.tried] == [TURNS] * FINALISTS + [0] * (len(settings) - FINALISTS)
    assert ready.libraries == {"numpy": np.__version__}
    # By themselves: all frames, twice.
    wrote = diary(tmp_path)
    each = [[*[{"work": work, "frames": 3}] * 2, {"closed": work}] for work in settings]
    assert wrote[: 3 * len(settings)] == list(chain(*each))
    # The fastest once more, in turns, every other round the other way round.
    wrote = wrote[3 * len(settings) :]
    finalists = [one["work"] for one in wrote[:FINALISTS]]
    assert wrote[:FINALISTS] == [{"work": work, "frames": 1} for work in finalists]
    rounds = [finalists[:: -1 if number % 2 else 1] for number in range(TURNS)]
    assert wrote[FINALISTS:][: FINALISTS * TURNS] == [{"work": work, "frames": 3} for work in chain(*rounds)]
    # All but the one that it keeps are closed.
    closed = [one["closed"] for one in wrote[FINALISTS * (TURNS + 1) :]]
    assert closed == [work for work in finalists if work != ready.settings["work"]]


def test_a_slow_system_has_fewer_calls_and_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a clock that goes on by what each call is charged."""
    now_s = 0.0
    calls: list[tuple[str, int]] = []

    class Slow:
        def __init__(self, job: Any, one: dict[str, Any]) -> None:
            self._name, self._seconds_per_frame = one["name"], one["s"]

        def __call__(self, frames: Any) -> list[Any]:
            nonlocal now_s
            now_s += self._seconds_per_frame * len(frames)
            calls.append((self._name, len(frames)))
            return []

        def close(self) -> None:
            pass

    class Module:
        System = Slow

        @staticmethod
        def settings(job: Any) -> list[dict[str, Any]]:
            return [{"name": "a", "s": 20.0}, {"name": "b", "s": 10.0}]

    monkeypatch.setattr(serve, "perf_counter", lambda: now_s)
    kept, tried = serve._fastest(Module, {}, np.zeros((2, 1, 1, 3), np.uint8), lambda **reply: None)
    assert calls == [("a", 2), ("b", 2), ("b", 1), ("a", 1), ("b", 2), ("a", 2)]
    assert kept._name == "b"
    assert tried == [
        {"settings": {"name": "b", "s": 10.0}, "frames_per_s": 0.1, "turns": 1},
        {"settings": {"name": "a", "s": 20.0}, "frames_per_s": 0.05, "turns": 1},
    ]


def test_in_its_turn_a_system_runs_all_frames_once_and_nothing_else(
    worker_on: Callable[..., Worker], tmp_path: Path
) -> None:
    with worker_on() as worker:
        ready = worker.become_ready(lambda line: None)
        before = len(diary(tmp_path))
        turns = [worker.turn() for _ in range(2)]
        assert diary(tmp_path)[before:] == [{**ready.settings, "frames": 3}] * 2
    for turn in turns:
        assert turn.seconds > 0
        assert turn.laps == {"sum": 0.25}
        assert turn.answers["logits"].tolist() == [[number] * 4 for number in range(3)]
        assert turn.answers["defective"].tolist() == [True] * 3
        assert turn.answers["hw"].tolist() == [[6, 8]] * 3
        assert turn.answers["samples"].shape == (3, 3, 4)
        assert turn.answers["peaks"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("fails", "error"),
    [("at once", "ValueError: there is no such model"), ("in its turn", "RuntimeError: out of memory")],
)
def test_what_a_system_fails_by_is_told_in_a_sentence(worker_on: Callable[..., Worker], fails: str, error: str) -> None:
    def run() -> None:
        with worker_on(fails=fails) as worker:
            worker.become_ready(lambda line: None)
            worker.turn()

    with pytest.raises(BenchError, match=re.escape(f"one failed: {error}")):
        run()


def test_a_system_that_ends_tells_the_end_of_its_log(tmp_path: Path) -> None:
    """Such as a Python that lacks what is to be imported by `serve.py` itself."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'numpy is not installed' >&2\nexit 3\n")
    python.chmod(0o755)
    with Worker("one", python, "x", tmp_path / "job", tmp_path) as worker, pytest.raises(BenchError) as raised:
        worker.become_ready(lambda line: None)
    assert str(raised.value) == "one has ended: its log ends with: numpy is not installed"


def test_a_system_that_does_not_answer_is_given_up(
    worker_on: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    with worker_on() as worker:
        worker.become_ready(lambda line: None)
        monkeypatch.setattr(worker_module, "REPLY_WITHIN_SECONDS", 0.0)
        with pytest.raises(BenchError, match="one did not answer within 0 s; take smaller frames"):
            worker._reply()  # nothing was asked


def test_no_process_is_left_behind(worker_on: Callable[..., Worker]) -> None:
    with worker_on() as worker:
        worker.become_ready(lambda line: None)
        folder = Path(f"/proc/{worker.pid}")
        assert folder.is_dir()
    assert not folder.is_dir()


def test_a_python_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchError, match=r"/no/python cannot be run \(No such file or directory\)"),
        Worker("one", Path("/no/python"), "x", tmp_path / "job", tmp_path),
    ):
        pass


def test_all_have_a_turn_in_each_round_and_every_other_round_goes_back() -> None:
    names: list[SystemName] = [ENGINE, OURS, "anomalib"]
    order = list(in_order(names, 3))
    assert order == [
        *((0, name) for name in names),
        *((1, name) for name in names[::-1]),
        *((2, name) for name in names),
    ]


def test_systems_that_run_on_different_libraries_are_not_compared() -> None:
    ready = {OURS: Ready({}, [], {"openvino": "2026.4.1"}), "anomalib": Ready({}, [], {"openvino": "2026.3.0"})}
    with pytest.raises(BenchError, match=r"openvino.*heatline 2026\.4\.1, anomalib 2026\.3\.0; make the peers'"):
        require_same_libraries(ready)  # type: ignore[arg-type]
    require_same_libraries({**ready, "anomalib": ready[OURS]})  # type: ignore[dict-item]


def test_a_build_for_processors_alone_is_the_same_version() -> None:
    ready: dict[SystemName, Ready] = {
        "anomalib": Ready({}, [], {"torch": "2.13.0"}),
        "grad-cam": Ready({}, [], {"torch": "2.13.0+cpu"}),
    }
    require_same_libraries(ready)


def test_what_the_peers_python_runs_imports_nothing_of_ours() -> None:
    """It has no heatline; and what it has must not be mixed with what is installed beside heatline."""
    for name in ("serve", "anomalib_tiler", "model_api_tiler"):
        tree = ast.parse((WORKERS / f"{name}.py").read_text())
        modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        assert not {module.split(".")[0] for module in modules} & {"edge", "train", "export", "bench"}


# The network as anomalib exports it.


def test_anomalibs_graph_answers_as_its_exports_do_with_our_logits_and_maps() -> None:
    ir, scale = to_ir(small_bundle.graph()), Scale(threshold=60.0, range=90.0)
    tiles = np.random.default_rng(3).integers(0, 256, (3, TILE, TILE, 3), np.uint8)
    tiles[1] //= 8  # darker, so more of a defect
    logits, maps = small_bundle.answer(tiles)
    model = as_anomalib_exports(ir, TILE, scale).read()
    compiled = the_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"image": tiles.transpose(0, 3, 1, 2).astype(np.float32) / 255})
    assert {next(iter(output.get_names())) for output in model.outputs} == {
        "pred_score", "pred_label", "anomaly_map", "pred_mask",
    }  # fmt: skip
    score = np.clip((logits - 60) / 90 + 0.5, 0, 1)
    large = np.stack([cv2.resize(np.clip((one - 60) / 90 + 0.5, 0, 1), (TILE, TILE)) for one in maps])
    np.testing.assert_allclose(found["pred_score"], score, atol=1e-4)
    np.testing.assert_allclose(found["anomaly_map"][:, 0], large, atol=1e-4)
    assert found["pred_label"].tolist() == [False, True, False]
    assert (found["pred_mask"] == (found["anomaly_map"] > 0.5)).all()


# What must be answered.


@given(
    hw=st.tuples(st.integers(40, 300), st.integers(40, 300)), tile_px=st.integers(8, 40), overlap_px=st.integers(0, 7)
)
def test_anomalibs_tiler_cuts_as_many_tiles_as_ours_a_step_apart(
    hw: tuple[int, int], tile_px: int, overlap_px: int
) -> None:
    """By its own rule: the frame is made larger until a whole number of steps fits."""
    grid, step = TileGrid(hw, tile_px, overlap_px), tile_px - overlap_px
    origins = expected.padded_origins(grid)
    assert len(origins) == len(grid)
    assert expected.padded_hw(grid) == tuple(-(-(side - tile_px) // step) * step + tile_px for side in hw)
    assert set(origins) >= {(y, x) for y, x in grid.origins_yx if y % step == 0 and x % step == 0}


def constant(grid: TileGrid, value: float, frames: int = 2) -> TileAnswers:
    maps = np.full((frames, len(grid), 4, 4), value, np.float32)
    return TileAnswers(maps.mean(axis=(2, 3)), maps)


def test_constant_maps_make_constant_heatmaps_in_each_systems_units() -> None:
    grid, scale = TileGrid((70, 100), 32, 2), Scale(threshold=1.0, range=8.0)
    tiles = constant(grid, 3.0)
    ours, anomalib = expected.of_heatline(tiles, Stitcher(grid, (4, 4))), expected.of_anomalib(tiles, grid, scale)
    model_api = expected.of_model_api(tiles, grid, scale)
    for one, value, hw in ((ours, 3.0, (18, 25)), (anomalib, 0.75, (70, 100)), (model_api, 0.75, (70, 100))):
        assert one.heatmaps is not None
        assert one.heatmaps.shape == (2, *hw)
        np.testing.assert_allclose(one.heatmaps, value, rtol=1e-6)
    assert model_api.coarse == pytest.approx(1 / 510)


def test_grad_cam_shows_of_each_tile_what_speaks_for_a_defect_from_0_to_1() -> None:
    grid = TileGrid((32, 62), 32, 2)
    maps = np.full((1, 2, 4, 4), -1.0, np.float32)
    maps[0, 0, 0, 0] = 0.2  # weak, and nothing else: shown as if it were strong
    maps[0, 1, :, 3] = 9.0
    heatmap = expected.of_grad_cam(TileAnswers(maps.mean(axis=(2, 3)), maps), grid, bias=0.1).heatmaps
    assert heatmap is not None
    assert heatmap.shape == (1, 32, 62)
    assert heatmap[0, 0, 0] == pytest.approx(1.0)
    assert heatmap[0, 0, -1] == pytest.approx(1.0)
    assert heatmap[0, 31, 15] == 0.0
    assert expected.of_grad_cam(TileAnswers(maps.mean(axis=(2, 3)), maps), grid, bias=None).heatmaps is None


@pytest.fixture(scope="module")
def right() -> tuple[Expected, list[tuple[Any, Any, bool]]]:
    """Two frames' answers, and that they are expected: 6 tiles each, the second frame defective."""
    rng = np.random.default_rng(0)
    logits, heatmaps = rng.normal(size=(2, 6)).astype(np.float32), rng.normal(size=(2, 40, 30)).astype(np.float32)
    logits[1, 3] = 5.0
    answers = [(one, heatmap, bool(one.max() >= 4)) for one, heatmap in zip(logits, heatmaps, strict=True)]
    return Expected(logits, heatmaps), answers


def prepared_for(want: Expected) -> Prepared:
    job = Job(
        frames="", graphs={}, precision="f32", hint="f32", threads=1, batches=(1,), tile_px=8, overlap_px=0,
        origins_yx=[(0, 0)], map_hw=(1, 1), score_threshold=4.0, evidence_threshold=0.0, score_range=1.0, sample_px=4,
    )  # fmt: skip
    return Prepared(job, Path(), dict.fromkeys([ENGINE, OURS, *PEERS], want))


def turn_of(answers: list[tuple[Any, Any, bool]]) -> Turn:
    return Turn(1.0, {}, summary(answers, 4))


def test_right_answers_pass_and_it_is_told_how_far_they_are_off(right: tuple[Expected, Any]) -> None:
    want, answers = right
    assert checked(OURS, turn_of(answers), prepared_for(want)) == 0.0
    near = [(logits + np.float32(5e-4) * want.logits.std(), heatmap, bad) for logits, heatmap, bad in answers]
    assert checked("grad-cam", turn_of(near), prepared_for(want)) == pytest.approx(5e-4, rel=0.01)


def _one_tile_less(answers: list[Any]) -> list[Any]:
    return [(logits[:-1], heatmap, bad) for logits, heatmap, bad in answers]


def _a_tile_not_inferred(answers: list[Any]) -> list[Any]:
    logits = answers[0][0].copy()
    logits[2] = 0.0
    return [(logits, *answers[0][1:]), answers[1]]


def _no_number(answers: list[Any]) -> list[Any]:
    return [(answers[0][0] * np.nan, *answers[0][1:]), answers[1]]


def _the_same_frame_twice(answers: list[Any]) -> list[Any]:
    return [answers[1], answers[1]]


def _not_judged(answers: list[Any]) -> list[Any]:
    return [(logits, heatmap, False) for logits, heatmap, _ in answers]


def _no_heatmap(answers: list[Any]) -> list[Any]:
    return [answers[0], (answers[1][0], None, answers[1][2])]


def _a_small_heatmap(answers: list[Any]) -> list[Any]:
    return [(logits, heatmap[:20, :20], bad) for logits, heatmap, bad in answers]


def _a_part_not_stitched(answers: list[Any]) -> list[Any]:
    heatmap = answers[0][1].copy()
    heatmap[20:, 10:] = 0.0
    return [(answers[0][0], heatmap, answers[0][2]), answers[1]]


def _another_peak(answers: list[Any]) -> list[Any]:
    """Between the samples."""
    heatmap = answers[0][1].copy()
    heatmap[1, 1] = 99.0
    return [(answers[0][0], heatmap, answers[0][2]), answers[1]]


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (_one_tile_less, "its logits are off by inf"),
        (_a_tile_not_inferred, r"its logits are off by 0\.\d+ of their spread"),
        (_no_number, "its logits are off by nan"),
        (_the_same_frame_twice, "its logits are off"),
        (_not_judged, "its verdicts are not those of its logits"),
        (_no_heatmap, "it makes no heatmap of some frame"),
        (_a_small_heatmap, r"its heatmaps are \[\[20, 20\], \[20, 20\]\], expected all \[40, 30\]"),
        (_a_part_not_stitched, "its heatmaps are off by"),
        (_another_peak, "its heatmaps peak where"),
    ],
)
def test_a_system_that_skips_work_is_found_out(
    right: tuple[Expected, Any], spoil: Callable[[list[Any]], list[Any]], wrong: str
) -> None:
    want, answers = right
    with pytest.raises(BenchError, match=f"anomalib does not do the work that is timed: {wrong}"):
        checked("anomalib", turn_of(spoil(answers)), prepared_for(want))


def test_of_maps_that_nobody_knows_only_nonsense_is_found(right: tuple[Expected, Any]) -> None:
    want, answers = right
    unknown = replace(want, heatmaps=None)
    assert what_differs(turn_of(answers).answers, unknown, "f32", 4, 4.0) is None
    broken = [(logits, heatmap * np.nan, bad) for logits, heatmap, bad in answers]
    assert "no number" in (what_differs(turn_of(broken).answers, unknown, "f32", 4, 4.0) or "")
    flat = [answers[0], (answers[1][0], answers[1][1] * 0, answers[1][2])]
    assert what_differs(turn_of(flat).answers, unknown, "f32", 4, 4.0) == "1 of its 2 heatmaps are flat"


def test_the_engine_alone_answers_for_its_first_tiles_in_every_request(right: tuple[Expected, Any]) -> None:
    want, _ = right
    requests = [(want.logits[0, :2], None, False)] * 3
    assert checked(ENGINE, turn_of(requests), prepared_for(want)) == 0.0
    idle = [*requests[:2], (np.zeros(2, np.float32), None, False)]
    with pytest.raises(BenchError, match="engine alone does not do the work"):
        checked(ENGINE, turn_of(idle), prepared_for(want))


# The real ones.


def darkness_job(folder: Path, frames: NDArray[np.uint8], grid: TileGrid) -> tuple[Prepared, TileAnswers]:
    """On the small bundle's network."""
    np.save(folder / "frames.npy", frames)
    ir: Ir = to_ir(small_bundle.graph())
    for name, data in ir.files("model_f32.xml").items():
        (folder / name).write_bytes(data)
    tiles = np.stack([[frame[y : y + TILE, x : x + TILE] for y, x in grid.origins_yx] for frame in frames])
    logits, maps = small_bundle.answer(tiles.reshape(-1, TILE, TILE, 3))
    answers = TileAnswers(logits.reshape(tiles.shape[:2]), maps.reshape(*tiles.shape[:2], *maps.shape[1:]))
    job = Job(
        frames=str(folder / "frames.npy"),
        graphs={"heatline": str(folder / "model_f32.xml")},
        precision="f32",
        hint="f32",
        threads=1,
        batches=(1, 3),
        tile_px=TILE,
        overlap_px=grid.overlap_px,
        origins_yx=grid.origins_yx,
        map_hw=(14, 14),
        score_threshold=10.0,
        evidence_threshold=20.0,
        score_range=1.0,
        sample_px=4,
    )
    (folder / "job.json").write_bytes(msgspec.json.encode(job))
    stitched = expected.of_heatline(answers, Stitcher(grid, (14, 14)))
    return Prepared(job, folder / "job.json", {OURS: stitched, ENGINE: replace(stitched, heatmaps=None)}), answers


def test_ours_and_the_engine_alone_answer_as_the_network_worked_out_by_hand(tmp_path: Path) -> None:
    white = small_bundle.white_frame((300, 460))
    frames = np.stack([white, small_bundle.dark_square(white, 40, 250, side=100)] * 2)
    grid = TileGrid((300, 460), TILE, 2)
    prepared, answers = darkness_job(tmp_path, frames, grid)
    engine = open_engine("openvino", tmp_path, TILE)
    found = expected.on_our_grid(engine, frames, grid)
    engine.close()
    np.testing.assert_allclose(found.logits, answers.logits, atol=1e-3)
    np.testing.assert_allclose(found.maps, answers.maps, atol=1e-3)
    for name, module in ((ENGINE, "engine_alone"), (OURS, "heatline_inspector")):
        with Worker(name, Path(sys.executable), module, prepared.job_file, tmp_path) as worker:
            ready = worker.become_ready(lambda line: None)
            tried = sorted((one.settings for one in ready.tried), key=lambda each: int(each["batch"]))
            assert tried == [{"streams": 1, "batch": 1}, {"streams": 1, "batch": 3}]
            turn = worker.turn()
        assert checked(name, turn, prepared) < 1e-3
        if name == OURS:
            assert turn.answers["defective"].tolist() == [False, True, False, True]


def test_the_tiles_of_a_padded_frame_show_black_where_it_ends(tmp_path: Path) -> None:
    frames, grid = small_bundle.white_frame((224, 300))[None], TileGrid((224, 300), TILE, 2)
    darkness_job(tmp_path, frames, grid)
    engine = open_engine("openvino", tmp_path, TILE)
    found = expected.on_padded_grid(engine, frames, grid)
    engine.close()
    black = 1 - (300 - 222) / TILE
    assert found.logits[0].tolist() == pytest.approx([-2.0, black * 100.0 - 2.0], abs=1e-2)


@pytest.mark.long
def test_the_command_times_ours_and_grad_cam_on_one_network_beside_the_engine_alone(tmp_path: Path) -> None:
    options = ["--size", "230x226", "--frames", "2", "--rounds", "2", "--peer", "grad-cam", "--json"]
    done = CliRunner().invoke(
        command,
        ["--model", "test_efficientnet", *options, "--out", str(tmp_path / "peers.json")],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["bench"] == "peers"
    assert read_result(tmp_path / "peers.json") == printed
    found = msgspec.convert(printed, PeersBench)
    assert [one.name for one in found.systems] == [ENGINE, OURS, "grad-cam"]
    assert found.tiles_per_frame == 4
    assert [one.heatmap_hw for one in found.systems] == [None, (57, 58), (226, 230)]
    for one in found.systems:
        assert 0 < one.frames_per_s.lowest <= one.frames_per_s.median <= one.frames_per_s.highest
        assert one.tiles_per_s.median == pytest.approx(4 * one.frames_per_s.median)
        assert one.logits_off < 1e-3
        assert one.settings in [tried.settings for tried in one.tried]
    assert found.systems[0].to_engine == found.systems[1].ours_to_it == 1.0
    assert set(found.systems[2].ms_per_frame) == {"cut", "net and maps", "stitch"}
    assert found.cannot == list(CANNOT)
    assert "round 2 of 2: grad-cam" in done.stderr
    told = to_facts(found)
    assert "ours is" in str(told["grad-cam"])
    assert "not openvino-xai 1.1.0" in told


def test_what_was_found_is_read_where_no_extra_is_installed() -> None:
    code = "import sys, bench.peers.peers; print({'torch', 'train', 'export', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


def test_a_run_in_which_others_were_not_idle_is_marked() -> None:
    found = PeersBench(
        model="m", precision="f32", frame_hw=(224, 224), tiles_per_frame=1, frames=1, rounds=1, threads=1, systems=[],
        cannot=[], others_cpu=0.05,
    )  # fmt: skip
    assert faults(found) == []
    (fault,) = faults(msgspec.structs.replace(found, others_cpu=0.06))
    assert "took 0.060 of a core, expected at most 0.05" in fault


# At the door.


def run(*options: str) -> None:
    CliRunner().invoke(command, ["--model", "mobilenetv3_large_d", *options], catch_exceptions=False)


def test_a_peers_python_that_is_not_there_is_told_with_how_to_make_it() -> None:
    with pytest.raises(
        BenchError, match="anomalib is run by /no/python, which is not there; make it with `make peers-env`"
    ):
        run("--peers-python", "/no/python")


def test_frames_that_anomalib_cannot_cut_are_refused() -> None:
    with pytest.raises(BenchError, match="--size is 640x200, smaller than a tile of 224 px"):
        run("--size", "640x200", "--peer", "grad-cam")


def test_what_cannot_is_documented_with_the_same_reason() -> None:
    text = (ROOT / "docs" / "peers.md").read_text()
    for one in CANNOT:
        assert f"| {one.name} | {one.version} | {one.reason[0].upper()}{one.reason[1:]}. |" in text
    for reason in NOT_IN.values():
        assert reason in text


def test_logits_of_another_shape_are_infinitely_off(right: tuple[Expected, Any]) -> None:
    want, _ = right
    assert logits_off({"logits": want.logits[:1]}, want, 1.0) == float("inf")
