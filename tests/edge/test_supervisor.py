"""A supervised camera in its real process, which is killed, stopped and delayed: no announced frame is lost, and each
fault is reported once."""

import contextlib
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from heatline.edge.cameras import liveness, supervisor, triggering
from heatline.edge.cameras.base import EndOfFrames, Opened
from heatline.edge.cameras.settings import FolderSettings, PatternSettings
from heatline.edge.cameras.triggering import TriggerAnswer
from heatline.edge.errors import CameraError
from heatline.edge.frames import BadFrame, Frame, FrameRule, Stamp
from heatline.edge.inspection.inspector import Outcome, Setup
from heatline.edge.inspection.ledger import Lane, Ledger
from heatline.edge.inspection.pipeline import Camera as PipelineCamera
from heatline.edge.inspection.pipeline import Pipeline
from heatline.edge.service.line import command_handler
from heatline.edge.wire import commands
from heatline.edge.wire.events import Account
from heatline.edge.wire.requests import Refused
from tests.edge.supervised import (
    WITHIN_SECONDS,
    Watched,
    drawn_camera,
    give_time,
    in_thread,
    stop,
    until,
    wait_ns,
    watched,
)


@pytest.fixture(autouse=True)
def _give_time(monkeypatch: pytest.MonkeyPatch) -> None:
    give_time(monkeypatch)


LONG_MS = WITHIN_SECONDS * 1000
"""Time limit of a part whose frame must come."""
SHORT_MS = 400.0
"""Time limit of a part without a frame: a busy machine must deliver the others' frames in less."""
EAGER = {"rate_fps": None, "on_overload": "block"}
"""Settings of a camera that takes frames as fast as possible, and blocks for a slot."""


def part_camera(timeout_ms: float = LONG_MS, **keys: object) -> PatternSettings:
    return drawn_camera(trigger="software", trigger_timeout_ms=timeout_ms, **keys)


def kill(camera: Watched) -> None:
    os.kill(camera.pid, signal.SIGKILL)


def until_dead(camera: Watched) -> None:
    camera.until(lambda: bool(camera.alarms), "its death")


def until_back(camera: Watched) -> None:
    camera.until(lambda: len(camera.alarms) == 2, "its death and return")


# Opening.


def test_an_open_camera_is_live_or_idle_if_it_waits_for_triggers() -> None:
    for trigger, state in (("free", "LIVE"), ("software", "IDLE")):
        with watched(drawn_camera(trigger=trigger), opened=False) as camera:
            assert camera.camera.state().state == "OPENING"
            assert "12x5" in camera.camera.open().found
            assert (camera.camera.state().state, camera.camera.state().openings) == (state, 1)
            assert camera.alarms == []


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for n in range(1, count + 1):
        assert cv2.imwrite(str(folder / f"{n}.png"), np.full((4, 4), n, np.uint8))
    return folder


def test_a_missing_camera_is_reported_once_and_opened_when_it_appears(tmp_path: Path) -> None:
    with watched(FolderSettings(name="top", path=tmp_path / "f"), drawn=False, opened=False) as camera:
        with pytest.raises(CameraError, match=r"^camera top: .*is not a folder"):
            camera.camera.open()
        for _ in range(10):
            camera.grab()
        state = camera.camera.state()
        assert (state.state, state.reason, state.openings) == ("DEAD", "open", 0)
        assert camera.states == [("open", True)]
        pictures(tmp_path / "f", 3)
        camera.until_frames(3)
        assert camera.states == [("open", True), ("open", False)]
        assert camera.alarms[0].began_at_ns == camera.alarms[1].began_at_ns
        assert camera.camera.state().state == "LIVE"
        assert [seen.stamp.source for seen in camera.seen] == ["1.png", "2.png", "3.png"]


def test_a_process_that_takes_long_to_start_is_not_unresponsive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "HEALTH_WITHIN_SECONDS", 0.02)
    with watched(drawn_camera(), opened=False) as camera:
        found: list[Opened | None] = []
        thread = in_thread(lambda: found.append(camera.camera.open()))
        until(lambda: camera.camera._process is not None, "its start")
        pid = camera.pid
        stop(pid)
        wait_ns(time.monotonic_ns(), 0.1)
        assert thread.is_alive()
        monkeypatch.setattr(supervisor, "HEALTH_WITHIN_SECONDS", WITHIN_SECONDS)
        os.kill(pid, signal.SIGCONT)
        thread.join(WITHIN_SECONDS)
        assert camera.alarms == []
        assert len(found) == 1


# Frames and their account.


def test_frames_missing_by_id_are_reported_across_the_wrap() -> None:
    with watched(drawn_camera(**EAGER, frames=12, lose_frames=[3, 4, 5, 9], first_frame_id=65532)) as camera:
        camera.to_the_end()
        assert camera.ids() == [65532, 65533, 65534, 65535, 1, 2, 3, 4, 5, 6, 7, 8]
        assert [(b.stamp.frame_id, b.stamp.last_frame_id, b.stamp.frames, b.number) for b in camera.bad] == [
            (65534, 1, 3, 3),
            (5, None, 1, 9),
        ]
        assert {(bad.reason, bad.kind) for bad in camera.bad} == {("lost_by_camera", "dropped")}
        assert camera.camera.state().state == "ENDED"
        assert camera.alarms == []


def test_deadlines_count_from_the_capture_or_from_the_trigger() -> None:
    with watched(drawn_camera(deadline_ms=50)) as camera:
        camera.until_frames(1)
        stamp = camera.seen[0].stamp
        assert stamp.due_monotonic_ns == stamp.captured_monotonic_ns + 50_000_000
    with watched(part_camera(ignore_triggers=[2], deadline_ms=500)) as camera:
        before_ns = time.monotonic_ns()
        camera.triggered("P-1", "P-2")
        first, missed = camera.seen
        assert first.stamp.due_monotonic_ns is not None
        assert before_ns < first.stamp.due_monotonic_ns - 500_000_000 < first.stamp.captured_monotonic_ns
        assert missed.reason == "no_frame", "at the deadline, although trigger_timeout_ms is longer"
        assert missed.stamp.due_monotonic_ns is not None
        assert first.stamp.captured_monotonic_ns < missed.stamp.due_monotonic_ns - 500_000_000 < time.monotonic_ns()


# Death and return.


def test_a_killed_process_is_replaced_and_its_death_and_recovery_reported_once() -> None:
    with watched(drawn_camera(rate_fps=100, draw_size=(64, 48))) as camera:
        camera.until_frames(3)
        pid = camera.pid
        kill(camera)
        until_dead(camera)
        state = camera.camera.state()
        assert (state.state, state.reason) == ("DEAD", "process")
        assert "SIGKILL" in (state.detail or "")
        camera.until_frames(1)
        assert camera.states == [("process", True), ("process", False)]
        assert (camera.camera.state().state, camera.camera.state().openings) == ("LIVE", 2)
        assert camera.pid != pid
        assert [seen.number for seen in camera.seen] == list(range(1, len(camera.seen) + 1))
        assert all(seen.shows == seen.stamp.frame_id for seen in camera.frames)


def test_all_frames_that_a_killed_process_announced_are_accounted_for() -> None:
    with watched(drawn_camera(**EAGER, draw_size=(64, 48))) as camera:
        camera.until_frames(3)
        camera.until_unread(5)
        kill(camera)
        until_back(camera)
        assert camera.ids()[:8] == list(range(1, 9)), "three grabbed, and five that filled its slots"
        assert {seen.reason for seen in camera.bad} <= {"process"}


def test_the_end_of_an_alarm_has_the_reason_of_its_start(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "f", 3)
    with watched(FolderSettings(name="top", path=folder, loop=True, rate_fps=50), drawn=False) as camera:
        camera.until_frames(1)
        shutil.move(folder, tmp_path / "away")
        kill(camera)
        camera.until(lambda: "is not a folder" in (camera.camera.state().detail or ""), "an attempt in vain")
        shutil.move(tmp_path / "away", folder)
        until_back(camera)
        assert camera.states == [("process", True), ("process", False)]


def test_a_camera_that_starts_with_the_same_picture_recovers_from_frozen() -> None:
    with watched(part_camera(frozen_after_frames=1)) as camera:
        camera.triggered("P-1")
        kill(camera)
        until_back(camera)
        camera.triggered("P-2", "P-3")
        assert camera.parts == [("P-1", None, 1), ("P-2", "frozen", None), ("P-3", None, 2)]


# Triggers.


def test_a_camera_that_runs_freely_refuses_triggers() -> None:
    with watched(drawn_camera()) as camera:
        camera.trigger("P-1")
        assert camera.answer_to("P-1") == TriggerAnswer(refused="not_triggered", detail="camera top runs freely")


def test_a_trigger_while_another_waits_is_refused_and_its_part_reported() -> None:
    with watched(part_camera(SHORT_MS, ignore_triggers=[2])) as camera:
        camera.triggered("P-0")
        camera.trigger("P-1")
        assert camera.grab() is None, "sent, and ignored"
        camera.trigger("P-2")
        camera.until(lambda: camera.answered("P-1"))
        camera.triggered("P-3")
        assert camera.parts == [
            ("P-0", None, 1), ("P-2", "no_frame", None), ("P-1", "no_frame", None), ("P-3", None, 2)
        ]  # fmt: skip
        assert [camera.answer_to(f"P-{n}").refused for n in (1, 2)] == ["no_frame", "busy"]
        assert camera.answer_to("P-3") == TriggerAnswer(frame_id=2, frame_number=4)


def test_the_answer_to_a_trigger_has_the_ledgers_number_of_its_frame() -> None:
    with watched(part_camera(5_000.0, ignore_triggers=[2])) as camera:
        camera.triggered("P-1", "P-2", "P-3")
        numbers = [camera.answer_to(part_id).frame_number for part_id in ("P-1", "P-3")]
        assert numbers == [seen.number for seen in camera.seen if seen.reason is None] == [1, 3]


def test_frames_of_the_run_before_have_the_first_numbers() -> None:
    with watched(part_camera()) as camera:
        camera.camera.skip_numbers(5)
        camera.triggered("P-1")
        assert camera.answer_to("P-1") == TriggerAnswer(frame_id=1, frame_number=6)


def test_until_a_frame_has_come_in_time_the_next_trigger_waits_twice_as_long() -> None:
    """A camera slower than its timeout would always show each part under the next one's id."""
    with watched(part_camera(SHORT_MS, ignore_triggers=[1])) as camera:
        camera.triggered("P-1")
        given_up_ns = time.monotonic_ns()
        camera.triggered("P-2")
        wait_ns(given_up_ns, 1.2 * SHORT_MS / 1e3)
        camera.triggered("P-3")
        assert camera.parts == [("P-1", "no_frame", None), ("P-2", "no_frame", None), ("P-3", None, 1)]
        assert [camera.answer_to(f"P-{n}").refused for n in (1, 2, 3)] == ["no_frame", "busy", None]


def test_a_trigger_that_cannot_be_sent_at_once_is_not_sent_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with watched(part_camera()) as camera:
        with monkeypatch.context() as quick:
            quick.setattr(triggering, "FIRE_WITHIN_SECONDS", 0.1)
            camera.trigger("P-1")
            wait_ns(time.monotonic_ns(), 0.1)  # the line does not grab
            camera.until(lambda: len(camera.seen) == 1)
        camera.triggered("P-2")
        assert camera.parts == [("P-1", "no_frame", None), ("P-2", None, 1)], "nothing was fired before"
        assert camera.answer_to("P-1").refused == "busy"


def test_a_trigger_that_reaches_the_process_too_late_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(part_camera()) as camera:
        camera.triggered("P-1")
        stop(camera.pid)
        with monkeypatch.context() as quick:
            quick.setattr(triggering, "FIRE_WITHIN_SECONDS", 0.1)
            camera.trigger("late")
            requested_ns = time.monotonic_ns()
            camera.grab()  # sent, but not read
            wait_ns(requested_ns, 0.1)
        os.kill(camera.pid, signal.SIGCONT)
        camera.until(lambda: camera.answered("late"))
        camera.triggered("P-3")
        assert camera.parts == [("P-1", None, 1), ("late", "no_frame", None), ("P-3", None, 2)]


def test_a_dead_camera_refuses_a_trigger_and_the_part_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_SECONDS", 3600.0)
    monkeypatch.setattr(supervisor, "MAX_BACKOFF_SECONDS", 3600.0)
    with watched(part_camera()) as camera:
        kill(camera)
        until_dead(camera)
        camera.triggered("P-1", "P-2")
        assert camera.parts == [("P-1", "no_frame", None), ("P-2", "no_frame", None)]
        assert {(seen.kind, seen.stamp.frame_id) for seen in camera.seen} == {("dropped", None)}
        assert {camera.answer_to(part_id).refused for part_id in ("P-1", "P-2")} == {"camera_dead"}
        assert camera.states == [("process", True)]


def test_a_part_whose_camera_dies_is_reported_and_later_parts_do_not_shift() -> None:
    with watched(part_camera(ignore_triggers=[2])) as camera:
        camera.triggered("P-1")
        camera.trigger("P-2")
        assert camera.grab() is None, "the second is sent, and ignored"
        kill(camera)
        until_back(camera)
        camera.triggered("P-3")
        assert camera.parts == [("P-1", None, 1), ("P-2", "no_frame", None), ("P-3", None, 1)]
        assert camera.answer_to("P-2").refused in ("no_frame", "camera_dead"), "its trigger may come after the end"
        assert "the camera is dead" in camera.seen[1].detail
        assert camera.answer_to("P-3") == TriggerAnswer(frame_id=1, frame_number=3), "the ledger's number goes on"


def test_consecutive_triggers_without_a_frame_mean_a_dead_camera() -> None:
    with watched(part_camera(SHORT_MS, ignore_triggers=[2, 3, 4])) as camera:
        camera.triggered("P-1", "P-2", "P-3", "P-4")
        camera.until(lambda: camera.camera.state().openings == 2, "its opening")
        assert camera.states == [("silent", True)], "that it answers does not show that it takes pictures"
        assert camera.parts == [("P-1", None, 1), *((f"P-{n}", "no_frame", None) for n in range(2, 5))]
        camera.triggered("P-5")
        assert camera.states == [("silent", True), ("silent", False)]


class Edges(PatternSettings, frozen=True, kw_only=True, tag="pattern"):
    """A camera that takes a frame at every external edge, here of its own clock."""

    @property
    def triggered(self) -> Literal["hardware"]:
        return "hardware"


def edges(**keys: object) -> Edges:
    return Edges(**{"name": "top", "draw_size": (12, 5), "rate_fps": 20, "trigger_timeout_ms": LONG_MS} | keys)  # type: ignore[arg-type]


def announce(camera: Watched, part_id: str) -> int:
    """Announce a part; return a time after the announcement."""
    camera.trigger(part_id)
    camera.until(lambda: camera.answered(part_id))
    assert camera.answer_to(part_id) == TriggerAnswer()
    return time.monotonic_ns()


def test_a_part_of_a_hardware_trigger_is_shown_by_the_next_frame() -> None:
    with watched(edges()) as camera:
        for n in range(1, 4):
            camera.until_frames(1 + n % 2)
            before_ns = time.monotonic_ns()
            after_ns = announce(camera, f"P-{n}")
            camera.until(lambda: camera.seen[-1].stamp.part_id == f"P-{n}")  # noqa: B023
            before, shown = camera.seen[-2:]
            assert before_ns <= shown.stamp.captured_monotonic_ns
            assert before.stamp.captured_monotonic_ns < after_ns, "the frame before had been taken"
        assert sum(seen.stamp.part_id is not None for seen in camera.seen) == 3
        assert camera.bad == []


def test_a_part_announced_while_the_line_is_busy_is_shown_by_the_next_frame() -> None:
    with watched(edges()) as camera:
        camera.until_frames(1)
        camera.trigger("P-1")
        announced_ns = time.monotonic_ns()
        camera.until_unread(3)
        camera.until_frames(3)
        after = [seen for seen in camera.seen if seen.stamp.captured_monotonic_ns > announced_ns]
        assert [seen.stamp.part_id for seen in after] == ["P-1", *[None] * (len(after) - 1)]


def test_an_unknown_camera_is_refused_with_the_names_of_the_cameras() -> None:
    replies: list[commands.Reply] = []
    with watched(part_camera(), opened=False) as camera:
        handle = command_handler({"top": camera.camera}, lambda *_: pytest.fail("no product was asked for"))
        handle(commands.TriggerRequest(camera="side", part_id="P-0"), replies.append)
    (unknown,) = replies
    assert isinstance(unknown, Refused)
    assert (unknown.reason, unknown.detail) == ("unknown_camera", "there is no camera 'side'; expected one of top")


# A line that pauses.


def test_a_line_that_does_not_grab_for_a_while_does_not_make_its_camera_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(drawn_camera(rate_fps=200, on_overload="block")) as camera:
        camera.until_frames(5)
        camera.until_unread(5)
        with monkeypatch.context() as quick:
            quick.setattr(liveness, "MIN_SILENCE_SECONDS", 0.1)
            wait_ns(time.monotonic_ns(), 0.2)
            assert camera.grab() is not None
        camera.until_frames(10)
        assert camera.alarms == []
        assert camera.ids() == list(range(1, len(camera.ids()) + 1))
        assert camera.bad == []


def test_a_line_that_does_not_grab_for_a_while_does_not_make_its_camera_unresponsive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with watched(drawn_camera(**EAGER)) as camera:
        camera.until_frames(1)
        with monkeypatch.context() as quick:
            quick.setattr(supervisor, "HEALTH_WITHIN_SECONDS", 1.5)
            camera.until_unread(3)
            wait_ns(time.monotonic_ns(), 2.0)
            camera.grab()
        camera.until_frames(10)
        assert camera.alarms == []
        assert camera.bad == []


def trigger_without_grabbing(camera: Watched, part_id: str) -> int:
    """Trigger a frame, which then waits in the socket; return the time of the trigger."""
    stop(camera.pid)  # so that the line does not read the frame at once
    camera.trigger(part_id)
    triggered_ns = time.monotonic_ns()
    assert camera.grab(0.0) is None
    assert camera.grab(0.02) is None
    os.kill(camera.pid, signal.SIGCONT)
    camera.until_unread(1)
    return triggered_ns


def test_a_frame_in_time_keeps_its_part_even_if_the_line_reads_it_late() -> None:
    with watched(part_camera(SHORT_MS)) as camera:
        triggered_ns = trigger_without_grabbing(camera, "P-1")
        wait_ns(triggered_ns, 1.05 * SHORT_MS / 1e3)
        camera.until_frames(1)
        assert camera.parts == [("P-1", None, 1)]


def test_a_part_whose_frame_came_before_the_cameras_death_is_reported_once() -> None:
    with watched(edges(freeze_at=1, frozen_after_frames=1)) as camera:
        camera.until_frames(1)
        camera.until_unread(1)  # the frame that shows the fault
        camera.trigger("P-1")
        camera.until_unread(4)
        until_dead(camera)
        while camera.grab(0.001) is not None:
            pass
        assert len(camera.ids()) >= 5
        (reported,) = [seen for seen in camera.seen if seen.stamp.part_id == "P-1"]
        assert (reported.reason, reported.kind, reported.stamp.frame_id is None) == ("frozen", "failed", False)


# Stopping.


def test_interrupting_ends_an_opening() -> None:
    with watched(drawn_camera(), opened=False) as camera:
        opened: list[Opened | None] = []
        thread = in_thread(lambda: opened.append(camera.camera.open()))
        until(lambda: camera.camera._process is not None, "its start")
        stop(camera.pid)  # so that it cannot be faster than the test
        camera.camera.interrupt()
        thread.join(WITHIN_SECONDS)
        assert opened == [None]
        assert camera.to_the_end() == []
        assert camera.alarms == []


def test_interrupting_ends_a_waiting_grab_and_all_later_ones() -> None:
    with watched(part_camera()) as camera:
        came: list[object] = []

        def grab() -> None:
            with contextlib.suppress(EndOfFrames):
                came.append(camera.camera.grab(3600.0))

        thread = in_thread(grab)
        camera.camera.interrupt()
        thread.join(WITHIN_SECONDS)
        assert not thread.is_alive()
        assert came == []
        for _ in range(3):
            with pytest.raises(EndOfFrames):
                camera.camera.grab(1.0)
        camera.trigger("P-1")
        assert camera.answer_to("P-1").refused == "stopping"
        assert camera.alarms == []


def test_all_announced_and_lost_frames_are_reported_before_the_end() -> None:
    with watched(drawn_camera(**EAGER, lose_frames=[7, 8])) as camera:
        camera.until_frames(4)
        camera.until_unread(5)
        camera.camera.interrupt()
        last = camera.to_the_end()
        reported = [(seen.stamp.frame_id, seen.stamp.frames, seen.reason) for seen in last[:6]]
        stopped = [(frame_id, 1, "stopped") for frame_id in (5, 6, 9, 10, 11)]
        assert reported == [*stopped[:2], (7, 2, "lost_by_camera"), *stopped[2:]], "all that its slots held"
        assert {seen.kind for seen in last} == {"dropped"}
        assert camera.ids() == list(range(1, len(camera.ids()) + 1))


def test_a_part_whose_frame_came_before_the_end_is_reported_once() -> None:
    with watched(part_camera()) as camera:
        trigger_without_grabbing(camera, "P-1")
        camera.camera.interrupt()
        camera.to_the_end()
        assert [(seen.stamp.part_id, seen.stamp.frame_id, seen.reason) for seen in camera.seen] == [
            ("P-1", 1, "stopped")
        ]


class TimesOutAtTheStop:
    """A source that has nothing at the moment of the stop, and then reports the announced frames."""

    def __init__(self) -> None:
        self.waiting, self.interrupted = threading.Event(), threading.Event()
        self._items: list[BadFrame | None] = [None, BadFrame(Stamp("top", 1), "stopped", "the line stopped", "dropped")]

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        self.waiting.set()
        self.interrupted.wait(WITHIN_SECONDS)
        if not self._items:
            raise EndOfFrames
        return self._items.pop(0)

    def interrupt(self) -> None:
        self.interrupted.set()


def test_a_timeout_at_the_moment_of_the_stop_loses_no_frame() -> None:
    source, reported = TimesOutAtTheStop(), list[Outcome]()
    setup = Setup(None, None, None)  # type: ignore[arg-type]  # no frame reaches the setup
    ledger = Ledger({"top": Lane(2, "block")}, setup)
    pipeline = Pipeline({"top": PipelineCamera(source, FrameRule())}, ledger, reported.append)
    pipeline.start()
    pipeline.begin()
    assert source.waiting.wait(WITHIN_SECONDS)
    assert pipeline.stop(WITHIN_SECONDS)
    assert [outcome.stamp.frame_id for outcome in reported] == [1]
    assert ledger.accounts()["top"] == Account(captured=1, dropped={"stopped": 1})


def test_at_the_end_waiting_parts_are_reported_and_waiting_triggers_refused() -> None:
    with watched(part_camera(ignore_triggers=[1])) as camera:
        camera.trigger("P-1")
        assert camera.grab() is None, "sent, and ignored"
        camera.trigger("P-2")
        camera.camera.interrupt()
        camera.to_the_end()
        assert camera.parts == [("P-1", "no_frame", None)]
        assert camera.bad[0].kind == "dropped"
        assert [camera.answer_to(part_id).refused for part_id in ("P-1", "P-2")] == ["no_frame", "stopping"]


def test_an_ended_camera_refuses_triggers_and_reports_every_part() -> None:
    with watched(part_camera(frames=1)) as camera:
        camera.triggered("P-1")
        camera.trigger("P-2")  # its end is in the socket, or soon will be
        camera.to_the_end()
        assert camera.parts == [("P-1", None, 1), ("P-2", "no_frame", None)]
        assert camera.answer_to("P-2").refused in ("no_frame", "camera_dead"), "its trigger may come after the end"
        camera.trigger("P-3")
        assert camera.answer_to("P-3").refused == "camera_dead"
        assert camera.alarms == []
