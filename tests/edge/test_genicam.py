"""GigE Vision cameras: real ones, on loopback."""

import contextlib
import ctypes
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatline.edge.cameras import aravis
from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.discovery import list_cameras
from heatline.edge.cameras.genicam import GenicamCamera
from heatline.edge.cameras.settings import GenicamSettings
from heatline.edge.errors import CameraError, MissingExtraError
from heatline.edge.frames import BadFrame, Frame
from tests.edge.gv_cameras import (
    FIRST_FRAME_ID,
    ROOT,
    AravisCamera,
    aravis_camera,
    need_aravis,
    noise,
    viva_camera,
)
from tests.edge.supervised import held, in_thread, until

FAST = 200.0
"""Frames per second, so that tests do not wait for frames."""
SOON_S = 60.0
"""Longer than any wait should take."""


@pytest.fixture(scope="module")
def device() -> Iterator[AravisCamera]:
    """A camera for tests that change only what every opening sets."""
    with aravis_camera(rate_fps=FAST) as camera:
        yield camera


@pytest.fixture
def plain_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable packet sockets, which only root may open."""
    create_stream = aravis.camera_create_stream
    set_options = aravis.Function("arv_camera_gv_set_stream_options", None, ctypes.c_void_p, ctypes.c_int)

    def create(camera: int, *rest: Any) -> int | None:
        set_options(camera, 1)
        return create_stream(camera, *rest)

    monkeypatch.setattr(aravis, "camera_create_stream", create)


def settings(address: str | None, **keys: Any) -> GenicamSettings:
    return GenicamSettings(name="cam", address=address, **keys)


@contextlib.contextmanager
def opened(address: str | None, **keys: Any) -> Iterator[GenicamCamera]:
    camera = GenicamCamera(settings(address, **keys))
    camera.open()
    try:
        yield camera
    finally:
        camera.close()


def opening(address: str | None, **keys: Any) -> Opened:
    """Open a camera, close it, and return what `open` reported."""
    camera = GenicamCamera(settings(address, **keys))
    try:
        return camera.open()
    finally:
        camera.close()


def grab(camera: GenicamCamera) -> Frame | BadFrame:
    item = camera.grab(SOON_S)
    assert item is not None, "no frame came"
    return item


def grab_frame(camera: GenicamCamera) -> Frame:
    item = grab(camera)
    assert isinstance(item, Frame), item
    return item


def fails_in_the_end(camera: GenicamCamera) -> CameraError:
    """Grab until an error, and return it."""
    until = time.monotonic() + SOON_S
    while time.monotonic() < until:
        try:
            camera.grab(0.1)
        except CameraError as failure:
            return failure
    raise AssertionError("it went on")


# Frames.


@pytest.mark.parametrize(
    ("pixel_format", "channels", "dtype"),
    [("Mono8", 1, np.uint8), ("BayerRG8", 1, np.uint8), ("RGB8", 3, np.uint8), ("Mono16", 1, np.uint16)],
)
def test_frames_arrive_byte_for_byte_as_the_camera_sent_them(pixel_format: str, channels: int, dtype: type) -> None:
    pictures = noise(4, 37, 51, channels, dtype)
    with (
        aravis_camera(pictures=pictures, pixel_format=pixel_format, rate_fps=FAST) as device,
        opened(device.address) as camera,
    ):
        for _ in range(6):
            frame = grab_frame(camera)
            assert (frame.pixel_format, frame.image.dtype) == (pixel_format, dtype)
            np.testing.assert_array_equal(frame.image, device.picture(frame.stamp.frame_id))


@pytest.mark.usefixtures("plain_sockets")
def test_unprivileged_sockets_deliver_the_same_frames() -> None:
    with (
        aravis_camera(pictures=noise(3, 240, 320), rate_fps=20) as device,
        opened(device.address) as camera,
    ):
        whole = 0
        for _ in range(12):
            item = grab(camera)
            if isinstance(item, BadFrame):  # a plain socket overflows on a busy machine
                assert "missing-packets" in item.detail
            else:
                np.testing.assert_array_equal(item.image, device.picture(item.stamp.frame_id))
                whole += 1
        assert whole >= 6


def test_settings_reach_the_camera_and_its_properties_are_reported(device: AravisCamera) -> None:
    keys: dict[str, Any] = {"exposure_us": 1234, "gain_db": 4, "rate_fps": 125}
    opened_as = opening(device.address, **keys)
    packets = re.search("packets of ([0-9]+) bytes", opened_as.found)
    assert packets is not None
    assert opened_as == Opened(
        found=f"Aravis Fake {device.serial} at {device.address}, 64x48 Mono8, {packets[0]}, 125 frames/s",
        ids_show_gaps=True,
        period_s=1 / 125,
    )
    with opened(device.address, **keys) as camera:
        handle = camera._camera
        assert aravis.camera_get_exposure_time(handle) == 1234
        assert aravis.camera_get_gain(handle) == 4
        assert aravis.camera_get_frame_rate(handle) == 125


def test_a_frame_has_timestamps_of_both_host_clocks_and_of_the_camera(device: AravisCamera) -> None:
    with opened(device.address, rate_fps=FAST) as camera:
        grab(camera)
        began_ns, began_monotonic_ns = time.time_ns(), time.monotonic_ns()
        while (first := grab_frame(camera).stamp).captured_monotonic_ns < began_monotonic_ns:
            pass
        second = grab_frame(camera).stamp
    assert began_ns - 1e6 <= first.captured_at_ns <= second.captured_at_ns <= time.time_ns()
    assert first.captured_monotonic_ns <= second.captured_monotonic_ns <= time.monotonic_ns()
    assert first.camera_timestamp_ns is not None
    assert second.camera_timestamp_ns is not None
    assert first.camera_timestamp_ns < second.camera_timestamp_ns


def test_an_image_is_not_copied_and_stays_valid_while_other_frames_arrive(device: AravisCamera) -> None:
    with opened(device.address, buffers=3, rate_fps=FAST) as camera:
        frame = grab_frame(camera)
        until = time.monotonic() + SOON_S
        while camera.counters()["underruns"] == 0 and time.monotonic() < until:  # fills all other buffers
            time.sleep(0.01)
        assert not frame.image.flags.owndata
        np.testing.assert_array_equal(frame.image, device.picture(frame.stamp.frame_id))
    np.testing.assert_array_equal(frame.image, device.picture(frame.stamp.frame_id))


def test_a_region_of_the_sensor_equals_that_part_of_the_full_picture() -> None:
    with (
        aravis_camera(pictures=noise(3, 60, 80), rate_fps=FAST) as device,
        opened(device.address, region=(7, 11, 33, 17)) as camera,
    ):
        frame = grab_frame(camera)
        np.testing.assert_array_equal(frame.image, device.picture(frame.stamp.frame_id)[11 : 11 + 17, 7 : 7 + 33])


# Triggers.


def triggered_frame(camera: GenicamCamera) -> Frame:
    """Trigger a frame. The simulated device overlooks about one trigger in a hundred, and takes no frame then."""
    for _ in range(5):
        camera.trigger()
        item = camera.grab(SOON_S / 10)
        if item is not None:
            assert isinstance(item, Frame)
            return item
    raise AssertionError("no frame came")


def test_a_software_trigger_takes_exactly_one_frame() -> None:
    with aravis_camera() as device, opened(device.address, trigger="software") as camera:
        device.trigger_rate(FAST)
        assert camera.grab(0.1) is None
        for count in range(3):
            frame = triggered_frame(camera)
            assert frame.stamp.frame_id == FIRST_FRAME_ID + count
            assert camera.grab(0.03) is None


def test_with_a_hardware_trigger_no_frame_comes_without_an_edge(device: AravisCamera) -> None:
    assert opening(device.address, trigger="hardware", trigger_line="Line0").period_s is None
    with opened(device.address, trigger="hardware", trigger_line="Line0") as camera:
        assert camera.grab(0.1) is None
        with pytest.raises(CameraError, match=r"set its trigger to software"):
            camera.trigger()


# Losses.


def test_lost_packets_are_requested_again() -> None:
    with viva_camera(width=320, height=240, drop_packets=[(2, 3), (4, 0)]) as device, opened(device.ip) as camera:
        assert [grab_frame(camera).stamp.frame_id for _ in range(5)] == [1, 2, 3, 4, 5]
        counted = camera.counters()
    assert (counted["completed"], counted["failures"]) == (5, 0)
    assert counted["resend_requests"] >= counted["resent_packets"] >= 2  # a busy machine may need several requests


def test_a_frame_with_lost_packets_is_reported_with_its_id_and_advice() -> None:
    """The frame may lose its first packet, which holds its id and its times."""
    with (
        viva_camera(width=320, height=240, drop_packets=[(2, 3), (4, 0)], packet_resend=False) as device,
        opened(device.ip, buffers=2) as camera,
    ):
        items = [grab(camera) for _ in range(5)]
        counted = camera.counters()
    assert [item.stamp.frame_id for item in items] == [1, 2, 3, 4, 5]
    bad = [item for item in items if isinstance(item, BadFrame)]
    assert [(item.stamp.frame_id, item.reason, item.kind) for item in bad] == [
        (2, "incomplete", "failed"),
        (4, "incomplete", "failed"),
    ]
    assert "missing-packets" in bad[0].detail
    assert "packets were lost" in bad[0].detail
    assert "docs/genicam.md" in bad[0].detail
    assert bad[1].stamp.camera_timestamp_ns is None, "it has another frame's"
    assert (counted["completed"], counted["failures"], counted["resent_packets"]) == (3, 2, 0)


def test_a_frame_of_which_nothing_arrives_leaves_a_gap_in_the_ids() -> None:
    whole = [(3, packet) for packet in range(80)]
    with viva_camera(width=320, height=240, drop_packets=whole) as device, opened(device.ip) as camera:
        ids = [grab_frame(camera).stamp.frame_id for _ in range(4)]
        assert ids in ([1, 2, 4, 5], [2, 4, 5, 6]), "the first frame may be sent before the host listens"
        assert camera.counters()["missing_frames"] >= 1


def test_lost_frames_do_not_use_up_the_buffers() -> None:
    with aravis_camera(rate_fps=FAST) as device, opened(device.address, buffers=2) as camera:
        device.lose_packets(0.5)
        bad = 0
        while bad < 10:
            bad += isinstance(grab(camera), BadFrame)
        device.lose_packets(0)
        assert any(not isinstance(grab(camera), BadFrame) for _ in range(100))


@pytest.mark.usefixtures("plain_sockets")
def test_stray_packets_are_ignored() -> None:
    """A test packet may come late. The camera is one of this test alone: a stray has the frame number 0, and with the
    numbers of some hundred frames later, aravis takes the camera's frames for late ones and leaves them out.
    """
    port_of = aravis.Function("arv_gv_stream_get_port", ctypes.c_uint16, ctypes.c_void_p)
    with (
        aravis_camera(rate_fps=FAST) as device,
        opened(device.address, trigger="software") as camera,
        socket.socket(type=socket.SOCK_DGRAM) as strays,
    ):
        strays.connect(("127.0.0.1", port_of(camera._stream)))
        strays.send(bytes(1000))
        assert camera.grab(0.1) is None
        triggered_frame(camera)


# Chunks.


def test_chunks_come_with_every_frame_and_stay_out_of_the_image() -> None:
    with viva_camera(width=64, height=48) as device:
        for chunks in ({"ExposureTime": 2345.0}, {}):
            with opened(device.ip, chunks=list(chunks), exposure_us=2345) as camera:
                frame = grab_frame(camera)
                assert (frame.stamp.chunks, frame.image.shape) == (chunks, (48, 64))


# Changes in mid-run.


def test_changed_frames_are_accepted_unless_they_outgrow_their_buffer() -> None:
    """The library reports a truncated frame as complete."""
    with aravis_camera(pictures=noise(2, 90, 90), rate_fps=FAST) as device:
        device.resize(60, 40)
        with opened(device.address) as camera:
            grab_frame(camera)
            device.resize(20, 30, "BayerRG8")
            while (frame := grab_frame(camera)).image.shape != (30, 20):
                pass
            assert frame.pixel_format == "BayerRG8"
            np.testing.assert_array_equal(frame.image, device.picture(frame.stamp.frame_id)[:30, :20])
            device.resize(90, 90, "Mono8")
            while isinstance(item := grab(camera), Frame):
                assert item.image.shape == (30, 20)
            assert item.reason == "incomplete"
            assert "90x90 Mono8 has 8100 bytes and its buffer took 2400" in item.detail
            with pytest.raises(CameraError, match=r"camera cam at 127.* size changed in mid-run"):
                camera.grab(SOON_S)
        with opened(device.address) as camera:
            assert grab_frame(camera).image.shape == (90, 90)


# The end of a camera.


def test_a_camera_without_power_is_silent_and_can_be_opened_afterwards() -> None:
    with aravis_camera(rate_fps=FAST) as device:
        with opened(device.address) as camera:
            grab_frame(camera)
            device.kill()
            while camera.grab(0.05) is not None:
                pass
            device.start()
            assert "control of it was lost" in str(fails_in_the_end(camera))  # restarted: nobody controls it
        with opened(device.address) as camera:
            frame = grab_frame(camera)
            np.testing.assert_array_equal(frame.image, device.picture(frame.stamp.frame_id))


def test_a_camera_under_foreign_control_is_refused_and_lost_control_ends_the_frames() -> None:
    with viva_camera(width=64, height=48) as device, opened(device.ip) as camera:
        with pytest.raises(CameraError, match=r"camera cam at 127.* another application controls it, and only one can"):
            opening(device.ip)
        grab_frame(camera)
        device.revoke_control()
        assert "another application controls it" in str(fails_in_the_end(camera))


def test_a_camera_can_be_counted_and_interrupted_while_a_thread_waits_for_a_frame() -> None:
    with aravis_camera() as device, opened(device.address, trigger="software") as camera:
        waiting = in_thread(lambda: camera.grab(1000.0))
        assert camera.counters()["completed"] == 0
        camera.interrupt()
        waiting.join(SOON_S)
        assert not waiting.is_alive()
        camera.trigger()
        assert camera.grab(1000.0) is None
    assert camera.counters() == {}
    with pytest.raises(CameraError, match=r"not open"):
        camera.trigger()


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.long)])
def test_repeated_openings_leave_no_resources_behind(device: AravisCamera, times: int) -> None:
    def threads() -> int:
        """No resource of the library stays either."""
        return len(list(Path("/proc/self/task").iterdir()))

    opening(device.address)
    before, threads_before = held(), threads()
    for _ in range(times):
        with opened(device.address) as camera:
            grab_frame(camera)
        with pytest.raises(CameraError):
            opening(device.address, exposure_us=1e8)
    until(lambda: threads() <= threads_before, "the end of threads that were joined")
    assert held() - before == set()


# Settings.


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"exposure_us": 5}, "it refuses exposure_us 5 .* lower than allowed minimum '10'"),
        ({"gain_db": 11}, "it refuses gain_db 11 .* greater than allowed maximum '10'"),
        ({"rate_fps": 2000}, "rate_fps 2000 does not suit it: it stands at 1000"),
        ({"pixel_format": "BGR8"}, "it refuses pixel_format BGR8"),
        ({"region": (0, 0, 65, 48)}, "it refuses region .* greater than allowed maximum '64'"),
        ({"trigger": "hardware"}, "it refuses trigger Line1"),
        ({"chunks": ["ExposureTime"]}, "it refuses chunks"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_a_camera_does_not_accept_are_refused_with_its_range(
    device: AravisCamera, keys: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(CameraError, match=f"^camera cam at {device.address}: .*{sentence}"):
        opening(device.address, **keys)


def test_the_second_camera_accepts_a_rate_after_a_trigger_and_named_chunks() -> None:
    with viva_camera(width=64, height=48) as device:
        assert opening(device.ip, trigger="software").period_s is None
        assert opening(device.ip, rate_fps=50).period_s == pytest.approx(1 / 50)
        with pytest.raises(CameraError, match=r"it refuses chunks"):
            opening(device.ip, chunks=["Nothing"])


# Discovery.


def test_a_camera_is_found_by_broadcast_and_opened_by_its_name(device: AravisCamera) -> None:
    (found,) = (camera for camera in list_cameras() if camera.serial == device.serial)
    assert (found.model, found.keys["address"], found.protocol) == ("Aravis Fake", device.address, "GigE Vision")
    with opened(f"Aravis-Fake-{device.serial}") as camera:
        grab_frame(camera)
    with pytest.raises(CameraError, match=r"camera cam at no-such: it cannot be opened .*heatline cameras list"):
        opening("no-such")


IN_A_NETWORK_OF_ITS_OWN = """
from heatline.edge.cameras.discovery import only_camera
from heatline.edge.errors import CameraError
from tests.edge.gv_cameras import aravis_camera

with aravis_camera():
    print(only_camera())
    with aravis_camera():
        try:
            only_camera()
        except CameraError as error:
            print(error)
"""


def test_without_an_address_the_only_camera_is_chosen() -> None:
    need_aravis()
    network = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    try:
        subprocess.run([*network, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    command = [*network, sys.executable, "-c", IN_A_NETWORK_OF_ITS_OWN]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    of_one, _, of_two = result.stdout.partition("\n")
    assert of_one == "127.0.0.1", result.stderr
    assert "camera was expected and 2 answered (127.0.0.1, 127.0.0.2)" in of_two


def test_a_missing_library_is_reported_with_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aravis, "LIBRARY", "libaravis-0.8.so.999")
    for ask in (list_cameras, GenicamCamera(settings("127.0.0.1")).open):
        with pytest.raises(
            MissingExtraError, match=r"libaravis-0.8.so.999 cannot be loaded .* apt install libaravis-0.8-0"
        ):
            ask()


def test_an_old_library_has_another_message_than_a_missing_one() -> None:
    need_aravis()
    with pytest.raises(CameraError, match=r"too old: it has no arv_made_up; install Aravis"):
        aravis.Function("arv_made_up", None)()
