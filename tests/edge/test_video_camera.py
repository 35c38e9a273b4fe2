"""The video camera: a file's frames at its own rate, once or looped, and each that it announces accounted for."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.cameras.base import EndOfFrames
from edge.cameras.settings import VideoSettings
from edge.cameras.video import VideoCamera
from edge.errors import CameraError
from edge.frames import BadFrame, Frame

ENDLESS = 10000.0
"""A rate at which nothing waits."""


def write_video(path: Path, frames: int = 5, fps: float = 25.0, codec: str = "MJPG") -> Path:
    """Frames of 64x48 px, the n-th one's blue 40 n and red 255."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (64, 48))
    assert writer.isOpened()
    for n in range(1, frames + 1):
        writer.write(np.full((48, 64, 3), (40 * n, 0, 255), np.uint8))
    writer.release()
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "belt.avi")


def opened(path: Path, *, rate_fps: float | None = ENDLESS, loop: bool = False) -> VideoCamera:
    camera = VideoCamera(VideoSettings(name="top", path=path, rate_fps=rate_fps, loop=loop))
    camera.open()
    return camera


def grabbed(camera: VideoCamera) -> Frame:
    frame = camera.grab(20.0)
    assert isinstance(frame, Frame)
    return frame


def test_frames_come_with_ids_from_one_and_then_no_more(video: Path) -> None:
    camera = opened(video)
    frames = [grabbed(camera) for _ in range(5)]
    assert [frame.stamp.frame_id for frame in frames] == [1, 2, 3, 4, 5]
    assert {(frame.stamp.camera, frame.stamp.source, frame.pixel_format) for frame in frames} == {
        ("top", "belt.avi", "BGR8")
    }
    for n, frame in enumerate(frames, 1):
        assert frame.image.shape == (48, 64, 3)
        np.testing.assert_allclose(frame.image.mean((0, 1)), (40 * n, 0, 255), atol=4)  # JPEG is lossy
    for _ in range(2):
        with pytest.raises(EndOfFrames):
            camera.grab(1.0)
    camera.close()


def test_a_loop_begins_again_and_goes_on_counting(video: Path) -> None:
    camera = opened(video, loop=True)
    frames = [grabbed(camera) for _ in range(12)]
    assert [frame.stamp.frame_id for frame in frames] == list(range(1, 13))
    assert [round(float(frame.image[..., 0].mean()) / 40) for frame in frames] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]
    camera.close()


def test_the_rate_is_the_files_unless_it_is_set(tmp_path: Path) -> None:
    video = write_video(tmp_path / "slow.avi", fps=8.0)
    found = VideoCamera(VideoSettings(name="top", path=video)).open()
    assert found.period_s == pytest.approx(1 / 8)
    assert found.found == f"5 frames of 64x48 px, BGR8, in {video}, at 8 frames/s"
    assert VideoCamera(VideoSettings(name="top", path=video, rate_fps=50)).open().period_s == pytest.approx(1 / 50)


def test_a_frame_waits_for_its_time_and_an_interruption_ends_the_wait(video: Path) -> None:
    camera = opened(video, rate_fps=1 / 3600)
    grabbed(camera)
    assert camera.grab(0.0) is None
    camera.interrupt()
    assert camera.grab(3600.0) is None
    camera.close()


# Damaged files.


def chunks(video: Path) -> list[slice]:
    """Where each frame's JPEG lies in an AVI file."""
    data, found = video.read_bytes(), list[slice]()
    at = data.index(b"movi")
    while (at := data.find(b"00dc", at)) >= 0 and len(found) < 5:
        found.append(slice(at + 8, at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")))
        at = found[-1].stop
    return found


def spoil(video: Path, *frames: int) -> None:
    """Frames, counted from 1, that are no pictures any more."""
    data = bytearray(video.read_bytes())
    for frame in frames:
        where = chunks(video)[frame - 1]
        data[where] = bytes(where.stop - where.start)
    video.write_bytes(data)


def shown(camera: VideoCamera, count: int) -> list[tuple[str, int | None, int]]:
    """What comes: its kind, its first id and how many frames it stands for."""
    came = [camera.grab(20.0) for _ in range(count)]
    return [(type(one).__name__, one.stamp.frame_id, one.stamp.frames) for one in came if one is not None]


def test_the_frames_that_a_cut_off_file_lacks_are_told_before_its_end(video: Path) -> None:
    video.write_bytes(video.read_bytes()[: chunks(video)[1].stop])
    camera = opened(video)
    assert shown(camera, 2) == [("Frame", 1, 1), ("Frame", 2, 1)]
    bad = camera.grab(20.0)
    assert isinstance(bad, BadFrame)
    assert (bad.reason, bad.kind) == ("unreadable", "failed")
    assert (bad.stamp.frame_id, bad.stamp.last_frame_id, bad.stamp.frames) == (3, 5, 3)
    assert bad.stamp.source == "belt.avi"
    assert "announces 5 frames, of which 3 cannot be read after frame 2" in bad.detail
    for _ in range(2):
        with pytest.raises(EndOfFrames):
            camera.grab(1.0)


def test_frames_that_cannot_be_decoded_are_told_in_every_loop_and_the_others_come(video: Path) -> None:
    spoil(video, 2, 4, 5)
    camera = opened(video, loop=True)
    assert shown(camera, 8) == [
        ("Frame", 1, 1),
        ("BadFrame", 2, 1),
        ("Frame", 3, 1),
        ("BadFrame", 4, 2),
        ("Frame", 6, 1),
        ("BadFrame", 7, 1),
        ("Frame", 8, 1),
        ("BadFrame", 9, 2),
    ]


def test_a_video_none_of_whose_frames_can_be_read_is_told_as_one_run(video: Path) -> None:
    spoil(video, 1, 2, 3, 4, 5)
    camera = opened(video)
    assert shown(camera, 1) == [("BadFrame", 1, 5)]
    with pytest.raises(EndOfFrames):
        camera.grab(1.0)


def test_a_looped_file_that_has_gone_since_is_a_camera_error(video: Path) -> None:
    camera = opened(video, loop=True)
    for _ in range(5):
        grabbed(camera)
    video.unlink()
    with pytest.raises(CameraError, match=r"belt\.avi cannot be read \(No such file or directory\)"):
        camera.grab(1.0)


def test_a_file_that_is_missing_or_no_video_is_a_camera_error(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"camera top: .*nowhere\.mp4 cannot be read \(No such file"):
        opened(tmp_path / "nowhere.mp4")
    with pytest.raises(CameraError, match=r"camera top: .* cannot be read \(Is a directory\)"):
        opened(tmp_path)
    for name, data in {"empty.mp4": b"", "text.mp4": b"no video\n" * 100}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CameraError, match=rf"camera top: .*{name} is no video that can be read; expected"):
            opened(tmp_path / name)


SHOW_ALL = """
import sys
from pathlib import Path
from edge.cameras.base import EndOfFrames
from edge.cameras.settings import VideoSettings
from edge.cameras.video import VideoCamera
from edge.errors import CameraError
for path in sys.argv[1:]:
    camera = VideoCamera(VideoSettings(name="top", path=Path(path), rate_fps=10000))
    try:
        camera.open()
        while True:
            camera.grab(1.0)
    except (CameraError, EndOfFrames) as error:
        print(type(error).__name__)
"""


def test_damaged_files_leave_no_word_of_ffmpeg_on_standard_error(video: Path, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    (tmp_path / "cut.avi").write_bytes(video.read_bytes()[: chunks(video)[3].start + 20])
    spoil(video, 3)
    files = [tmp_path / "no.mp4", tmp_path / "cut.avi", video]
    ended = subprocess.run(
        [sys.executable, "-c", SHOW_ALL, *files], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.split() == ["CameraError", "EndOfFrames", "EndOfFrames"]
    assert ended.stderr == ""
