"""`heatline bench cameras`: how a rate is found and judged; its figures are those of real frames and faults."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import bench.cameras
from bench.camera_faults import Scenario, measure_faults
from bench.camera_rates import FIRST_MEGAPIXELS_PER_S, Load, Seen, Trial, Tries, find_highest, through_service, trial_of
from bench.cameras import Plan, measure_cameras
from bench.command import bench as command
from bench.gige_device import GigeDevice
from bench.processes import camera_processes
from edge.bundle import Bundle
from tests.bench import made_results as made
from tests.edge.gv_cameras import leased, loopback_has, need_aravis

SMALL = Load("pattern", 1, (48, 64))
SMALL_GIGE = Load("genicam", 1, (48, 64))


@pytest.fixture
def gige_address() -> Iterator[str]:
    """An address at which no other camera is."""
    need_aravis()
    with leased() as address, loopback_has(address):
        yield address


def quiet(_line: str) -> None:
    pass


# Looking for the rate.


def search(answers: Any, first_fps: float, tries: Tries) -> tuple[list[Trial], list[Trial]]:
    (trial,) = made.end_to_end().highest.held  # type: ignore[union-attr]

    def tried_at(rate_fps: float, _seconds: float) -> Trial:
        return msgspec.structs.replace(trial, asked_fps=rate_fps, kept_up=answers(rate_fps))

    return find_highest(tried_at, first_fps, 1000.0, tries, quiet)


@given(capacity_fps=st.floats(10, 900), first_fps=st.floats(10, 900))
def test_the_rate_that_is_found_lies_within_a_tenth_below_what_can_be_kept_up_with(
    capacity_fps: float, first_fps: float
) -> None:
    tries = Tries(seconds=2.0, search_seconds=1.0, search=40, holds=3)
    held, tried = search(lambda rate_fps: rate_fps <= capacity_fps, first_fps, tries)
    assert len(held) == 3
    assert {trial.asked_fps for trial in held} <= {held[0].asked_fps}
    assert capacity_fps / 1.1 <= held[0].asked_fps <= capacity_fps
    assert held == tried[-3:]


@pytest.mark.parametrize(
    ("answers", "first_fps", "tried_fps", "held_fps"),
    [
        ([True, False, True, True], 100, [100, 136, 100, 100], [100, 100]),
        ([True, False, True, False, True, True], 100, [100, 136, 100, 100, 95.2, 95.2], [95.2, 95.2]),
        ([True, True, True, True], 900, [900, 1000, 1000, 1000], [1000, 1000]),
        ([False, False], 100, [100, 73.5], []),
    ],
)
def test_a_rate_must_be_held_again_and_none_lies_above_the_highest_there_is(
    answers: list[bool], first_fps: float, tried_fps: list[float], held_fps: list[float]
) -> None:
    said = iter(answers)
    tries = Tries(seconds=2.0, search_seconds=1.0, search=2, holds=2)
    held, tried = search(lambda _: next(said), first_fps, tries)
    assert [trial.asked_fps for trial in tried] == pytest.approx(tried_fps)
    assert [trial.asked_fps for trial in held] == pytest.approx(held_fps)


def frames(count: int, later_ms: float = 0.0) -> list[Seen]:
    """A camera at 100 frames a second, each frame later by so much than the one before."""
    return [
        Seen("a", i * 10_000_000, i * 10_000_000 + round((5.0 + i * later_ms) * 1e6), 1, None) for i in range(count)
    ]


@pytest.mark.parametrize(
    ("seen", "lost", "cameras", "why_not"),
    [
        (frames(100), {}, 1, None),
        (frames(99), {}, 1, None),  # the window's ends may fall before or after a frame
        (frames(90), {}, 1, "cameras came at 90.0/s"),
        (frames(200), {}, 2, "cameras came at 0.0/s"),  # nothing came of the other one
        (frames(100, later_ms=0.2), {}, 1, None),  # 2 % of the time
        (frames(100, later_ms=0.5), {}, 1, "frames came later and later, by 38 ms"),
        (frames(99), {"dropped.overload": 1}, 1, "lost: dropped.overload 1"),
    ],
)
def test_a_rate_is_kept_up_with_if_all_frames_came_and_none_later_than_the_ones_before(
    seen: list[Seen], lost: dict[str, int], cameras: int, why_not: str | None
) -> None:
    trial = trial_of(100.0, 1.0, cameras, seen, lost, {"service": 0.5})
    assert trial.kept_up == (why_not is None)
    assert why_not is None or trial.why_not == why_not
    assert trial.cpu_ms_per_frame["service"] == pytest.approx(500 / len(seen))


# Real parts.


def test_a_fault_is_timed_from_the_deed_to_the_alarm_and_to_the_next_inspected_frame(bundle: Bundle) -> None:
    scenario = Scenario(SMALL, ("camera process killed",))
    options: dict[str, Any] = {"gone_s": (0.0,), "gige_address": "127.0.0.1", "say": quiet}
    (found,) = measure_faults(scenario, bundle, "f32", repeats=2, **options)
    assert [sample.noticed_as for sample in found.samples] == ["process", "process"]
    assert all(0 < sample.noticed_ms < sample.recovered_ms for sample in found.samples)
    assert found.noticed_ms.lowest == min(sample.noticed_ms for sample in found.samples)
    assert found.recovery_since == "the deed"


def plan(**of: tuple[object, ...]) -> Plan:
    """One that measures nothing else."""
    nothing: dict[str, tuple[object, ...]] = {"to_event": (), "camera_path": (), "scenarios": ()}
    tries = Tries(seconds=0.2, search_seconds=0.2, search=1, holds=1)
    return msgspec.convert({**nothing, **of, "tries": tries, "repeats": 1, "gone_s": (0.0,)}, Plan)


def test_the_command_prints_tables_and_writes_every_sample(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.cameras, "quick_plan", lambda: plan(camera_path=(SMALL,)))
    monkeypatch.setitem(FIRST_MEGAPIXELS_PER_S, "pattern", 60 * SMALL.frame_bytes / 1e6)
    out = tmp_path / "cameras.json"
    done = CliRunner().invoke(command, ["cameras", str(bundle.path), "--quick", "--out", str(out)])
    assert done.exit_code == 0, done.output
    (rate,) = json.loads(out.read_text())["rates"]
    (trial,) = rate["tried"]  # on a machine that is busy with other things it may lose a frame
    assert rate["held"] == ([trial] if trial["kept_up"] else [])
    assert rate["rate_fps"] == (60 if trial["kept_up"] else None)
    assert trial["asked_fps"] == 60
    assert "| pattern 64x48 Mono8 | camera path |" in done.stdout
    assert camera_processes(os.getpid()) == []


@pytest.mark.long
def test_all_of_it_runs(bundle: Bundle, gige_address: str) -> None:
    found = measure_cameras(bundle, "f32", bench.cameras.quick_plan(), gige_address=gige_address, say=print)
    assert not found.left_out
    assert (len(found.rates), len(found.faults)) == (4, 7)
    with GigeDevice(gige_address, SMALL_GIGE.hw) as device:
        device.switch_on()
        trial = through_service(SMALL_GIGE, bundle, "f32", 25.0, 0.2, gige_address, device)
    assert trial.seconds == 16 / 25, "too few frames tell nothing"
    assert trial.came_fps == trial.frames / trial.seconds
    assert set(trial.cpu_ms_per_frame) == {"service", "cameras", "device"}
    assert camera_processes(os.getpid()) == []
