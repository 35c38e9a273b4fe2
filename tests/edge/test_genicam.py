"""GigE Vision cameras, real ones on loopback: what they do beyond the contract of all cameras (test_cameras.py)."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
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
from tests.edge.gv_cameras import FIRST_FRAME_ID, ROOT, AravisCamera, aravis_camera, need_aravis, noise, viva_camera

FAST = 200.0
"""Frames per second, so that tests do not wait for frames."""
SOON_S = 60.0
"""Longer than any wait should take."""


@pytest.fixture(scope="module")
def device() -> Iterator[AravisCamera]:
    """A camera for tests that change only what every opening sets."""
    with aravis_camera(rate_fps=FAST) as camera:
        yield camera


@contextlib.contextmanager
def opened(address: str | None, **keys: Any) -> Iterator[GenicamCamera]:
    camera = GenicamCamera(GenicamSettings(name="cam", address=address, **keys))
    with contextlib.closing(camera):
        camera.open()
        yield camera


def opening(address: str | None, **keys: Any) -> Opened:
    """Open a camera, close it, and return what `open` reported."""
    camera = GenicamCamera(GenicamSettings(name="cam", address=address, **keys))
    with contextlib.closing(camera):
        return camera.open()


def grab(camera: GenicamCamera) -> Frame | BadFrame:
    item = camera.grab(SOON_S)
    assert item is not None, "no frame came"
    return item


def grab_frame(camera: GenicamCamera) -> Frame:
    item = grab(camera)
    assert isinstance(item, Frame), item
    return item


# Frames.


@pytest.mark.parametrize(
    ("pixel_format", "channels", "dtype"),
    [("Mono8", 1, np.uint8), ("BayerRG8", 1, np.uint8), ("RGB8", 3, np.uint8), ("Mono16", 1, np.uint16)],
)
def test_frames_of_a_region_arrive_byte_for_byte_as_the_camera_sent_them(
    pixel_format: str, channels: int, dtype: type
) -> None:
    """The image is not copied, and stays valid while other frames arrive and after the camera is closed."""
    pictures = noise(4, 37, 51, channels, dtype)
    with aravis_camera(pictures=pictures, pixel_format=pixel_format, rate_fps=FAST) as device:
        with opened(device.address, buffers=3, region=(7, 11, 33, 17)) as camera:
            for _ in range(6):
                frame = grab_frame(camera)
                sent = device.picture(frame.stamp.frame_id)[11 : 11 + 17, 7 : 7 + 33]
                assert (frame.pixel_format, frame.image.dtype, frame.image.flags.owndata) == (
                    pixel_format,
                    dtype,
                    False,
                )
                np.testing.assert_array_equal(frame.image, sent)
            until = time.monotonic() + SOON_S
            while camera.counters()["underruns"] == 0 and time.monotonic() < until:  # fills all other buffers
                time.sleep(0.01)
        np.testing.assert_array_equal(frame.image, sent)


def test_settings_reach_the_camera_and_its_properties_are_reported(device: AravisCamera) -> None:
    opened_as = opening(device.address, exposure_us=1234, gain_db=4, rate_fps=125)
    packets = re.search("packets of ([0-9]+) bytes", opened_as.found)
    assert packets is not None
    assert opened_as == Opened(
        found=f"Aravis Fake {device.serial} at {device.address}, 64x48 Mono8, {packets[0]}, 125 frames/s",
        ids_show_gaps=True,
        period_s=1 / 125,
    )
    handle = aravis.camera_new(device.address)  # another application: the settings stay in the camera
    assert aravis.camera_get_exposure_time(handle) == 1234
    assert (aravis.camera_get_gain(handle), aravis.camera_get_frame_rate(handle)) == (4, 125)
    aravis.g_object_unref(handle)


def test_a_trigger_takes_exactly_one_frame_and_without_an_edge_none_comes() -> None:
    with aravis_camera() as device:
        device.tell("trigger_rate", rate_fps=FAST)
        with opened(device.address, trigger="software") as camera:
            assert camera.grab(0.1) is None
            for count in range(3):
                item = None
                while item is None:  # the simulated device overlooks about one trigger in a hundred
                    camera.trigger()
                    item = camera.grab(SOON_S / 10)
                assert item.stamp.frame_id == FIRST_FRAME_ID + count
                assert camera.grab(0.03) is None
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


def test_a_frame_with_lost_packets_is_reported_with_its_id_and_one_that_vanished_leaves_a_gap() -> None:
    """The frame may lose its first packet, which holds its id and its times. Two buffers are enough for all."""
    lost = [(2, 3), (4, 0), *((6, packet) for packet in range(80))]
    with (
        viva_camera(width=320, height=240, drop_packets=lost, packet_resend=False) as device,
        opened(device.ip, buffers=2) as camera,
    ):
        items = [grab(camera) for _ in range(7)]
        counted = camera.counters()
    assert [item.stamp.frame_id for item in items] == [1, 2, 3, 4, 5, 7, 8]
    bad = [item for item in items if isinstance(item, BadFrame)]
    assert [(item.stamp.frame_id, item.reason, item.kind) for item in bad] == [
        (2, "incomplete", "failed"), (4, "incomplete", "failed")
    ]  # fmt: skip
    assert re.search(r"missing-packets.*packets were lost.*docs/genicam\.md", bad[0].detail)
    assert bad[1].stamp.camera_timestamp_ns is None, "it has another frame's"
    assert (counted["completed"], counted["failures"], counted["resent_packets"]) == (5, 2, 0)


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
        device.tell("resize", width=60, height=40)
        with opened(device.address) as camera:
            grab_frame(camera)
            device.tell("resize", width=20, height=30, pixel_format="BayerRG8")
            while (frame := grab_frame(camera)).image.shape != (30, 20):
                pass
            assert frame.pixel_format == "BayerRG8"
            np.testing.assert_array_equal(frame.image, device.picture(frame.stamp.frame_id)[:30, :20])
            device.tell("resize", width=90, height=90, pixel_format="Mono8")
            while isinstance(item := grab(camera), Frame):
                assert item.image.shape == (30, 20)
            assert item.reason == "incomplete"
            assert "90x90 Mono8 has 8100 bytes and its buffer took 2400" in item.detail
            with pytest.raises(CameraError, match=r"camera cam at 127.* size changed in mid-run"):
                camera.grab(SOON_S)
        with opened(device.address) as camera:
            assert grab_frame(camera).image.shape == (90, 90)


# The end of a camera.


def test_a_camera_under_foreign_control_is_refused_and_lost_control_ends_the_frames() -> None:
    with viva_camera(width=64, height=48) as device, opened(device.ip) as camera:
        with pytest.raises(CameraError, match=r"camera cam at 127.* another application controls it, and only one can"):
            opening(device.ip)
        grab_frame(camera)
        device.revoke_control()
        with pytest.raises(CameraError, match=r"control of it was lost: .* another application controls it"):
            list(iter(lambda: grab(camera), None))


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
    for ask in (list_cameras, GenicamCamera(GenicamSettings(name="cam", address="127.0.0.1")).open):
        with pytest.raises(
            MissingExtraError, match=r"libaravis-0.8.so.999 cannot be loaded .* apt install libaravis-0.8-0"
        ):
            ask()


def test_an_old_library_has_another_message_than_a_missing_one() -> None:
    need_aravis()
    with pytest.raises(CameraError, match=r"too old: it has no arv_made_up; install Aravis"):
        aravis.Function("arv_made_up", None)()
