"""`make cameras`: its figures are measured with real frames and faults, and all measurements run."""

import os
from typing import Any

import msgspec
import pytest

from heatline.bench.end_to_end.rates import Tries
from heatline.bench.processes import camera_processes
from heatline.edge.bundle import Bundle
from heatline.edge.errors import BenchError, CameraError, MissingExtraError
from tests.edge.gv_cameras import need_aravis
from tests.system.cameras import rates
from tests.system.cameras.faults import Scenario, measure_faults, scenarios
from tests.system.cameras.measure import Plan, faults, measure_cameras
from tests.system.cameras.rates import Load
from tests.system.cameras.trial import Trial, run_trial

SMALL = Load("pattern", 1, (48, 64))
QUICK = Plan(
    tries=Tries(seconds=0.2, search_seconds=0.2, search=1, holds=1),
    to_event=(),
    camera_path=(),
    scenarios=(),
    repeats=1,
    gone_s=(0.2,),
)


def quiet(_line: str) -> None:
    pass


def test_a_fault_is_timed_from_its_injection_to_the_alarm_and_to_the_next_inspected_frame(bundle: Bundle) -> None:
    scenario = Scenario(SMALL, ("camera process killed",))
    (found,) = measure_faults(scenario, bundle, repeats=2, gone_s=(0.0,), report_line=quiet)
    assert [sample.noticed_as for sample in found.samples] == ["process", "process"]
    assert all(0 < sample.noticed_ms < sample.recovered_ms for sample in found.samples)
    assert found.noticed_ms.lowest == min(sample.noticed_ms for sample in found.samples)
    assert found.recovery_since == "the fault"


def test_a_rate_is_measured_with_received_frames_and_no_camera_process_remains(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rates.FIRST_MEGAPIXELS_PER_S["camera path"], "pattern", 60 * 48 * 64 / 1e6)
    trials: list[Trial] = []

    def never_too_slow(*arguments: Any) -> Trial:  # a busy machine may lose a frame
        trials.append(run_trial(*arguments))
        return msgspec.structs.replace(trials[-1], not_kept_up=None)

    monkeypatch.setattr(rates, "run_trial", never_too_slow)
    (rate,) = measure_cameras(bundle, msgspec.structs.replace(QUICK, camera_path=(SMALL,)), quiet).rates
    (trial,) = trials
    assert trial.frames > 0
    assert rate.rate_fps == trial.rate_fps == 60
    assert [one.frames for one in rate.held] == [one.frames for one in rate.tried] == [trial.frames]
    assert camera_processes(os.getpid()) == []


def test_a_missing_library_leaves_a_measurement_out_and_an_error_is_a_fault(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([MissingExtraError("no Aravis"), BenchError("it became silent"), CameraError("it is missing")])

    def fail(*_: object, **__: object) -> None:
        raise next(errors)

    monkeypatch.setattr("tests.system.cameras.measure.measure_rate", fail)
    monkeypatch.setattr("tests.system.cameras.measure.measure_faults", fail)
    plan = msgspec.structs.replace(
        QUICK, to_event=(SMALL,), camera_path=(SMALL,), scenarios=(Scenario(SMALL, ("camera process killed",)),)
    )
    found = measure_cameras(bundle, plan, quiet)
    assert found.left_out == {f"{SMALL}, to event": "no Aravis"}
    assert faults(found) == [
        f"{SMALL}, camera path: it became silent",
        f"{SMALL}, camera process killed: it is missing",
    ]


@pytest.mark.long
def test_all_measurements_run(bundle: Bundle) -> None:
    need_aravis()
    gige, pattern = Load("genicam", 1, (240, 320)), Load("pattern", 4, (240, 320))
    plan = msgspec.structs.replace(
        QUICK, to_event=(gige, pattern), camera_path=(gige, SMALL), scenarios=scenarios(SMALL, gige)
    )
    found = measure_cameras(bundle, plan, print)
    assert not found.left_out
    assert (len(found.rates), len(found.faults)) == (4, 7)
    assert not faults(found)
    processes = {"to event": {"service", "cameras"}, "camera path": {"receiver", "cameras"}}
    for rate in found.rates:
        (trial,) = rate.tried  # no processor time is measured if a frame was lost
        assert set(trial.cpu_ms_per_frame) == (set() if trial.lost else processes[rate.way])
    assert camera_processes(os.getpid()) == []
