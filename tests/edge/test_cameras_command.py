"""`heatline cameras`: real cameras grabbed as a line's configuration says, and what is told of them."""

import contextlib
import json
import os
import select
import signal
import statistics
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cameras import aravis
from edge.cameras.listing import video_devices
from edge.cameras.pattern import pattern
from edge.cameras.settings import FolderSettings, PatternSettings
from edge.cli.cameras import cameras
from edge.errors import CameraError, HeatlineError, InputError
from edge.frames import Stamp
from edge.geometry import AreaOfInterest, TileGrid
from edge.grab.area_picture import AREA_RGB, SHADE, TILE_RGB, area_picture
from edge.grab.arrivals import Arrivals
from edge.grab.grab import Grab
from edge.grab.picture_saver import Saver
from edge.images import read_image, read_rgb
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.gv_cameras import aravis_camera, noise
from tests.edge.lines import started, write_pictures

SIZE = "draw_size = [12, 5]"
HW = (5, 12)


def line(folder: Path, **keys: str) -> Path:
    """A line of cameras, kind and own keys by name; its bundle is not there."""
    tables = [f'[[cameras]]\nname = "{name}"\n{own}' for name, own in keys.items()]
    path = folder / "line.toml"
    path.write_text("\n".join(['bundle = "none.bundle"', *tables]))
    return path


def pattern_camera(keys: str = "") -> str:
    return f'kind = "pattern"\nrate_fps = 500\n{SIZE}\non_overload = "block"\n{keys}'


def folder_camera(path: Path) -> str:
    return f'kind = "folder"\npath = "{path}"'


class Told:
    """What the command told, in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
        self.error: HeatlineError | None = None
        try:
            cameras.main([str(one) for one in arguments], "cameras", standalone_mode=False)
        except HeatlineError as error:
            self.error = error
        self.out, self.err = capsys.readouterr()

    @property
    def report(self) -> Any:
        return json.loads(self.out)


@contextlib.contextmanager
def opened(pipe: Path) -> Iterator[BinaryIO]:
    """The reading end of a pipe, once something has been written to it."""
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        assert select.select([reader], [], [], WITHIN_SECONDS)[0], "nothing was written"
        yield reader


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Grab: pictures.


def test_every_camera_is_grabbed_and_its_frames_are_saved_to_the_pixel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = line(tmp_path, top=pattern_camera("first_frame_id = 65533"), side=pattern_camera())
    told = Told(capsys, "grab", config, "-n", "6", "--out", tmp_path / "out", "--json")
    assert told.error is None
    for name, ids in {"top": [65533, 65534, 65535, 1, 2, 3], "side": [1, 2, 3, 4, 5, 6]}.items():
        grabbed = told.report["cameras"][name]
        assert grabbed["saved"] == [f"{name}-{n:05d}-{frame_id}.png" for n, frame_id in enumerate(ids, start=1)]
        for file, frame_id in zip(grabbed["saved"], ids, strict=True):
            image, pixel_format = read_image(tmp_path / "out" / file)
            assert pixel_format == "Mono8"
            np.testing.assert_array_equal(image, pattern(frame_id, HW))
        assert (grabbed["frames"], grabbed["asked"], grabbed["problem"]) == (6, 6, None)
        assert grabbed["formats"] == [{"width": 12, "height": 5, "pixel_format": "Mono8", "frames": 6}]
        assert grabbed["rate_set_fps"] == pytest.approx(500)
        assert grabbed["rate_fps"] > 0
        assert (grabbed["losses"], grabbed["identical"], grabbed["not_saved"]) == ({}, 0, 0)
    assert len(files(tmp_path / "out")) == 12


def test_colour_is_saved_as_rgb_grey_as_grey_and_deep_grey_by_its_highest_8_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colour, grey, deep = noise(1, 7, 9, 3)[0], noise(1, 7, 9)[0], noise(1, 7, 9, dtype=np.uint16)[0]
    pictures = write_pictures(tmp_path / "in", {"1.png": colour, "2.png": grey, "3.png": deep})  # type: ignore[dict-item]
    told = Told(capsys, "grab", line(tmp_path, top=folder_camera(pictures)), "-n", "3", "--out", tmp_path, "--json")
    first, second, third = (tmp_path / name for name in told.report["cameras"]["top"]["saved"])
    np.testing.assert_array_equal(read_rgb(first), colour)
    np.testing.assert_array_equal(read_image(second)[0], grey)
    np.testing.assert_array_equal(read_image(third)[0], deep // 256)
    formats = told.report["cameras"]["top"]["formats"]
    assert [one["pixel_format"] for one in formats] == ["BGR8", "Mono8", "Mono16"]


def test_pictures_of_an_earlier_grab_stay_and_numbers_count_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = line(tmp_path, top=pattern_camera(), **{"top-1": pattern_camera()})
    Told(capsys, "grab", config, "-n", "2", "--out", tmp_path / "out")
    Told(capsys, "grab", config, "-n", "1", "--out", tmp_path / "out", "--camera", "top")
    assert files(tmp_path / "out") == [
        "top-00001-1.png",
        "top-00002-2.png",
        "top-00003-1.png",
        "top-1-00001-1.png",
        "top-1-00002-2.png",
    ]


# Grab: what is told.


def test_a_frame_that_the_camera_lost_is_told_and_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = line(tmp_path, top=pattern_camera("lose_frames = [2, 3, 5]"))
    told = Told(capsys, "grab", config, "-n", "4", "--out", tmp_path / "out", "--json")
    grabbed = told.report["cameras"]["top"]
    assert [name.split("-")[-1] for name in grabbed["saved"]] == ["1.png", "4.png", "6.png", "7.png"]
    assert grabbed["jitter_ms"] is None, "only 6 and 7 came one after the other"
    assert grabbed["losses"] == {
        "lost_by_camera": {"frames": 3, "detail": "the camera counted it and it never arrived"}
    }


def test_a_picture_that_cannot_be_read_is_told_and_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = write_pictures(tmp_path / "in", {f"{n}.png": noise(n, 4, 4)[n - 1] for n in (1, 2, 4)})  # type: ignore[misc]
    (pictures / "3.png").write_bytes(b"no picture")
    told = Told(capsys, "grab", line(tmp_path, top=folder_camera(pictures)), "-n", "3", "--out", tmp_path, "--json")
    assert told.error is None
    grabbed = told.report["cameras"]["top"]
    assert (grabbed["frames"], grabbed["losses"]["unreadable"]["frames"]) == (3, 1)
    assert "3.png is not a picture" in grabbed["losses"]["unreadable"]["detail"]
    assert not grabbed["ids_show_gaps"]


def test_frames_that_are_the_same_as_the_one_before_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = noise(2, 4, 4)
    same_first_row = np.vstack([other[:1], one[1:]])
    shown = dict(zip("abcdef", [one, one, other, same_first_row, same_first_row, one], strict=True))
    pictures = write_pictures(tmp_path / "in", {f"{name}.png": image for name, image in shown.items()})  # type: ignore[misc]
    told = Told(capsys, "grab", line(tmp_path, top=folder_camera(pictures)), "-n", "6", "--out", tmp_path, "--json")
    assert told.report["cameras"]["top"]["identical"] == 2


def test_software_triggers_are_fired_one_by_one_and_one_without_a_frame_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = 'trigger = "software"\nignore_triggers = [2]\ntrigger_timeout_ms = 500'
    told = Told(capsys, "grab", line(tmp_path, top=pattern_camera(keys)), "-n", "3", "--out", tmp_path / "o", "--json")
    assert told.error is None
    grabbed = told.report["cameras"]["top"]
    assert (grabbed["trigger"], grabbed["frames"], grabbed["rate_set_fps"]) == ("software", 3, None)
    assert [name.split("-")[-1] for name in grabbed["saved"]] == ["1.png", "2.png", "3.png"]
    assert {reason: loss["frames"] for reason, loss in grabbed["losses"].items()} == {"no_frame": 1}


def test_a_camera_that_freezes_is_told_to_have_died_and_is_grabbed_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = Told(
        capsys, "grab", line(tmp_path, top=pattern_camera("freeze_at = 2")), "-n", "8", "--out", tmp_path, "--json"
    )
    assert told.error is None
    grabbed = told.report["cameras"]["top"]
    # It shows the pictures 1, 2, 2, 2, the next one is a fault, and it is opened anew.
    assert [name.split("-")[-1] for name in grabbed["saved"]] == [f"{n}.png" for n in (1, 2, 3, 4, 1, 2, 3, 4)]
    assert grabbed["identical"] == 4
    assert grabbed["losses"]["frozen"]["frames"] >= 1
    (died,) = grabbed["died"]
    assert died.startswith("frozen: more than 3 frames one after the other were identical")


def test_frames_that_the_line_would_refuse_are_saved_and_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = line(tmp_path, top=pattern_camera("size = [5, 12]\nlook_at = [[[0, 8], [4, 8], [4, 11]]]"))
    told = Told(capsys, "grab", config, "-n", "2", "--out", tmp_path / "out", "--json")
    assert told.error is None
    assert files(tmp_path / "out") == ["top-00001-1.png", "top-00002-2.png"]
    refused, area = told.report["cameras"]["top"]["warnings"]
    assert refused == (
        "the line would refuse 2 of these frames (wrong_size): 12x5 px came, 5x12 px expected; "
        "see size and pixel_format"
    )
    assert area.startswith("no pixel of a frame of 12x5 px is to be looked at")
    assert f"warning: camera top: {refused}\n" in told.err


def test_people_are_told_in_words(tmp_path: Path) -> None:
    config = line(
        tmp_path,
        top=pattern_camera("lose_frames = [2]\nsize = [12, 5]\nlook_at = [[[0, 0], [3, 0], [3, 3]]]"),
        gone=folder_camera(tmp_path / "nowhere"),
    )
    result = heatline("cameras", "grab", config, "-n", "5", env={"COLUMNS": "300"}, cwd=tmp_path)
    sentence = f"camera gone: {tmp_path / 'nowhere'} is not a folder; name a folder of pictures"
    assert (result.returncode, complaint(result)) == (5, f"heatline: {sentence}")
    rows = [text.rstrip() for text in result.stdout.splitlines() if text.strip()]
    assert rows[:3] == [
        "camera top: 5 of 5 frames",
        "found      drawn pictures of 12x5 px, Mono8",
        "frames     5 of 12x5 px Mono8",
    ]
    assert rows[3].startswith("rate       ")
    assert rows[3].endswith(" frames/s, set to 500")
    assert rows[4].endswith(" ms at worst, by arrival here")
    assert rows[5:7] == [
        "losses     lost_by_camera 1: the camera counted it and it never arrived; incomplete 0",
        "identical  0 the same as the one before to the last bit",
    ]
    assert rows[7].startswith("its clock  counted ")
    assert rows[8:] == [
        "saved      5: grabbed/top-00001-1.png to top-00005-6.png",
        "area       grabbed/top-area.png: 1 of 1 tiles are inspected, if the bundle's have the usual 224 px",
        "camera gone: 0 of 5 frames",
        f"problem  {sentence}",
    ]


# Grab: what ends it.


def test_cameras_that_do_not_open_are_an_error_after_the_others_have_been_grabbed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = line(
        tmp_path,
        top=pattern_camera(),
        gone=folder_camera(tmp_path / "nowhere"),
        absent='kind = "v4l2"\ndevice = "/dev/no-such-device"',
    )
    told = Told(capsys, "grab", config, "-n", "2", "--out", tmp_path / "out", "--json")
    assert isinstance(told.error, CameraError)
    reports = told.report["cameras"]
    assert str(told.error) == f"{reports['gone']['problem']}; {reports['absent']['problem']}"
    assert "/dev/no-such-device is not there" in reports["absent"]["problem"]
    assert (reports["gone"]["found"], reports["gone"]["frames"]) == (None, 0)
    assert (reports["top"]["problem"], len(reports["top"]["saved"])) == (None, 2)


def test_a_camera_that_is_too_slow_is_given_up_at_the_timeout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = 'trigger = "software"\nignore_triggers = [1]\ntrigger_timeout_ms = 60000'
    config = line(tmp_path, top=pattern_camera(keys))
    told = Told(capsys, "grab", config, "-n", "3", "--out", tmp_path / "out", "--timeout", "0.2", "--json")
    assert isinstance(told.error, CameraError)
    assert str(told.error).startswith("camera top: 0 of 3 frames came within 0.2 s; ")
    grabbed = told.report["cameras"]["top"]
    assert (grabbed["problem"], grabbed["saved"]) == (str(told.error), [])


def test_a_camera_that_has_no_more_frames_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(capsys, "grab", line(tmp_path, top=pattern_camera("frames = 2")), "--out", tmp_path / "out", "--json")
    assert isinstance(told.error, CameraError)
    assert str(told.error).startswith("camera top: 2 of 10 frames came, then it had no more; ")
    assert len(told.report["cameras"]["top"]["saved"]) == 2


def test_a_camera_that_is_not_in_the_line_is_exit_code_2(tmp_path: Path) -> None:
    result = heatline("cameras", "grab", line(tmp_path, top=pattern_camera()), "--camera", "side")
    assert (result.returncode, result.stdout) == (2, "")
    assert "has no camera side; it has top" in result.stderr


def test_a_folder_that_cannot_be_written_is_found_before_any_camera_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    config = line(tmp_path, gone=folder_camera(tmp_path / "nowhere"))
    told = Told(capsys, "grab", config, "--out", tmp_path / "file" / "out")
    assert isinstance(told.error, InputError)
    assert "cannot be written (Not a directory); check the disk" in str(told.error)
    assert told.out == ""


def test_a_disk_that_is_full_ends_the_grab_with_what_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "top-00002-2.png").symlink_to("/dev/full")
    told = Told(capsys, "grab", line(tmp_path, top=pattern_camera()), "-n", "99999", "--out", out, "--json")
    assert isinstance(told.error, InputError)
    assert str(told.error).startswith(f"{out} cannot be written (No space left on device); ")
    grabbed = told.report["cameras"]["top"]
    assert "until it was stopped" in grabbed["problem"]
    assert grabbed["saved"] == files(out)


def test_ctrl_c_ends_it_with_what_it_has(tmp_path: Path) -> None:
    """Its first picture goes into a pipe: once that is being written, the signal comes."""
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / "top-00001-1.png")
    config = line(tmp_path, top=pattern_camera())
    with started(HEATLINE, "cameras", "grab", config, "-n", "99999", "--out", out, "--json") as process:
        with opened(out / "top-00001-1.png") as pipe:
            process.send_signal(signal.SIGINT)
            written = pipe.read()
        told, log = process.communicate(timeout=WITHIN_SECONDS)
    assert (process.returncode, log.splitlines()[-1]) == (130, "heatline: interrupted")
    first = cv2.imdecode(np.frombuffer(written, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(first, pattern(1, HW))
    grabbed = json.loads(told)["cameras"]["top"]
    assert 1 <= grabbed["frames"] < 99999
    assert grabbed["saved"] == files(out)
    assert grabbed["problem"] == f"camera top: {grabbed['frames']} of 99999 frames came until it was stopped"


# Grab: the writer.


@contextlib.contextmanager
def slow_disk(out: Path) -> Iterator[Saver]:
    """A disk that takes a second picture once the first has been read out of a pipe; no other one may wait."""
    with Saver(out, most_bytes=1) as saver:
        os.mkfifo(out / "top-00001-1.png")
        yield saver


def test_frames_that_the_disk_cannot_follow_are_counted_and_not_saved(tmp_path: Path) -> None:
    settings = PatternSettings(name="top", draw_size=(12, 5), rate_fps=500)
    with slow_disk(tmp_path) as saver:
        grab = Grab(settings, 4, WITHIN_SECONDS, saver, counted=lambda: None, say=print)
        grab.run()
        (tmp_path / "top-00001-1.png").read_bytes()
    grabbed = grab.report()
    assert (grabbed.frames, grabbed.saved, grabbed.not_saved, grabbed.problem) == (4, ["top-00001-1.png"], 3, None)
    assert grabbed.warnings[0].startswith("3 frames were counted and not saved")


def test_a_camera_that_may_wait_for_the_line_waits_for_the_disk(tmp_path: Path) -> None:
    counted = threading.Semaphore(0)
    (picture,) = noise(1, 4, 4)
    pictures = write_pictures(tmp_path / "in", {f"{n}.png": picture for n in range(3)})  # type: ignore[misc]
    with slow_disk(tmp_path / "out") as saver:
        settings = FolderSettings(name="top", path=pictures)
        grab = Grab(settings, 3, WITHIN_SECONDS, saver, counted=lambda: counted.release(), say=print)
        running = threading.Thread(target=grab.run)
        running.start()
        assert counted.acquire(timeout=WITHIN_SECONDS)
        running.join(0.3)  # one that does not wait has ended by then
        assert running.is_alive()
        (tmp_path / "out" / "top-00001-1.png").read_bytes()
        running.join(WITHIN_SECONDS)
    grabbed = grab.report()
    assert (len(grabbed.saved), grabbed.not_saved) == (3, 0)


# Grab: numbers.


def stamps(arrived_ms: Sequence[int], camera_ms: Sequence[int | None]) -> list[Stamp]:
    return [
        Stamp(
            "top",
            None,
            camera_timestamp_ns=None if own is None else own * 1_000_000,
            captured_monotonic_ns=arrived * 1_000_000,
        )
        for arrived, own in zip(arrived_ms, camera_ms, strict=True)
    ]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20))
def test_rate_and_jitter_are_those_of_the_intervals(intervals_ms: list[int]) -> None:
    arrivals, at_ms = Arrivals(), 5
    arrivals.frame(*stamps([at_ms], [None]))
    for interval in intervals_ms:
        at_ms += interval
        arrivals.frame(*stamps([at_ms], [None]))
    assert arrivals.rate_fps == pytest.approx(1000 / statistics.mean(intervals_ms))
    assert arrivals.clock is None
    if len(intervals_ms) == 1:
        assert arrivals.jitter_ms is None
        return
    assert arrivals.jitter_ms is not None
    deviation, worst = arrivals.jitter_ms
    assert deviation == pytest.approx(statistics.pstdev(intervals_ms), abs=1e-9)
    mean = statistics.mean(intervals_ms)
    assert worst == pytest.approx(max(abs(one - mean) for one in intervals_ms), abs=1e-9)


def test_the_time_in_which_a_frame_was_lost_is_no_jitter() -> None:
    arrivals = Arrivals()
    for stamp in stamps([0, 10, 22], [None] * 3):
        arrivals.frame(stamp)
    arrivals.lost()
    for stamp in stamps([100, 109], [None] * 2):
        arrivals.frame(stamp)
    assert arrivals.jitter_ms == pytest.approx((statistics.pstdev([10, 12, 9]), 12 - 31 / 3))
    assert arrivals.rate_fps == pytest.approx(4 / 0.109)


def test_the_cameras_clock_is_held_against_the_hosts_since_it_was_opened() -> None:
    arrivals = Arrivals()
    for stamp in stamps([0, 10], [7000, 7010]):
        arrivals.frame(stamp)
    arrivals.began_anew()
    for stamp in stamps([1000, 1100, 1200], [50, None, 249]):
        arrivals.frame(stamp)
    clock = arrivals.clock
    assert clock is not None
    assert (clock.camera_ms, clock.host_ms) == (199, 200)


# Grab: where the line looks.


def test_the_area_is_drawn_into_the_first_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = "size = [600, 300]\ndraw_size = [600, 300]\nlook_at = [[[300, 30], [340, 30], [340, 60], [300, 60]]]"
    config = line(tmp_path, top=f'kind = "pattern"\nrate_fps = 500\n{size}')
    told = Told(capsys, "grab", config, "-n", "1", "--out", tmp_path / "out", "--json")
    assert told.report["cameras"]["top"]["area"] == {"file": "top-area.png", "tiles_looked_at": 1, "tiles": 6}
    picture, frame = read_rgb(tmp_path / "out" / "top-area.png"), pattern(1, (300, 600))
    # Tiles of 224 px lie at x 0, 222, 376 and y 0, 76: only the one at (222, 0) shows some of the area.
    inside, outside = np.s_[70:220, 230:440], np.s_[:, 450:]
    np.testing.assert_array_equal(picture[inside], np.dstack([frame[inside]] * 3))
    np.testing.assert_array_equal(picture[outside], np.dstack([frame[outside] // SHADE] * 3))
    assert tuple(picture[30, 300]) == tuple(picture[60, 320]) == AREA_RGB
    assert tuple(picture[0, 222]) == tuple(picture[223, 445]) == TILE_RGB


def test_a_colour_frame_keeps_its_colours_and_what_is_looked_away_from_is_outlined_too() -> None:
    (frame,) = noise(1, 224, 224, 3)
    area = AreaOfInterest.of([], [[(50, 50), (100, 50), (100, 100), (50, 100)]])
    picture = area_picture(frame.astype(np.uint8), TileGrid((224, 224), area=area))
    np.testing.assert_array_equal(picture[60:90, 60:90], frame[60:90, 60:90])
    assert tuple(picture[75, 49]) == tuple(picture[75, 101]) == AREA_RGB


# A GigE Vision camera.


def test_a_gige_camera_is_grabbed_with_what_its_transport_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with aravis_camera(rate_fps=100) as device:
        config = line(tmp_path, top=f'kind = "genicam"\naddress = "{device.address}"\non_overload = "block"')
        told = Told(capsys, "grab", config, "-n", "5", "--out", tmp_path / "out", "--json")
    assert told.error is None
    grabbed = told.report["cameras"]["top"]
    assert grabbed["frames"] == 5
    for name in grabbed["saved"]:
        frame_id = int(name.removesuffix(".png").split("-")[-1])
        np.testing.assert_array_equal(read_image(tmp_path / "out" / name)[0], device.picture(frame_id))
    assert grabbed["counters"]["completed"] >= 5
    assert grabbed["counters"]["received_packets"] > grabbed["counters"]["completed"]
    assert grabbed["clock"]["camera_ms"] > 0
    assert grabbed["rate_set_fps"] == pytest.approx(100)


def test_a_hardware_trigger_is_waited_for_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with aravis_camera() as device:
        keys = f'kind = "genicam"\naddress = "{device.address}"\ntrigger = "hardware"\ntrigger_line = "Line0"'
        told = Told(capsys, "grab", line(tmp_path, top=keys), "--out", tmp_path / "out", "--timeout", "0.2")
    assert "camera top waits for edges on its Line0\n" in told.err
    assert isinstance(told.error, CameraError)
    assert str(told.error) == (
        "camera top: 0 of 10 frames came within 0.2 s; check that the trigger's edges reach its Line0"
    )


# List.


def test_a_camera_that_answers_is_listed_with_its_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with aravis_camera() as device:
        told = Told(capsys, "list", "--interface", "lo", "--json")
        (found,) = (one for one in told.report["cameras"] if one["serial"] == device.serial)
        words = Told(capsys, "list", "--interface", "lo")
    assert (told.error, words.error, told.report["missing"]) == (None, None, None)
    assert found["keys"] == {"kind": "genicam", "address": device.address}
    assert (found["model"], found["protocol"]) == ("Aravis Fake", "GigE Vision")
    for text in (device.serial, "Aravis Fake", 'kind = "genicam"', f'address = "{device.address}"'):
        assert text in words.out


def test_video_devices_are_listed_by_number_with_their_names(tmp_path: Path) -> None:
    devices, about = tmp_path / "dev", tmp_path / "sys"
    devices.mkdir()
    for name in ("video10", "video2", "video", "videocard", "vcs"):
        (devices / name).touch()
    (about / "video2").mkdir(parents=True)
    (about / "video2" / "name").write_text("HD Webcam: HD Webcam\n")
    assert [(one.keys, one.model, one.protocol) for one in video_devices(devices, about)] == [
        ({"kind": "v4l2", "device": str(devices / "video2")}, "HD Webcam: HD Webcam", "V4L2"),
        ({"kind": "v4l2", "device": str(devices / "video10")}, "", "V4L2"),
    ]
    assert video_devices(tmp_path / "none", about) == []


def test_without_aravis_video_devices_are_listed_and_one_sentence_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(aravis, "LIBRARY", "libaravis-0.8.so.999")
    told = Told(capsys, "list", "--interface", "lo", "--json")
    assert told.error is None
    assert "apt install libaravis-0.8-0" in told.report["missing"]
    assert told.report["cameras"] == msgspec.to_builtins(video_devices())
    assert told.err == f"warning: {told.report['missing']}\n"


def test_nothing_found_is_a_sentence_that_says_what_to_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(aravis, "LIBRARY", "libaravis-0.8.so.999")  # or other tests' cameras may answer
    if video_devices():
        pytest.skip("this machine has a video device")
    told = Told(capsys, "list", "--interface", "lo")
    assert told.error is None
    assert told.out.startswith("no camera was found; check power and cable")
