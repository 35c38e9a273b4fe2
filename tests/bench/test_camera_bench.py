"""`heatline bench cameras`: how a rate is found and judged, and that its figures are those of real frames and faults.

How fast anything is, is not tested: only that what is said of it fits together.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import bench.cameras
from bench.camera_faults import Scenario, measure_faults
from bench.camera_rates import FIRST_MEGAPIXELS_PER_S, Load, Seen, Trial, Tries, find_highest, through_service, trial_of
from bench.cameras import Plan, measure_cameras, to_markdown
from bench.command import bench as command
from bench.gige_device import GigeDevice, picture
from bench.processes import camera_processes, cpu_s
from edge.bundle import Bundle
from edge.cameras import aravis
from edge.cameras.genicam import GenicamCamera
from edge.cameras.settings import GenicamSettings
from edge.errors import BenchError
from edge.frames import Frame
from tests.edge.gv_cameras import leased, loopback_has, need_aravis

SMALL = Load("pattern", 1, (48, 64))
SMALL_GIGE = Load("genicam", 1, (48, 64))
ONE = Tries(seconds=0.2, search_seconds=0.2, search=1, holds=1)
TRIES = 5
"""A machine that is busy with other things may lose a frame."""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def plan(**of: tuple[object, ...]) -> Plan:
    """One that measures nothing else."""
    nothing: dict[str, tuple[object, ...]] = {"to_event": (), "camera_path": (), "scenarios": ()}
    return msgspec.convert({**nothing, **of, "tries": ONE, "repeats": 1, "gone_s": (0.0,)}, Plan)


@pytest.fixture
def gige_address() -> Iterator[str]:
    """An address at which no other camera is."""
    need_aravis()
    with leased() as address, loopback_has(address):
        yield address


def quiet(_line: str) -> None:
    pass


# Looking for the rate.


def tried_at(rate_fps: float, *, kept_up: bool) -> Trial:
    return Trial(
        asked_fps=rate_fps,
        seconds=1.0,
        came_fps=rate_fps,
        frames=10,
        lost={} if kept_up else {"dropped.overload": 1},
        latency_p50_ms=1.0,
        latency_p99_ms=2.0,
        latency_growth_ms=0.0,
        cpu_ms_per_frame={"service": 1.0},
        kept_up=kept_up,
    )


@settings(max_examples=50)
@given(capacity_fps=st.floats(10, 900), first_fps=st.floats(10, 900))
def test_the_rate_that_is_found_lies_within_a_tenth_below_what_can_be_kept_up_with(
    capacity_fps: float, first_fps: float
) -> None:
    tries = Tries(seconds=2.0, search_seconds=1.0, search=40, holds=3)
    held, tried = find_highest(
        lambda rate_fps, _: tried_at(rate_fps, kept_up=rate_fps <= capacity_fps), first_fps, 1000.0, tries, quiet
    )
    assert len(held) == 3
    assert {trial.asked_fps for trial in held} <= {held[0].asked_fps}
    assert capacity_fps / 1.1 <= held[0].asked_fps <= capacity_fps
    assert held == tried[-3:]


def test_a_rate_that_is_kept_up_with_once_and_not_again_gives_way_to_a_lower_one() -> None:
    answers = iter([True, False, True, True, False, True, True])  # two to find it, then those to hold it
    tries = Tries(seconds=2.0, search_seconds=1.0, search=2, holds=2)
    held, tried = find_highest(
        lambda rate_fps, _: tried_at(rate_fps, kept_up=next(answers)), 100.0, 1000.0, tries, quiet
    )
    assert [trial.asked_fps for trial in tried] == [100, 136, 100, 100]
    assert [trial.asked_fps for trial in held] == [100, 100]
    answers = iter([True, False, True, False, True, True])
    held, tried = find_highest(
        lambda rate_fps, _: tried_at(rate_fps, kept_up=next(answers)), 100.0, 1000.0, tries, quiet
    )
    assert [trial.asked_fps for trial in tried] == [100, 136, 100, 100, 95.2, 95.2]
    assert [trial.asked_fps for trial in held] == [95.2, 95.2]


def test_no_rate_is_held_where_none_is_kept_up_with_nor_one_above_the_highest_there_is() -> None:
    tries = Tries(seconds=1.0, search_seconds=1.0, search=4, holds=1)
    held, tried = find_highest(lambda rate_fps, _: tried_at(rate_fps, kept_up=False), 100.0, 1000.0, tries, quiet)
    assert (held, len(tried)) == ([], 4)
    held, tried = find_highest(lambda rate_fps, _: tried_at(rate_fps, kept_up=True), 900.0, 1000.0, tries, quiet)
    assert [trial.asked_fps for trial in tried] == [900, 1000]
    assert held == tried[-1:]


# What came of a window.


def frames(count: int, latency_ms: float = 5.0, later_ms: float = 0.0) -> list[Seen]:
    """A camera at 100 frames a second, each frame later by so much than the one before."""
    return [
        Seen("a", i * 10_000_000, i * 10_000_000 + round((latency_ms + i * later_ms) * 1e6), 1, None)
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("seen", "lost", "why_not"),
    [
        (frames(100), {}, None),
        (frames(99), {}, None),  # the window's ends may fall before or after a frame
        (frames(90), {}, "cameras came at 90.0/s"),
        (frames(100, later_ms=0.2), {}, None),  # 2 % of the time
        (frames(100, later_ms=0.5), {}, "frames came later and later, by 38 ms"),
        (frames(99), {"dropped.overload": 1}, "lost: dropped.overload 1"),
    ],
)
def test_a_rate_is_kept_up_with_if_all_frames_came_and_none_later_than_the_ones_before(
    seen: list[Seen], lost: dict[str, int], why_not: str | None
) -> None:
    trial = trial_of(100.0, 1.0, 1, seen, lost, {"service": 0.5})
    assert trial.kept_up == (why_not is None)
    assert why_not is None or trial.why_not == why_not
    assert trial.cpu_ms_per_frame["service"] == pytest.approx(500 / len(seen))


def test_a_camera_of_which_nothing_came_is_not_made_up_for_by_another_one() -> None:
    assert not trial_of(100.0, 1.0, 2, frames(200), {}, {}).kept_up


# Real parts.


def test_the_processor_time_of_a_process_is_the_kernels() -> None:
    before = time.process_time()
    told = cpu_s(os.getpid())
    assert before - 2 * TICK_S <= told <= time.process_time() + 2 * TICK_S


def test_the_device_shows_what_it_says_until_it_freezes_and_gives_its_address_to_no_other(gige_address: str) -> None:
    camera = GenicamCamera(GenicamSettings(name="cam", address=gige_address))
    with GigeDevice(gige_address, (48, 64), 200.0) as device:
        device.switch_on()
        with pytest.raises(BenchError, match="another camera may be there"):
            GigeDevice(gige_address, (48, 64)).switch_on()
        camera.open()
        try:
            frame = camera.grab(20)
            assert isinstance(frame, Frame)
            assert frame.stamp.frame_id is not None
            assert (frame.image == picture((48, 64), frame.stamp.frame_id)).all()
            device.freeze(True)
            for _ in range(20):  # those that were on their way, and more
                frame = camera.grab(20)
                assert isinstance(frame, Frame)
            assert (frame.image == picture((48, 64), 1)).all()
        finally:
            camera.close()


def test_a_rate_is_tried_through_a_service_to_its_events(bundle: Bundle, gige_address: str) -> None:
    with GigeDevice(gige_address, SMALL_GIGE.hw) as device:
        device.switch_on()
        for _ in range(TRIES):
            trial = through_service(SMALL_GIGE, bundle, "f32", 25.0, 0.2, gige_address, device)
            if trial.kept_up:
                break
    assert trial.kept_up, trial.why_not
    assert trial.seconds == 16 / 25, "too few frames tell nothing"
    assert abs(trial.frames - 16) <= 1
    assert trial.came_fps == trial.frames / trial.seconds
    assert trial.latency_p50_ms is not None
    assert trial.latency_p99_ms is not None
    assert 0 < trial.latency_p50_ms <= trial.latency_p99_ms
    assert set(trial.cpu_ms_per_frame) == {"service", "cameras", "device"}
    assert trial.stopped_ms is not None
    assert trial.stopped_ms > 0


def test_a_fault_is_timed_from_the_deed_to_the_alarm_and_to_the_next_inspected_frame(bundle: Bundle) -> None:
    said: list[str] = []
    (found,) = measure_faults(
        Scenario(SMALL, ("camera process killed",)),
        bundle,
        "f32",
        repeats=2,
        gone_s=(0.0,),
        gige_address="127.0.0.1",
        say=said.append,
    )
    assert [sample.noticed_as for sample in found.samples] == ["process", "process"]
    assert all(0 < sample.noticed_ms < sample.recovered_ms for sample in found.samples)
    assert found.noticed_ms.lowest == min(sample.noticed_ms for sample in found.samples)
    assert (len(said), found.recovery_since) == (2, "the deed")


def test_the_command_prints_tables_and_writes_every_sample(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.cameras, "quick_plan", lambda: plan(camera_path=(SMALL,)))
    monkeypatch.setitem(FIRST_MEGAPIXELS_PER_S, "pattern", 60 * SMALL.frame_bytes / 1e6)
    out = tmp_path / "cameras.json"
    for _ in range(TRIES):
        arguments = ["cameras", str(bundle.path), "--quick", "--out", str(out)]
        done = CliRunner().invoke(command, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        written = json.loads(out.read_text())
        if written["rates"][0]["held"]:
            break
    assert {"machine", "commit", "bundle", "precision", "plan"} <= set(written)
    (rate,) = written["rates"]
    assert len(rate["held"]) == 1
    assert rate["held"] == rate["tried"]
    assert rate["rate_fps"] == rate["held"][0]["asked_fps"] == 60
    assert rate["bytes_per_s"] == 60 * 48 * 64
    assert "| pattern 64x48 Mono8 | camera path | 60 |" in done.stdout
    assert rate["latency_p50_ms"]["median"] == rate["held"][0]["latency_p50_ms"]
    assert set(rate["cpu_ms_per_frame"]) == {"receiver", "cameras"}
    assert camera_processes(os.getpid()) == []


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"cannot be written .* name another file with --out"):
        CliRunner().invoke(
            command, ["cameras", str(bundle.path), "--out", str(tmp_path / "no" / "file")], catch_exceptions=False
        )


def test_without_aravis_what_needs_it_is_left_out_with_the_reason(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aravis, "LIBRARY", "libaravis-none.so")
    gige = plan(to_event=(SMALL_GIGE,), camera_path=(SMALL_GIGE,), scenarios=(Scenario(SMALL_GIGE, ()),))
    found = measure_cameras(bundle, "f32", gige, gige_address="127.0.0.1", say=quiet)
    assert (found.rates, found.faults) == ([], [])
    assert len(found.left_out) == 3
    assert all("install it: apt install libaravis" in why for why in found.left_out.values())
    assert "Left out: GigE Vision 64x48 Mono8, to event: GigE Vision" in to_markdown(found)


@pytest.mark.long
def test_all_of_it_runs(bundle: Bundle, gige_address: str) -> None:
    found = measure_cameras(bundle, "f32", bench.cameras.quick_plan(), gige_address=gige_address, say=print)
    assert not found.left_out
    assert len(found.rates) == 4
    assert len(found.faults) == 7
    assert camera_processes(os.getpid()) == []
