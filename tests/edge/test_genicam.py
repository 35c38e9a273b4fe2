"""GigE Vision cameras, real ones on loopback: what they do beyond the contract of all cameras (test_cameras.py)."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from heatline.edge.cameras import aravis, discovery
from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.discovery import Found, list_cameras
from heatline.edge.cameras.genicam import GenicamCamera
from heatline.edge.cameras.settings import GenicamSettings
from heatline.edge.errors import CameraError, MissingExtraError
from heatline.edge.frames import BadFrame, Frame
from tests.edge.gv_cameras import AravisCamera, aravis_camera, need_aravis, noise, viva_camera
from tests.edge.secured import until
from tests.edge.supervised import grabbed, opened_camera

FAST = 200.0
"""Frames per second, so that tests do not wait for frames."""


@pytest.fixture(scope="module")
def device() -> Iterator[AravisCamera]:
    """A camera for tests that change only what every opening sets."""
    with aravis_camera(rate_fps=FAST) as camera:
        yield camera


def opened(address: str | None, **keys: Any) -> contextlib.AbstractContextManager[GenicamCamera]:
    return opened_camera(GenicamCamera(GenicamSettings(name="cam", address=address, **keys)))


def opening(address: str | None, **keys: Any) -> Opened:
    """Open a camera, close it, and return what `open` reported."""
    with contextlib.closing(GenicamCamera(GenicamSettings(name="cam", address=address, **keys))) as camera:
        return camera.open()


def grab_frame(camera: GenicamCamera) -> Frame:
    item = grabbed(camera)
    assert isinstance(item, Frame), item
    return item


@pytest.mark.parametrize(
    ("pixel_format", "channels", "dtype"), [("BayerRG8", 1, np.uint8), ("RGB8", 3, np.uint8), ("Mono16", 1, np.uint16)]
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
                assert (frame.pixel_format, frame.image.dtype) == (pixel_format, dtype)
                assert not frame.image.flags.owndata
                np.testing.assert_array_equal(frame.image, sent)
            until(lambda: camera.counters()["underruns"] > 0)  # all other buffers have been filled
        np.testing.assert_array_equal(frame.image, sent)


def test_settings_reach_the_camera_and_its_properties_are_reported(device: AravisCamera) -> None:
    opened_as = opening(device.address, exposure_us=1234, gain_db=4, rate_fps=125)
    packets = re.search("packets of ([0-9]+) bytes", opened_as.found)
    assert opened_as == Opened(
        found=f"Aravis Fake {device.serial} at {device.address}, 64x48 Mono8, {packets[0]}, 125 frames/s",
        ids_show_gaps=True,
        period_s=1 / 125,
    )
    handle = aravis.camera_new(device.address)  # another application: the settings stay in the camera
    assert aravis.camera_get_exposure_time(handle) == 1234
    assert (aravis.camera_get_gain(handle), aravis.camera_get_frame_rate(handle)) == (4, 125)
    aravis.g_object_unref(handle)


def test_without_an_edge_no_frame_comes(device: AravisCamera) -> None:
    with opened(device.address, trigger="hardware", trigger_line="Line0") as camera:
        assert camera.grab(0.1) is None


def test_lost_packets_are_requested_again() -> None:
    with viva_camera(width=320, height=240, drop_packets=[(2, 3), (4, 0)]) as device, opened(device.ip) as camera:
        ids = [grab_frame(camera).stamp.frame_id for _ in range(5)]
        assert ids in ([1, 2, 3, 4, 5], [2, 3, 4, 5, 6]), "on a busy machine, the first one may vanish"
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
        items = [grabbed(camera) for _ in range(7)]
        counted = camera.counters()
    # On a busy machine, the first one may vanish too.
    assert [item.stamp.frame_id for item in items if item.stamp.frame_id not in (1, 9)] == [2, 3, 4, 5, 7, 8]
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
        assert opening(device.ip, trigger="software").period_s is None
        assert opening(device.ip, rate_fps=50).period_s == pytest.approx(1 / 50)


def test_a_camera_under_foreign_control_is_refused_and_lost_control_ends_the_frames() -> None:
    with viva_camera(width=64, height=48) as device, opened(device.ip) as camera:
        with pytest.raises(CameraError, match=r"camera cam at 127.* another application controls it, and only one can"):
            opening(device.ip)
        grab_frame(camera)
        device.revoke_control()
        with pytest.raises(CameraError, match=r"control of it was lost: .* another application controls it"):
            list(iter(lambda: grabbed(camera), None))


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"exposure_us": 5}, "it refuses exposure_us 5 .* lower than allowed minimum '10'"),
        ({"rate_fps": 2000}, "rate_fps 2000 does not suit it: it stands at 1000"),
        ({"pixel_format": "BGR8"}, "it refuses pixel_format BGR8"),
        ({"region": (0, 0, 65, 48)}, "it refuses region .* greater than allowed maximum '64'"),
        ({"trigger": "hardware"}, "it refuses trigger Line1"),
        ({"chunks": ["ExposureTime"]}, "it refuses chunks"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_beyond_a_cameras_range_are_refused(device: AravisCamera, keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CameraError, match=f"^camera cam at {device.address}: .*{sentence}"):
        opening(device.address, **keys)


def test_a_camera_is_found_by_broadcast_and_opened_by_its_name(device: AravisCamera) -> None:
    assert device.serial in [camera.serial for camera in list_cameras()]
    with opened(f"Aravis-Fake-{device.serial}") as camera:
        grab_frame(camera)
    with pytest.raises(CameraError, match=r"camera cam at no-such: it cannot be opened .*heatline cameras list"):
        opening("no-such")


def test_without_an_address_one_camera_must_answer(device: AravisCamera, monkeypatch: pytest.MonkeyPatch) -> None:
    """On loopback, the cameras of other tests answer, too."""
    found = [camera for camera in list_cameras() if camera.serial == device.serial]
    monkeypatch.setattr(discovery, "list_cameras", lambda: found)
    assert f"{device.serial} at {device.address}" in opening(None).found
    found.append(Found({"kind": "genicam", "address": "127.0.0.99"}, "another", "GigE Vision"))
    with pytest.raises(CameraError, match=rf"and 2 answered \({device.address}, 127\.0\.0\.99\); set address"):
        opening(None)


def test_a_missing_or_old_library_is_reported_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    need_aravis()
    with pytest.raises(CameraError, match=r"too old: it has no arv_made_up; install Aravis"):
        aravis.Function("arv_made_up", None)()
    monkeypatch.setattr(aravis, "LIBRARY", "libaravis-0.8.so.999")
    with pytest.raises(MissingExtraError, match=r"so.999 cannot be loaded .* apt install libaravis-0.8-0"):
        opening("127.0.0.1")
