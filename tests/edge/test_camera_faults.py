"""Faults of cameras, with real parts: the line reports each fault, survives it, and inspects again."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.cameras import supervisor
from heatline.edge.cameras.settings import GenicamSettings
from heatline.edge.wire.events import AlarmEvent, Event, StatusEvent, VerdictEvent
from tests.command import WITHIN_SECONDS
from tests.edge.gv_cameras import AravisCamera, aravis_camera, cable, next_frame_id
from tests.edge.lines import RunningLine, assert_every_frame_has_its_event, children, running, write_line_with
from tests.edge.rtsp_server import rtsp_server
from tests.edge.supervised import watched
from tests.small_bundle import TILE, answer


def whites() -> list[NDArray[np.uint8]]:
    """Three different pictures that are all GOOD."""
    return [np.full((TILE, TILE), value, np.uint8) for value in (255, 254, 253)]


PATIENT = {"silent_after_periods": 500}
"""20 s at 25 frames per second: a busy machine may pause without an alarm."""
SILENT = {"silent_after_periods": 50}
"""2 s, for tests in which a camera must become silent."""
PATTERN = {"kind": "pattern", "draw_size": [TILE, TILE], "rate_fps": 25, **PATIENT}


def genicam(device: AravisCamera, **keys: object) -> dict[str, object]:
    return {"kind": "genicam", "address": device.address, **PATIENT, **keys}


def died(run: RunningLine) -> AlarmEvent:
    alarm = run.next_alarm()
    assert alarm.active, alarm
    return alarm


def came_back(run: RunningLine) -> AlarmEvent:
    alarm = run.next_alarm()
    assert not alarm.active, alarm
    return alarm


def until_failed(run: RunningLine, reason: str) -> None:
    run.until(lambda event: isinstance(event, VerdictEvent) and event.reason == f"failed.{reason}")


# The camera's process.


def resources(pid: int) -> dict[str, int]:
    """Return the open descriptors of a process, without those of frames."""
    process = Path(f"/proc/{pid}")
    return {
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
        "children": len(children(pid)),
    }


def memories_of_frames(pid: int) -> int:
    """Return of how many camera processes, running or dead, a process holds the memory."""
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:heatline-frames")


@pytest.mark.parametrize("deaths", [3, pytest.param(20, marks=pytest.mark.long)])
def test_a_killed_or_hanging_camera_process_is_restarted_without_leftovers(
    tmp_path: Path, bundle: Bundle, address: str, deaths: int
) -> None:
    """The line is in commissioning, as all its events state."""
    line = write_line_with(tmp_path, bundle.path, address, {"cam": PATTERN}, top="acting = false")
    with running(line, address) as run:
        run.until_inspected()
        held: list[dict[str, int]] = []
        for n in range(deaths):
            (child,) = children(run.process.pid)
            os.kill(child, signal.SIGSTOP if n == deaths - 1 else signal.SIGKILL)
            alarm = died(run)
            assert alarm.alarm == ("unresponsive" if n == deaths - 1 else "process")
            came_back(run)
            for _ in range(2):  # each process begins with the same picture: a third one in a row would be frozen
                run.until_inspected()
            held.append(resources(run.process.pid))
        # The last frames of the two previous processes may still be referenced; the memory of three is a leak.
        run.until(lambda _: memories_of_frames(run.process.pid) <= 3)
        # Compare with several earlier counts: each may include a descriptor that is open for a moment.
        run.until(lambda _: all(resources(run.process.pid)[name] <= held[0][name] for name in held[0]))
        received = run.end()
    assert_every_frame_has_its_event(received, ["cam"])
    assert "SIGKILL" in received.alarms[0].detail
    assert len(received.alarms) == 2 * deaths
    assert received.last.cameras["cam"].openings == deaths + 1
    assert {event.acting for event in [*received.verdicts, *received.alarms, *received.statuses]} == {False}


# GigE Vision: the device and its cable.


@pytest.mark.parametrize("frames", [15, pytest.param(200, marks=pytest.mark.long)])
def test_a_missing_gige_device_does_not_stop_another_camera(
    tmp_path: Path, bundle: Bundle, address: str, frames: int
) -> None:
    """Closing a missing device takes seconds: if the line waited, frames of the other camera would be lost.

    Args:
        frames: number of frames of the other camera during each absence.
    """
    with aravis_camera(pictures=whites()) as device:
        device.kill()
        lives = {**PATTERN, "rate_fps": 10, "waiting_frames": 64}
        line = write_line_with(tmp_path, bundle.path, address, {"dies": genicam(device, **SILENT), "lives": lives})
        with running(line, address) as run:
            for reason in ("open", "silent"):
                if reason == "silent":
                    device.kill()
                assert died(run).alarm == reason
                for _ in range(frames):
                    run.until_inspected("lives")
                device.start()
                came_back(run)
                assert run.until_inspected("dies").verdict == "GOOD"
            received = run.end()
    assert_every_frame_has_its_event(received, ["dies", "lives"])
    assert [alarm.camera for alarm in received.alarms] == ["dies"] * 4
    assert "it cannot be opened" in received.alarms[0].detail
    assert "check its power, cable and address" in received.alarms[0].detail
    assert all(event.verdict != "NO_VERDICT" for event in received.of("lives") if event.reason != "dropped.stopped")


def test_a_waiting_triggered_camera_is_idle_and_one_without_answer_is_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "MAX_BACKOFF_SECONDS", 0.25)
    with aravis_camera(pictures=whites()) as device:
        settings = GenicamSettings(name="cam", address=device.address, trigger="software", trigger_timeout_ms=5000)
        with watched(settings, drawn=False) as camera:
            camera.trigger("first")
            camera.until_frames(1)
            camera.until(lambda: camera.camera.state().state == "IDLE", "being idle again")
            assert camera.alarms == []
            device.kill()
            camera.until(lambda: bool(camera.alarms), "its death")
            camera.trigger("in vain")
            camera.until(lambda: camera.answered("in vain"))
            device.start()
            camera.until(lambda: len(camera.alarms) == 2, "its return")
            camera.trigger("last")
            camera.until_frames(1)
    assert camera.states == [("broken", True), ("broken", False)]
    assert camera.answer_to("in vain").refused == "camera_dead"
    assert [(seen.stamp.part_id, seen.reason) for seen in camera.seen] == [
        ("first", None), ("in vain", "no_frame"), ("last", None)
    ]  # fmt: skip


def test_damaged_frames_and_a_pulled_cable_are_reported(tmp_path: Path, bundle: Bundle, address: str) -> None:
    with cable() as wire, aravis_camera(wire.address, whites(), netns=wire.netns) as device:
        camera = genicam(device, **SILENT, on_overload="block", buffers=128)  # only the cable may lose frames
        line = write_line_with(tmp_path, bundle.path, address, {"cam": camera})
        with running(line, address) as run:
            run.until_inspected()
            wire.lose(0.005)
            for _ in range(4):
                until_failed(run, "incomplete")
            wire.lose(0)
            counted: StatusEvent = run.until(
                lambda event: (
                    isinstance(event, StatusEvent)
                    and event.cameras["cam"].counters.get("failures") == event.ledger["cam"].failed.get("incomplete")
                )
            )
            before = list(run.received.verdicts)
            wire.pull()
            alarm = died(run)
            wire.plug()
            over = came_back(run)
            assert run.until_inspected().verdict == "GOOD"
            received = run.end()
    assert_every_frame_has_its_event(received, ["cam"])
    assert alarm.alarm == "silent"
    assert received.alarms == [alarm, over]
    expected = before[0].frame_id
    for event in before:
        assert event.frame_id == expected is not None, f"{event} came where {expected} was to come"
        expected = next_frame_id(event.last_frame_id or expected)
        if event.reason is None:
            score = answer(np.full((1, TILE, TILE, 3), device.picture(event.frame_id).flat[0], np.uint8))[0][0]
            assert (event.verdict, event.frame_score) == ("GOOD", pytest.approx(float(score), abs=1e-3))
    assert {event.reason for event in before} == {None, "failed.incomplete"}
    lost = sum(event.frames for event in before if event.reason == "failed.incomplete")
    assert lost == counted.cameras["cam"].counters["failures"]


# What a camera sends.


class Misbehaviour(NamedTuple):
    """A wrong behaviour of a camera, the reason of its frames, and the alarm of the line."""

    begin: Callable[[AravisCamera], None]
    end: Callable[[AravisCamera], None] | None
    """None: it ends by itself with the frame that shows it."""
    reason: str
    alarm: str | None


MISBEHAVIOURS = {
    "its picture is frozen": Misbehaviour(lambda it: it.freeze(), lambda it: it.freeze(False), "frozen", "frozen"),
    "its frames come late": Misbehaviour(lambda it: it.fall_behind(2.4), None, "stale", "stale"),
    "its frame ids leap": Misbehaviour(lambda it: it.leave_out(40_000), None, "frame_ids", "frame_ids"),
    "its frames are smaller": Misbehaviour(
        lambda it: it.resize(200, 200), lambda it: it.resize(TILE, TILE), "wrong_size", None
    ),
    "its frames outgrow their memory": Misbehaviour(
        lambda it: it.resize(300, 280), lambda it: it.resize(TILE, TILE), "wrong_size", "broken"
    ),
    "its colour format changes": Misbehaviour(
        lambda it: it.resize(TILE, TILE, "BayerRG8"), lambda it: it.resize(TILE, TILE, "Mono8"), "wrong_colour", None
    ),
}


def test_wrong_frames_raise_one_alarm_and_are_never_judged(tmp_path: Path, bundle: Bundle, address: str) -> None:
    with aravis_camera(pictures=whites()) as device:
        camera = genicam(device, frozen_after_frames=5, stale_after_ms=2000, waiting_frames=16)
        line = write_line_with(tmp_path, bundle.path, address, {"cam": camera})
        with running(line, address) as run:

            def good_again(event: Event) -> bool:
                alarms = run.received.alarms
                return (
                    isinstance(event, VerdictEvent) and event.verdict == "GOOD" and not (alarms and alarms[-1].active)
                )

            for name, wrong in MISBEHAVIOURS.items():
                run.until_inspected()
                verdicts_before, alarms_before = len(run.received.verdicts), len(run.received.alarms)
                wrong.begin(device)
                for _ in range(3 if wrong.end else 1):  # also after the camera was opened again
                    until_failed(run, wrong.reason)
                if wrong.end:
                    wrong.end(device)
                run.until(good_again)
                verdicts, alarms = run.received.verdicts[verdicts_before:], run.received.alarms[alarms_before:]
                expected = [(wrong.alarm, True), (wrong.alarm, False)] if wrong.alarm else []
                assert [(alarm.alarm, alarm.active) for alarm in alarms] == expected, name
                bad = [n for n, event in enumerate(verdicts) if event.reason == f"failed.{wrong.reason}"]
                assert {event.verdict for event in verdicts[bad[0] : bad[-1] + 1]} == {"NO_VERDICT"}, name
            received = run.end()
    assert_every_frame_has_its_event(received, ["cam"])


# RTSP.


def test_an_rtsp_server_that_hangs_or_dies_is_dead_and_opened_again(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    pytest.importorskip("av", reason="av is not installed")
    with rtsp_server() as server:
        camera = {"kind": "rtsp", "url": server.url("raw"), "frozen_after_frames": 0, "open_within_s": WITHIN_SECONDS}
        line = write_line_with(tmp_path, bundle.path, address, {"cam": {**camera, **PATIENT, "read_within_s": 2.0}})
        with running(line, address) as run:
            run.until_inspected()
            server.freeze()
            hung = died(run)
            server.freeze(False)
            hung_over = came_back(run)
            run.until_inspected()
            server.kill()
            killed = died(run)
            server.start()
            killed_over = came_back(run)
            run.until_inspected()
            received = run.end()
    assert_every_frame_has_its_event(received, ["cam"])
    assert received.alarms == [hung, hung_over, killed, killed_over]
    assert (hung.alarm, killed.alarm) == ("broken", "broken")
