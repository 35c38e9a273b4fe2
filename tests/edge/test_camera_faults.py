"""What goes wrong with cameras, with the real part each time: the line says so, lives, and inspects again afterwards.

Detection and recovery times are told as properties of the tests, and never asserted: they are the machine's as well.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edge.bundle import Bundle, GoldenTiles, write_bundle
from edge.delivery.commander import Commander
from edge.delivery.messages import AlarmEvent, StatusEvent, VerdictEvent
from edge.errors import CommandRefusedError
from edge.inference.engine import ONNX_GRAPH
from export.openvino_ir import to_openvino
from tests.command import WITHIN_SECONDS
from tests.edge import rtsp_server as rtsp
from tests.edge.gv_cameras import AravisCamera, aravis_camera, cable, next_frame_id
from tests.edge.lines import (
    RunningLine,
    assert_every_frame_has_its_event,
    children,
    running,
    write_line,
    write_line_with,
    write_pictures,
)
from tests.small_bundle import GOLDEN, TILE, answer, dark_square, graph, manifest, white_frame

Tell = Callable[[str, int, int], None]
"""Takes what took how long, from when to when, ns UTC."""


@pytest.fixture
def took(record_property: Callable[[str, object], None]) -> Tell:
    def tell(what: str, began_ns: int, over_ns: int) -> None:
        seconds = f"{(over_ns - began_ns) / 1e9:.2f} s"
        record_property(what, seconds)
        print(f"{what}: {seconds}")

    return tell


def whites(hw: tuple[int, int] = (TILE, TILE)) -> list[NDArray[np.uint8]]:
    """Three pictures that differ and are all GOOD."""
    return [np.full(hw, value, np.uint8) for value in (255, 254, 253)]


def score(picture: NDArray[np.uint8] | NDArray[np.uint16]) -> float:
    """What the small bundle gives an even picture."""
    return float(answer(np.full((1, TILE, TILE, 3), picture.flat[0], np.uint8))[0][0])


def died(run: RunningLine) -> AlarmEvent:
    alarm = run.next_alarm()
    assert alarm.active, alarm
    return alarm


def came_back(run: RunningLine) -> AlarmEvent:
    alarm = run.next_alarm()
    assert not alarm.active, alarm
    return alarm


PATIENT = {"silent_after_periods": 50}
"""A busy machine may well stand still for the half a second after which a camera of 25 frames a second is silent."""
PATTERN = {"kind": "pattern", "draw_size": [224, 224], "rate_fps": 25, **PATIENT}


def genicam(device: AravisCamera, **keys: object) -> dict[str, object]:
    return {"kind": "genicam", "address": device.address, **PATIENT, **keys}


def child_of(run: RunningLine) -> int:
    """The process of its only camera."""
    (child,) = children(run.process.pid)
    return child


def numbers(events: list[VerdictEvent], reason: str) -> list[int]:
    return [event.frame_number for event in events if event.reason == reason]


def inspected_between(events: list[VerdictEvent], reason: str) -> list[VerdictEvent]:
    """Frames that were judged between the first and the last that failed for this reason."""
    first, *_, last = numbers(events, reason)
    return [event for event in events if first < event.frame_number < last and event.verdict != "NO_VERDICT"]


# The camera's process.


def test_a_camera_process_that_is_killed_is_started_again(
    tmp_path: Path, bundle: Bundle, address: str, took: Tell
) -> None:
    line = write_line_with(tmp_path, bundle.path, address, {"cam": PATTERN})
    with running(line, address) as run:
        run.until_inspected()
        killed_ns = time.time_ns()
        os.kill(child_of(run), signal.SIGKILL)
        alarm = died(run)
        over = came_back(run)
        run.until_inspected()
        heard = run.end()
    took("detected", killed_ns, alarm.at_ns)
    took("recovered", killed_ns, over.at_ns)
    assert_every_frame_has_its_event(heard, ["cam"])
    assert alarm.alarm == "process"
    assert "SIGKILL" in alarm.detail
    assert heard.alarms == [alarm, over]


@pytest.mark.long
@pytest.mark.parametrize(
    ("keys", "reason"),
    [({"silent_after_periods": 20}, "silent"), ({"silent_after_periods": 200}, "unresponsive")],
    ids=["by its silence", "by asking"],
)
def test_a_camera_process_that_hangs_is_killed_and_started_again(
    tmp_path: Path, bundle: Bundle, address: str, took: Tell, keys: dict[str, object], reason: str
) -> None:
    """A fast camera gives itself away by its silence; of one that may be silent, the process is asked."""
    line = write_line_with(tmp_path, bundle.path, address, {"cam": {**PATTERN, **keys}})
    with running(line, address) as run:
        run.until_inspected()
        child = child_of(run)
        hung_ns = time.time_ns()
        os.kill(child, signal.SIGSTOP)
        alarm = died(run)
        over = came_back(run)
        assert child_of(run) != child
        run.until_inspected()
        heard = run.end()
    took("detected", hung_ns, alarm.at_ns)
    took("recovered", hung_ns, over.at_ns)
    assert_every_frame_has_its_event(heard, ["cam"])
    assert alarm.alarm == reason
    assert heard.alarms == [alarm, over]


def resources(pid: int) -> dict[str, int]:
    """What a process holds."""
    process = Path(f"/proc/{pid}")
    return {
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
        "children": len(children(pid)),
        "shared memories": (process / "maps").read_text().count("memfd:heatline-frames"),
    }


@pytest.mark.long
def test_twenty_deaths_leave_nothing_behind(tmp_path: Path, bundle: Bundle, address: str) -> None:
    line = write_line_with(tmp_path, bundle.path, address, {"cam": PATTERN})
    with running(line, address) as run:
        run.until_inspected()
        after_the_first: dict[str, int] = {}
        for _ in range(20):
            os.kill(child_of(run), signal.SIGKILL)
            died(run)
            came_back(run)
            run.until_inspected()
            run.until_inspected()  # each begins with the same picture: these alone, one after the other, were frozen
            after_the_first = after_the_first or at_rest(run)
        assert at_rest(run) == after_the_first
        heard = run.end()
    assert_every_frame_has_its_event(heard, ["cam"])
    assert len(heard.alarms) == 40
    assert heard.last.cameras["cam"].openings == 21


def at_rest(run: RunningLine) -> dict[str, int]:
    """What the service holds once the last frame is gone that lay in the memory of the process before."""
    give_up = time.monotonic() + WITHIN_SECONDS
    while (held := resources(run.process.pid))["shared memories"] > 1 and time.monotonic() < give_up:
        run.until_inspected()
    return held


# GigE Vision: the device and its cable.


@pytest.mark.long
def test_a_gige_device_that_loses_its_power_is_opened_again_once_it_is_back(
    tmp_path: Path, bundle: Bundle, address: str, took: Tell
) -> None:
    with aravis_camera(pictures=whites()) as device:
        line = write_line_with(tmp_path, bundle.path, address, {"cam": genicam(device, silent_after_periods=20)})
        with running(line, address) as run:
            run.until_inspected()
            killed_ns = time.time_ns()
            device.kill()
            alarm = died(run)
            back_ns = time.time_ns()
            device.start()
            over = came_back(run)
            assert run.until_inspected().verdict == "GOOD"
            heard = run.end()
    took("detected", killed_ns, alarm.at_ns)
    took("recovered", back_ns, over.at_ns)
    assert_every_frame_has_its_event(heard, ["cam"])
    assert alarm.alarm == "silent"
    assert heard.alarms == [alarm, over]


@pytest.mark.long
def test_a_line_starts_without_a_camera_that_is_not_there_and_inspects_once_it_comes(
    tmp_path: Path, bundle: Bundle, address: str, took: Tell
) -> None:
    with aravis_camera(pictures=whites()) as device:
        device.kill()
        cameras = {"late": genicam(device), "there": PATTERN}
        line = write_line_with(tmp_path, bundle.path, address, cameras)
        started_ns = time.time_ns()
        with running(line, address) as run:
            first = run.next()
            took("started", started_ns, time.time_ns())
            alarm = first if isinstance(first, AlarmEvent) else died(run)
            run.until_inspected("there")
            here_ns = time.time_ns()
            device.start()
            over = came_back(run)
            assert run.until_inspected("late").verdict == "GOOD"
            heard = run.end()
    took("recovered", here_ns, over.at_ns)
    assert_every_frame_has_its_event(heard, ["late", "there"])
    assert (alarm.camera, alarm.alarm) == ("late", "open")
    assert heard.alarms == [alarm, over]


@pytest.mark.long
def test_a_triggered_camera_that_waits_is_idle_and_one_that_answers_no_more_is_dead(
    tmp_path: Path, bundle: Bundle, address: str, took: Tell
) -> None:
    commands = f"ipc://{tmp_path}/commands"
    with aravis_camera(pictures=whites()) as device:
        camera = genicam(device, trigger="software", trigger_timeout_ms=3000)
        line = write_line_with(tmp_path, bundle.path, address, {"cam": camera}, f'[commands]\nbind = "{commands}"')
        with running(line, address) as run, Commander(commands, timeout_s=WITHIN_SECONDS) as asking:
            run.next()
            asking.trigger("cam", "first")
            for _ in range(4):
                run.until(lambda event: isinstance(event, StatusEvent) and event.cameras["cam"].state == "IDLE")
            assert run.heard.alarms == []
            killed_ns = time.time_ns()
            device.kill()
            alarm = died(run)
            with pytest.raises(CommandRefusedError) as refused:
                asking.trigger("cam", "in vain")
            back_ns = time.time_ns()
            device.start()
            over = came_back(run)
            asking.trigger("cam", "last")
            heard = run.end()
    took("detected", killed_ns, alarm.at_ns)
    took("recovered", back_ns, over.at_ns)
    assert_every_frame_has_its_event(heard, ["cam"])
    assert alarm.alarm == "unreachable"
    assert heard.alarms == [alarm, over]
    assert refused.value.reason == "camera_dead"
    assert [(event.part_id, event.reason or event.verdict) for event in heard.verdicts] == [
        ("first", "GOOD"), ("in vain", "dropped.no_frame"), ("last", "GOOD")
    ]  # fmt: skip


@pytest.mark.long
def test_a_pulled_cable_silences_the_camera_until_it_is_plugged_in_again(
    tmp_path: Path, bundle: Bundle, address: str, took: Tell
) -> None:
    with cable() as wire, aravis_camera(wire.address, whites(), netns=wire.netns) as device:
        line = write_line_with(tmp_path, bundle.path, address, {"cam": genicam(device)})
        with running(line, address) as run:
            run.until_inspected()
            pulled_ns = time.time_ns()
            wire.pull()
            alarm = died(run)
            plugged_ns = time.time_ns()
            wire.plug()
            over = came_back(run)
            assert run.until_inspected().verdict == "GOOD"
            heard = run.end()
    took("detected", pulled_ns, alarm.at_ns)
    took("recovered", plugged_ns, over.at_ns)
    assert_every_frame_has_its_event(heard, ["cam"])
    assert alarm.alarm == "silent"
    assert heard.alarms == [alarm, over]


@pytest.mark.long
def test_of_a_cable_that_loses_packets_each_damaged_frame_is_told_and_every_other_is_inspected(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    with cable() as wire, aravis_camera(wire.address, whites((300, 300)), rate_fps=50, netns=wire.netns) as device:
        camera = genicam(device, on_overload="block", buffers=128)  # nothing is to be lost but on the cable
        line = write_line_with(tmp_path, bundle.path, address, {"cam": camera})
        with running(line, address) as run:
            run.until_inspected()
            wire.lose(0.002)
            for _ in range(8):
                run.until(lambda event: isinstance(event, VerdictEvent) and event.reason == "failed.incomplete")
            wire.lose(0)
            counted = run.until(
                lambda event: (
                    isinstance(event, StatusEvent)
                    and event.cameras["cam"].counters.get("failures") == event.ledger["cam"].failed.get("incomplete")
                )
            )
            heard = run.end()
    assert_every_frame_has_its_event(heard, ["cam"])
    assert heard.alarms == []
    assert set(heard.last.ledger["cam"].failed) == {"incomplete"}
    assert set(heard.last.ledger["cam"].dropped) <= {"stopped"}
    expected = heard.verdicts[0].frame_id
    for event in heard.verdicts:
        assert event.frame_id == expected is not None, f"{event} came where {expected} was to come"
        expected = next_frame_id(event.last_frame_id or expected)
        if event.reason is None:
            assert event.verdict == "GOOD"
            assert event.frame_score == pytest.approx(score(device.picture(event.frame_id)), abs=1e-3)
    lost = sum(event.frames for event in heard.verdicts if event.reason == "failed.incomplete")
    assert lost == counted.cameras["cam"].counters["failures"]


@pytest.mark.long
def test_a_camera_that_dies_delays_no_frame_of_another(
    tmp_path: Path, bundle: Bundle, address: str, took: Tell
) -> None:
    """To let go of a device that is gone takes five seconds and more, and so does to find that it is still gone."""
    with aravis_camera(pictures=whites()) as device:
        # It waits for no overload of this machine: only a frame that was held up for seconds could be lost.
        healthy = {**PATTERN, "rate_fps": 20, "waiting_frames": 40}
        line = write_line_with(tmp_path, bundle.path, address, {"dies": genicam(device), "lives": healthy})
        with running(line, address) as run:
            run.until_inspected("dies")
            device.kill()
            alarm = died(run)
            until_ns = alarm.at_ns + 8 * 10**9
            run.until(lambda event: isinstance(event, VerdictEvent) and event.times.captured_at_ns > until_ns)
            device.start()
            over = came_back(run)
            run.until_inspected("dies")
            heard = run.end()
    assert_every_frame_has_its_event(heard, ["dies", "lives"])
    assert heard.alarms == [alarm, over]
    lives = heard.of("lives")
    assert all(event.verdict != "NO_VERDICT" for event in lives if event.reason != "dropped.stopped")
    longest_gap_s = max(np.diff([event.times.captured_monotonic_ns for event in lives])) / 1e9
    longest_latency_s = max(event.latency_ms for event in lives) / 1e3
    took("longest gap", 0, round(longest_gap_s * 1e9))
    took("longest latency", 0, round(longest_latency_s * 1e9))
    assert longest_gap_s < 1.5
    assert longest_latency_s < 1.5


# What a camera sends.


@pytest.mark.long
def test_a_frozen_picture_is_judged_no_more_and_told_once(
    tmp_path: Path, bundle: Bundle, address: str, took: Tell
) -> None:
    with aravis_camera(pictures=whites()) as device:
        line = write_line_with(
            tmp_path, bundle.path, address, {"cam": genicam(device, frozen_after_frames=5, waiting_frames=16)}
        )
        with running(line, address) as run:
            run.until_inspected()
            frozen_ns = time.time_ns()
            device.freeze()
            alarm = died(run)
            for _ in range(3):  # it is opened again and again, and is still frozen
                run.until(lambda event: isinstance(event, VerdictEvent) and event.reason == "failed.frozen")
            thawed_ns = time.time_ns()
            device.freeze(False)
            over = came_back(run)
            assert run.until_inspected().verdict == "GOOD"
            heard = run.end()
    took("detected", frozen_ns, alarm.at_ns)
    took("recovered", thawed_ns, over.at_ns)
    assert_every_frame_has_its_event(heard, ["cam"])
    assert alarm.alarm == "frozen"
    assert heard.alarms == [alarm, over]
    assert inspected_between(heard.verdicts, "failed.frozen") == []
    first = numbers(heard.verdicts, "failed.frozen")[0]
    before = [event.frame_score for event in heard.verdicts if event.frame_number < first]
    assert len(set(before[-5:])) == 1, "as many frames as may be identical"
    assert before[-6] != before[-5]


@pytest.mark.long
def test_a_camera_that_begins_with_the_same_picture_each_time_is_not_frozen_for_ever(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    line = write_line_with(
        tmp_path, bundle.path, address, {"cam": {**PATTERN, "rate_fps": 1, "frozen_after_frames": 1}}
    )
    with running(line, address) as run:
        assert run.until_inspected().frame_id == 1
        os.kill(child_of(run), signal.SIGKILL)

        def moved_on_or_never_will(event: VerdictEvent | StatusEvent | AlarmEvent) -> bool:
            if isinstance(event, StatusEvent):
                return event.cameras["cam"].openings > 5
            return isinstance(event, VerdictEvent) and event.verdict != "NO_VERDICT"

        run.until(moved_on_or_never_will)
        heard = run.end()
    assert_every_frame_has_its_event(heard, ["cam"])
    assert heard.verdicts[0].frame_id == 1
    assert next(event.frame_id for event in heard.verdicts[1:] if event.verdict != "NO_VERDICT") == 2


@pytest.mark.long
def test_a_camera_whose_clock_runs_back_is_opened_again(
    tmp_path: Path, bundle: Bundle, address: str, took: Tell
) -> None:
    with aravis_camera(pictures=whites()) as device:
        line = write_line_with(tmp_path, bundle.path, address, {"cam": genicam(device)})
        with running(line, address) as run:
            run.until_inspected()
            turned_ns = time.time_ns()
            device.turn_clock_back(2.0)
            alarm = died(run)
            over = came_back(run)
            assert run.until_inspected().verdict == "GOOD"
            heard = run.end()
    took("detected", turned_ns, alarm.at_ns)
    took("recovered", turned_ns, over.at_ns)
    assert_every_frame_has_its_event(heard, ["cam"])
    assert alarm.alarm == "clock"
    assert "ran back by" in alarm.detail
    assert heard.alarms == [alarm, over]
    assert len(numbers(heard.verdicts, "failed.clock")) >= 1


@pytest.mark.long
def test_a_clock_that_stands_still_is_told_once_and_nothing_is_judged_by_it(
    tmp_path: Path, bundle: Bundle, address: str, took: Tell
) -> None:
    with aravis_camera(pictures=whites()) as device:
        line = write_line_with(tmp_path, bundle.path, address, {"cam": genicam(device)})
        with running(line, address) as run:
            run.until_inspected()
            stopped_ns = time.time_ns()
            device.stop_clock()
            alarm = died(run)
            for _ in range(3):
                run.until(lambda event: isinstance(event, VerdictEvent) and event.reason == "failed.clock")
            goes_ns = time.time_ns()
            device.stop_clock(False)
            over = came_back(run)
            assert run.until_inspected().verdict == "GOOD"
            heard = run.end()
    took("detected", stopped_ns, alarm.at_ns)
    took("recovered", goes_ns, over.at_ns)
    assert_every_frame_has_its_event(heard, ["cam"])
    assert alarm.alarm == "clock"
    assert "stood still" in alarm.detail
    assert heard.alarms == [alarm, over]
    assert inspected_between(heard.verdicts, "failed.clock") == []


@pytest.mark.long
def test_frames_that_arrive_long_after_they_were_taken_are_not_judged(
    tmp_path: Path, bundle: Bundle, address: str, took: Tell
) -> None:
    """As if a buffer on the way had filled: by the camera's clock, frames were taken much earlier than they arrive."""
    with aravis_camera(pictures=whites(), rate_fps=1) as device:
        line = write_line_with(tmp_path, bundle.path, address, {"cam": genicam(device, stale_after_ms=500)})
        with running(line, address) as run:
            run.until_inspected()
            run.until_inspected()
            late_ns = time.time_ns()
            device.turn_clock_back(0.9)
            alarm = died(run)
            over = came_back(run)
            assert run.until_inspected().verdict == "GOOD"
            heard = run.end()
    took("detected", late_ns, alarm.at_ns)
    took("recovered", late_ns, over.at_ns)
    assert_every_frame_has_its_event(heard, ["cam"])
    assert alarm.alarm == "stale"
    assert heard.alarms == [alarm, over]
    assert len(numbers(heard.verdicts, "failed.stale")) >= 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("changed_to", "reason", "opened_anew"),
    [
        ((200, 200, None), "failed.wrong_size", False),
        ((300, 280, None), "failed.wrong_size", True),
        ((224, 224, "BayerRG8"), "failed.wrong_colour", False),
        ((224, 224, "RGB8"), "failed.wrong_colour", True),
    ],
    ids=["smaller", "larger", "another colour", "more bytes"],
)
def test_frames_of_another_size_or_colour_are_never_judged_and_the_line_lives(
    tmp_path: Path,
    bundle: Bundle,
    address: str,
    took: Tell,
    changed_to: tuple[int, int, str | None],
    reason: str,
    opened_anew: bool,
) -> None:
    """A frame that outgrows its buffer shows that the camera was set anew, and it is opened anew."""
    with aravis_camera(pictures=whites()) as device:
        line = write_line_with(tmp_path, bundle.path, address, {"cam": genicam(device)})
        with running(line, address) as run:
            run.until_inspected()
            changed_ns = time.time_ns()
            device.resize(*changed_to)
            told = run.until(lambda event: isinstance(event, VerdictEvent) and event.reason == reason)
            took("detected", changed_ns, told.times.captured_at_ns)
            for _ in range(5):
                run.until(lambda event: isinstance(event, VerdictEvent) and event.reason == reason)
            back_ns = time.time_ns()
            device.resize(224, 224, "Mono8")
            again = run.until_inspected()
            took("recovered", back_ns, again.times.captured_at_ns)
            heard = run.end()
    assert_every_frame_has_its_event(heard, ["cam"])
    bad = [event for event in heard.verdicts if event.reason in (reason, "failed.incomplete")]
    assert {event.reason for event in bad} == ({reason, "failed.incomplete"} if opened_anew else {reason})
    first, last = bad[0].frame_number, bad[-1].frame_number
    assert [event for event in heard.verdicts if first < event.frame_number < last] == bad[1:-1], "none was judged"
    assert again.verdict == "GOOD"
    assert [alarm.active for alarm in heard.alarms] == ([True, False] if opened_anew else [])
    assert {alarm.alarm for alarm in heard.alarms} <= {"broken"}


# RTSP.


@pytest.fixture
def rtsp_parts() -> None:
    pytest.importorskip("av", reason="av is not installed")
    if (reason := rtsp.missing()) is not None:
        pytest.skip(reason)


@pytest.mark.long
@pytest.mark.usefixtures("rtsp_parts")
def test_an_rtsp_server_that_hangs_and_one_that_dies_are_found_dead_and_opened_again(
    tmp_path: Path, bundle: Bundle, address: str, took: Tell
) -> None:
    with contextlib.ExitStack() as servers:
        server = servers.enter_context(rtsp.rtsp_server())
        camera = {"kind": "rtsp", "url": server.url("raw"), "frozen_after_frames": 0, **PATIENT}
        line = write_line_with(tmp_path, bundle.path, address, {"cam": camera})
        with running(line, address) as run:
            run.until_inspected()
            hung_ns = time.time_ns()
            server.freeze()
            hung = died(run)
            goes_ns = time.time_ns()
            server._process.send_signal(signal.SIGCONT)
            went = came_back(run)
            run.until_inspected()
            killed_ns = time.time_ns()
            server.kill()
            killed = died(run)
            back_ns = time.time_ns()
            servers.enter_context(rtsp.rtsp_server(server.port))
            back = came_back(run)
            run.until_inspected()
            heard = run.end()
    took("hang detected", hung_ns, hung.at_ns)
    took("hang recovered", goes_ns, went.at_ns)
    took("death detected", killed_ns, killed.at_ns)
    took("death recovered", back_ns, back.at_ns)
    assert_every_frame_has_its_event(heard, ["cam"])
    assert heard.alarms == [hung, went, killed, back]
    assert hung.alarm in ("silent", "broken")
    assert killed.alarm in ("silent", "broken")


# The engine.


@pytest.fixture(scope="module")
def brittle_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small bundle, with a graph that fails on any tile that has a black value.

    It takes the mean of its map as that of two halves of 7 rows, but, where a value is 0, of 8 and 7 rows, which is
    one too many.
    """
    model = onnx.load_from_string(graph())
    for name, value in {"one": [1], "eight": [8], "seven": [7]}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
    assert model.graph.node.pop().output == ["logit"]
    model.graph.node.extend(
        [
            helper.make_node("ReduceMin", ["float"], ["darkest"], keepdims=0),
            helper.make_node("Cast", ["darkest"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Min", ["whole", "one"], ["is_bright"]),
            helper.make_node("Sub", ["eight", "is_bright"], ["first"]),
            helper.make_node("Concat", ["first", "seven"], ["lengths"], axis=0),
            helper.make_node("Split", ["map", "lengths"], ["upper", "lower"], axis=1),
            helper.make_node("ReduceMean", ["upper", "axes"], ["a"], keepdims=0),
            helper.make_node("ReduceMean", ["lower", "axes"], ["b"], keepdims=0),
            helper.make_node("Mean", ["a", "b"], ["logit"]),
        ]
    )
    onnx.checker.check_model(model, full_check=True)
    onnx_graph = bytes(model.SerializeToString())
    tiles = np.random.default_rng(6).integers(1, 256, (4, TILE, TILE, 3), np.uint8)
    files = {ONNX_GRAPH: onnx_graph, **to_openvino(onnx_graph), GOLDEN: GoldenTiles(tiles, *answer(tiles)).to_bytes()}
    return write_bundle(tmp_path_factory.mktemp("brittle") / "darkness", manifest(), files)


@pytest.mark.parametrize("kind", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.long)])
def test_a_frame_on_which_the_engine_fails_is_told_and_the_next_ones_are_inspected(
    tmp_path: Path, brittle_bundle: Bundle, address: str, kind: str
) -> None:
    good = white_frame((230, 300))
    defect = good.copy()
    defect[40:88, 60:108] = 1
    shown = [good, defect, dark_square(good, 40, 60), good, dark_square(good, 100, 200), defect, good]
    write_pictures(tmp_path / "frames", {f"{number}.png": frame for number, frame in enumerate(shown)})
    tables = f'[engine]\nkind = "{kind}"\nthreads = 1'
    line = write_line(tmp_path, brittle_bundle.path, address, {"cam": 'path = "frames"'}, tables)
    with running(line, address) as run:
        heard = run.until_stopped()
        assert run.exit_code() == 0
    assert_every_frame_has_its_event(heard, ["cam"])
    fails = "failed.engine"
    assert [event.reason or event.verdict for event in heard.verdicts] == [
        "GOOD", "DEFECT", fails, "GOOD", fails, "DEFECT", "GOOD"
    ]  # fmt: skip
    assert heard.alarms == []
