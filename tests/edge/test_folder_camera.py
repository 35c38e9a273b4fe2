"""The folder camera: pictures by name, frame ids from 1, at a given rate, and never blocked when told to stop."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge.cameras.base import EndOfFrames
from edge.cameras.folder import FolderCamera
from edge.cameras.settings import FolderSettings
from edge.errors import CameraError
from edge.frames import BadFrame, Frame
from edge.images import read_image
from tests.edge.lines import write_pictures

WITHIN_SECONDS = 20.0


class Clock:
    """A monotonic clock that only waiting moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.waits = 1000.0, list[float]()
        monkeypatch.setattr("edge.cameras.pacing.time.monotonic", lambda: self.now)

    def attach(self, camera: FolderCamera) -> None:
        clock = self

        class Interrupted(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout is not None
                clock.waits.append(timeout)
                clock.now += timeout
                return self.is_set()

        camera._pace._interrupted = Interrupted()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, each of its own grey."""
    return write_pictures(tmp_path / "f", {f"{i}.png": np.full((4, 6, 3), 40 * i, np.uint8) for i in (1, 2, 3)})


def opened(folder: Path, *, rate_fps: float | None = None, loop: bool = False, preload: bool = False) -> FolderCamera:
    camera = FolderCamera(FolderSettings(name="top", path=folder, rate_fps=rate_fps, loop=loop, preload=preload))
    camera.open()
    return camera


def grabbed(camera: FolderCamera, timeout_s: float = 1.0) -> Frame:
    frame = camera.grab(timeout_s)
    assert isinstance(frame, Frame)
    return frame


def test_pictures_come_by_name_with_frame_ids_from_one_and_then_no_more(folder: Path) -> None:
    camera = opened(folder)
    frames = [grabbed(camera) for _ in range(3)]
    assert [(frame.stamp.frame_id, frame.stamp.source) for frame in frames] == [
        (1, "1.png"),
        (2, "2.png"),
        (3, "3.png"),
    ]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [40, 80, 120]
    assert {(frame.stamp.camera, frame.pixel_format) for frame in frames} == {("top", "BGR8")}
    for _ in range(2):
        with pytest.raises(EndOfFrames):
            camera.grab(1.0)


def test_a_loop_begins_again_and_goes_on_counting(folder: Path) -> None:
    camera = opened(folder, loop=True)
    stamps = [grabbed(camera).stamp for _ in range(7)]
    assert [stamp.frame_id for stamp in stamps] == [1, 2, 3, 4, 5, 6, 7]
    assert [stamp.source for stamp in stamps] == ["1.png", "2.png", "3.png", "1.png", "2.png", "3.png", "1.png"]


def test_the_time_of_capture_is_before_the_picture_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency counts from capture: reading and decoding are part of it."""
    read_at: list[int] = []

    def noting_when(path: Path) -> object:
        read_at.append(time.monotonic_ns())
        return read_image(path)

    monkeypatch.setattr("edge.cameras.folder.read_image", noting_when)
    stamp = grabbed(opened(folder)).stamp
    assert stamp.captured_monotonic_ns <= read_at[0]


def test_pictures_are_due_at_the_rate_and_not_one_pause_after_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, camera = Clock(monkeypatch), opened(folder, rate_fps=4, loop=True)
    clock.attach(camera)
    shown_at = []
    for _ in range(5):
        grabbed(camera)
        shown_at.append(clock.now - 1000)
        clock.now += 0.1  # inspection takes its time
    assert shown_at == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])


def test_a_grab_times_out_while_no_picture_is_due_and_none_is_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, camera = Clock(monkeypatch), opened(folder, rate_fps=0.1)
    clock.attach(camera)
    assert grabbed(camera).stamp.frame_id == 1
    came = [camera.grab(3.0) for _ in range(3)]
    assert came == [None, None, None]
    assert clock.now == pytest.approx(1009)
    assert grabbed(camera, 3.0).stamp.frame_id == 2
    assert clock.now == pytest.approx(1010)


def test_interrupting_ends_a_grab_that_waits_for_a_picture_due_in_an_hour(folder: Path) -> None:
    camera = opened(folder, rate_fps=1 / 3600)
    grabbed(camera)
    waiting = threading.Event()
    came: list[object] = []

    def grab() -> None:
        waiting.set()
        came.append(camera.grab(3600.0))

    thread = threading.Thread(target=grab, daemon=True)
    thread.start()
    assert waiting.wait(WITHIN_SECONDS)
    camera.interrupt()
    thread.join(WITHIN_SECONDS)
    assert not thread.is_alive()
    assert came == [None]


@pytest.mark.parametrize("rate_fps", [None, 1000.0])
def test_an_interrupted_camera_shows_nothing_any_more(folder: Path, rate_fps: float | None) -> None:
    camera = opened(folder, rate_fps=rate_fps, loop=True)
    grabbed(camera)
    camera.interrupt()
    assert [camera.grab(1.0) for _ in range(3)] == [None, None, None]


def test_an_unreadable_picture_is_a_bad_frame_of_its_own_number_and_the_next_is_fine(folder: Path) -> None:
    (folder / "2.png").write_bytes(b"no picture")
    camera = opened(folder)
    grabbed(camera)
    bad = camera.grab(1.0)
    assert isinstance(bad, BadFrame)
    assert (bad.stamp.frame_id, bad.stamp.source, bad.reason) == (2, "2.png", "unreadable")
    assert "2.png" in bad.detail
    assert grabbed(camera).stamp.frame_id == 3


def test_a_picture_that_has_gone_since_is_a_bad_frame_too(folder: Path) -> None:
    camera = opened(folder)
    (folder / "1.png").unlink()
    bad = camera.grab(1.0)
    assert isinstance(bad, BadFrame)
    assert "No such file" in bad.detail
    assert grabbed(camera).stamp.source == "2.png"


def test_opening_says_what_was_found(folder: Path) -> None:
    assert FolderCamera(FolderSettings(name="top", path=folder)).open().found == f"3 pictures in {folder}"


def test_a_folder_that_is_missing_or_empty_is_a_camera_error(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"camera top: .*nowhere is not a folder"):
        FolderCamera(FolderSettings(name="top", path=tmp_path / "nowhere")).open()
    with pytest.raises(CameraError, match=r"camera top: .* holds no picture"):
        FolderCamera(FolderSettings(name="top", path=tmp_path)).open()


def test_a_preloaded_folder_is_shown_from_memory(folder: Path) -> None:
    (folder / "2.png").write_bytes(b"no picture")
    camera = opened(folder, loop=True, preload=True)
    for path in folder.iterdir():
        path.unlink()
    shown = [camera.grab(1.0) for _ in range(6)]
    assert [frame.image[0, 0, 0] if isinstance(frame, Frame) else frame.reason for frame in shown if frame] == [
        40, "unreadable", 120, 40, "unreadable", 120,
    ]  # fmt: skip
    assert [frame.stamp.frame_id for frame in shown if frame] == [1, 2, 3, 4, 5, 6]


def test_more_pictures_than_the_memory_is_meant_for_are_not_preloaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.cameras.folder.MOST_PRELOADED_BYTES", 2 * 4 * 6 * 3)
    with pytest.raises(CameraError, match=r"the first 3 of 3 pictures .* show fewer"):
        opened(folder, preload=True)


def test_preloading_may_take_long(folder: Path) -> None:
    settings = FolderSettings(name="top", path=folder)
    assert settings.opened_within_s == 20.0
    assert FolderSettings(name="top", path=folder, preload=True).opened_within_s == 600.0
