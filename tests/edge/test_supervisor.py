"""A supervised camera in its real process, which is killed, stopped and delayed: no announced frame is lost, its memory
is never overwritten, each part ends once, and nothing is left behind."""

import fcntl
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from heatline.edge.cameras import liveness, supervisor, triggering
from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.child import SPARE_SLOTS
from heatline.edge.cameras.settings import FolderSettings, PatternSettings
from heatline.edge.frames import Frame
from heatline.edge.util.channel import NewRing, RingReader, RingWriter
from heatline.edge.wire.commands import Announced
from tests.edge.lines import write_pictures
from tests.edge.supervised import (
    WITHIN_SECONDS,
    Edges,
    Watched,
    drawn_camera,
    give_time,
    in_thread,
    shown_by,
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
SLOTS = 2 + SPARE_SLOTS
EAGER = {"rate_fps": None, "on_overload": "block"}
"""Settings of a camera that takes frames as fast as possible, and blocks for a slot."""


def part_camera(timeout_ms: float = LONG_MS, **keys: object) -> PatternSettings:
    return drawn_camera(trigger="software", trigger_timeout_ms=timeout_ms, **keys)


def edges(**keys: object) -> Edges:
    return Edges(**{"name": "top", "draw_size": (12, 5), "rate_fps": 20, "trigger_timeout_ms": LONG_MS} | keys)  # type: ignore[arg-type]


def until_back(camera: Watched) -> None:
    camera.until(lambda: len(camera.alarms) == 2, "its death and return")


def grabbed(camera: Watched, count: int) -> list[Frame]:
    """Grab this many frames and hold them."""
    frames: list[Frame] = []
    while len(frames) < count:
        item = camera.camera.grab(WITHIN_SECONDS)
        assert isinstance(item, Frame)
        frames.append(item)
    return frames


def test_the_reader_of_a_ring_can_neither_be_killed_by_its_writer_nor_write_to_it() -> None:
    readers = list[RingReader]()

    def announced(ring: NewRing, fd: int) -> None:
        readers.append(RingReader(ring, os.dup(fd)))
        for size in (0, ring.slots * ring.slot_bytes + 1):  # otherwise, SIGBUS could kill its reader
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)

    writer = RingWriter(announced)
    writer.make(2, 60)
    assert (sorted([writer.take(), writer.take()]), writer.take()) == ([0, 1], None)  # type: ignore[type-var]
    writer.view(1, (4, 5, 3))[:] = 7
    seen = readers[0].view(1, (4, 5, 3))
    with pytest.raises(ValueError, match="read-only"):
        seen[:] = 1
    with pytest.raises(ValueError, match="buffer"):
        readers[0].view(2, (4, 5, 3))
    del writer
    readers.clear()
    assert (seen == 7).all(), "it outlives both"


def test_a_held_frame_is_never_overwritten_and_frames_without_a_slot_are_dropped() -> None:
    with watched(drawn_camera(rate_fps=100, draw_size=(64, 48))) as camera:
        kept = grabbed(camera, SLOTS)
        camera.until(lambda: len(camera.bad) == 2)
        assert [(one.stamp.frame_id, one.reason, one.kind) for one in camera.bad] == [
            (SLOTS + 1, "overload", "dropped"), (SLOTS + 2, "overload", "dropped")
        ]  # fmt: skip
        for frame in kept[1:3]:  # these two slots are used in turn, the others are held
            frame.release()
        camera.until_frames(8)
        assert camera.ids() == list(range(SLOTS + 1, SLOTS + 1 + len(camera.ids())))
        assert all(seen.shows == seen.stamp.frame_id for seen in camera.frames)
        assert [shown_by(frame) for frame in (kept[0], *kept[3:])] == [1, *range(4, SLOTS + 1)]


def test_a_camera_that_blocks_waits_for_a_slot_and_its_last_frames_outlive_it() -> None:
    """A signal for the terminal's foreground does not end the process before its line does."""
    with watched(drawn_camera(**EAGER, frames=SLOTS + 5)) as camera:
        kept = grabbed(camera, SLOTS)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(camera.pid, number)
        assert camera.camera.grab(1.5) is None, "it waits, and reports its health"
        for n in range(1, 6):
            in_thread(kept[n].release).join()  # any thread may release
            kept += grabbed(camera, 1)
        assert (camera.to_the_end(), camera.camera.state().state) == ([], "ENDED")
    for frame in kept[6:]:
        frame.release()  # also once the process is gone
        assert shown_by(frame) == frame.stamp.frame_id
    assert [frame.stamp.frame_id for frame in kept] == list(range(1, SLOTS + 6))


def test_a_larger_frame_gets_new_memory_and_earlier_frames_stay_valid(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    sizes = [(4, 4), (50, 60), (3, 3), (50, 60), (300, 200), (300, 201), (2, 2)]
    images = {f"{n}.png": rng.integers(0, 256, (*hw, 3), np.uint8) for n, hw in enumerate(sizes)}
    folder = FolderSettings(name="top", path=write_pictures(tmp_path / "f", images), size="any")
    with watched(folder, drawn=False) as camera:
        frames = grabbed(camera, len(sizes))
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, images.values(), strict=True))


@pytest.mark.parametrize("end", ["kill", "kill with unread messages", "interrupt"])
def test_all_frames_that_were_announced_and_lost_before_the_end_are_accounted_for(end: str) -> None:
    """A process that is killed with unread messages resets its socket."""
    with watched(drawn_camera(**EAGER, draw_size=(64, 48), lose_frames=[7, 8])) as camera:
        camera.until_frames(3)
        (held_frame,) = grabbed(camera, 1)
        camera.until_unread(5)
        pid = camera.pid
        if end == "interrupt":
            camera.camera.interrupt()
            last = camera.to_the_end()
            reported = [(seen.stamp.frame_id, seen.stamp.frames, seen.reason) for seen in last[:6]]
            stopped = [(frame_id, 1, "stopped") for frame_id in (5, 6, 9, 10, 11)]
            assert reported == [*stopped[:2], (7, 2, "lost_by_camera"), *stopped[2:]], "all that its slots held"
            assert {seen.kind for seen in last} == {"dropped"}
            return
        if end != "kill":
            stop(pid)
            held_frame.release()
        os.kill(pid, signal.SIGKILL)
        camera.until(lambda: bool(camera.alarms), "its death")
        state = camera.camera.state()
        assert (state.state, state.reason, "SIGKILL" in (state.detail or "")) == ("DEAD", "process", True)
        until_back(camera)
        assert camera.ids()[3:10] == list(range(5, 12)), "those that filled its slots"
        assert {seen.reason for seen in camera.bad} <= {"process", "lost_by_camera"}
        assert (camera.camera.state().state, camera.camera.state().openings) == ("LIVE", 2)
        assert camera.states == [("process", True), ("process", False)]


def test_a_line_that_pauses_makes_its_camera_neither_silent_nor_unresponsive(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(drawn_camera(rate_fps=200, on_overload="block")) as camera:
        camera.until_frames(5)
        camera.until_unread(5)
        with monkeypatch.context() as quick:
            quick.setattr(liveness, "MIN_SILENCE_SECONDS", 0.1)
            quick.setattr(supervisor, "HEALTH_WITHIN_SECONDS", 1.5)
            wait_ns(time.monotonic_ns(), 1.6)
            assert camera.grab() is not None
        camera.until_frames(10)
        assert (camera.alarms, camera.bad) == ([], [])
        assert camera.ids() == list(range(1, len(camera.ids()) + 1))


def test_numbers_go_on_over_a_death_that_costs_only_its_own_part() -> None:
    with watched(part_camera(ignore_triggers=[2])) as camera:
        camera.triggered("P-1")
        camera.trigger("P-2")
        assert camera.grab() is None, "the second is sent, and ignored"
        os.kill(camera.pid, signal.SIGKILL)
        until_back(camera)
        camera.triggered("P-3")
        assert camera.parts == [("P-1", None, 1), ("P-2", "no_frame", None), ("P-3", None, 1)]
        assert camera.answer_to("P-2").reason in ("no_frame", "camera_dead"), "its trigger may come after the end"
        numbers = [camera.answer_to(part_id).frame_number for part_id in ("P-1", "P-3")]
        assert (numbers, camera.seen[1].detail[:18]) == ([1, 3], "the camera is dead")


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


def test_consecutive_triggers_without_a_frame_mean_a_dead_camera_until_a_frame_comes() -> None:
    with watched(part_camera(200, ignore_triggers=[1, 2, 3])) as camera:
        camera.triggered("P-1")
        camera.until(lambda: len(camera.seen) == 1)
        for n in (2, 3):
            wait_ns(time.monotonic_ns(), 0.2)  # its frame might come late still
            camera.triggered(f"P-{n}")
        camera.until(lambda: camera.camera.state().openings == 2, "its opening")
        assert camera.states == [("silent", True)], "that it answers does not show that it takes pictures"
        camera.triggered("P-4")
    assert [reason for _, reason, _ in camera.parts] == ["no_frame"] * 4


def test_a_part_announced_while_the_line_is_busy_is_shown_by_the_next_frame() -> None:
    with watched(edges()) as camera:
        camera.until_frames(1)
        camera.trigger("P-1")
        announced_ns = time.monotonic_ns()
        camera.until_unread(3)
        camera.until_frames(3)
        after = [seen for seen in camera.seen if seen.stamp.captured_monotonic_ns > announced_ns]
        assert [seen.stamp.part_id for seen in after] == ["P-1", *[None] * (len(after) - 1)]
        assert camera.answer_to("P-1") == Announced(camera="top", part_id="P-1")


def test_frames_behind_the_one_that_shows_a_fault_are_reported_with_their_parts() -> None:
    with watched(edges(freeze_at=1, frozen_after_frames=1)) as camera:
        camera.until_frames(1)
        camera.until_unread(1)  # the frame that shows the fault
        camera.trigger("P-1")
        camera.until_unread(4)
        camera.until(lambda: bool(camera.alarms), "its death")
        while camera.grab(0.001) is not None:
            pass
        assert camera.ids() == list(range(1, max(5, len(camera.ids())) + 1))
        of_part = [(seen.reason, seen.kind) for seen in camera.bad if seen.stamp.part_id == "P-1"]
        assert of_part == [("frozen", "failed")]


def test_interrupting_ends_an_opening_which_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "HEALTH_WITHIN_SECONDS", 0.02)
    with watched(drawn_camera(), opened=False) as camera:
        opened: list[Opened | None] = []
        thread = in_thread(lambda: opened.append(camera.camera.open()))
        until(lambda: camera.camera._process is not None, "its start")
        stop(camera.pid)  # so that it cannot be faster than the test
        wait_ns(time.monotonic_ns(), 0.1)
        assert thread.is_alive()
        camera.camera.interrupt()
        thread.join(WITHIN_SECONDS)
        assert (opened, camera.to_the_end(), camera.alarms) == ([None], [], [])


@pytest.mark.parametrize("then", ["reads it late", "stops", "stops while its process hangs"])
def test_a_frame_in_time_that_the_line_has_not_read_keeps_its_part(then: str) -> None:
    with watched(part_camera(SHORT_MS)) as camera:
        stop(camera.pid)  # so that the line does not read the frame at once
        camera.trigger("P-1")
        triggered_ns = time.monotonic_ns()
        assert [camera.grab(0.0), camera.grab(0.02)] == [None, None]
        os.kill(camera.pid, signal.SIGCONT)
        camera.until_unread(1)
        if then == "reads it late":
            wait_ns(triggered_ns, 1.05 * SHORT_MS / 1e3)
            camera.until_frames(1)
        else:
            if then != "stops":
                stop(camera.pid)  # it is killed when it does not close in time
            camera.camera.interrupt()
            camera.to_the_end()
            camera.trigger("P-2")
            assert (camera.answer_to("P-2").reason, camera.alarms) == ("stopping", [])
        reason, shows = (None, 1) if then == "reads it late" else ("stopped", None)
        assert (camera.parts, camera.seen[0].stamp.frame_id) == ([("P-1", reason, shows)], 1)


def test_an_ended_camera_refuses_triggers_and_reports_every_part() -> None:
    with watched(part_camera(frames=1)) as camera:
        camera.triggered("P-1")
        camera.trigger("P-2")  # its end is in the socket, or soon will be
        camera.to_the_end()
        assert camera.parts == [("P-1", None, 1), ("P-2", "no_frame", None)]
        camera.trigger("P-3")
        assert (camera.answer_to("P-3").reason, camera.alarms) == ("camera_dead", [])
