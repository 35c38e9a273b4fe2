"""Cameras of a real line, with real devices: faults, parts, deadlines. The line reports each fault, survives it, gives
no part another part's verdict, and inspects again."""

import itertools
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.client import Commander
from heatline.edge.errors import CommandRefusedError
from heatline.edge.wire.commands import Triggered
from heatline.edge.wire.events import AlarmEvent, StatusEvent, VerdictEvent
from tests.command import WITHIN_SECONDS
from tests.edge import lines
from tests.edge.gv_cameras import AravisCamera, aravis_camera
from tests.edge.lines import RunningLine, children, running, write_line_with
from tests.edge.rtsp_server import rtsp_server
from tests.small_bundle import TILE, answer

PATIENT = {"silent_after_periods": 500}
"""20 s at 25 frames per second: a busy machine may pause without an alarm."""
SILENT = {"silent_after_periods": 50}
"""2 s, for tests in which a camera must become silent."""
PATTERN = {"kind": "pattern", "draw_size": [TILE, TILE], "rate_fps": 25, **PATIENT}


def grey(value: int) -> NDArray[np.uint8]:
    return np.full((TILE, TILE), value, np.uint8)


WHITES = [grey(value) for value in (255, 254, 253)]
"""Three different pictures that are all GOOD."""


def genicam(device: AravisCamera, **keys: object) -> dict[str, object]:
    return {"kind": "genicam", "address": device.address, **PATIENT, **keys}


def rtsp(url: str) -> dict[str, object]:
    limits = {"frozen_after_frames": 0, "open_within_s": WITHIN_SECONDS, "read_within_s": 2.0}
    return {"kind": "rtsp", "url": url, **limits, **PATIENT}


def until_alarms(run: RunningLine, active: bool, **expected: str) -> list[AlarmEvent]:
    """Wait for one alarm of each of these cameras, in any order."""
    alarms = [run.next_of(AlarmEvent) for _ in expected]
    found = {alarm.camera: (alarm.alarm, alarm.active) for alarm in alarms}
    assert found == {camera: (reason, active) for camera, reason in expected.items()}
    return alarms


def resources(pid: int) -> tuple[int, int, int, int]:
    """Return the numbers of a process's descriptors, threads, children, and memories of camera processes."""
    process = Path(f"/proc/{pid}")
    memories = (process / "maps").read_text().count("memfd:heatline-frames")
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir())), len(children(pid)), memories


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.long)])
def test_a_killed_or_hanging_process_of_any_camera_is_replaced_without_leftovers(
    tmp_path: Path, bundle: Bundle, address: str, rounds: int
) -> None:
    pytest.importorskip("av", reason="av is not installed")
    pictures = lines.write_pictures(tmp_path / "f", {f"{n}.png": white for n, white in enumerate(WHITES)})
    with aravis_camera(pictures=WHITES) as device, rtsp_server() as server:
        cameras = {
            "drawn": PATTERN,
            "folder": {"kind": "folder", "path": str(pictures), "rate_fps": 10, "loop": True},
            "gige": genicam(device),
            "network": rtsp(server.url("raw")),
        }
        with running(write_line_with(tmp_path, bundle.path, address, cameras), address) as run:
            for camera in cameras:
                run.until_inspected(camera)
            before = resources(run.process.pid)
            for killed in [[*cameras], ["drawn"], ["drawn"]] * rounds:
                for pid in [run.child(f"\0{camera}\0") for camera in killed]:
                    os.kill(pid, signal.SIGKILL)
                # One may be back as another's is noticed.
                alarms = [run.next_of(AlarmEvent) for _ in range(2 * len(killed))]
                for camera in killed:
                    begin, end = (alarm for alarm in alarms if alarm.camera == camera)
                    assert (begin.alarm, begin.active, end.alarm, end.active) == ("process", True, "process", False)
                    assert "SIGKILL" in begin.detail
                for camera in killed * 2:  # each process begins with the same picture: a third would be frozen
                    run.until_inspected(camera)
            os.kill(run.child("\0drawn\0"), signal.SIGSTOP)
            until_alarms(run, True, drawn="unresponsive")
            until_alarms(run, False, drawn="unresponsive")
            # The last frames of each camera's two previous processes may still be referenced.
            most = (*before[:3], before[3] + 2 * len(cameras) - (3 if rounds == 1 else 0))
            run.until(lambda _: all(now <= top for now, top in zip(resources(run.process.pid), most, strict=True)))
            received = run.end(cameras)
    assert received.last.cameras["drawn"].openings == 3 * rounds + 2


@pytest.mark.parametrize("frames", [10, pytest.param(200, marks=pytest.mark.long)])
def test_devices_that_hang_or_die_stop_no_other(tmp_path: Path, bundle: Bundle, address: str, frames: int) -> None:
    """Closing a missing device takes seconds: if the line waited, frames of the other camera would be lost. `frames`:
    number of frames of the other camera during each absence."""
    pytest.importorskip("av", reason="av is not installed")
    with aravis_camera(pictures=WHITES) as device, rtsp_server() as server:
        device.kill()
        lives = {**PATTERN, "rate_fps": 10, "waiting_frames": 64}
        cameras = {"gige": genicam(device, **SILENT), "network": rtsp(server.url("raw")), "lives": lives}
        with running(write_line_with(tmp_path, bundle.path, address, cameras), address) as run:
            until_alarms(run, True, gige="open")
            device.start()
            until_alarms(run, False, gige="open")
            assert run.until_inspected("gige").verdict == "GOOD"
            run.until_inspected("network")
            device.kill()
            server.freeze()
            begins = until_alarms(run, True, gige="silent", network="broken")
            for _ in range(frames):
                run.until_inspected("lives")
            device.start()
            server.freeze(False)
            ends = until_alarms(run, False, gige="silent", network="broken")
            assert {alarm.began_at_ns for alarm in ends} == {alarm.began_at_ns for alarm in begins}
            server.kill()
            until_alarms(run, True, network="broken")
            server.start()
            until_alarms(run, False, network="broken")
            run.until_inspected("network")
            received = run.end(cameras)
    assert received.refusals("lives") == []


@pytest.mark.parametrize("reason", ["frozen", "frame_ids"])
def test_wrong_frames_raise_one_alarm_and_are_never_judged(
    tmp_path: Path, bundle: Bundle, address: str, reason: str
) -> None:
    with aravis_camera(pictures=WHITES) as device:
        camera = genicam(device, frozen_after_frames=5, waiting_frames=16)
        with running(write_line_with(tmp_path, bundle.path, address, {"cam": camera}), address) as run:
            run.until_inspected()
            if reason == "frozen":
                device.tell("freeze", frozen=True)
            else:
                device.tell("leave_out", frames=40_000)
            for _ in range(3 if reason == "frozen" else 1):  # also after the camera was opened again
                run.until(lambda event: isinstance(event, VerdictEvent) and event.reason == f"failed.{reason}")
            device.tell("freeze", frozen=False)
            run.until(lambda event: isinstance(event, AlarmEvent) and not event.active)
            assert run.until_inspected().verdict == "GOOD"
            received = run.end(["cam"])
    assert [(alarm.alarm, alarm.active) for alarm in received.alarms] == [(reason, True), (reason, False)]
    bad = [at for at, event in enumerate(received.verdicts) if event.reason == f"failed.{reason}"]
    assert {event.verdict for event in received.verdicts[bad[0] : bad[-1] + 1]} == {"NO_VERDICT"}


LOST = 4
"""The number of the part whose frame is lost: all after it could be shifted."""
TOO_LATE = "too late"


def triggered(line: Commander, camera: str, part: str) -> Triggered | str:
    """Trigger the frame of a part; return the reply, or the reason of its refusal."""
    try:
        reply = line.trigger(camera, part)
    except CommandRefusedError as refused:
        # A busy machine that cannot send a trigger at once does not send it.
        return TOO_LATE if "in time" in str(refused) else refused.reason
    assert reply.part_id == part
    return reply


@pytest.mark.parametrize("count", [12, pytest.param(110, marks=pytest.mark.long)])
def test_each_part_has_the_verdict_on_its_own_pixels_and_a_lost_frame_costs_only_its_own_part(
    tmp_path: Path, bundle: Bundle, address: str, count: int
) -> None:
    """The picture changes from part to part, and all packets of one of them are lost."""
    replies, commands = dict[str, Triggered | str](), f"ipc://{tmp_path}/commands"
    with aravis_camera(pictures=[grey(255)]) as device:
        device.tell("trigger_rate", rate_fps=200.0)
        device.tell("leave_out", frames=128)  # from its first id on, so that the ids wrap among these parts
        triggers = {"trigger": "software", "trigger_timeout_ms": 1500, "on_overload": "block"}
        camera = {"kind": "genicam", "address": device.address, **triggers}
        tables = f'heatmaps = "never"\n\n[commands]\nbind = "{commands}"'
        with running(write_line_with(tmp_path, bundle.path, address, {"top": camera}, tables), address) as run:
            run.next()
            with Commander(commands, timeout_s=WITHIN_SECONDS) as commander:
                for number, part in enumerate((f"P{n}" for n in range(1, count + 1)), start=1):
                    device.tell("lose_packets", ratio=1.0 if number == LOST else 0.0)
                    device.show([grey(255 - 2 * number)])
                    replies[part] = triggered(commander, "top", part)
            received = run.end(["top"])
    events = received.verdicts
    assert [event.part_id for event in events] == list(replies), "each part has one event, and they are in order"
    for number, event in enumerate(events, start=1):
        reply = replies[str(event.part_id)]
        if number == LOST:
            assert (event.verdict, event.reason, reply) == ("NO_VERDICT", "dropped.no_frame", "no_frame")
        elif reply != TOO_LATE:
            assert isinstance(reply, Triggered), f"{event.part_id}: {reply}"
            assert (reply.frame_id, reply.frame_number) == (event.frame_id, event.frame_number)
            tile = np.full((1, TILE, TILE, 3), 255 - 2 * number, np.uint8)
            assert event.frame_score == pytest.approx(float(answer(tile)[0][0]), abs=1e-3), event.part_id
    assert received.last.ledger["top"].captured == count, "every trigger is accounted for, and nothing else"
    assert {65535, 1} <= {event.frame_id for event in events}
    assert received.alarms == []


def test_a_late_verdict_becomes_no_verdict_at_the_deadline(tmp_path: Path, bundle: Bundle, address: str) -> None:
    drawn, commands = {"kind": "pattern", "draw_size": [270, 270]}, f"ipc://{tmp_path}/commands"
    cameras = {
        "late": {**drawn, "draw_size": [260, 260], "rate_fps": 8, "frames": 2, "deadline_ms": 2},
        "in_time": {**drawn, "draw_size": [230, 230], "frames": 1, "deadline_ms": 600_000},
        "parts": {**drawn, "trigger": "software", "deadline_ms": 20},  # 2,209 tiles take longer on any PC
    }
    tables = f'heatmaps = "never"\n\n[tiles]\noverlap_px = 223\n\n[commands]\nbind = "{commands}"'
    line = write_line_with(tmp_path, bundle.path, address, cameras, tables)
    with running(line, address) as run, Commander(commands, timeout_s=WITHIN_SECONDS) as commander:
        run.next()
        give_up, parts, reply = time.monotonic() + WITHIN_SECONDS, itertools.count(), "busy"
        while isinstance(reply, str):  # a busy machine that cannot take a frame by the deadline refuses
            assert time.monotonic() < give_up, reply
            reply = triggered(commander, "parts", f"P{next(parts)}")
        run.until(lambda event: isinstance(event, VerdictEvent) and event.part_id == reply.part_id)
        run.until(lambda event: isinstance(event, StatusEvent) and event.ledger["in_time"].inspected == 1)
        received = run.end(cameras)
    assert received.last.ledger["late"].dropped == {"deadline": 2}
    (of_part,) = [event for event in received.of("parts") if event.part_id == reply.part_id]
    for event in [*received.of("late"), of_part]:
        assert (event.verdict, event.reason, event.frame_score) == ("NO_VERDICT", "dropped.deadline", None)
    assert (of_part.frame_id, of_part.frame_number) == (reply.frame_id, reply.frame_number)
    assert {event.verdict for event in received.of("parts")} == {"NO_VERDICT"}
    assert all(event.latency_ms >= 2 for event in received.of("late"))
