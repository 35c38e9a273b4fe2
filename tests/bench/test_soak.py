"""`heatline bench soak`: that a leak is found and none is made up, that counts are right, and that all of it runs.

How fast anything is, is not tested, nor how much memory a service takes: only that what is said of it is so.
"""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import bench.soak.soak
from bench.camera_rates import Load
from bench.command import bench as command
from bench.soak.latency_tenths import HIGHEST_MS, LOWEST_MS, STEP, LatencyTenths
from bench.soak.picture import draw
from bench.soak.process_tree import TreeSample, sample_tree, tree
from bench.soak.run import Samples, SoakRun, soak
from bench.soak.slope import BLOCKS, LEAST_PER_BLOCK, T_95, slope
from bench.soak.soak import TARGET_BYTES_PER_FRAME, Plan, Soak, faults
from bench.soak.tally import SoakTally
from edge.bundle import Bundle
from edge.delivery.messages import AlarmEvent, BundleName, Event, StatusEvent, Times, VerdictEvent
from edge.errors import BenchError
from edge.inspection.ledger import Account

SMALL = Load("pattern", 1, (48, 64))
WITHIN_SECONDS = 60.0


# The slope.

SAMPLES, FRAMES_PER_SAMPLE, RUNS = 240, 400, 400
"""As many samples as a run of 100,000 frames has after its warm-up, and runs from which a coverage is counted."""
FRAMES = np.arange(SAMPLES) * FRAMES_PER_SAMPLE


def autoregressive(phi: float, seed: int = 1) -> NDArray[np.float64]:
    """Noise of unit variance, each sample `phi` times the one before and a shock: [RUNS, SAMPLES]."""
    shocks = np.random.default_rng(seed).standard_normal((RUNS, SAMPLES))
    noise = shocks.copy()
    for at in range(1, SAMPLES):
        noise[:, at] = phi * noise[:, at - 1] + math.sqrt(1 - phi**2) * shocks[:, at]
    return noise


def random_walk(seed: int = 1) -> NDArray[np.float64]:
    """Of which each run strays by 1 or so: [RUNS, SAMPLES]."""
    return np.random.default_rng(seed).standard_normal((RUNS, SAMPLES)).cumsum(axis=1) / math.sqrt(SAMPLES)


def bounds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper bound of every run: [RUNS]."""
    found = [slope(FRAMES.tolist(), run.tolist()) for run in values]
    return np.array([each.upper_95 for each in found if each is not None])


NOISES = [
    pytest.param(autoregressive(0.0), id="independent samples"),
    pytest.param(autoregressive(0.5), id="samples that hang together"),
    pytest.param(autoregressive(0.9), id="samples that hang together for long"),
    pytest.param(autoregressive(0.97), id="samples that hang together for a block"),
    pytest.param(random_walk(), id="random walk"),
]


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("leak", [0.0, 50.0])
def test_the_upper_bound_lies_above_the_true_slope_in_95_of_100_runs(noise: NDArray[np.float64], leak: float) -> None:
    covered = float(np.mean(bounds(150e6 + leak * FRAMES + 100e3 * noise) >= leak))
    assert covered >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / RUNS)


def test_a_bound_that_takes_samples_for_independent_would_not() -> None:
    """What the blocks are for: the usual bound from residuals, on samples that hang together."""
    covered = 0
    x = FRAMES - FRAMES.mean()
    for run in autoregressive(0.9):
        per_frame = float(x @ run) / float(x @ x)
        rest = run - run.mean() - per_frame * x
        covered += per_frame + 1.65 * math.sqrt(float(rest @ rest) / (SAMPLES - 2) / float(x @ x)) >= 0
    assert covered / RUNS < 0.8


@pytest.mark.parametrize("noise", NOISES[:3])
def test_a_leak_is_found_and_none_is_made_up_where_memory_wanders_by_100_kb(noise: NDArray[np.float64]) -> None:
    assert np.mean(bounds(100e3 * noise) < TARGET_BYTES_PER_FRAME) > 0.95
    assert np.mean(bounds(100e3 * noise + 1.5 * TARGET_BYTES_PER_FRAME * FRAMES) > TARGET_BYTES_PER_FRAME) > 0.99


def test_the_bound_is_students_of_the_slopes_that_least_squares_gives_the_blocks() -> None:
    frames = np.cumsum(np.random.default_rng(2).integers(1, 900, 100))
    values = 1e8 + 3 * frames + 1e5 * np.random.default_rng(3).standard_normal(100)
    found = slope(frames.tolist(), values.tolist())
    assert found is not None
    ends = [0, 13, 26, 39, 52, 64, 76, 88, 100]  # blocks differ by one sample at most
    slopes = [
        statistics.linear_regression(frames[begin:end].tolist(), values[begin:end].tolist()).slope
        for begin, end in pairwise(ends)
    ]
    assert found.of_blocks == pytest.approx(slopes)
    assert found.per_frame == pytest.approx(statistics.fmean(slopes))
    assert found.upper_95 == pytest.approx(found.per_frame + T_95 * statistics.stdev(slopes) / math.sqrt(BLOCKS))


def test_students_95_percent_point_is_that_of_its_density() -> None:
    freedom = BLOCKS - 1
    x = np.linspace(0, T_95, 100_001)
    scale = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
    density = scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    assert 0.5 + np.trapezoid(density, x) == pytest.approx(0.95, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(st.integers(1, 1000), min_size=BLOCKS * LEAST_PER_BLOCK, max_size=200),
    per_frame=st.floats(-1e4, 1e4),
    start=st.floats(0, 1e9),
)
def test_the_slope_of_a_straight_line_is_its_own_and_beyond_doubt(
    steps: list[int], per_frame: float, start: float
) -> None:
    frames = np.cumsum(steps).tolist()
    found = slope(frames, [start + per_frame * frame for frame in frames])
    assert found is not None
    assert found.per_frame == pytest.approx(per_frame, abs=1e-3)
    assert found.upper_95 == pytest.approx(per_frame, abs=1e-3)


def test_of_too_few_samples_or_of_no_frames_no_slope_is_told() -> None:
    few = list(range(BLOCKS * LEAST_PER_BLOCK - 1))
    assert slope(few, few) is None
    assert slope([7.0] * 100, list(range(100))) is None


def test_the_warm_up_counts_for_no_slope() -> None:
    samples = Samples()
    for at in range(100):
        held = 5_000_000 * min(at, 20) + 3 * at
        samples.add(at, TreeSample(**dict.fromkeys(TreeSample.__struct_fields__, held)))
    found = samples.slope("pss_bytes")
    assert found is not None
    assert found.upper_95 == pytest.approx(3)
    assert samples.growth("pss_bytes").at_end == 100_000_297


# What the kernel tells.

LEAKY = """
import os, sys, threading
leak, kept, files = int(sys.argv[1]), [], []
for line in sys.stdin:
    what, count = line.split()
    for _ in range(int(count)):
        if what == "frames":
            kept.append(b"x" * leak)
        elif what == "files":
            files.append(os.open("/dev/null", os.O_RDONLY))
        elif what == "threads":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
    print(flush=True)
"""
ABOVE = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


class Leaky:
    """A process below another one, which loses so many bytes per frame, and what else it is told to."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.pid, self._process = process.pid, process

    def has(self, what: str, count: int) -> TreeSample:
        """Have it lose so many more; how both processes are then."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {count}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "\n"
        sample = sample_tree(self.pid)
        assert sample is not None
        return sample


@contextmanager
def leaking(bytes_per_frame: int) -> Iterator[Leaky]:
    arguments = [sys.executable, "-c", ABOVE, LEAKY, str(bytes_per_frame)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Leaky(process)  # both end with the pipe


@pytest.mark.parametrize("bytes_per_frame", [0, 2000])
def test_a_process_that_loses_memory_with_every_frame_is_found_out(bytes_per_frame: int) -> None:
    samples = Samples()
    with leaking(bytes_per_frame) as leaky:
        for at in range(60):
            samples.add(100 * (at + 1), leaky.has("frames", 100))
    pss, own = samples.slope("pss_bytes"), samples.slope("own_bytes")
    assert pss is not None
    assert own is not None
    overhead = 64  # of an object and of its place in a list
    assert bytes_per_frame * 0.95 <= own.per_frame <= bytes_per_frame + overhead
    assert own.per_frame <= own.upper_95 <= bytes_per_frame + 4 * overhead
    assert samples.growth("own_bytes").most >= 6000 * bytes_per_frame
    assert own.per_frame == pytest.approx(pss.per_frame, abs=4 * overhead) or pss.upper_95 > own.upper_95


def test_descriptors_threads_and_processes_of_the_whole_tree_are_counted() -> None:
    with leaking(0) as leaky:
        before = leaky.has("frames", 1)
        assert before.processes == len(tree(leaky.pid)) == 2
        assert leaky.has("files", 7).descriptors == before.descriptors + 7
        after = leaky.has("threads", 3)
        assert after.threads == before.threads + 3
        assert 0 < after.own_bytes < after.pss_bytes
        assert after.file_bytes > 0
        # The kernel's own sums, of the two processes one by one.
        alone = [sum_of(Path(f"/proc/{pid}/smaps"), "Pss:") for pid in tree(leaky.pid)]
        assert after.pss_bytes == pytest.approx(sum(alone), rel=0.05)
    assert sample_tree(leaky.pid) is None


def sum_of(smaps: Path, name: str) -> int:
    """Over all of a process's mappings, bytes."""
    lines = (line.split() for line in smaps.read_text().splitlines())
    return sum(int(words[1]) * 1024 for words in lines if words[0] == name)


# Latencies.


@settings(max_examples=50, deadline=None)
@given(
    latencies=st.lists(st.floats(LOWEST_MS, HIGHEST_MS / 10), min_size=100, max_size=1000),
    planned_share=st.sampled_from([1.0, 0.5, 0.2]),
)
def test_latencies_of_the_first_and_the_last_tenth_are_those_of_the_sorted_ones(
    latencies: list[float], planned_share: float
) -> None:
    """Also of a run that ended early: the tenths are those of what came, to the hundredth of what was planned."""
    came = len(latencies) // 100 * 100
    planned = round(came / planned_share)
    tenths = LatencyTenths(planned)
    for latency_ms in latencies[:came]:
        tenths.add(latency_ms)
    found = tenths.p99_ms()
    assert found is not None
    count = came // 10
    for told, true in zip(found, (latencies[:count], latencies[came - count : came]), strict=True):
        nearest_rank = sorted(true)[math.ceil(0.99 * count) - 1]
        assert nearest_rank * (1 - 1e-9) <= told <= nearest_rank * STEP * (1 + 1e-9)


def test_of_a_few_frames_there_are_no_tenths() -> None:
    tenths = LatencyTenths(1000)
    assert tenths.p99_ms() is None
    for _ in range(90):
        tenths.add(1.0)
    assert tenths.p99_ms() is None
    tenths.add(1.0)
    assert tenths.p99_ms() is not None


# Counts of events.

BUNDLE = BundleName(name="darkness", version="1", digest="0" * 64)


def verdict(seq: int, reason: str | None = None, frames: int = 1, boot_id: str = "a") -> VerdictEvent:
    return VerdictEvent(
        boot_id=boot_id, seq=seq, camera="cam0", frame_id=seq, frames=frames, reason=reason, score_threshold=0.0,
        verdict="NO_VERDICT" if reason else "DEFECT", times=Times(captured_at_ns=0, captured_monotonic_ns=0),
        evidence_threshold=0.0, precision="f32", bundle=BUNDLE, latency_ms=1.0, acting=True,
    )  # fmt: skip


def alarm(seq: int, *, active: bool) -> AlarmEvent:
    return AlarmEvent(
        boot_id="a", seq=seq, at_ns=0, line="line", camera="cam0", alarm="silent", detail="", active=active,
        began_at_ns=0, acting=True,
    )  # fmt: skip


def stopped(last_seq: int, account: Account) -> StatusEvent:
    return StatusEvent(
        boot_id="a", at_ns=0, line="line", state="STOPPED", last_seq=last_seq, ledger={"cam0": account},
        bundle=BUNDLE, engine="openvino", precision="f32", acting=True,
    )  # fmt: skip


def tally_of(*events: Event) -> SoakTally:
    tally = SoakTally(100)
    for event in events:
        tally.add(event)
    return tally


def test_events_that_all_came_leave_nothing_missing_and_the_ledger_balanced() -> None:
    account = Account(captured=5, inspected=2, dropped={"overload": 3})
    tally = tally_of(verdict(1), alarm(2, active=True), alarm(3, active=False), verdict(4, "dropped.overload", 3),
                     verdict(5), stopped(5, account))  # fmt: skip
    assert (tally.frames, tally.inspected, tally.missing, tally.out_of_order) == (5, 2, 0, 0)
    assert tally.verdicts == {"DEFECT": 2, "dropped.overload": 3}
    assert tally.alarms == {"silent": 1}
    assert tally.balanced
    assert tally.stopped


@pytest.mark.parametrize(
    ("events", "missing", "out_of_order"),
    [
        ((verdict(2), verdict(3)), 1, 0),  # the very first
        ((verdict(1), verdict(4)), 2, 0),
        ((verdict(1), stopped(3, Account())), 2, 0),  # the last ones
        ((verdict(1), verdict(3), verdict(2)), 1, 1),
        ((verdict(1), verdict(1)), 0, 1),
        ((verdict(1), verdict(2, boot_id="b")), 0, 1),  # another service
    ],
)
def test_events_that_are_missing_or_out_of_order_are_counted(
    events: tuple[Event, ...], missing: int, out_of_order: int
) -> None:
    tally = tally_of(*events)
    assert (tally.missing, tally.out_of_order) == (missing, out_of_order)


@pytest.mark.parametrize(
    "account",
    [
        Account(captured=2, inspected=1, in_flight=1),  # one was never told of
        Account(captured=1, inspected=1),  # one was told of and never captured
        Account(captured=2, inspected=1, dropped={"overload": 1}),  # one was inspected and is booked as dropped
        Account(captured=3, inspected=2),  # it does not add up
    ],
)
def test_a_ledger_that_does_not_say_what_the_events_said_is_not_balanced(account: Account) -> None:
    assert not tally_of(verdict(1), verdict(2), stopped(2, account)).balanced


# Real runs.


def quiet(_frames: int, _sample: TreeSample) -> None:
    pass


@pytest.fixture(scope="module")
def run(bundle: Bundle) -> SoakRun:
    """Of the real service, short."""
    return soak(bundle, "f32", SMALL, 2000, None, sample_every_s=0.01, stopping=lambda: False, show=quiet)


@pytest.mark.long
def test_a_short_run_loses_no_frame_and_no_event_and_its_ledger_balances(run: SoakRun) -> None:
    assert (run.frames, run.verdicts, run.ended_early) == (2000, {"DEFECT": 2000}, False)
    assert (run.events_missing, run.events_out_of_order, run.alarms) == (0, 0, {})
    assert run.ledger_balanced
    assert run.ledger == Account(captured=2000, inspected=2000)


def test_a_short_run_opens_no_descriptor_and_starts_no_thread_or_process(run: SoakRun) -> None:
    for name in ("descriptors", "threads", "processes"):
        assert len(set(run.samples[name])) == 1, f"{name}: {run.samples[name]}"
    assert run.processes.at_start == 2, "the service and its camera"


def test_a_short_run_has_all_its_figures(run: SoakRun) -> None:
    assert run.pss_slope is not None
    assert run.own_slope is not None
    assert run.latency_p99_ms is not None
    assert min(run.latency_p99_ms) > 0
    frames = run.samples["frames"]
    assert frames == sorted(frames)
    assert 0 < frames[0] <= frames[-1] < 2000
    assert run.pss_bytes.most == max(run.samples["pss_bytes"]) > 10e6
    assert {len(column) for column in run.samples.values()} == {len(frames)}


def found_by(run: SoakRun, *, judges_growth: bool = True) -> Soak:
    plan = Plan(frames=2000, minutes=0, sample_every_s=0.01, judges_growth=judges_growth)
    return Soak(bundle="b", model="m", precision="f32", commit=None, plan=plan, load=SMALL, runs=[run],
                highest_fps=None, cut_short_by=None)  # fmt: skip


def test_what_must_not_be_is_told_in_words(run: SoakRun) -> None:
    assert run.pss_slope is not None
    replace = msgspec.structs.replace
    flat = replace(run, pss_slope=replace(run.pss_slope, per_frame=0.1, upper_95=TARGET_BYTES_PER_FRAME))
    leaky = replace(run, pss_slope=replace(run.pss_slope, per_frame=30.0, upper_95=31.0))
    assert faults(found_by(flat)) == []
    assert faults(found_by(leaky, judges_growth=False)) == []
    assert faults(found_by(replace(leaky, ended_early=True))) == []
    (fault,) = faults(found_by(leaky))
    assert fault.startswith("as fast as it goes: its PSS may grow by 31.0 bytes a frame, the target is 20")
    (fault,) = faults(found_by(replace(flat, events_missing=3)))
    assert "3 events were missing" in fault
    (fault,) = faults(found_by(replace(flat, ledger_balanced=False)))
    assert "the ledger did not add up" in fault
    (fault,) = faults(found_by(replace(flat, verdicts={"DEFECT": 1998, "failed.engine": 2})))
    assert "not inspected, though the camera waits: failed.engine 2" in fault
    assert faults(replace(found_by(flat), cut_short_by="the service ended")) == ["the service ended"]
    assert faults(replace(found_by(flat), cut_short_by="Ctrl-C")) == []
    (fault,) = faults(found_by(replace(flat, alarms={"process": 1})))
    assert "the camera died: process 1" in fault


def test_the_picture_has_a_line_per_quantity_that_goes_where_the_samples_do(run: SoakRun) -> None:
    picture = ElementTree.fromstring(draw([run, run], ["one & all", "the other"], TARGET_BYTES_PER_FRAME))
    lines = list(picture.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 4
    points = [tuple(map(float, point.split(","))) for point in lines[0].attrib["points"].split()]
    assert len(points) == len(run.samples["frames"])
    highest = run.samples["pss_bytes"].index(max(run.samples["pss_bytes"]))
    assert points[highest][1] == min(y for _, y in points)
    assert any(text.text == "one & all" for text in picture.iter("{http://www.w3.org/2000/svg}text"))


@pytest.mark.long
def test_the_command_runs_both_ways_prints_its_figures_and_writes_every_sample(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(frames=200, minutes=0.01, sample_every_s=0.01, judges_growth=False)
    monkeypatch.setattr(bench.soak.soak, "quick_plan", lambda: plan)
    out = tmp_path / "soak.json"
    arguments = ["soak", "--bundle", str(bundle.path), "--quick", "--out", str(out)]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    written = json.loads(out.read_text())
    assert {"machine", "commit", "bundle", "precision", "plan"} <= set(written)
    fast, steady = written["runs"]
    assert (fast["rate_fps"], fast["frames"], written["cut_short_by"]) == (None, 200, None)
    assert written["highest_fps"] == pytest.approx(200 / fast["took_s"])
    assert steady["rate_fps"] == pytest.approx(0.9 * written["highest_fps"])
    assert steady["frames"] == steady["frames_planned"] == round(steady["rate_fps"] * 0.6)
    for run in (fast, steady):
        assert run["ledger_balanced"]
        assert run["events_missing"] == 0
    for words in ("as fast as it goes", "90 % of the highest rate", "latency p99", "balanced", "0 missing"):
        assert words in done.stdout
    assert len(list(ElementTree.parse(out.with_suffix(".svg")).iter("{http://www.w3.org/2000/svg}polyline"))) == 4


def test_ctrl_c_ends_it_in_order_with_what_was_measured_so_far(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    arguments = ["bench", "soak", "--bundle", str(bundle.path), "--frames", "1000000", "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", "edge.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as on a terminal, where Ctrl-C is for the service too
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "of 1000000 frames" in line:
                    break
            below = tree(process.pid)
            os.killpg(process.pid, signal.SIGINT)
            told, log = process.communicate(timeout=WITHIN_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 130, log
    written = json.loads(out.read_text())
    (run,) = written["runs"]
    assert (written["cut_short_by"], run["ended_early"]) == ("Ctrl-C", True)
    assert 0 < run["frames"] < 1_000_000
    assert run["ledger_balanced"]
    assert (run["events_missing"], run["events_out_of_order"]) == (0, 0)
    assert "ended early" in told
    assert len(below) == 3, "the bench, the service and its camera"
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)


def test_what_cannot_be_run_or_written_is_told_before_anything_runs(bundle: Bundle, tmp_path: Path) -> None:
    arguments = ["soak", "--bundle", str(bundle.path)]
    nothing = CliRunner().invoke(command, [*arguments, "--frames", "0", "--minutes", "0"])
    assert nothing.exit_code == 2
    assert "give --frames or --minutes" in nothing.output
    with pytest.raises(BenchError, match=r"cannot be written .* name another file with --out"):
        CliRunner().invoke(command, [*arguments, "--out", str(tmp_path / "no" / "file")], catch_exceptions=False)
