"""`heatline bench end-to-end`: a real service and a real engine; every event is compared with its picture."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import cv2
import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import heatline.bench.end_to_end.end_to_end as measuring
import heatline.bench.end_to_end.rates as searching
import heatline.bench.pictures as bench_pictures
from heatline.bench.command import bench
from heatline.bench.end_to_end.bare import Bare, expect
from heatline.bench.end_to_end.end_to_end import EndToEnd, Plan, measure_end_to_end
from heatline.bench.end_to_end.line import Expected, Line, ReceivedVerdict, Scene, count_unreported, running
from heatline.bench.end_to_end.rates import find_highest, window_of
from heatline.bench.watched_line import ReceivedEvent
from heatline.bench.watched_process import WatchedProcess
from heatline.edge.bundle import Bundle
from heatline.edge.delivery.sockets import GONE_AFTER_MS
from heatline.edge.errors import BenchError
from heatline.edge.inference import open_engine
from heatline.edge.reference.reference import Reference
from heatline.edge.wire.events import Times, VerdictEvent
from tests.edge.boards import board, board_bundle, moved
from tests.edge.followed_line import event, wait_until
from tests.edge.lines import write_pictures
from tests.small_bundle import TILE, dark_square, white_frame

HW = (300, 400)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write four pictures; the last one is the darkest."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.bmp"), dark_square(white_frame(HW), 20, 30, 8 + 20 * number))
    return folder


def expected_of(pictures: Path, bundle: Bundle, defective: float) -> Expected:
    return expect(pictures, bundle, "f32", open_engine("openvino", bundle.path, TILE), defective)


@pytest.fixture(scope="module")
def expected(bundle: Bundle, pictures: Path) -> Expected:
    return expected_of(pictures, bundle, 0.25)


@pytest.fixture(scope="module")
def scene(bundle: Bundle, pictures: Path, expected: Expected) -> Scene:
    cameras = {name: {"path": str(pictures)} for name in ("cam0", "cam1")}
    tables = {"engine": {"threads": 1}, "thresholds": {"score": expected.score_threshold}}
    return Scene(bundle=bundle, precision="f32", cameras=cameras, check=expected.check, tables=tables)


@pytest.mark.parametrize("stopped_s", [0.0, pytest.param(1.5 * GONE_AFTER_MS / 1e3, marks=pytest.mark.long)])
def test_events_of_a_line_have_no_gap_and_fit_its_pictures(scene: Scene, expected: Expected, stopped_s: float) -> None:
    """The line may be stopped meanwhile, also for longer than the time-out of its connections."""
    received: list[ReceivedEvent] = []
    with running(scene, None) as line:
        line.settle(len(scene.cameras))
        with line.watched.paused():
            time.sleep(stopped_s)
        verdicts = [line.wait() for _ in range(60)]
        while len(received) < 20:
            if (one := line.watched.next()) is not None and isinstance(one.event, VerdictEvent):
                received.append(one)
        cameras = line.watched.camera_pids()
        line.watched.require_cameras(cameras)
        os.kill(cameras[0], signal.SIGKILL)
        wait_until(lambda: cameras[0] not in line.watched.camera_pids(), "the camera's process is gone")
        with pytest.raises(BenchError, match="1 of 2 cameras' processes ended while they were measured"):
            line.watched.require_cameras(cameras)
    assert {one.event.camera for one in verdicts} == {"cam0", "cam1"}
    assert {one.event.verdict for one in verdicts} == {"GOOD", "DEFECT"}
    assert count_unreported(verdicts) == 0
    assert all(one.at_ns > one.captured_ns for one in verdicts)

    def replay(**claimed: Any) -> None:
        watched: Any = SimpleNamespace(next=iter(received).__next__)
        line = Line(watched, replace(expected, **claimed).check)
        assert all(line.next() is not None for _ in received)

    replay()
    for claimed in (
        {"score_threshold": max(expected.scores.values()) + 1},
        {"scores": {name: score + 0.1 for name, score in expected.scores.items()}},
        {"heatmap_hw": (1, 1)},
    ):
        with pytest.raises(BenchError, match="no figure of this line counts"):
            replay(**claimed)


KILLED_BENCH = """
import os, signal, sys
from pathlib import Path
from heatline.bench.watched_line import WatchedLine
camera = {"kind": "pattern", "name": "a", "rate_fps": 5, "draw_size": [64, 48]}
with WatchedLine(Path(sys.argv[1]), Path(sys.argv[2]), "f32", [camera]) as line:
    while line.next() is None:
        pass
    print(line.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_service_ends_if_its_bench_is_killed(bundle: Bundle, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_BENCH, str(tmp_path), str(bundle.path)]
    killed = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    assert killed.returncode == -signal.SIGKILL
    service = Path(f"/proc/{int(killed.stdout)}/stat")
    wait_until(lambda: not service.exists() or service.read_text().rpartition(")")[2].split()[0] in "ZX", "it ended")


def test_a_process_that_fails_is_reported_with_its_exit_code_and_its_log(tmp_path: Path) -> None:
    with WatchedProcess("quitter", [sys.executable, "-c", "raise SystemExit('enough')"], tmp_path / "log") as quitter:
        quitter.start()
        for check in (quitter.require_success, quitter.require_running):
            with pytest.raises(BenchError, match="quitter ended with exit code 1: its log ends with: enough"):
                check()


def received_at(number: int, due_ms: float, stamped_ms: float, received_ms: float, **changed: Any) -> ReceivedVerdict:
    times = Times(captured_at_ns=0, captured_monotonic_ns=round((due_ms + stamped_ms) * 1e6))
    verdict = msgspec.structs.replace(event(number, "verdict.cam0.GOOD", None), times=times, **changed)
    return ReceivedVerdict(verdict, round((due_ms + received_ms) * 1e6))


def received_verdict(number: int, ms: float = 5.0, **changed: Any) -> ReceivedVerdict:
    """Return a frame of a camera at 10 frames/s, received `ms` after it was due and stamped a tenth of that late."""
    return received_at(number, 100.0 * number, ms / 10, ms, **changed)


def at_rate(count: int, later_ms: float = 0.0) -> list[ReceivedVerdict]:
    """Return frames of a camera at 100 frames/s; the latency of each is `later_ms` above that of the last."""
    return [received_at(i, 10.0 * i, 0.0, 5.0 + i * later_ms) for i in range(count)]


def test_each_frame_counts_once_by_its_outcome_and_from_when_it_was_due() -> None:
    verdicts = [
        *(received_verdict(number, ms=5.0 + number) for number in (1, 2, 3)),
        received_verdict(4, frames=3, reason="dropped.overload"),
        received_verdict(8, reason="failed.engine"),  # frame 7 has no event
        received_verdict(1, camera="cam1", ms=250.0),  # more than two periods
        received_verdict(2, camera="cam1", ms=0.0),
    ]
    window = window_of(verdicts, {"cam0": 10.0, "cam1": 10.0}, 1.0, {}, 100.0)
    assert (window.frames, window.inspected, window.unreported, window.late) == (10, 5, 1, 1)
    assert (window.dropped, window.failed) == ({"overload": 3}, {"engine": 1})
    assert window.latency.most == pytest.approx(250.0), "although the camera stamped the frame later"
    assert window.jitter_periods == pytest.approx((window.latency.p99 - window.latency.p50) * 10 / 1e3)


@pytest.mark.parametrize(
    ("verdicts", "others", "seconds", "why_not"),
    [
        (at_rate(99), {}, 1.0, None),  # an end of the window may fall before or after a frame
        (at_rate(90), {}, 1.0, "cameras came at 90.0/s"),
        (at_rate(200), {"cam1": 100.0}, 1.0, "cameras came at 0.0/s"),  # the other camera has no frame
        (at_rate(100, later_ms=0.2), {}, 1.0, None),  # 2 % of the time
        (at_rate(100, later_ms=0.5), {}, 1.0, "frames came later and later, by 38 ms"),
        (at_rate(3), {}, 0.03, "too few frames to see whether they came later and later; it takes 4"),
        ([*at_rate(99), received_verdict(99, reason="dropped.overload")], {}, 1.0, "lost: dropped.overload 1"),
        ([one for one in at_rate(100) if one.event.frame_number != 50], {}, 1.0, "lost: unreported 1"),
    ],
    ids=range(8),
)
def test_a_line_keeps_up_without_lost_frames_or_growing_latency(
    verdicts: list[ReceivedVerdict], others: dict[str, float], seconds: float, why_not: str | None
) -> None:
    assert window_of(verdicts, {"cam0": 100.0, **others}, seconds, {}, 100.0).not_kept_up == why_not


def test_the_bare_engine_answers_for_a_bundle_that_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logging.disable", lambda: None)  # it is for a process of its own
    bundle = board_bundle(tmp_path / "boards.bundle", {"": Reference(board())})
    shown = [dark_square(moved(board(), 5 * number, -3), 100, 100) for number in range(4)]
    pictures = write_pictures(tmp_path / "pictures", {f"{number}.png": each for number, each in enumerate(shown)})
    bare = Bare(bundle.path, "f32")
    assert bare.expect(pictures, 0.25).tiles == 6
    assert bare.choose_for_frames(1)[1] > 0
    assert bare.frame_ms() > 0
    write_pictures(pictures, {"5.png": moved(board(), 200, 0)})
    with pytest.raises(BenchError, match=r"5\.png cannot be compared with the reference: .*confidence"):
        expected_of(pictures, bundle, 0.25)
    with pytest.raises(BenchError, match="made of golden tiles cannot be compared with a reference"):
        bench_pictures.write_pictures(tmp_path / "made", bundle, HW, 4)


def test_a_real_run_inspects_and_its_file_matches_its_struct(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "end-to-end.json"
    options = ["--pictures", pictures, "--fps", "10", "--seconds", "1", "--out", out, "--json"]
    result = CliRunner().invoke(bench, ["end-to-end", *map(str, [bundle.path, *options])])
    assert result.exception is None, result.output
    report = json.loads(out.read_bytes())
    assert (report.pop("bench"), report.pop("machine")["cores"] >= 1) == ("end-to-end", True)
    found = msgspec.convert(report, EndToEnd)
    assert found.window.frames >= found.window.inspected > 0
    assert found.window.pss_mb > 10


@pytest.mark.long
def test_the_service_is_compared_with_the_engine_and_the_plain_one_and_at_its_highest_rate(
    bundle: Bundle, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain one has no evidence and no viewers."""
    for name, value in (("CHOOSE_SECONDS", 0.01), ("CHOOSE_ROUNDS", 1), ("TURN_SECONDS", 0.5), ("HOLD_SECONDS", 0.5),
                        ("IDLE_FRAMES", 3), ("BESIDE_SECONDS", 2.0), ("DEFECTIVE_BESIDE", 0.25)):  # fmt: skip
        monkeypatch.setattr(measuring, name, value)
    monkeypatch.setattr(searching, "TRIES", 2)
    options: dict[str, Any] = {"pictures": pictures, "frame_hw": HW, "cameras": 1, "report_line": print}
    plan = Plan(seconds=1.0, find_max=True, saturate=True, idle=True, rounds=2)
    found = measure_end_to_end(bundle, "f32", plan, engine={"batch": 2}, **options)
    assert found.engine_settings == {"batch": 2}
    assert None not in (found.idle, found.highest)
    assert found.saturated.service_over_engine > 0
    beside = measure_end_to_end(bundle, "f32", Plan(beside=True, rounds=1), engine={}, **options).beside
    assert beside.stored + beside.skipped > 0
    assert beside.over_plain.median > 0
    assert beside.shown > 0


@given(st.floats(10, 1500), st.floats(0.2, 5), st.sampled_from([0.0, 0.3]), st.randoms(use_true_random=False))
def test_the_rate_found_is_confirmed_and_at_most_a_tenth_below_the_capacity(
    capacity_fps: float, first_share: float, share_lost: float, random: Random
) -> None:
    """Also if some windows lose frames by chance; a camera has at most 1000 frames/s."""

    def run_trial(rate_fps: float, seconds: float) -> Any:
        keeps_up = rate_fps <= capacity_fps and random.random() >= share_lost
        return SimpleNamespace(rate_fps=rate_fps, seconds=seconds, not_kept_up=None if keeps_up else "lost")

    held, tried = find_highest(run_trial, first_share * capacity_fps, 1000.0, (1.0, 2.0), lambda _: None)
    assert held is None or (held is tried[-1] and (held.seconds, held.not_kept_up) == (2.0, None))
    assert all(trial.rate_fps <= 1000 for trial in tried)
    if not share_lost:
        assert min(capacity_fps, 1000) / 1.1 <= held.rate_fps <= min(capacity_fps, 1000)
