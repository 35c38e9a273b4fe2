"""A camera in a process of its own: exact pixels, slots that are not overwritten, and every kind of end."""

import contextlib
import gc
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.child import SPARE_SLOTS, digest
from heatline.edge.cameras.pattern import pattern
from heatline.edge.cameras.process import (
    CameraProcess,
    Ended,
    FireTrigger,
    Health,
    ProcessMessage,
    TriggerResult,
)
from heatline.edge.cameras.settings import CameraSettings, FolderSettings, to_bytes
from heatline.edge.frames import BadFrame, Frame
from tests.edge.supervised import WITHIN_SECONDS, drawn_camera, held, in_thread, mappings, shown_by, stop, until_unread

SLOTS = 2 + SPARE_SLOTS
"""Slots of a camera of which two frames may wait."""
NEXT_THREE = [SLOTS + 1, SLOTS + 2, SLOTS + 3]


class Running:
    """A camera's process and its messages."""

    def __init__(self, settings: CameraSettings) -> None:
        self.process = CameraProcess(settings)

    def health(self) -> Health:
        """Wait for the next report of its health, and return it."""
        while not isinstance(message := self._receive(), Health):
            pass
        return message

    def next(self) -> ProcessMessage:
        """Wait for the next message that is no report of its health, and return it."""
        while isinstance(message := self._receive(), Health):
            pass
        return message

    def _receive(self) -> ProcessMessage:
        give_up = time.monotonic() + WITHIN_SECONDS
        poll = select.poll()
        poll.register(self.process.fileno(), select.POLLIN)
        while (message := self.process.receive()) is None:
            assert time.monotonic() < give_up, "no message came"
            poll.poll(1000)
        return message

    def opened(self) -> Opened:
        message = self.next()
        assert isinstance(message, Opened), message
        return message

    def arrived(self) -> Frame:
        message = self.next()
        assert isinstance(message, Frame), message
        return message

    def frames(self, count: int) -> list[Frame]:
        """Return the next frames without releasing any."""
        return [self.arrived() for _ in range(count)]


@contextlib.contextmanager
def running(settings: CameraSettings) -> Iterator[Running]:
    camera = Running(settings)
    try:
        yield camera
    finally:
        camera.process.close(0.0)


def eager_camera(**keys: object) -> CameraSettings:
    """Settings of a camera that takes frames as fast as possible, and blocks for a slot."""
    return drawn_camera(rate_fps=None, on_overload="block", **keys)


def shown(messages: list[ProcessMessage]) -> list[int]:
    return [shown_by(message) for message in messages if isinstance(message, Frame)]


def with_three_frames_in_the_socket(camera: Running) -> list[Frame]:
    """Wait until three more frames are sent and unread and the camera has read all messages; return the held frames."""
    camera.opened()
    kept = camera.frames(SLOTS)
    for frame in kept[:3]:
        frame.release()
    until_unread(camera.process.fileno(), 3)
    return kept[3:]


# Pixels.


def test_simulated_pictures_arrive_to_the_last_byte_with_their_stamps() -> None:
    before_ns = time.monotonic_ns()
    with running(drawn_camera(draw_size=(13, 7), first_frame_id=65534, frames=4, rate_fps=100)) as camera:
        assert camera.opened().ids_show_gaps
        for frame_id in (65534, 65535, 1, 2):
            arrived = camera.arrived()
            frame, drawn = arrived, pattern(frame_id, (7, 13))
            assert np.array_equal(frame.image, np.stack([drawn] * 3, -1))
            assert arrived.digest == digest(drawn), "of what the camera sent"
            assert (frame.pixel_format, frame.sent_as, frame.camera_format) == ("RGB8", "Mono8", "Mono8")
            assert (frame.stamp.camera, frame.stamp.frame_id, frame.stamp.frames) == ("top", frame_id, 1)
            assert before_ns < frame.stamp.captured_monotonic_ns < time.monotonic_ns(), "one clock for both processes"
            assert frame.stamp.camera_timestamp_ns is not None
            assert not frame.image.flags.writeable
            frame.release()
        assert camera.next() == Ended()


def pictures() -> dict[str, tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.uint8], str]]:
    """By file name: the array to write, in OpenCV's order of channels; its RGB; its format."""
    rng = np.random.default_rng(3)
    grey, colour, alpha = (rng.integers(0, 256, shape, np.uint8) for shape in ((9, 14), (9, 14, 3), (9, 14, 4)))
    colour16 = rng.integers(0, 65536, (9, 14, 3), np.uint16)
    return {
        "1.png": (grey, np.stack([grey] * 3, -1), "Mono8"),
        "2.png": (colour, colour[..., ::-1], "BGR8"),
        "3.png": (alpha, alpha[..., 2::-1], "BGRA8"),
        "4.png": (colour16, (colour16 // 256).astype(np.uint8)[..., ::-1], "BGR16"),
    }


def written(folder: Path, images: dict[str, NDArray[np.uint8] | NDArray[np.uint16]]) -> Path:
    folder.mkdir()
    for name, image in images.items():
        assert cv2.imwrite(str(folder / name), image)
    return folder


def test_pictures_of_every_format_arrive_as_rgb(tmp_path: Path) -> None:
    folder = written(tmp_path / "f", {name: image for name, (image, _, _) in pictures().items()})
    (folder / "5.png").write_bytes(b"no picture")
    with running(FolderSettings(name="top", path=folder, waiting_frames=5)) as camera:
        camera.opened()
        for frame_id, (name, (_, rgb, sent_as)) in enumerate(pictures().items(), 1):
            one = camera.arrived()
            assert np.array_equal(one.image, rgb), name
            assert (one.camera_format, one.stamp.source) == (sent_as, name)
            assert (one.stamp.frame_id, one.digest) == (frame_id, None), "a folder cannot freeze"
        bad = camera.next()
        assert isinstance(bad, BadFrame)
        assert (bad.stamp.frame_id, bad.reason, bad.kind) == (5, "unreadable", "failed")
        assert "5.png" in bad.detail
        assert camera.next() == Ended()


def test_a_larger_frame_gets_new_memory_and_earlier_frames_stay_valid(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    sizes = [(4, 4), (4, 4), (50, 60), (3, 3), (50, 60), (300, 200), (300, 201), (2, 2)]
    images = {f"{n}.png": rng.integers(0, 256, (*hw, 3), np.uint8) for n, hw in enumerate(sizes, 1)}
    folder = written(tmp_path / "f", dict(images))
    mapped_before = mappings()
    with running(FolderSettings(name="top", path=folder, size="any")) as camera:
        camera.opened()
        frames = camera.frames(len(sizes))  # more than there are slots: each ring has its own
        assert camera.next() == Ended()
        assert len(mappings() - mapped_before) == 4
        for frame in frames:
            frame.release()
    assert all(np.array_equal(frame.image, i[..., ::-1]) for frame, i in zip(frames, images.values(), strict=True))


# Slots.


def test_a_held_frame_is_never_overwritten_and_frames_without_a_slot_are_dropped() -> None:
    with running(drawn_camera(rate_fps=100, draw_size=(64, 48))) as camera:
        camera.opened()
        kept = camera.frames(SLOTS)
        for frame_id in (SLOTS + 1, SLOTS + 2):
            bad = camera.next()
            assert isinstance(bad, BadFrame)
            assert (bad.stamp.frame_id, bad.reason, bad.kind) == (frame_id, "overload", "dropped")
        assert [shown_by(frame) for frame in kept] == list(range(1, SLOTS + 1))
        # Two slots are used in turn, the others are held.
        for frame in kept[1:3]:
            frame.release()
        for frame_id in range(SLOTS + 3, 30):
            message = camera.next()
            assert isinstance(message, Frame | BadFrame)
            assert message.stamp.frame_id == frame_id, "each frame is delivered or reported"
            if isinstance(message, Frame):
                assert shown_by(message) == frame_id
                message.release()
        assert [shown_by(frame) for frame in (kept[0], *kept[3:])] == [1, *range(4, SLOTS + 1)]


def test_a_blocking_camera_waits_for_a_slot_and_loses_nothing() -> None:
    with running(eager_camera(frames=30)) as camera:
        camera.opened()
        kept = camera.frames(SLOTS)
        assert camera.health() == Health({}), "it reports while it waits for a slot"
        assert camera.process.receive() is None
        assert [shown_by(frame) for frame in kept] == list(range(1, SLOTS + 1))
        for frame_id in range(SLOTS + 1, 31):
            releasing = in_thread(kept.pop(0).release)  # any thread may release
            kept += camera.frames(1)
            releasing.join()
            assert shown_by(kept[-1]) == frame_id
        assert camera.next() == Ended()
    for frame in kept:
        frame.release()  # also once the process is gone
        assert shown_by(frame) == frame.stamp.frame_id


# Requests.


def test_health_comes_by_itself_and_triggers_get_results_and_frames() -> None:
    """A signal for the terminal's foreground does not end the process before its line does."""
    with running(drawn_camera(trigger="software")) as camera:
        camera.opened()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(camera.process.pid, number)
        assert [camera.health(), camera.health()] == [Health({})] * 2
        for frame_id in (1, 2):
            camera.process.send(FireTrigger(frame_id, time.monotonic_ns() + 60 * 10**9))
            messages = [camera.next(), camera.next()]
            assert TriggerResult(frame_id, None) in messages
            assert shown(messages) == [frame_id]


def test_an_impossible_trigger_is_answered_with_the_reason() -> None:
    with running(drawn_camera(rate_fps=0.001)) as camera:
        camera.opened()
        camera.arrived()
        camera.process.send(FireTrigger(7, time.monotonic_ns() + 60 * 10**9))
        message = camera.next()
        assert isinstance(message, TriggerResult)
        assert message.error is not None
        assert "runs freely" in message.error


# Ends.


def test_a_camera_that_cannot_be_opened_reports_the_reason_and_its_process_ends(tmp_path: Path) -> None:
    with running(FolderSettings(name="top", path=tmp_path / "none")) as camera:
        message = camera.next()
        assert isinstance(message, Ended)
        assert message.error is not None
        assert "none is not a folder" in message.error
        assert camera.process.close(WITHIN_SECONDS) == []


def test_a_closed_process_ends_by_itself_and_delivers_its_last_messages() -> None:
    with running(eager_camera()) as camera:
        with_three_frames_in_the_socket(camera)
        process = camera.process._process
        messages = camera.process.close(WITHIN_SECONDS)
        assert process.returncode == 0, "it was not killed"
        assert shown(messages[:3]) == NEXT_THREE
        # One more frame may have waited for a slot: the stop dropped it, not an overload.
        waited = [(message.stamp.frame_id, message.reason) for message in messages[3:] if isinstance(message, BadFrame)]
        assert waited in ([(SLOTS + 4, "stopped")], [])


def test_a_process_that_does_not_close_in_time_is_killed_and_loses_no_message() -> None:
    with running(eager_camera()) as camera:
        with_three_frames_in_the_socket(camera)
        stop(camera.process.pid)
        process = camera.process._process
        messages = camera.process.close(0.05)
        assert process.returncode == -signal.SIGKILL
        assert shown(messages) == NEXT_THREE


@pytest.mark.parametrize("read_all", [True, False])
def test_a_killed_process_delivers_its_last_messages_and_then_its_end(read_all: bool) -> None:
    """The process may be killed with unread messages, which resets its socket."""
    with running(eager_camera()) as camera:
        kept = with_three_frames_in_the_socket(camera)
        if not read_all:
            stop(camera.process.pid)
            kept[0].release()  # never read
        os.kill(camera.process.pid, signal.SIGKILL)
        camera.process._process.wait()
        messages = [camera.next() for _ in range(4)]
        assert shown(messages) == NEXT_THREE
        assert messages[3] == Ended("its process was ended by SIGKILL", "process")
        assert camera.next() == messages[3], "each later call returns the same"


LINE = """
import select, sys
from heatline.edge.cameras.process import CameraProcess
from heatline.edge.cameras.settings import from_bytes
camera = CameraProcess(from_bytes(bytes.fromhex(sys.argv[1])))
poll = select.poll()
poll.register(camera.fileno(), select.POLLIN)
for _ in range(int(sys.argv[2])):
    message = None
    while message is None:
        poll.poll()
        message = camera.receive()
print(camera.pid, flush=True)
sys.stdin.read()
"""
"""A line that reads this much from its camera and then stops reading."""


@pytest.mark.parametrize(
    ("keys", "read"),
    [({"trigger": "software"}, 1), ({"rate_fps": None, "on_overload": "block"}, 3), ({"rate_fps": 1000}, 3)],
    ids=["waiting for a trigger", "waiting for a slot", "sending"],
)
def test_a_camera_process_ends_when_its_line_is_killed(keys: dict[str, object], read: int) -> None:
    command = [sys.executable, "-c", LINE, to_bytes(drawn_camera(**keys)).hex(), str(read)]
    line = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert line.stdout is not None
        ended = os.pidfd_open(int(line.stdout.readline()))
        try:
            line.kill()
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            if not poll.poll(WITHIN_SECONDS * 1e3):
                signal.pidfd_send_signal(ended, signal.SIGKILL)
                raise AssertionError("it outlived its line")
        finally:
            os.close(ended)
    finally:
        line.kill()
        line.communicate()


# Resources.


@pytest.mark.parametrize("openings", [4, pytest.param(20, marks=pytest.mark.long)])
def test_openings_with_every_kind_of_end_leave_no_resources_behind(openings: int) -> None:
    gc.collect()
    before = held()
    kept: list[Frame] = []
    for n in range(openings):
        camera = Running(eager_camera(frames=4 if n % 4 == 3 else None))
        camera.opened()
        first, second = camera.frames(2)
        match n % 4:
            case 0:
                camera.process.close(WITHIN_SECONDS)
            case 1:
                os.kill(camera.process.pid, signal.SIGKILL)
                camera.process.close(WITHIN_SECONDS)
            case 2:
                camera.process.close(0.0)
            case 3:
                while camera.next() != Ended():
                    pass
                camera.process.close(0.0)
        kept.append(first)  # a frame stays valid when its camera is gone
        second.release()
    assert all(shown_by(frame) == 1 for frame in kept)
    del camera, first, second
    kept.clear()
    gc.collect()
    assert held() - before == set()
