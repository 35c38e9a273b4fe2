"""File cameras: pictures of a folder or frames of a video, at a rate, once or in a loop, all accounted for."""

import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from heatline.edge.cameras.base import EndOfFrames, FrameSource
from heatline.edge.cameras.files import FolderCamera, VideoCamera
from heatline.edge.cameras.settings import FolderSettings, VideoSettings
from heatline.edge.errors import CameraError
from heatline.edge.frames import BadFrame, Frame
from heatline.edge.images import read_image
from tests.edge.lines import write_pictures
from tests.edge.supervised import WITHIN_SECONDS, in_thread

ENDLESS = 10000.0
"""A rate without waits."""


def grabbed(camera: FrameSource) -> Frame:
    frame = camera.grab(WITHIN_SECONDS)
    assert isinstance(frame, Frame)
    return frame


def shown(camera: FrameSource, count: int) -> list[tuple[str, int | None]]:
    """Return the type and the id of each item."""
    came = [camera.grab(WITHIN_SECONDS) for _ in range(count)]
    return [(type(one).__name__, one.stamp.frame_id) for one in came if one is not None]


def assert_over(camera: FrameSource) -> None:
    for _ in range(2):
        with pytest.raises(EndOfFrames):
            camera.grab(1.0)


# A folder.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of different grey."""
    return write_pictures(tmp_path / "f", {f"{i}.png": np.full((4, 6, 3), 40 * i, np.uint8) for i in (1, 2, 3)})


def folder_camera(
    folder: Path, *, rate_fps: float | None = None, loop: bool = False, preload: bool = False
) -> FolderCamera:
    camera = FolderCamera(FolderSettings(name="top", path=folder, rate_fps=rate_fps, loop=loop, preload=preload))
    assert camera.open().found == f"3 pictures in {folder}"
    return camera


def test_pictures_come_by_name_with_ids_from_one_until_the_end(folder: Path) -> None:
    camera = folder_camera(folder)
    for n, frame in enumerate([grabbed(camera) for _ in range(3)], 1):
        assert (frame.stamp.frame_id, frame.stamp.source, frame.stamp.camera) == (n, f"{n}.png", "top")
        assert (frame.pixel_format, int(frame.image[0, 0, 0])) == ("BGR8", 40 * n)
    assert_over(camera)


def test_a_loop_over_a_folder_continues_its_frame_ids(folder: Path) -> None:
    camera = folder_camera(folder, loop=True)
    stamps = [grabbed(camera).stamp for _ in range(7)]
    assert [(stamp.frame_id, stamp.source) for stamp in stamps] == [(n + 1, f"{n % 3 + 1}.png") for n in range(7)]


def test_the_time_of_capture_is_before_the_picture_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency counts from capture, so it includes reading and decoding."""
    read_at: list[int] = []

    def noting_when(path: Path) -> object:
        read_at.append(time.monotonic_ns())
        return read_image(path)

    monkeypatch.setattr("heatline.edge.cameras.files.read_image", noting_when)
    assert grabbed(folder_camera(folder)).stamp.captured_monotonic_ns <= read_at[0]


@pytest.mark.parametrize("rate_fps", [None, ENDLESS, 1 / 3600])
def test_an_interruption_ends_a_grab_that_waits_and_every_later_one(folder: Path, rate_fps: float | None) -> None:
    camera, came = folder_camera(folder, rate_fps=rate_fps, loop=True), list[object]()
    grabbed(camera)
    if rate_fps == 1 / 3600:
        assert camera.grab(0.0) is None
        thread = in_thread(lambda: came.append(camera.grab(3600.0)))
    camera.interrupt()
    if rate_fps == 1 / 3600:
        thread.join(WITHIN_SECONDS)
        assert came == [None]
    assert [camera.grab(3600.0) for _ in range(3)] == [None, None, None]


def test_an_unreadable_or_missing_picture_is_a_bad_frame_and_the_next_is_fine(folder: Path) -> None:
    (folder / "1.png").write_bytes(b"no picture")
    camera = folder_camera(folder)
    (folder / "2.png").unlink()
    for n, detail in ((1, "1.png"), (2, "No such file")):
        bad = camera.grab(1.0)
        assert isinstance(bad, BadFrame)
        assert (bad.stamp.frame_id, bad.stamp.source, bad.reason) == (n, f"{n}.png", "unreadable")
        assert detail in bad.detail
    assert grabbed(camera).stamp.frame_id == 3


def test_a_folder_that_is_missing_or_empty_is_a_camera_error(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"camera top: .*nowhere is not a folder"):
        FolderCamera(FolderSettings(name="top", path=tmp_path / "nowhere")).open()
    with pytest.raises(CameraError, match=r"camera top: .* holds no picture"):
        FolderCamera(FolderSettings(name="top", path=tmp_path)).open()


def test_a_preloaded_folder_is_shown_from_memory(folder: Path) -> None:
    (folder / "2.png").write_bytes(b"no picture")
    camera = folder_camera(folder, loop=True, preload=True)
    for path in folder.iterdir():
        path.unlink()
    came = [camera.grab(1.0) for _ in range(6)]
    assert [one.image[0, 0, 0] if isinstance(one, Frame) else one.reason for one in came if one] == [
        40, "unreadable", 120, 40, "unreadable", 120,
    ]  # fmt: skip
    assert [one.stamp.frame_id for one in came if one] == [1, 2, 3, 4, 5, 6]
    assert FolderSettings(name="top", path=folder, preload=True).opened_within_s == 600.0, "preloading may take long"


# A video.


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Five frames of 64x48 px for 8 frames/s, the n-th one's blue 40 n and red 255."""
    path = tmp_path / "belt.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 8.0, (64, 48))
    assert writer.isOpened()
    for n in range(1, 6):
        writer.write(np.full((48, 64, 3), (40 * n, 0, 255), np.uint8))
    writer.release()
    return path


def video_camera(path: Path, *, rate_fps: float | None = ENDLESS, loop: bool = False) -> VideoCamera:
    camera = VideoCamera(VideoSettings(name="top", path=path, rate_fps=rate_fps, loop=loop))
    camera.open()
    return camera


def test_frames_of_a_video_have_ids_from_one_until_the_end(video: Path) -> None:
    camera = video_camera(video)
    for n, frame in enumerate([grabbed(camera) for _ in range(5)], 1):
        assert (frame.stamp.frame_id, frame.stamp.source, frame.stamp.camera) == (n, "belt.avi", "top")
        assert (frame.pixel_format, frame.image.shape) == ("BGR8", (48, 64, 3))
        np.testing.assert_allclose(frame.image.mean((0, 1)), (40 * n, 0, 255), atol=4)  # JPEG is lossy
    assert_over(camera)


def test_a_loop_over_a_video_continues_its_frame_ids(video: Path) -> None:
    camera = video_camera(video, loop=True)
    frames = [grabbed(camera) for _ in range(12)]
    assert [frame.stamp.frame_id for frame in frames] == list(range(1, 13))
    assert [round(float(frame.image[..., 0].mean()) / 40) for frame in frames] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]


def test_a_video_has_the_files_rate_unless_it_is_configured(video: Path) -> None:
    found = VideoCamera(VideoSettings(name="top", path=video)).open()
    assert found.period_s == pytest.approx(1 / 8)
    assert found.found == f"5 frames of 64x48 px, BGR8, in {video}, at 8 frames/s"
    camera = VideoCamera(VideoSettings(name="top", path=video, rate_fps=1 / 3600))
    assert camera.open().period_s == pytest.approx(3600)
    grabbed(camera)
    assert camera.grab(0.0) is None
    camera.interrupt()
    assert camera.grab(3600.0) is None


def chunks(video: Path) -> list[slice]:
    """Return the position of each frame's JPEG in an AVI file."""
    data, found = video.read_bytes(), list[slice]()
    at = data.index(b"movi")
    while (at := data.find(b"00dc", at)) >= 0 and len(found) < 5:
        found.append(slice(at + 8, at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")))
        at = found[-1].stop
    return found


def spoil(video: Path, *frames: int) -> None:
    """Destroy the pictures of these frames, counted from 1."""
    data = bytearray(video.read_bytes())
    for frame in frames:
        where = chunks(video)[frame - 1]
        data[where] = bytes(where.stop - where.start)
    video.write_bytes(data)


def test_missing_frames_of_a_cut_off_file_are_reported_before_its_end(video: Path) -> None:
    video.write_bytes(video.read_bytes()[: chunks(video)[1].stop])
    camera = video_camera(video)
    assert shown(camera, 2) == [("Frame", 1), ("Frame", 2)]
    for frame_id in (3, 4, 5):
        bad = camera.grab(WITHIN_SECONDS)
        assert isinstance(bad, BadFrame)
        assert (bad.reason, bad.kind) == ("unreadable", "failed")
        assert (bad.stamp.frame_id, bad.stamp.frames, bad.stamp.source) == (frame_id, 1, "belt.avi")
        assert f"states 5 frames, and frame {frame_id} cannot be read" in bad.detail
    assert_over(camera)


def test_frames_that_cannot_be_decoded_are_reported_in_every_loop(video: Path) -> None:
    spoil(video, 2, 4, 5)
    came = [("Frame", 1), ("BadFrame", 2), ("Frame", 3), ("BadFrame", 4), ("BadFrame", 5)]
    assert shown(video_camera(video, loop=True), 10) == came + [(kind, n + 5) for kind, n in came]
    spoil(video, 1, 3)
    none = video_camera(video)
    assert shown(none, 5) == [("BadFrame", n) for n in range(1, 6)]
    assert_over(none)


def test_a_missing_or_invalid_video_is_a_camera_error(video: Path, tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"camera top: .*nowhere\.mp4 cannot be read \(No such file"):
        video_camera(tmp_path / "nowhere.mp4")
    with pytest.raises(CameraError, match=r"camera top: .* cannot be read \(Is a directory\)"):
        video_camera(tmp_path)
    for name, data in {"empty.mp4": b"", "text.mp4": b"no video\n" * 100}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CameraError, match=rf"camera top: .*{name} cannot be read as a video; expected"):
            video_camera(tmp_path / name)
    camera = video_camera(video, loop=True)
    for _ in range(5):
        grabbed(camera)
    video.unlink()
    with pytest.raises(CameraError, match=r"belt\.avi cannot be read \(No such file or directory\)"):
        camera.grab(1.0)


SHOW_ALL = """
import sys
from pathlib import Path
from heatline.edge.cameras.base import EndOfFrames
from heatline.edge.cameras.files import VideoCamera
from heatline.edge.cameras.settings import VideoSettings
from heatline.edge.errors import CameraError
for path in sys.argv[1:]:
    camera = VideoCamera(VideoSettings(name="top", path=Path(path), rate_fps=10000))
    try:
        camera.open()
        while True:
            camera.grab(1.0)
    except (CameraError, EndOfFrames) as error:
        print(type(error).__name__)
"""


def test_damaged_videos_leave_no_ffmpeg_message_on_standard_error(video: Path, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    (tmp_path / "cut.avi").write_bytes(video.read_bytes()[: chunks(video)[3].start + 20])
    spoil(video, 3)
    files = [tmp_path / "no.mp4", tmp_path / "cut.avi", video]
    ended = subprocess.run(
        [sys.executable, "-c", SHOW_ALL, *files], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.split() == ["CameraError", "EndOfFrames", "EndOfFrames"]
    assert ended.stderr == ""
