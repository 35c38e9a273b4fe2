"""`make soak`: it finds a leak, reports none without one, counts correctly, and runs."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.wire.events import Account, Event
from tests.edge.followed_line import event
from tests.edge.status_only_line import a_status
from tests.system.soak import TARGET_BYTES_PER_FRAME, Slope, SoakRun, Tally, faults, slope, soak

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


def verdict(seq: int, reason: str | None = None, frames: int = 1) -> Event:
    return msgspec.structs.replace(event(seq, "verdict.cam0.GOOD", None), reason=reason, frames=frames)


def tally_of(*events: Event, last_seq: int = 2, **account: Any) -> Tally:
    """Count the events of a line that then stops."""
    tally = Tally()
    for each in (*events, a_status(state="STOPPED", last_seq=last_seq, ledger={"cam0": Account(**account)})):
        tally.add(each)
    return tally


def test_a_ledger_must_agree_with_the_events() -> None:
    right = {"captured": 4, "inspected": 1, "dropped": {"overload": 3}}
    tally = tally_of(verdict(1), verdict(2, "dropped.overload", frames=3), last_seq=5, **right)
    assert (tally.balanced, tally.frames, tally.verdicts) == (True, 4, {"GOOD": 1, "dropped.overload": 3})
    assert tally.missing == 3
    for wrong in (
        {"captured": 2, "inspected": 1, "in_flight": 1},  # one was never reported
        {"captured": 1, "inspected": 1},  # one was reported and never captured
        {"captured": 2, "inspected": 1, "dropped": {"overload": 1}},  # one was inspected and is booked as dropped
        {"captured": 3, "inspected": 2},  # it does not add up
    ):
        assert not tally_of(verdict(1), verdict(2), **wrong).balanced


@pytest.fixture(scope="module", params=[1000, pytest.param(5000, marks=pytest.mark.long)])
def run(bundle: Bundle, request: pytest.FixtureRequest) -> SoakRun:
    """A short run of the real service, which takes seconds: the first sample must come before the last frame."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.system.soak.HIGHEST_FPS", 250)
        return soak(bundle, request.param, None, frame_hw=(48, 64), sample_every_s=0.005)


def test_a_short_run_loses_nothing_and_opens_no_descriptor_thread_or_process(run: SoakRun) -> None:
    planned = run.frames_planned
    assert (run.frames, run.verdicts) == (planned, {"DEFECT": planned})
    assert (run.events_missing, run.alarms) == (0, {})
    assert run.ledger_balanced
    assert run.ledger == Account(captured=planned, inspected=planned)
    for name in ("descriptors", "threads", "processes"):
        assert len(set(run.samples[name])) == 1, f"{name}: {run.samples[name]}"
    assert run.samples["processes"][0] == 2, "the service and its camera"
    frames = run.samples["frames"]
    assert frames == sorted(frames)
    assert 0 < frames[0] <= frames[-1] < planned
    assert min(run.samples["pss_bytes"]) > 10e6
    assert run.latency_p99_ms is not None
    assert min(run.latency_p99_ms) > 0


def test_leaks_losses_and_alarms_are_faults(run: SoakRun) -> None:
    replace = msgspec.structs.replace
    flat = replace(run, pss_slope=Slope(per_frame=0.1, upper_95=TARGET_BYTES_PER_FRAME, of_blocks=[]))
    leaky = replace(run, pss_slope=Slope(per_frame=30.0, upper_95=31.0, of_blocks=[]))
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
