"""All kinds of cameras: one contract for each of them, and then what only one kind does."""

import contextlib
import itertools
import queue
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.cameras.base import EndOfFrames, FrameSource, Pace
from heatline.edge.cameras.child import make_source
from heatline.edge.cameras.files import FolderCamera, VideoCamera
from heatline.edge.cameras.pattern import frame_id_of, pattern
from heatline.edge.cameras.settings import (
    CameraSettings,
    FolderSettings,
    GenicamSettings,
    RtspSettings,
    V4l2Settings,
    VideoSettings,
)
from heatline.edge.cameras.streams import RtspCamera, V4l2Camera
from heatline.edge.errors import CameraError, MissingExtraError
from heatline.edge.frames import BadFrame, Frame, Stamp
from tests.edge.gv_cameras import aravis_camera
from tests.edge.lines import write_pictures
from tests.edge.rtsp_server import BLUE, FPS, GREEN, RED, RtspServer, rtsp_server
from tests.edge.supervised import WITHIN_SECONDS, drawn_camera, grabbed, held, in_thread, opened_camera

PATIENT = {"open_within_s": WITHIN_SECONDS, "read_within_s": WITHIN_SECONDS}
"""Long, as a healthy server may be slow on a busy machine."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of different grey."""
    return write_pictures(tmp_path / "f", {f"{i}.png": np.full((4, 6, 3), 40 * i, np.uint8) for i in (1, 2, 3)})


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Five frames of 64x48 px for 8 frames/s, the n-th one's blue 40 n and red 255."""
    path = tmp_path / "belt.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 8.0, (64, 48))
    for n in range(1, 6):
        writer.write(np.full((48, 64, 3), (40 * n, 0, 255), np.uint8))
    writer.release()
    return path


@pytest.fixture
def server() -> Iterator[RtspServer]:
    pytest.importorskip("av", reason="the extra rtsp is not installed")
    with rtsp_server() as server:
        yield server


class Device:
    """Simulates OpenCV's capture of a V4L2 camera with two sizes: it falls back to these, and refuses a gain."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float]] = []
        self.has = {cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*"YUYV")), cv2.CAP_PROP_FPS: 30.0}
        self.ready = queue.Queue[float | None]()
        """Timestamps of the next frames; None: a read that fails."""
        self.sends = False
        """Whether it sends all the time, in place of `ready`."""
        self.released = threading.Event()

    def __call__(self, path: str, backend: int) -> "Device":
        assert backend == cv2.CAP_V4L2
        self.has |= {cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FRAME_HEIGHT: 480.0, cv2.CAP_PROP_POS_MSEC: 0.0}
        return self

    def isOpened(self) -> bool:
        return True

    def set(self, which: int, value: float) -> bool:
        self.asked.append((which, value))
        if which == cv2.CAP_PROP_FRAME_HEIGHT and self.asked[-2][1] > 640:
            self.has |= {cv2.CAP_PROP_FRAME_WIDTH: 1280.0, cv2.CAP_PROP_FRAME_HEIGHT: 720.0}
        elif which not in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT) and value != UNKNOWN:
            self.has[which] = value
        return which != cv2.CAP_PROP_GAIN

    def get(self, which: int) -> float:
        return self.has[which]

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.sends:
            time.sleep(0.005)
            self.ready.put(self.has[cv2.CAP_PROP_POS_MSEC] + 1.0)
        at_ms = self.ready.get()
        if at_ms is None:
            return False, None
        self.has[cv2.CAP_PROP_POS_MSEC] = at_ms
        return True, np.full((480, 640, 3), int(at_ms) % 256, np.uint8)

    def release(self) -> None:
        self.released.set()


UNKNOWN = float(cv2.VideoWriter.fourcc(*"H264"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    device = Device()
    monkeypatch.setattr("heatline.edge.cameras.streams.cv2.VideoCapture", device)
    yield device
    device.ready.put(None)


@dataclass
class Example:
    """One camera, and what makes it wait, disappear and return."""

    settings: CameraSettings
    is_right: Callable[[Frame], bool]
    """Whether a frame shows what was sent."""
    waiting: CameraSettings | None = None
    """Settings with which the camera waits for its next frame, if `pause` alone does not stop it."""
    pause: Callable[[], object] = lambda: None
    disappear: Callable[[], object] | None = None
    """None: it is never missing."""
    appear: Callable[[], object] = lambda: None
    first_id: int | None = 1


def files(kind: Callable[..., CameraSettings], path: Path, blues: int) -> Example:
    def is_right(frame: Frame) -> bool:
        shown = ((frame.stamp.frame_id or 0) - 1) % blues + 1
        return frame.pixel_format == "BGR8" and abs(float(frame.image[..., 0].mean()) - 40 * shown) < 4

    away = path.with_suffix(".away")
    settings, waiting = (kind(name="top", path=path, loop=True, rate_fps=rate) for rate in (200, 1 / 3600))
    return Example(settings, is_right, waiting, disappear=lambda: path.rename(away), appear=lambda: away.rename(path))


@pytest.fixture(params=["folder", "video", "pattern", "v4l2", "genicam", "rtsp"])
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Example]:
    match request.param:
        case "folder":
            yield files(FolderSettings, request.getfixturevalue("folder"), 3)
        case "video":
            yield files(VideoSettings, request.getfixturevalue("video"), 5)
        case "pattern":
            yield Example(
                drawn_camera(),
                lambda frame: np.array_equal(frame.image, pattern(frame.stamp.frame_id or 0, (5, 12))),
                drawn_camera(trigger="software"),
            )
        case "v4l2":
            device, path = request.getfixturevalue("device"), tmp_path / "video0"
            device.sends = True
            path.touch()
            yield Example(
                V4l2Settings(name="top", device=path),
                lambda frame: frame.image[0, 0, 0] == (frame.stamp.camera_timestamp_ns or 0) // 10**6 % 256,
                pause=lambda: setattr(device, "sends", False),
                disappear=path.unlink,
                appear=path.touch,
            )
        case "genicam":
            with aravis_camera(rate_fps=200.0) as gige:
                yield Example(
                    GenicamSettings(name="top", address=gige.address, rate_fps=200),
                    lambda frame: np.array_equal(frame.image, gige.picture(frame.stamp.frame_id)),
                    GenicamSettings(name="top", address=gige.address, trigger="software"),
                    disappear=gige.kill,
                    appear=gige.start,
                    first_id=None,  # its count begins before the host listens
                )
        case "rtsp":
            server = request.getfixturevalue("server")
            yield Example(
                RtspSettings(name="top", url=server.url("raw"), open_within_s=60, read_within_s=300),
                lambda frame: frame.pixel_format == "RGB8" and bool((frame.image == (RED, GREEN, BLUE)).all()),
                pause=server.freeze,
                disappear=server.kill,
                appear=server.start,
            )


def opened(settings: CameraSettings) -> contextlib.AbstractContextManager[FrameSource[Any]]:
    return opened_camera(make_source(settings))


def frames_of(
    camera: FrameSource[Any], count: int, first_id: int | None = 1, *, lossy: bool = False
) -> Iterator[Frame]:
    """Grab this many frames, and check that every id comes once, in a frame or in a run of replaced ones; if `lossy`,
    of incomplete ones, too."""
    while count:
        one = grabbed(camera)
        first_id = one.stamp.frame_id if first_id is None else first_id
        assert (one.stamp.camera, one.stamp.frame_id) == ("top", first_id)
        first_id = (one.stamp.last_frame_id or first_id or 0) % 65535 + 1
        if isinstance(one, Frame):
            count -= 1
            yield one
        else:
            assert (one.reason, one.kind) == ("overload", "dropped") or (lossy and one.reason == "incomplete")


def test_frames_come_as_sent_with_number_and_time_and_a_missing_camera_is_an_error(example: Example) -> None:
    before_ns = time.monotonic_ns()
    with opened(example.settings) as camera:
        for frame in frames_of(camera, 7, example.first_id):
            assert example.is_right(frame), frame.stamp
            assert before_ns <= frame.stamp.captured_monotonic_ns <= time.monotonic_ns()
            before_ns = frame.stamp.captured_monotonic_ns
            assert abs(time.time_ns() - frame.stamp.captured_at_ns) < WITHIN_SECONDS * 1e9
        assert camera.counters().get("failures", 0) == 0
    if example.disappear is None:
        return
    example.disappear()
    missing = "is not a folder|cannot be read|cannot be opened"
    with pytest.raises(CameraError, match=f"^camera top(:| at) .*({missing}).*; "), opened(example.settings):
        pass
    example.appear()
    with opened(example.settings) as camera:
        assert len(list(frames_of(camera, 1, example.first_id))) == 1


def test_an_interruption_ends_a_grab_that_waits_and_every_later_one(example: Example) -> None:
    with opened(example.waiting or example.settings) as camera:
        example.pause()
        while camera.grab(0.2) is not None:
            pass  # frames on their way
        came = list[object]()
        thread = in_thread(lambda: came.append(camera.grab(3600.0)))
        camera.interrupt()
        thread.join(WITHIN_SECONDS)
        with contextlib.suppress(CameraError):
            camera.trigger()
        assert came + [camera.grab(3600.0) for _ in range(3)] == [None] * 4


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.long)])
def test_openings_leave_no_resources_behind(example: Example, times: int) -> None:
    before = set[str]()
    for n in range(1 + times):
        with opened(example.settings) as camera:
            list(frames_of(camera, 1, example.first_id, lossy=True))  # the machine may be busy
        before = held() if n == 0 else before
    assert held() - before == set()


def shown(camera: FrameSource[Any], count: int) -> list[tuple[str, int | None]]:
    """Return the type and the id of each item."""
    return [(type(one).__name__, one.stamp.frame_id) for one in (grabbed(camera) for _ in range(count))]


def test_pictures_come_by_name_until_the_end_and_unreadable_ones_are_reported(folder: Path, tmp_path: Path) -> None:
    (folder / "1.png").write_bytes(b"no picture")
    with opened(FolderSettings(name="top", path=folder)) as camera:
        (folder / "2.png").unlink()
        for n, detail in ((1, "1.png"), (2, "No such file")):
            bad = grabbed(camera)
            assert (bad.stamp.frame_id, bad.stamp.source, bad.reason) == (n, f"{n}.png", "unreadable")
            assert detail in bad.detail
        assert ((last := grabbed(camera)).stamp.source, last.stamp.frame_id) == ("3.png", 3)
        for _ in range(2):
            with pytest.raises(EndOfFrames):
                camera.grab(1.0)
    with pytest.raises(CameraError, match=r"camera top: .* holds no picture"):
        FolderCamera(FolderSettings(name="top", path=tmp_path)).open()


def test_a_preloaded_folder_is_shown_from_memory(folder: Path) -> None:
    (folder / "2.png").write_bytes(b"no picture")
    settings = FolderSettings(name="top", path=folder, loop=True, preload=True)
    with opened(settings) as camera:
        for path in folder.iterdir():
            path.unlink()
        came = [grabbed(camera) for _ in range(6)]
    values = [one.image[0, 0, 0] if isinstance(one, Frame) else one.reason for one in came]
    assert values == [40, "unreadable", 120, 40, "unreadable", 120]
    assert settings.opened_within_s == 600.0, "preloading may take long"


def test_a_video_has_the_files_rate_and_each_damaged_frame_is_reported_in_every_loop(video: Path) -> None:
    found = VideoCamera(VideoSettings(name="top", path=video)).open()
    assert (found.period_s, found.found) == (1 / 8, f"5 frames of 64x48 px, BGR8, in {video}, at 8 frames/s")
    assert VideoCamera(VideoSettings(name="top", path=video, rate_fps=4)).open().period_s == 1 / 4
    whole = video.read_bytes()
    chunks = re.compile(b"00dc").finditer(whole, whole.index(b"movi"))  # then a length, and the JPEG of a frame
    begins = [chunk.end() + 4 for chunk in chunks][:5]
    where = [slice(at, at + int.from_bytes(whole[at - 4 : at], "little")) for at in begins]
    data = bytearray(whole)
    for at in (where[1], where[3], where[4]):
        data[at] = bytes(at.stop - at.start)
    video.write_bytes(data)
    came = [("Frame", 1), ("BadFrame", 2), ("Frame", 3), ("BadFrame", 4), ("BadFrame", 5)]
    with opened(VideoSettings(name="top", path=video, rate_fps=10_000, loop=True)) as camera:
        assert shown(camera, 10) == came + [(kind, n + 5) for kind, n in came]
    video.write_bytes(whole[: where[1].stop])
    with opened(VideoSettings(name="top", path=video, rate_fps=10_000)) as camera:
        assert shown(camera, 2) == [("Frame", 1), ("Frame", 2)]
        for frame_id in (3, 4, 5):
            bad = grabbed(camera)
            assert (bad.reason, bad.stamp.frame_id, bad.stamp.source) == ("unreadable", frame_id, "belt.avi")
            assert f"states 5 frames, and frame {frame_id} cannot be read" in bad.detail
        with pytest.raises(EndOfFrames):
            camera.grab(1.0)
    video.write_bytes(b"no video\n" * 100)
    with pytest.raises(CameraError, match=r"camera top: .*belt.avi cannot be read as a video; expected"):
        VideoCamera(VideoSettings(name="top", path=video)).open()


@given(frame_id=st.integers(1, 65535), hw=st.tuples(st.integers(1, 9), st.integers(2, 9)))
def test_pixels_follow_the_formula_of_frame_id_and_position(frame_id: int, hw: tuple[int, int]) -> None:
    """The formula of docs/cameras.md, pixel by pixel."""
    words = [1 + (frame_id - 1 + i // 2) % 65535 for i in range(hw[0] * hw[1])]
    pixels = [word // 256 if i % 2 else word % 256 for i, word in enumerate(words)]
    image = pattern(frame_id, hw)
    assert (image.ravel().tolist(), frame_id_of(image)) == (pixels, frame_id)


def test_frames_are_due_at_the_rate_and_a_late_consumer_catches_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("heatline.edge.cameras.base.time.monotonic", lambda: now)

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now
            now += timeout or 0.0
            return self.is_set()

    pace, taken_at = Pace(4, Interrupted()), list[float]()
    for n in range(6):
        assert pace.await_frame(n, 10.0)
        taken_at.append(now - 1000)
        now += 0.6 if n == 1 else 0.1  # once, longer than two frames
    assert taken_at == pytest.approx([0, 0.25, 0.85, 0.95, 1.05, 1.25])
    assert (pace.await_frame(6, 0.1), now - 1000) == (False, pytest.approx(1.45)), "a wait ends in time"


def webcam(path: str | Path = "/dev/null", **keys: Any) -> V4l2Camera:
    return V4l2Camera(V4l2Settings(name="usb", device=Path(path), **keys))


@given(steps=st.lists(st.integers(0, 3), max_size=40))
def test_every_picture_comes_once_itself_or_in_a_run_and_every_second_item_is_a_picture(steps: list[int]) -> None:
    """Each step puts this many pictures and takes once; at last the stream ends."""
    stream, accounted, last, came = webcam(), list[int](), 0, list[type]()
    for count in steps + [0] * 4:
        for _ in range(count):
            last += 1
            stream.put(Stamp("usb", last), np.full((1, 1, 3), last % 256, np.uint8))
        one = stream.grab(0.0)
        if one is not None:
            first = one.stamp.frame_id or 0
            assert (one.stamp.last_frame_id or first) - first + 1 == one.stamp.frames
            accounted += range(first, first + one.stamp.frames)
            came.append(type(one))
            assert isinstance(one, BadFrame) or one.image[0, 0, 0] == first % 256
    assert accounted == list(range(1, last + 1))
    assert all(Frame in pair for pair in itertools.pairwise(came)), "a slow reader gets no losses only"


def test_a_file_that_is_no_video_device_is_a_camera_error(tmp_path: Path) -> None:
    for path, message in {
        tmp_path: r" cannot be opened \(Is a directory\); .* Set device to one of /dev/video\*",
        Path("/dev/null"): "/dev/null is not a video device that captures, or another",
    }.items():
        with pytest.raises(CameraError, match=f"^camera usb: .*{message}"):
            webcam(path).open()


@pytest.mark.parametrize(
    ("keys", "rate_fps", "found"),
    [
        ({}, -1.0, "640x480 px, YUYV shown as BGR8"),
        ({"frame_size": (1280, 720), "fourcc": "MJPG", "rate_fps": 15.0, "exposure": 100.0}, 30.0,
         "1280x720 px, MJPG shown as BGR8, 15 frames/s"),
        ({"frame_size": (1000, 1000)}, 30.0, "took 1280x720 px when asked for 1000x1000 px; set frame_size to what"),
        ({"fourcc": "H264"}, 30.0, "took YUYV when asked for H264; set fourcc to what"),
        ({"gain": 12.0}, 30.0, "does not take gain = 12; leave gain out"),
    ],
)  # fmt: skip
def test_settings_are_requested_from_the_driver_and_its_values_reported(
    device: Device, keys: dict[str, Any], rate_fps: float, found: str
) -> None:
    device.has[cv2.CAP_PROP_FPS] = rate_fps
    camera = webcam(**keys)
    if "shown as" not in found:
        with pytest.raises(CameraError, match=f"^camera usb: /dev/null {found}"):
            camera.open()
        return
    said, asked = camera.open(), [which for which, _ in device.asked]
    assert (said.found, said.ids_show_gaps) == (f"/dev/null: {found}", False)
    assert said.period_s == (1 / 15 if keys else None)
    if keys:
        assert asked.index(cv2.CAP_PROP_FOURCC) < asked.index(cv2.CAP_PROP_FRAME_WIDTH)
        assert asked.index(cv2.CAP_PROP_AUTO_EXPOSURE) < asked.index(cv2.CAP_PROP_EXPOSURE)
        assert (cv2.CAP_PROP_AUTO_EXPOSURE, 1) in device.asked
    else:
        assert asked == [cv2.CAP_PROP_BUFFERSIZE]


def test_frames_have_the_drivers_clock_if_it_has_one_and_a_read_that_fails_ends_the_camera(device: Device) -> None:
    camera = webcam()
    camera.open()
    for at_ms, clock_ns in ((5000.25, 5_000_250_000), (5000.25, 5_000_250_000), (0.0, None)):
        device.ready.put(at_ms)  # the second frame repeats, as after a timeout
        assert grabbed(camera).stamp.camera_timestamp_ns == clock_ns
    device.ready.put(None)
    with pytest.raises(CameraError, match=r"^camera usb: /dev/null brought no frame; was it unplugged"):
        camera.grab(WITHIN_SECONDS)
    assert device.released.wait(WITHIN_SECONDS)


def network_camera(url: str, **keys: Any) -> RtspCamera:
    return RtspCamera(RtspSettings(name="top", url=url, **(PATIENT | keys)))


def opened_at(url: str, **keys: Any) -> contextlib.AbstractContextManager[RtspCamera]:
    return opened_camera(network_camera(url, **keys))


def assert_ends(camera: RtspCamera, why: str) -> None:
    with pytest.raises(CameraError, match=f"^camera top: rtsp://.*/h264 {why}$"):
        list(iter(lambda: grabbed(camera), None))


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_stream_arrives_by_either_transport_until_its_server_hangs(server: RtspServer, transport: str) -> None:
    url, stamps = server.url("h264"), list[tuple[int, int]]()
    with opened_at(url, transport=transport, read_within_s=1.0) as camera:
        for frame in frames_of(camera, 3):
            np.testing.assert_allclose(frame.image.mean((0, 1)), (RED, GREEN, BLUE), atol=4)
            stamps.append((frame.stamp.frame_id or 0, frame.stamp.camera_timestamp_ns or 0))
        for frame_id, clock_ns in stamps:
            assert clock_ns - stamps[0][1] == pytest.approx((frame_id - stamps[0][0]) * 1e9 / FPS, abs=1e6)
        server.freeze()
        assert_ends(camera, "sent nothing for 1 s; check the camera and its cable")
    with pytest.raises(CameraError, match=r"h264 did not answer within 0\.3 s; .* or raise open_within_s"):
        network_camera(url, open_within_s=0.3).open()
    server.freeze(False)
    with opened_at(url, transport="tcp") as camera:
        server.kill()
        assert_ends(camera, r"ended its stream; was the camera restarted\?")


def test_a_damaged_frame_and_those_that_depend_on_it_are_unreadable(server: RtspServer) -> None:
    seen, next_id = list[Frame | BadFrame](), 1
    with opened_at(server.url("damaged")) as camera:
        while not (sum(map(unreadable, seen)) > 1 and isinstance(seen[-1], Frame)):
            seen.append(grabbed(camera))
            assert len(seen) < 200, "a server that starts anew with each camera damages the same frames"
    for one in seen:
        assert one.stamp.frame_id == next_id
        next_id += one.stamp.frames


def unreadable(one: Frame | BadFrame) -> bool:
    return isinstance(one, BadFrame) and (one.reason, one.kind) == ("unreadable", "failed")


def test_a_server_that_refuses_is_a_camera_error_that_shows_no_password() -> None:
    def run() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while request := connection.recv(65536):
                cseq = request.partition(b"CSeq: ")[2].partition(b"\r\n")[0]
                connection.sendall(b"RTSP/1.0 401 Unauthorized\r\nCSeq: " + cseq + b"\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = in_thread(run)
        url = f"rtsp://user:secret@127.0.0.1:{listener.getsockname()[1]}/cam"
        sentence = "^camera top: rtsp://127[^@]*/cam cannot be opened .*401.*; check that the camera is on, and url"
        with pytest.raises(CameraError, match=sentence):
            network_camera(url).open()
        thread.join(WITHIN_SECONDS)


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"camera top needs the extra rtsp: pip install 'heatline\[rtsp\]'"):
        network_camera("rtsp://127.0.0.1/cam").open()
