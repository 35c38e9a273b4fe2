"""The pattern camera: pixels with frame id and position, frames that are lost or frozen on purpose, triggers; and the
pace that it shares with file cameras."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.cameras.base import EndOfFrames
from heatline.edge.cameras.pattern import PatternCamera, frame_id_of, pattern
from heatline.edge.cameras.settings import PatternSettings
from heatline.edge.errors import CameraError
from heatline.edge.frames import Frame
from tests.edge.supervised import WITHIN_SECONDS, drawn_camera, in_thread


def opened(**keys: object) -> PatternCamera:
    camera = PatternCamera(drawn_camera(**{"rate_fps": None} | keys))
    camera.open()
    return camera


def grabbed(camera: PatternCamera) -> Frame:
    frame = camera.grab(WITHIN_SECONDS)
    assert isinstance(frame, Frame)
    return frame


def ids(camera: PatternCamera, count: int) -> list[int | None]:
    return [grabbed(camera).stamp.frame_id for _ in range(count)]


def drawn_pixel_by_pixel(frame_id: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Compute the formula of docs/cameras.md without the camera's code."""
    height, width = hw
    pixels = []
    for i in range(height * width):
        word = 1 + (frame_id - 1 + i // 2) % 65535
        pixels.append(word // 256 if i % 2 else word % 256)
    return np.array(pixels, np.uint8).reshape(hw)


@given(frame_id=st.integers(1, 65535), hw=st.tuples(st.integers(1, 9), st.integers(2, 9)))
def test_pixels_follow_the_formula_of_frame_id_and_position(frame_id: int, hw: tuple[int, int]) -> None:
    image = pattern(frame_id, hw)
    assert np.array_equal(image, drawn_pixel_by_pixel(frame_id, hw))
    assert frame_id_of(image) == frame_id


def test_frames_are_drawn_by_id_and_never_overwritten_until_the_end() -> None:
    camera = opened(first_frame_id=65533, frames=5)
    frames = [grabbed(camera) for _ in range(5)]
    for frame_id, frame in zip((65533, 65534, 65535, 1, 2), frames, strict=True):
        assert (frame.stamp.frame_id, frame.stamp.camera, frame.pixel_format) == (frame_id, "top", "Mono8")
        assert np.array_equal(frame.image, pattern(frame_id, (5, 12)))
    for _ in range(2):
        with pytest.raises(EndOfFrames):
            camera.grab(1.0)


def test_ids_of_lost_frames_are_missing_and_lost_frames_count() -> None:
    camera = opened(frames=6, lose_frames=[1, 4, 6], first_frame_id=65534)
    assert ids(camera, 3) == [65535, 1, 3]
    with pytest.raises(EndOfFrames):
        camera.grab(1.0)


def test_a_frozen_camera_repeats_its_picture_while_ids_continue() -> None:
    camera = opened(freeze_at=3)
    frames = [grabbed(camera) for _ in range(6)]
    assert [frame.stamp.frame_id for frame in frames] == [1, 2, 3, 4, 5, 6]
    assert [frame_id_of(frame.image) for frame in frames] == [1, 2, 3, 3, 3, 3]


def test_opening_reports_properties_and_starts_the_cameras_clock() -> None:
    before = time.monotonic_ns()
    camera = PatternCamera(PatternSettings(name="top", draw_size=(320, 200), rate_fps=100))
    found = camera.open()
    assert "320x200 px" in found.found
    assert (found.ids_show_gaps, found.period_s) == (True, 0.01)
    assert PatternCamera(PatternSettings(name="top", trigger="software")).open().period_s is None
    first, second = (grabbed(camera).stamp.camera_timestamp_ns or -1 for _ in range(2))
    assert 0 <= first <= second <= time.monotonic_ns() - before


# The pace.


class Clock:
    """A monotonic clock that only waits advance."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, camera: PatternCamera) -> None:
        self.now = 1000.0
        monkeypatch.setattr("heatline.edge.cameras.base.time.monotonic", lambda: self.now)
        clock = self

        class Interrupted(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout is not None
                clock.now += timeout
                return self.is_set()

        camera._pace._interrupted = Interrupted()


def test_frames_are_due_at_the_rate_and_a_late_consumer_catches_up(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = opened(rate_fps=4)
    clock, taken_at = Clock(monkeypatch, camera), []
    for _ in range(6):
        grabbed(camera)
        taken_at.append(clock.now - 1000)
        clock.now += 0.6 if len(taken_at) == 2 else 0.1  # once, longer than two frames
    assert taken_at == pytest.approx([0, 0.25, 0.85, 0.95, 1.05, 1.25])


def test_a_grab_times_out_while_no_frame_is_due_and_skips_none(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = opened(rate_fps=0.1, lose_frames=[2])
    clock = Clock(monkeypatch, camera)
    assert ids(camera, 1) == [1]
    assert [camera.grab(3.0) for _ in range(6)] == [None] * 6  # a lost frame does not extend the wait of a grab
    assert clock.now == pytest.approx(1018)
    assert grabbed(camera).stamp.frame_id == 3
    assert clock.now == pytest.approx(1020)


# Triggers.


def test_a_triggered_camera_takes_one_frame_for_each_trigger() -> None:
    camera = opened(trigger="software", rate_fps=0.001)
    assert camera.grab(0.0) is None
    camera.trigger()
    assert ids(camera, 1) == [1]
    camera.trigger()
    camera.trigger()
    assert ids(camera, 2) == [2, 3]
    assert camera.grab(0.0) is None


def test_a_trigger_wakes_a_grab_that_waits() -> None:
    camera, came = opened(trigger="software"), list[object]()
    thread = in_thread(lambda: came.append(camera.grab(3600.0)))
    camera.trigger()
    thread.join(WITHIN_SECONDS)
    assert [frame.stamp.frame_id for frame in came if isinstance(frame, Frame)] == [1]


@pytest.mark.parametrize(("lost", "seen"), [("ignore_triggers", [1, 2]), ("lose_frames", [1, 3])])
def test_an_ignored_trigger_leaves_no_gap_and_a_lost_frame_does(lost: str, seen: list[int]) -> None:
    camera = opened(trigger="software", **{lost: [2]})
    for _ in range(3):
        camera.trigger()
    assert ids(camera, 2) == seen
    assert camera.grab(0.0) is None


def test_a_free_camera_cannot_be_triggered() -> None:
    with pytest.raises(CameraError, match="camera top runs freely; set its trigger to software to trigger it"):
        opened().trigger()


@pytest.mark.parametrize("trigger", ["free", "software"])
def test_interrupting_ends_a_grab_that_waits_and_every_later_one(trigger: str) -> None:
    camera, came = opened(trigger=trigger, rate_fps=1 / 3600), list[object]()
    if trigger == "free":
        grabbed(camera)
    thread = in_thread(lambda: came.append(camera.grab(3600.0)))
    camera.interrupt()
    thread.join(WITHIN_SECONDS)
    assert came == [None]
    if trigger == "software":
        camera.trigger()
    assert [camera.grab(3600.0) for _ in range(3)] == [None] * 3
