"""The pattern camera: pixels that tell frame id and position, frames that are lost or frozen on purpose, triggers."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.cameras.base import EndOfFrames
from edge.cameras.pattern import PatternCamera, frame_id_of, pattern
from edge.cameras.settings import PatternSettings
from edge.errors import CameraError
from edge.frames import Frame

WITHIN_SECONDS = 20.0


def opened(**keys: object) -> PatternCamera:
    camera = PatternCamera(PatternSettings(name="top", **{"draw_size": (12, 5), "rate_fps": None} | keys))  # type: ignore[arg-type]
    camera.open()
    return camera


def grabbed(camera: PatternCamera) -> Frame:
    frame = camera.grab(WITHIN_SECONDS)
    assert isinstance(frame, Frame)
    return frame


def ids(camera: PatternCamera, count: int) -> list[int | None]:
    return [grabbed(camera).stamp.frame_id for _ in range(count)]


def drawn_pixel_by_pixel(frame_id: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
    """The formula of docs/cameras.md, without any of the camera's code."""
    height, width = hw
    pixels = []
    for i in range(height * width):
        word = 1 + (frame_id - 1 + i // 2) % 65535
        pixels.append(word // 256 if i % 2 else word % 256)
    return np.array(pixels, np.uint8).reshape(hw)


@given(frame_id=st.integers(1, 65535), hw=st.tuples(st.integers(1, 9), st.integers(2, 9)))
def test_the_pixels_tell_frame_id_and_position(frame_id: int, hw: tuple[int, int]) -> None:
    image = pattern(frame_id, hw)
    assert np.array_equal(image, drawn_pixel_by_pixel(frame_id, hw))
    assert frame_id_of(image) == frame_id


def test_a_frame_is_drawn_as_its_id_says() -> None:
    camera = opened(first_frame_id=65533)
    for frame_id in (65533, 65534, 65535, 1, 2):
        frame = grabbed(camera)
        assert (frame.stamp.frame_id, frame.stamp.camera, frame.pixel_format) == (frame_id, "top", "Mono8")
        assert np.array_equal(frame.image, pattern(frame_id, (5, 12)))


def test_a_frame_is_never_drawn_over_by_the_next() -> None:
    camera = opened(frames=3)
    assert [frame_id_of(frame.image) for frame in [grabbed(camera) for _ in range(3)]] == [1, 2, 3]


def test_it_ends_after_its_frames() -> None:
    camera = opened(frames=3)
    assert ids(camera, 3) == [1, 2, 3]
    for _ in range(2):
        with pytest.raises(EndOfFrames):
            camera.grab(1.0)


def test_the_ids_of_lost_frames_are_left_out_and_lost_frames_count() -> None:
    camera = opened(frames=6, lose_frames=[1, 4, 6], first_frame_id=65534)
    assert ids(camera, 3) == [65535, 1, 3]
    with pytest.raises(EndOfFrames):
        camera.grab(1.0)


def test_a_frozen_camera_shows_one_picture_again_and_again_while_ids_go_on() -> None:
    camera = opened(freeze_at=3)
    frames = [grabbed(camera) for _ in range(6)]
    assert [frame.stamp.frame_id for frame in frames] == [1, 2, 3, 4, 5, 6]
    assert [frame_id_of(frame.image) for frame in frames] == [1, 2, 3, 3, 3, 3]


def test_opening_says_what_to_expect() -> None:
    found = PatternCamera(PatternSettings(name="top", draw_size=(320, 200), rate_fps=4)).open()
    assert "320x200 px" in found.found
    assert (found.highest_frame_id, found.ids_show_gaps, found.period_s) == (65535, True, 0.25)
    assert found.can_be_asked
    assert PatternCamera(PatternSettings(name="top", trigger="software")).open().period_s is None


def test_the_cameras_own_clock_starts_when_it_is_opened_and_goes_on() -> None:
    before = time.monotonic_ns()
    camera = opened()
    first, second = (grabbed(camera).stamp.camera_timestamp_ns for _ in range(2))
    assert first is not None
    assert second is not None
    assert 0 <= first <= second <= time.monotonic_ns() - before


class Clock:
    """A monotonic clock that only waiting moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, camera: PatternCamera) -> None:
        self.now = 1000.0
        monkeypatch.setattr("edge.cameras.pacing.time.monotonic", lambda: self.now)
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
        clock.now += 0.6 if len(taken_at) == 2 else 0.1  # once it takes longer than two frames
    assert taken_at == pytest.approx([0, 0.25, 0.85, 0.95, 1.05, 1.25])


def test_a_lost_frame_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = opened(rate_fps=4, lose_frames=[2])
    clock = Clock(monkeypatch, camera)
    assert ids(camera, 2) == [1, 3]
    assert clock.now == pytest.approx(1000.5)


def test_a_grab_times_out_while_no_frame_is_due_and_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = opened(rate_fps=0.1, lose_frames=[2])
    clock = Clock(monkeypatch, camera)
    assert ids(camera, 1) == [1]
    assert [camera.grab(3.0) for _ in range(6)] == [None] * 6  # a grab that meets the lost frame waits no longer
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
    thread = waiting_in_grab(camera, came)
    camera.trigger()
    thread.join(WITHIN_SECONDS)
    assert [frame.stamp.frame_id for frame in came if isinstance(frame, Frame)] == [1]


def test_an_unheard_trigger_brings_no_frame_and_leaves_out_no_id() -> None:
    camera = opened(trigger="software", ignore_triggers=[2])
    for _ in range(3):
        camera.trigger()
    assert ids(camera, 2) == [1, 2]
    assert camera.grab(0.0) is None


def test_a_lost_frame_uses_its_trigger_up_and_its_id_is_left_out() -> None:
    camera = opened(trigger="software", lose_frames=[2])
    for _ in range(3):
        camera.trigger()
    assert ids(camera, 2) == [1, 3]
    assert camera.grab(0.0) is None


def test_a_free_camera_cannot_be_triggered() -> None:
    with pytest.raises(CameraError, match="camera top runs freely; set its trigger to software to trigger it"):
        opened().trigger()


# Interruption.


def waiting_in_grab(camera: PatternCamera, came: list[object]) -> threading.Thread:
    waiting = threading.Event()

    def grab() -> None:
        waiting.set()
        came.append(camera.grab(3600.0))

    thread = threading.Thread(target=grab, daemon=True)
    thread.start()
    assert waiting.wait(WITHIN_SECONDS)
    return thread


@pytest.mark.parametrize("trigger", ["free", "software"])
def test_interrupting_ends_a_grab_that_waits_and_every_later_one(trigger: str) -> None:
    camera, came = opened(trigger=trigger, rate_fps=1 / 3600), list[object]()
    if trigger == "free":
        grabbed(camera)
    thread = waiting_in_grab(camera, came)
    camera.interrupt()
    thread.join(WITHIN_SECONDS)
    assert not thread.is_alive()
    assert came == [None]
    assert [camera.grab(3600.0) for _ in range(3)] == [None] * 3


@pytest.mark.parametrize("trigger", ["free", "software"])
def test_an_interrupted_camera_shows_nothing_any_more(trigger: str) -> None:
    camera = opened(trigger=trigger)
    if trigger == "software":
        camera.trigger()
        camera.trigger()
    grabbed(camera)
    camera.interrupt()
    assert camera.grab(3600.0) is None
