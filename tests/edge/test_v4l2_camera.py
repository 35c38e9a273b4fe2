"""The V4L2 camera. Tests without a device are real; a stand-in for OpenCV's capture simulates a device."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from heatline.edge.cameras.settings import V4l2Settings
from heatline.edge.cameras.streams import V4l2Camera
from heatline.edge.errors import CameraError
from heatline.edge.frames import Frame
from tests.edge.supervised import WITHIN_SECONDS, in_thread

MJPG, YUYV = cv2.VideoWriter.fourcc(*"MJPG"), cv2.VideoWriter.fourcc(*"YUYV")


class Device:
    """Simulates OpenCV's capture of a camera with two sizes: it falls back to these, and shows frames on request."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float]] = []
        self.has = {
            cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FRAME_HEIGHT: 480.0, cv2.CAP_PROP_FOURCC: float(YUYV),
            cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_POS_MSEC: 0.0,
        }  # fmt: skip
        self.refuses = {cv2.CAP_PROP_GAIN}
        self.reads, self.released = threading.Event(), threading.Event()
        self._frames = threading.Condition()
        self._ready: list[float | None] = []

    def __call__(self, path: str, backend: int) -> "Device":
        assert (path, backend) == ("/dev/null", cv2.CAP_V4L2)
        return self

    def isOpened(self) -> bool:
        return True

    def set(self, which: int, value: float) -> bool:
        self.asked.append((which, value))
        if which in self.refuses:
            return False
        if which == cv2.CAP_PROP_FRAME_HEIGHT:
            width = self.asked[-2][1]
            size = (1280.0, 720.0) if width > 640 else (640.0, 480.0)
            self.has[cv2.CAP_PROP_FRAME_WIDTH], self.has[cv2.CAP_PROP_FRAME_HEIGHT] = size
        elif which != cv2.CAP_PROP_FRAME_WIDTH and not (which == cv2.CAP_PROP_FOURCC and value not in (MJPG, YUYV)):
            self.has[which] = value
        return True

    def get(self, which: int) -> float:
        return self.has[which]

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.reads.set()
        with self._frames:
            self._frames.wait_for(lambda: self._ready)
            at_ms = self._ready.pop(0)
        if at_ms is None:
            return False, None
        self.has[cv2.CAP_PROP_POS_MSEC] = at_ms
        return True, np.full((480, 640, 3), int(at_ms) % 256, np.uint8)

    def release(self) -> None:
        self.released.set()

    def take(self, *at_ms: float | None) -> None:
        """Show frames with these timestamps; None: a read that fails."""
        with self._frames:
            self._ready += at_ms
            self._frames.notify_all()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr("heatline.edge.cameras.streams.cv2.VideoCapture", device)
    return device


def camera_on(path: str | Path = "/dev/null", **keys: object) -> V4l2Camera:
    return V4l2Camera(V4l2Settings(name="usb", device=Path(path), **keys))  # type: ignore[arg-type]


# Without a device.


def test_a_missing_device_or_a_file_that_is_none_is_a_camera_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no device")
    for path, message in {
        tmp_path / "video0": r"/video0 cannot be opened \(No such file or directory\); is the camera plugged in\?",
        tmp_path: r" cannot be opened \(Is a directory\); .* Set device to one of /dev/video\*",
        tmp_path / "file": "/file is not a video device that captures, or another",
        Path("/dev/null"): "/dev/null is not a video device that captures, or another",
    }.items():
        with pytest.raises(CameraError, match=f"^camera usb: .*{message}"):
            camera_on(path).open()


def test_a_device_that_the_system_does_not_open_is_reported_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("heatline.edge.cameras.streams.os.open", refuse)  # root may open everything
    with pytest.raises(CameraError, match=r"/dev/null cannot be opened \(Permission denied\); .* to the group"):
        camera_on().open()


# With the stand-in.


def test_settings_are_requested_from_the_driver_and_its_values_reported(device: Device) -> None:
    found = camera_on(frame_size=(1280, 720), fourcc="MJPG", rate_fps=15.0, exposure=100.0).open()
    assert found.found == "/dev/null: 1280x720 px, MJPG shown as BGR8, 15 frames/s"
    assert found.period_s == pytest.approx(1 / 15)
    assert not found.ids_show_gaps
    asked = [which for which, _ in device.asked]
    assert asked.index(cv2.CAP_PROP_FOURCC) < asked.index(cv2.CAP_PROP_FRAME_WIDTH)
    manual, exposure = asked.index(cv2.CAP_PROP_AUTO_EXPOSURE), asked.index(cv2.CAP_PROP_EXPOSURE)
    assert manual < exposure
    assert device.asked[manual][1] == 1
    device.take(None)


def test_settings_that_are_left_out_keep_the_drivers_values(device: Device) -> None:
    device.has[cv2.CAP_PROP_FPS] = -1.0
    found = camera_on().open()
    assert found.found == "/dev/null: 640x480 px, YUYV shown as BGR8"
    assert found.period_s is None
    assert {which for which, _ in device.asked} == {cv2.CAP_PROP_BUFFERSIZE}
    device.take(None)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"frame_size": (1000, 1000)}, "took 1280x720 px when asked for 1000x1000 px; set frame_size to what"),
        ({"fourcc": "H264"}, "took YUYV when asked for H264; set fourcc to what"),
        ({"gain": 12.0}, "does not take gain = 12; leave gain out"),
    ],
)
def test_a_setting_that_the_driver_refuses_is_an_error_and_closes_the_device(
    device: Device, keys: dict[str, object], message: str
) -> None:
    with pytest.raises(CameraError, match=f"^camera usb: /dev/null {message}"):
        camera_on(**keys).open()
    assert device.released.is_set()


def test_frames_have_ids_and_the_drivers_clock(device: Device) -> None:
    camera = camera_on()
    camera.open()
    for frame_id, at_ms in enumerate((5000.25, 5033.5, 5033.5), 1):  # the last frame repeats, as after a timeout
        device.take(at_ms)
        frame = camera.grab(WITHIN_SECONDS)
        assert isinstance(frame, Frame)
        assert (frame.stamp.frame_id, frame.stamp.camera_timestamp_ns) == (frame_id, int(at_ms * 1e6))
        assert (frame.pixel_format, frame.image.shape) == ("BGR8", (480, 640, 3))
        assert frame.image[0, 0, 0] == int(at_ms) % 256
    device.take(0.0)  # a driver without a clock
    frame = camera.grab(WITHIN_SECONDS)
    assert frame is not None
    assert frame.stamp.camera_timestamp_ns is None
    device.take(None)


def test_a_read_that_fails_is_a_camera_error_after_the_frames_before_it(device: Device) -> None:
    camera = camera_on()
    camera.open()
    device.take(1.0, None)
    assert isinstance(camera.grab(WITHIN_SECONDS), Frame)
    for _ in range(2):
        with pytest.raises(CameraError, match=r"^camera usb: /dev/null brought no frame; was it unplugged"):
            camera.grab(WITHIN_SECONDS)
    assert device.released.wait(WITHIN_SECONDS)


def test_a_camera_can_be_interrupted_and_closed_while_its_read_hangs(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatline.edge.cameras.streams.CLOSE_WITHIN_SECONDS", 0.05)
    camera, came = camera_on(), list[object]()
    camera.open()
    assert device.reads.wait(WITHIN_SECONDS)
    assert camera.grab(0.0) is None
    thread = in_thread(lambda: came.append(camera.grab(3600.0)))
    camera.interrupt()
    thread.join(WITHIN_SECONDS)
    assert came == [None]
    camera.close()
    assert not device.released.is_set()  # only by the thread that reads
    device.take(1.0)
    assert device.released.wait(WITHIN_SECONDS)
