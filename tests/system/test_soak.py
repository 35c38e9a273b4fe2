"""`make soak`: it finds a leak, reports none without one, counts correctly, and runs."""

import math
import os
import statistics
import subprocess
import sys
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.bench import processes
from heatline.bench.processes import TreeSample, sample_tree, tree
from heatline.edge.bundle import Bundle
from heatline.edge.wire.events import Account, BundleName, Counts, Event, Handshake, StatusEvent, VerdictEvent
from tests.bench import made_results as made
from tests.system.slope import BLOCKS, LEAST_PER_BLOCK, T_95, slope
from tests.system.soak import TARGET_BYTES_PER_FRAME, Samples, SoakRun, Tally, faults, measure_soak, soak, to_facts

# The slope.

SAMPLES, RUNS = 240, 200
"""Number of samples of 100,000 frames after the warm-up, and number of simulated runs."""
FRAMES = np.arange(SAMPLES) * 400


def autoregressive(phi: float) -> NDArray[np.float64]:
    """Return noise of unit variance, [RUNS, SAMPLES]: each sample is `phi` times the one before, plus a shock."""
    shocks = np.random.default_rng(1).standard_normal((RUNS, SAMPLES))
    noise = shocks.copy()
    for at in range(1, SAMPLES):
        noise[:, at] = phi * noise[:, at - 1] + math.sqrt(1 - phi**2) * shocks[:, at]
    return noise


@pytest.mark.parametrize("phi", [0.0, 0.9, pytest.param(0.97, marks=pytest.mark.long)])
@pytest.mark.parametrize("leak", [0.0, 1.5 * TARGET_BYTES_PER_FRAME])
def test_the_upper_bound_is_above_the_true_slope_in_95_of_100_runs(phi: float, leak: float) -> None:
    """This holds for correlated samples too. If memory varies by 100 kB, only real leaks are found."""
    found = [slope(FRAMES.tolist(), run.tolist()) for run in 150e6 + leak * FRAMES + 100e3 * autoregressive(phi)]
    bounds = np.array([each.upper_95 for each in found if each is not None])
    assert np.mean(bounds >= leak) >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / RUNS)
    if phi < 0.97:
        assert np.mean((bounds > TARGET_BYTES_PER_FRAME) == bool(leak)) > 0.95


def test_the_bound_is_students_t_of_the_least_squares_slopes_of_the_blocks() -> None:
    frames = np.cumsum(np.random.default_rng(2).integers(1, 900, 100))
    values = 1e8 + 3 * frames + 1e5 * np.random.default_rng(3).standard_normal(100)
    found = slope(frames.tolist(), values.tolist())
    assert found is not None
    ends = [0, 13, 26, 39, 52, 64, 76, 88, 100]  # the sizes of blocks differ by at most one sample
    slopes = [
        statistics.linear_regression(frames[begin:end].tolist(), values[begin:end].tolist()).slope
        for begin, end in pairwise(ends)
    ]
    assert found.of_blocks == pytest.approx(slopes)
    assert found.per_frame == pytest.approx(statistics.fmean(slopes))
    assert found.upper_95 == pytest.approx(found.per_frame + T_95 * statistics.stdev(slopes) / math.sqrt(BLOCKS))
    few = list(range(BLOCKS * LEAST_PER_BLOCK - 1))
    assert slope(few, few) is slope([7.0] * 100, list(range(100))) is None


def test_students_95_percent_point_is_that_of_its_density() -> None:
    freedom = BLOCKS - 1
    x = np.linspace(0, T_95, 100_001)
    scale = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
    density = scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    assert 0.5 + np.trapezoid(density, x) == pytest.approx(0.95, abs=1e-9)


# Samples of processes.

LEAKY = """
import os, sys, threading
kept, size = [], 2000
for line in sys.stdin:
    what, count = line.split()
    for _ in range(int(count)):
        if what == "bytes":
            kept.append(b"x" * size)
        elif what == "files":
            kept.append(os.open("/dev/null", os.O_RDONLY))
        elif what == "threads":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
    print(flush=True)
"""
ABOVE = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_memory_descriptors_threads_and_processes_of_the_whole_tree_are_counted() -> None:
    samples = Samples()
    with subprocess.Popen(
        [sys.executable, "-c", ABOVE, LEAKY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def after(what: str, count: int) -> TreeSample:
            """Make the child hold this much more; return a sample of both processes."""
            print(what, count, file=process.stdin, flush=True)
            assert process.stdout is not None
            assert process.stdout.readline() == "\n"
            sample = sample_tree(process.pid)
            assert sample is not None
            return sample

        before = after("nothing", 1)
        assert before.processes == len(tree(process.pid)) == 2
        assert after("files", 7).descriptors == before.descriptors + 7
        assert after("threads", 3).threads == before.threads + 3
        for at in range(60):
            samples.add(100 * (at + 1), after("bytes", 100))
    assert sample_tree(process.pid) is None
    own = samples.slope("own_bytes")
    assert own is not None
    overhead = 64  # an object and its place in a list
    assert 0.95 * 2000 <= own.per_frame <= 2000 + overhead
    assert own.per_frame <= own.upper_95 <= 2000 + 4 * overhead


# Counts of events.


def verdict(seq: int, reason: str | None = None, **changed: Any) -> VerdictEvent:
    return made.verdict(seq, 0.0, reason, camera="cam0", **changed)


def stopped(last_seq: int, **account: Any) -> StatusEvent:
    return StatusEvent(
        boot_id="a", at_ns=0, line="line", state="STOPPED", last_seq=last_seq, ledger={"cam0": Account(**account)},
        bundle=BundleName(name="b", version="1", digest="0" * 64), engine="openvino", precision="f32", acting=True,
        cameras={}, pid=1, handshake=Handshake(state="NOT_READY", reason="stopping", heartbeat=1), counts=Counts(),
    )  # fmt: skip


def tally_of(*events: Event) -> Tally:
    tally = Tally()
    for event in events:
        tally.add(event)
    return tally


@pytest.mark.parametrize(
    ("events", "missing", "out_of_order"),
    [
        ((verdict(1), verdict(2, "dropped.overload", frames=3), verdict(3), stopped(3)), 0, 0),
        ((verdict(2), verdict(3)), 1, 0),  # the very first
        ((verdict(1), verdict(4)), 2, 0),
        ((verdict(1), stopped(3)), 2, 0),  # the last ones
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


def test_a_ledger_is_balanced_if_it_agrees_with_the_events() -> None:
    right = {"captured": 4, "inspected": 1, "dropped": {"overload": 3}}
    tally = tally_of(verdict(1), verdict(2, "dropped.overload", frames=3), stopped(2, **right))
    assert (tally.balanced, tally.frames, tally.verdicts) == (True, 4, {"GOOD": 1, "dropped.overload": 3})
    for wrong in (
        {"captured": 2, "inspected": 1, "in_flight": 1},  # one was never reported
        {"captured": 1, "inspected": 1},  # one was reported and never captured
        {"captured": 2, "inspected": 1, "dropped": {"overload": 1}},  # one was inspected and is booked as dropped
        {"captured": 3, "inspected": 2},  # it does not add up
    ):
        assert not tally_of(verdict(1), verdict(2), stopped(2, **wrong)).balanced


def test_a_process_that_ends_during_its_sample_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has memory at the first reading, and none at the second."""
    with subprocess.Popen(["sleep", "1000"]) as ending:
        ending.kill()
        os.waitid(os.P_PID, ending.pid, os.WEXITED | os.WNOWAIT)  # it stays as a zombie
        monkeypatch.setattr(processes, "_rollup", lambda _: {"Pss": 1, "Pss_Anon": 1, "Pss_Shmem": 0})
        assert sample_tree(ending.pid) is None


# Real runs.


@pytest.fixture(scope="module", params=[600, pytest.param(5000, marks=pytest.mark.long)])
def run(bundle: Bundle, request: pytest.FixtureRequest) -> SoakRun:
    """A short run of the real service."""
    return soak(bundle, request.param, None, frame_hw=(48, 64), sample_every_s=0.005, report_line=lambda _: None)


def test_a_short_run_loses_nothing_and_opens_no_descriptor_thread_or_process(run: SoakRun) -> None:
    planned = run.frames_planned
    assert (run.frames, run.verdicts) == (planned, {"DEFECT": planned})
    assert (run.events_missing, run.events_out_of_order, run.alarms) == (0, 0, {})
    assert run.ledger_balanced
    assert run.ledger == Account(captured=planned, inspected=planned)
    for name in ("descriptors", "threads", "processes"):
        assert len(set(run.samples[name])) == 1, f"{name}: {run.samples[name]}"
    assert run.growth["processes"].at_start == 2, "the service and its camera"
    frames = run.samples["frames"]
    assert frames == sorted(frames)
    assert 0 < frames[0] <= frames[-1] < planned
    assert run.growth["pss_bytes"].most == max(run.samples["pss_bytes"]) > 10e6
    assert run.latency_p99_ms is not None
    assert min(run.latency_p99_ms) > 0


def test_leaks_losses_and_alarms_are_faults(run: SoakRun) -> None:
    replace = msgspec.structs.replace
    straight = slope(list(range(100)), [30.0 * at for at in range(100)])
    assert straight is not None
    flat = replace(run, pss_slope=replace(straight, per_frame=0.1, upper_95=TARGET_BYTES_PER_FRAME))
    leaky = replace(run, pss_slope=replace(straight, per_frame=30.0, upper_95=31.0))

    assert list(faults(flat)) == []
    for changed, words in (
        (leaky, "its PSS may grow by 31.0 bytes a frame, the target is 20"),
        (replace(flat, events_missing=3), "3 events were missing"),
        (replace(flat, ledger_balanced=False), "the ledger does not agree"),
        (replace(flat, verdicts={"DEFECT": 1998, "failed.engine": 2}), "not inspected"),
        (replace(flat, alarms={"process": 1}), "the camera died: process 1"),
    ):
        (fault,) = faults(changed)
        assert words in fault


def test_latencies_are_those_of_the_first_tenth_and_of_the_last() -> None:
    assert tally_of(*(verdict(seq) for seq in range(1, 10))).latency_p99_ms is None
    events = [verdict(seq, latency_ms=float(seq)) for seq in range(1, 21)]
    assert tally_of(*events).latency_p99_ms == pytest.approx((1.99, 19.99))


def test_the_second_run_is_at_a_share_of_the_rate_of_the_first(bundle: Bundle) -> None:
    found = measure_soak(bundle, 1000, 0.02, lambda _: None, sample_every_s=0.002)
    fast, paced = found.runs
    assert fast.rate_fps is None
    assert paced.rate_fps == pytest.approx(0.9 * found.highest_fps)
    assert found.cut_short_by is None
    for run in found.runs:
        facts = to_facts(run)
        assert facts["frames"].startswith(f"{run.frames} of {run.frames_planned} in ")
        assert (facts["ledger"], facts["alarms"]) == ("balanced", "none")
