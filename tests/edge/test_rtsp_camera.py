"""The RTSP camera: the newest frame of a real server's stream, reported losses, and a message for each failure."""

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from heatline.edge.cameras.settings import RtspSettings
from heatline.edge.cameras.streams import RtspCamera
from heatline.edge.errors import CameraError, MissingExtraError
from heatline.edge.frames import BadFrame, Frame
from tests.edge.rtsp_server import BLUE, FPS, GREEN, HEIGHT, RED, WIDTH, RtspServer, rtsp_server
from tests.edge.supervised import WITHIN_SECONDS, held, in_thread

PATIENT = {"open_within_s": WITHIN_SECONDS, "read_within_s": WITHIN_SECONDS}
"""Long, as a healthy server may be slow on a busy machine."""


@pytest.fixture(autouse=True)
def _av() -> None:
    pytest.importorskip("av", reason="the extra rtsp is not installed")


@pytest.fixture
def server() -> Iterator[RtspServer]:
    with rtsp_server() as server:
        yield server


def camera_at(url: str, **keys: object) -> RtspCamera:
    return RtspCamera(RtspSettings(name="side", url=url, **(PATIENT | keys)))  # type: ignore[arg-type]


@contextlib.contextmanager
def opened(url: str, **keys: object) -> Iterator[RtspCamera]:
    camera = camera_at(url, **keys)
    camera.open()
    try:
        yield camera
    finally:
        camera.close()


def grabbed(camera: RtspCamera) -> Frame | BadFrame:
    one = camera.grab(WITHIN_SECONDS)
    assert one is not None
    return one


def frames(camera: RtspCamera, count: int) -> list[Frame]:
    """Return this many frames; on a busy machine some in between are replaced and reported."""
    found = list[Frame]()
    while len(found) < count:
        one = grabbed(camera)
        if isinstance(one, Frame):
            found.append(one)
        else:
            assert one.reason == "overload"
    return found


def last_words(camera: RtspCamera) -> str:
    """Return why no more frames come."""
    try:
        while True:
            grabbed(camera)
    except CameraError as error:
        return str(error)


def test_frames_arrive_as_sent_with_ids_and_the_cameras_clock(server: RtspServer) -> None:
    camera = camera_at(server.url("raw"))
    found = camera.open()
    assert found.found == f"rawvideo stream of {WIDTH}x{HEIGHT} px, shown as RGB8, from {server.url('raw')}"
    assert found.period_s == pytest.approx(1 / FPS)
    assert not found.ids_show_gaps
    seen = [grabbed(camera) for _ in range(6)]
    camera.close()
    next_id, began_ns = 1, seen[0].stamp.camera_timestamp_ns
    assert began_ns is not None
    for one in seen:
        assert one.stamp.frame_id == next_id
        assert one.stamp.camera_timestamp_ns == began_ns + (next_id - 1) * 1_000_000_000 // FPS
        if isinstance(one, Frame):
            assert one.pixel_format == "RGB8"
            assert one.image.shape == (HEIGHT, WIDTH, 3)
            assert (one.image == (RED, GREEN, BLUE)).all()
        next_id += one.stamp.frames


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_an_encoded_stream_arrives_over_either_transport(server: RtspServer, transport: str) -> None:
    with opened(server.url("h264"), transport=transport) as camera:
        for frame in frames(camera, 3):
            np.testing.assert_allclose(frame.image.mean((0, 1)), (RED, GREEN, BLUE), atol=4)


# Servers that freeze, die and come back.


def test_a_frozen_server_is_reported_and_can_be_closed(server: RtspServer) -> None:
    with opened(server.url("h264"), read_within_s=1.0) as camera:
        frames(camera, 2)
        server.freeze()
        assert last_words(camera) == (
            f"camera side: {server.url('h264')} sent nothing for 1 s; check the camera and its cable"
        )
        receiver = camera._receiver
    assert receiver is not None
    assert not receiver.is_alive()
    with pytest.raises(CameraError, match=r"h264 did not answer within 0\.3 s; check cable"):
        camera_at(server.url("h264"), open_within_s=0.3).open()


def test_interrupting_ends_a_grab_at_once_even_if_the_server_is_frozen(server: RtspServer) -> None:
    camera = camera_at(server.url("raw"), read_within_s=300.0)
    camera.open()
    frames(camera, 1)
    server.freeze()
    while camera.grab(0.2) is not None:
        pass  # frames on their way
    came = list[object]()
    thread = in_thread(lambda: came.append(camera.grab(3600.0)))
    camera.interrupt()
    thread.join(WITHIN_SECONDS)
    assert came == [None]
    camera.close()  # returns, though the read has minutes left


def test_a_killed_server_is_reported_and_opens_again_after_its_return(server: RtspServer) -> None:
    with opened(server.url("raw")) as camera:
        frames(camera, 2)
        server.kill()
        assert last_words(camera) == f"camera side: {server.url('raw')} ended its stream; was the camera restarted?"
    with pytest.raises(
        CameraError, match=r"raw cannot be opened .Connection refused.; check that the camera is on, and url"
    ):
        camera_at(server.url("raw")).open()
    server.start()
    with opened(server.url("raw")) as camera:
        assert frames(camera, 1)[0].stamp.frame_id == 1


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.long)])
def test_reconnects_leave_no_thread_and_no_descriptor_behind(server: RtspServer, times: int) -> None:
    with opened(server.url("h264")) as camera:
        frames(camera, 1)
    before = held()
    for _ in range(times):
        with opened(server.url("h264")) as camera:
            frames(camera, 1)
    assert held() - before == set()


# Damage in transit.


@contextlib.contextmanager
def relay(to_port: int, passed_on: Callable[[bytes], bytes]) -> Iterator[int]:
    """A port that relays an RTSP connection, with a function that may change each RTP packet."""

    def run() -> None:
        down, _ = listener.accept()
        up = socket.create_connection(("127.0.0.1", to_port))
        upward = in_thread(lambda: pump(down, up))
        with down, up, up.makefile("rb") as came, contextlib.suppress(OSError):
            while first := came.read(1):
                if first == b"$":  # RTP among the text: channel, length, packet
                    channel, length = came.read(1), came.read(2)
                    packet = came.read(int.from_bytes(length, "big"))
                    packet = passed_on(packet) if channel == b"\0" else packet
                    down.sendall(first + channel + len(packet).to_bytes(2, "big") + packet)
                else:
                    down.sendall(first + came.readline())
            for end in (down, up):
                end.shutdown(socket.SHUT_RDWR)
        upward.join(WITHIN_SECONDS)

    def pump(source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                to.sendall(data)
            to.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = in_thread(run)
        yield listener.getsockname()[1]
        thread.join(WITHIN_SECONDS)


KEY_FRAME = 5
"""Type of the H.264 unit of a key frame."""
GROUP = 5
"""Interval between key frames, in frames."""


class Damage:
    """Cuts off the end of the n-th key frame, after a camera has decoded some."""

    def __init__(self, nth: int, kept: float) -> None:
        self.nth, self.kept, self.seen = nth, kept, 0

    def __call__(self, packet: bytes) -> bytes:
        if packet[12] & 31 != KEY_FRAME:
            return packet
        self.seen += 1
        return packet if self.seen != self.nth else packet[: 13 + int((len(packet) - 13) * self.kept)]


def test_a_damaged_frame_and_those_that_depend_on_it_are_unreadable(server: RtspServer) -> None:
    with relay(server.port, Damage(3, kept=0.1)) as port, opened(f"rtsp://127.0.0.1:{port}/h264") as camera:
        seen = [grabbed(camera)]
        while not (isinstance(seen[-1], Frame) and any(map(unreadable, seen))):
            seen.append(grabbed(camera))
    assert 1 <= sum(map(unreadable, seen)) <= GROUP
    next_id = 1
    for one in seen:
        assert one.stamp.frame_id == next_id
        next_id += one.stamp.frames


def unreadable(one: Frame | BadFrame) -> bool:
    return isinstance(one, BadFrame) and (one.reason, one.kind) == ("unreadable", "failed")


# Servers that cannot be used.


@contextlib.contextmanager
def answering(reply: bytes) -> Iterator[str]:
    """Run a server that gives the same reply to all requests; return its URL."""

    def run() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while request := connection.recv(65536):
                cseq = request.partition(b"CSeq: ")[2].partition(b"\r\n")[0]
                connection.sendall(reply.replace(b"N\r\n", cseq + b"\r\n", 1))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = in_thread(run)
        yield f"rtsp://user:secret@127.0.0.1:{listener.getsockname()[1]}/cam"
        thread.join(WITHIN_SECONDS)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            b"RTSP/1.0 401 Unauthorized\r\nCSeq: N\r\n\r\n",
            "cannot be opened .*401.*; check that the camera is on, and url",
        ),
        (
            b"RTSP/1.0 404 Not Found\r\nCSeq: N\r\n\r\n",
            "cannot be opened .*404.*",
        ),
        (b"RTSP/1.0 503 Service Unavailable\r\nCSeq: N\r\n\r\n", "cannot be opened .*5XX.*"),
    ],
    ids=["401", "404", "503"],
)
def test_a_server_that_refuses_is_a_camera_error_that_shows_no_password(reply: bytes, message: str) -> None:
    with (
        answering(reply) as url,
        pytest.raises(CameraError, match=f"camera side: rtsp://127.*/cam {message}") as caught,
    ):
        camera_at(url).open()
    assert "secret" not in str(caught.value)


def test_a_camera_without_answer_has_another_message_than_one_that_refuses() -> None:
    with socket.socket() as holder:  # bound and not listening: it refuses
        holder.bind(("127.0.0.1", 0))
        url = f"rtsp://127.0.0.1:{holder.getsockname()[1]}/cam"
        with pytest.raises(CameraError, match=r"cam cannot be opened .Connection refused"):
            camera_at(url).open()
        holder.listen()
        with pytest.raises(CameraError, match=r"cam did not answer within 0\.2 s; .* or raise open_within_s"):
            camera_at(url, open_within_s=0.2).open()


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"camera side needs the extra rtsp: pip install 'heatline\[rtsp\]'"):
        camera_at("rtsp://127.0.0.1/cam").open()
