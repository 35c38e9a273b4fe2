"""`heatline bench end-to-end`: a real service, a real engine beside it, and every event held to its picture."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.bare_engine import BareEngine as OpenVinoAlone
from bench.bare_engine import read_graph, unlike
from bench.camera_rates import Tries
from bench.command import bench
from bench.end_to_end.bare_engine import BareEngine
from bench.end_to_end.end_to_end import EndToEnd
from bench.end_to_end.expected import expect
from bench.end_to_end.highest import find_highest_rate
from bench.end_to_end.latency import STEP, Latency
from bench.end_to_end.line import Line, Scene, Told, missed, running
from bench.end_to_end.pictures import draw_pictures
from bench.end_to_end.requests import Choose, ChooseForFrames, Job, Look, OneFrame, Saturate
from bench.end_to_end.saturated import processor_of, taken_between
from bench.end_to_end.window import settle, window_of
from bench.engine_settings import all_settings
from bench.processes import ThreadTime, thread_times
from bench.watched_line import WatchedLine
from edge.bundle import Bundle
from edge.delivery.heartbeats import GONE_AFTER_MS
from edge.delivery.messages import BundleName, Times, VerdictEvent
from edge.errors import BenchError, InputError
from edge.images import list_images
from edge.inference import open_engine
from edge.named_thread import NamedThread
from tests.bench import made_results as made
from tests.edge.followed_line import wait_until
from tests.small_bundle import answer, dark_square, small_bundle, white_frame

HW = (300, 400)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small.bundle")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four, of which the last one is the darkest."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        frame = dark_square(white_frame(HW), 20, 30, 8 + 20 * number)
        cv2.imwrite(str(folder / f"{number}.bmp"), frame)
    return folder


@pytest.fixture(scope="module")
def scene(bundle: Bundle, pictures: Path) -> Scene:
    engine = open_engine("openvino", bundle.path, bundle.manifest.grid.tile_px)
    expected = expect(pictures, bundle, "f32", engine, 0.25)
    return Scene(bundle, "f32", pictures, expected, 2, 2, "defect", False, {"threads": 1})


def told(number: int, *, camera: str = "cam0", frames: int = 1, reason: str | None = None, ms: float = 5.0) -> Told:
    """A frame of a camera that takes 10 a second, told of so long after it was due; stamped a tenth of that late."""
    due_ns = number * 100_000_000
    event = VerdictEvent(
        boot_id="0" * 32, seq=number, camera=camera, frame_id=number, frame_number=number, frames=frames,
        times=Times(captured_at_ns=0, captured_monotonic_ns=due_ns + round(ms * 1e5)), verdict="GOOD" if reason is None
        else "NO_VERDICT", reason=reason, score_threshold=0.0, evidence_threshold=0.0, precision="f32",
        bundle=BundleName(name="b", version="1", digest="0" * 64), latency_ms=1.0, acting=True,
    )  # fmt: skip
    return Told(event, due_ns + round(ms * 1e6))


MEMORY_MB = 100.0, 200.0, 30.0


def test_the_threshold_makes_as_many_pictures_defective_as_was_asked_for(scene: Scene) -> None:
    expected = scene.expected
    assert [name for name, score in expected.scores.items() if score >= expected.score_threshold] == ["3.bmp"]
    assert expected.picture_bytes == 4 * HW[0] * HW[1] * 3
    assert scene.expected.tiles == 4
    assert scene.expected.frame_hw == HW


@pytest.mark.parametrize(("defective", "count"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_none_half_or_all_may_be_defective(bundle: Bundle, pictures: Path, defective: float, count: int) -> None:
    engine = open_engine("openvino", bundle.path, bundle.manifest.grid.tile_px)
    expected = expect(pictures, bundle, "f32", engine, defective)
    assert expected.defective == count / 4


def test_pictures_of_two_sizes_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    for number, hw in enumerate([(300, 400), (310, 400)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), white_frame(hw))
    with pytest.raises(BenchError, match="several sizes"):
        expect(tmp_path, bundle, "f32", open_engine("openvino", bundle.path, 224), 0.0)


def test_one_picture_is_refused_as_its_camera_would_count_as_frozen(bundle: Bundle, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), white_frame(HW))
    with pytest.raises(InputError, match="one picture; expected two"):
        expect(tmp_path, bundle, "f32", open_engine("openvino", bundle.path, 224), 0.0)


def test_drawn_pictures_have_the_size_asked_for_and_no_two_are_alike(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "p", (200, 1100), 3, lambda line: None)
    shown = [cv2.imread(str(path)) for path in list_images(tmp_path / "p")]
    assert [image.shape for image in shown if image is not None] == [(200, 1100, 3)] * 3
    assert all(not np.array_equal(one, other) for one, other in itertools.pairwise(shown))


def test_the_service_is_heard_and_held_to_its_pictures(scene: Scene) -> None:
    with running(scene, None, waits=True) as line:
        settle(line, scene.cameras)
        seen = [one for one in (line.next() for _ in range(200)) if one is not None]
    assert {one.event.camera for one in seen} == {"cam0", "cam1"}
    assert {one.event.verdict for one in seen} == {"GOOD", "DEFECT"}
    assert missed(seen) == 0
    assert all(one.at_ns > one.captured_ns for one in seen)


@pytest.mark.parametrize("what", ["verdict", "score", "evidence", "heatmap"])
def test_a_service_that_says_anything_else_fails(scene: Scene, what: str) -> None:
    expected = scene.expected
    claimed = {
        "verdict": {"score_threshold": max(expected.scores.values()) + 1},
        "score": {"scores": {name: score + 0.1 for name, score in expected.scores.items()}},
        "evidence": {"evidence": {name: score + 0.1 for name, score in expected.evidence.items()}},
        "heatmap": {"heatmap_hw": (1, 1)},
    }
    with running(scene, None, waits=True) as line:
        strict = Line(line.watched, msgspec.structs.replace(expected, **claimed[what]), scene.heatmaps)
        heard_all = time.monotonic_ns() + 10 * 10**9  # the last picture has come long before
        with pytest.raises(BenchError, match="nothing that is measured"):
            strict.hear_until(heard_all)


def test_a_camera_whose_process_ends_meanwhile_makes_nothing_of_it_count(scene: Scene) -> None:
    with running(scene, None, waits=True) as line:
        settle(line, scene.cameras)
        cameras = line.watched.camera_pids()
        line.watched.require_cameras(cameras)
        os.kill(cameras[0], signal.SIGKILL)
        wait_until(lambda: cameras[0] not in line.watched.camera_pids(), "it is gone")
        with pytest.raises(BenchError, match="1 of 2 cameras' processes ended while they were measured"):
            line.watched.require_cameras(cameras)


@pytest.mark.long
def test_of_a_line_that_stood_still_nothing_is_missed_once_it_is_heard_again(
    bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    camera = {"kind": "folder", "name": "a", "path": str(pictures), "loop": True, "rate_fps": 200}
    with WatchedLine(tmp_path, bundle.path, "f32", [camera]) as line:

        def numbers(count: int) -> list[int]:
            of: list[int] = []
            while len(of) < count:
                heard = line.next()
                if heard is not None and isinstance(heard.event, VerdictEvent):
                    of += range(heard.event.frame_number, heard.event.frame_number + heard.event.frames)
            return of

        numbers(10)
        for _ in range(2):
            with line.paused():
                time.sleep(1.5 * GONE_AFTER_MS / 1e3)  # ZeroMQ's own clock cannot be set
            heard = numbers(200)
            assert heard == list(range(heard[0], heard[0] + len(heard)))
        assert line.not_heard == 0
        line.stop()


ONE_THAT_IS_KILLED = """
import os, signal, sys
from pathlib import Path
from bench.watched_line import WatchedLine
camera = {"kind": "pattern", "name": "a", "rate_fps": 5, "draw_size": [64, 48]}
with WatchedLine(Path(sys.argv[1]), Path(sys.argv[2]), "f32", [camera]) as line:
    while line.next() is None:
        pass
    print(line.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_service_outlives_a_bench_that_is_killed(bundle: Bundle, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ONE_THAT_IS_KILLED, str(tmp_path), str(bundle.path)]
    killed = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: not runs(int(killed.stdout)), "the service has ended")


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"  # who ended and was not asked for yet


def test_frames_are_counted_once_by_what_became_of_them() -> None:
    of = [
        *(told(number, ms=5.0 + number) for number in (1, 2, 3)),
        told(4, frames=3, reason="dropped.overload"),
        told(8, reason="failed.engine"),  # nothing was heard of 7
        told(1, camera="cam1", ms=50.0),
        told(2, camera="cam1", ms=0.0),
    ]
    window = window_of(of, 2, 10.0, 1.0, 20.0, {}, MEMORY_MB)
    assert (window.frames, window.inspected, window.unheard, window.late) == (10, 5, 1, 1)
    assert (window.dropped, window.failed) == ({"overload": 3}, {"engine": 1})
    assert window.verdicts == {"GOOD": 5, "NO_VERDICT": 4}
    assert window.came_fps == 2.0
    assert window.latency is not None
    assert window.jitter_periods == pytest.approx((window.latency.p99 - window.latency.p50) * 10 / 1e3)


def test_latency_counts_from_when_a_frame_was_due_and_not_from_a_late_stamp() -> None:
    window = window_of([told(1, ms=0.0), told(2, ms=40.0), told(3, ms=0.0)], 1, 10.0, 1.0, 20.0, {}, MEMORY_MB)
    assert window.latency is not None
    assert window.latency.most == pytest.approx(40.0)
    assert window.camera_late_p99_ms == pytest.approx(4.0, rel=0.03)


def test_a_camera_of_which_nothing_came_is_told() -> None:
    assert window_of([told(1)], 2, 10.0, 1.0, 20.0, {}, MEMORY_MB).came_fps == 0.0


def test_a_window_without_an_inspected_frame_has_no_latency() -> None:
    window = window_of([told(1, reason="dropped.overload")], 1, 10.0, 1.0, 20.0, {}, MEMORY_MB)
    assert (window.latency, window.jitter_periods, window.inspected) == (None, None, 0)


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=200))
def test_percentiles_and_bins_are_those_of_the_frames(ms: list[float]) -> None:
    latency = Latency.of(ms)
    assert [latency.p50, latency.p95, latency.p99, latency.most] == pytest.approx(
        [float(np.percentile(ms, share)) for share in (50, 95, 99, 100)]
    )
    below = 0.0
    for upper, count in latency.bins:
        assert count == sum(
            below * (1 + 1e-9) < one <= upper * (1 + 1e-9) and one > upper / STEP * (1 + 1e-9) for one in ms
        )
        below = upper / STEP
    assert sum(count for _, count in latency.bins) == len(ms)


@pytest.fixture(scope="module")
def job(bundle: Bundle, pictures: Path) -> Job:
    return Job(bundle=str(bundle.path), precision="f32", pictures=str(pictures), defective=0.25)


def test_the_bare_engine_answers_each_request(job: Job, scene: Scene) -> None:
    with BareEngine(job) as bare:
        assert bare.ask(Look()).expected == scene.expected
        chosen = bare.ask(Choose(0.01, 1))
        assert (chosen.settings, chosen.tiles_per_s) in chosen.tried
        assert bare.ask(Saturate(0.05)).tiles_per_s > 0
        soonest = bare.ask(ChooseForFrames(1))
        assert min(soonest.tried, key=lambda one: one[1])[0] == soonest.settings
        assert bare.ask(OneFrame()).frame_ms > 0


def test_a_bare_engine_that_cannot_says_why(job: Job, tmp_path: Path) -> None:
    with (
        BareEngine(msgspec.structs.replace(job, pictures=str(tmp_path))) as bare,
        pytest.raises(BenchError, match="no picture"),
    ):
        bare.ask(Look())


def test_a_bare_engine_of_a_precision_that_its_bundle_lacks_says_so(job: Job) -> None:
    with (
        BareEngine(msgspec.structs.replace(job, precision="bf16")) as bare,
        pytest.raises(BenchError, match="has no bf16"),
    ):
        bare.ask(Look())


def test_a_bare_engine_that_ends_is_told_of(job: Job) -> None:
    with BareEngine(job) as bare:
        bare._process.kill()
        with pytest.raises(BenchError, match="bare engine's process ended"):
            bare.ask(Look())


def test_a_bare_engine_that_answers_something_else_is_found_out(bundle: Bundle) -> None:
    tiles = np.zeros((2, 224, 224, 3), np.uint8)
    engine = OpenVinoAlone(read_graph(bundle.path / "model_f32.xml"), "f32", tiles, threads=1, streams=1)
    engine.run(3)
    logits, _ = answer(tiles)
    assert unlike(engine, logits, 1e-3) is None
    assert "off by 1" in str(unlike(engine, logits + 1, 1e-3))
    assert unlike(engine, np.full(2, np.nan, np.float32), 1e-3) is not None


@pytest.mark.parametrize(("cores", "streams"), [(1, {1}), (2, {1, 2}), (8, {1, 4, 8})])
def test_streams_for_all_cores_half_of_them_and_one_are_tried(cores: int, streams: set[int]) -> None:
    assert {each.streams for each in all_settings(cores)} == streams


@pytest.mark.long
def test_the_whole_bench_runs_and_its_file_is_its_struct(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "end-to-end.json"
    result = CliRunner().invoke(
        bench, ["end-to-end", str(bundle.path), "--quick", "--pictures", str(pictures), "--out", str(out), "--json"]
    )
    assert result.exception is None, result.output
    report = json.loads(out.read_bytes())
    assert report.pop("bench") == "end-to-end"
    assert report.pop("machine")["cores"] >= 1
    found = msgspec.convert(report, EndToEnd)
    assert found.ended == "whole"
    assert found.saturated is not None
    assert found.idle is not None
    assert found.window is not None
    assert found.saturated.service_over_engine > 0
    assert (processor := found.saturated.processor) is not None
    assert set(processor.rest_ms) <= {
        *("infer", "judge", "report", "publish", "grab", "main", "commands", "guard", "cameras", "others"),
        *("ZMQbg/IO/0", "ZMQbg/Reaper", "heatline", "python"),
    }, "all have names that a reader knows"
    assert {"infer", "cameras"} <= set(processor.rest_ms)
    assert processor.inference_ms > 0
    assert 0 < processor.rest_share < 1
    assert found.window.frames >= found.window.inspected > 0
    assert found.window.pss_mb > 10


@pytest.mark.long
def test_while_a_rate_is_tried_the_time_of_service_and_cameras_is_taken(scene: Scene) -> None:
    tries = Tries(seconds=0.5, search_seconds=0.5, search=1, holds=1)
    highest = find_highest_rate(scene, 4.0 * scene.tiles, tries, lambda _: None)
    (trial,) = highest.tried
    assert (trial.asked_fps, trial.lost) == (pytest.approx(1.8), {}), "of each of two cameras"
    assert all(trial.cpu_ms_per_frame[name] > 0 for name in ("service", "cameras"))


@pytest.mark.parametrize(
    ("how", "ended"),
    [
        (
            BenchError("the service judged 1.png GOOD, and it is DEFECT"),
            "the service judged 1.png GOOD, and it is DEFECT",
        ),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_parts_of_a_run_that_did_not_end_well_say_so(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: BaseException, ended: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        # As a kill would leave it.
        assert msgspec.json.decode(out.read_bytes())["ended"] == "interrupted"
        raise how

    monkeypatch.setattr("bench.end_to_end.end_to_end.saturate", lambda *_, **__: made.end_to_end().saturated)
    monkeypatch.setattr("bench.end_to_end.end_to_end.measure_idle", fail)
    out = tmp_path / "end-to-end.json"
    result = CliRunner().invoke(
        bench, ["end-to-end", str(bundle.path), "--quick", "--pictures", str(pictures), "--out", str(out)]
    )
    assert result.exception is not None
    report = json.loads(out.read_bytes())
    assert report["saturated"] is not None
    assert (report["idle"], report["ended"]) == (None, ended)


def test_the_time_of_threads_is_told_by_their_names() -> None:
    done, go_on = threading.Barrier(3), threading.Event()

    def work(took_ns: int) -> None:
        while time.thread_time_ns() < took_ns:
            pass
        done.wait()
        go_on.wait()

    threads = [NamedThread("spins", work, 60_000_000), NamedThread("spins again", work, 30_000_000)]
    for thread in threads:
        thread.start()
    done.wait()
    try:
        times = thread_times(os.getpid())
    finally:
        go_on.set()
        for thread in threads:
            thread.join()
    told = {thread.name: times[thread.native_id or 0] for thread in threads}
    # The kernel adds up what a running thread takes at its ticks, which are 10 ms apart at the most.
    assert [name for name, _ in told.values()] == ["spins", "spins again"]
    assert told["spins"].ns >= 50_000_000
    assert told["spins again"].ns >= 20_000_000
    assert times[os.getpid()].name == "main"
    assert thread_times(2**22 + 1) == {}, "no such process"


def test_threads_whose_names_begin_alike_are_told_together() -> None:
    before = {1: ThreadTime("main", 5), 2: ThreadTime("grab left", 10), 3: ThreadTime("grab right", 20)}
    after = {1: ThreadTime("main", 6), 2: ThreadTime("grab left", 14), 4: ThreadTime("grab right", 7)}
    assert taken_between(before, after) == {"main": 1, "grab": 11}, "one has ended, and one begun"


def test_the_time_beside_inference_is_told_of_those_that_take_most() -> None:
    small = dict.fromkeys(("a", "b", "c", "d", "e"), 0.01)
    threads = [{"engine": 90.0 + n, "infer": 6.0 + n, **small} for n in (0, 1, 5)]
    processor = processor_of(threads, cameras_ms=2.97)
    assert processor is not None
    assert processor.inference_ms == 91.0
    assert list(processor.rest_ms)[:2] == ["infer", "cameras"]
    assert len(processor.rest_ms) == 7
    assert processor.rest_ms["others"] == pytest.approx(0.01)
    assert sum(processor.rest_ms.values()) == pytest.approx(10.02)
    assert processor.rest_share == pytest.approx(10.02 / 101.02)


@pytest.mark.parametrize("threads", [{}, {"main": 1.0}, {"main": 1.0, "engine": 0.0}])
def test_where_the_kernel_tells_nothing_of_the_engine_nothing_is_told(threads: dict[str, float]) -> None:
    assert processor_of([threads], cameras_ms=1.0) is None


def test_pictures_have_a_size_of_their_own(bundle: Bundle, pictures: Path) -> None:
    given = ["end-to-end", str(bundle.path), "--idle", "--pictures", str(pictures), "--size", "640x480"]
    result = CliRunner().invoke(bench, given)
    assert result.exit_code == 2
    assert "--size is for frames that are drawn; leave it out where --pictures are shown" in result.output


def test_nothing_to_measure_is_a_mistake() -> None:
    result = CliRunner().invoke(bench, ["end-to-end", "some.bundle"])
    assert result.exit_code == 2
    assert "--find-max" in result.output
