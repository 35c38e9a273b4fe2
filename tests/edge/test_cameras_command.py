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
from subprocess import CompletedProcess
from typing import Any, BinaryIO

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cameras import aravis
from edge.cameras.discovery import video_devices
from edge.cameras.pattern import pattern
from edge.cameras.settings import FolderSettings, PatternSettings
from edge.errors import CameraError, InputError
from edge.frames import Stamp
from edge.geometry import RegionOfInterest, TileGrid
from edge.grab.grab import Grab
from edge.grab.pictures import AREA_RGB, SHADE, TILE_RGB, Saver, area_picture
from edge.grab.tally import Arrivals
from edge.images import read_image, read_rgb
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.gv_cameras import aravis_camera, noise
from tests.edge.lines import started, write_pictures

HW = (5, 12)


def line(folder: Path, **keys: str) -> Path:
    """A line of cameras, kind and own keys by name; its bundle is not there."""
    tables = [f'[[cameras]]\nname = "{name}"\n{own}' for name, own in keys.items()]
    path = folder / "line.toml"
    path.write_text("\n".join(['bundle = "none.bundle"', *tables]))
    return path


def pattern_camera(keys: str = "") -> str:
    return f'kind = "pattern"\nrate_fps = 500\ndraw_size = [12, 5]\non_overload = "block"\n{keys}'


def folder_camera(path: Path) -> str:
    return f'kind = "folder"\npath = "{path}"'


class Grabbed:
    """What a grab into `out` beside the configuration told in JSON, and why it was none, if so."""

    def __init__(self, config: Path, *arguments: str | int | Path) -> None:
        self.out = config.parent / "out"
        self.result = heatline("cameras", "grab", config, "--out", self.out, "--json", *map(str, arguments))
        self.cameras: dict[str, Any] = json.loads(self.result.stdout)["cameras"]

    @property
    def top(self) -> dict[str, Any]:
        """What it told of a camera of this name."""
        found: dict[str, Any] = self.cameras["top"]
        return found

    @property
    def frame_ids(self) -> list[int]:
        return [int(name.removesuffix(".png").split("-")[-1]) for name in self.top["saved"]]

    def failed(self, error: type[CameraError | InputError]) -> str:
        """The sentence with which it ended."""
        assert self.result.returncode == error.exit_code
        return complaint(self.result).removeprefix("heatline: ")


def grabbed(config: Path, *arguments: str | int | Path) -> Grabbed:
    """A grab that goes well."""
    told = Grabbed(config, *arguments)
    assert told.result.returncode == 0, told.result.stderr
    return told


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Grab: pictures.


def test_every_camera_is_grabbed_and_its_frames_are_saved_to_the_pixel_and_numbers_count_on(tmp_path: Path) -> None:
    config = line(tmp_path, top=pattern_camera("first_frame_id = 65533"), **{"top-1": pattern_camera()})
    told = grabbed(config, "-n", 6)
    for name, ids in {"top": [65533, 65534, 65535, 1, 2, 3], "top-1": [1, 2, 3, 4, 5, 6]}.items():
        one = told.cameras[name]
        assert one["saved"] == [f"{name}-{n:05d}-{frame_id}.png" for n, frame_id in enumerate(ids, start=1)]
        for file, frame_id in zip(one["saved"], ids, strict=True):
            image, pixel_format = read_image(told.out / file)
            assert pixel_format == "Mono8"
            np.testing.assert_array_equal(image, pattern(frame_id, HW))
        assert (one["frames"], one["asked"], one["problem"]) == (6, 6, None)
        assert one["formats"] == [{"width": 12, "height": 5, "pixel_format": "Mono8", "frames": 6}]
        assert one["rate_set_fps"] == pytest.approx(500)
        assert one["rate_fps"] > 0
        assert (one["losses"], one["identical"], one["not_saved"]) == ({}, 0, 0)
    again = grabbed(config, "-n", 1, "--camera", "top")
    assert again.top["saved"] == ["top-00007-65533.png"]
    assert len(files(told.out)) == 13


def test_each_format_is_saved_and_what_is_unreadable_or_the_same_as_the_one_before_is_counted(tmp_path: Path) -> None:
    """Colour as RGB, grey as grey, deep grey by its highest 8 bits."""
    colour, grey, deep = noise(1, 7, 9, 3)[0], noise(1, 7, 9)[0], noise(1, 7, 9, dtype=np.uint16)[0]
    same_first_row = np.vstack([grey[:1], 255 - grey[1:]])
    shown = {"1.png": colour, "2.png": grey, "3.png": grey, "5.png": same_first_row, "6.png": deep}
    pictures = write_pictures(tmp_path / "in", shown)  # type: ignore[arg-type]
    (pictures / "4.png").write_bytes(b"no picture")
    told = grabbed(line(tmp_path, top=folder_camera(pictures)), "-n", 5)
    first, second, *_, last = (told.out / name for name in told.top["saved"])
    np.testing.assert_array_equal(read_rgb(first), colour)
    np.testing.assert_array_equal(read_image(second)[0], grey)
    np.testing.assert_array_equal(read_image(last)[0], deep // 256)
    assert [one["pixel_format"] for one in told.top["formats"]] == ["BGR8", "Mono8", "Mono16"]
    assert (told.top["frames"], told.top["losses"]["unreadable"]["frames"]) == (5, 1)
    assert "4.png is not a picture" in told.top["losses"]["unreadable"]["detail"]
    assert not told.top["ids_show_gaps"]
    assert told.top["identical"] == 1


# Grab: what is told.


def test_a_frame_that_the_camera_lost_is_told_and_does_not_count(tmp_path: Path) -> None:
    told = grabbed(line(tmp_path, top=pattern_camera("lose_frames = [2, 3, 5]")), "-n", 4)
    assert told.frame_ids == [1, 4, 6, 7]
    assert told.top["jitter_ms"] is None, "only 6 and 7 came one after the other"
    assert told.top["losses"] == {
        "lost_by_camera": {"frames": 3, "detail": "the camera counted it and it never arrived"}
    }


def test_software_triggers_are_fired_one_by_one_and_one_without_a_frame_is_told(tmp_path: Path) -> None:
    keys = 'trigger = "software"\nignore_triggers = [2]\ntrigger_timeout_ms = 400'
    told = grabbed(line(tmp_path, top=pattern_camera(keys)), "-n", 3)
    assert (told.top["trigger"], told.top["frames"], told.top["rate_set_fps"]) == ("software", 3, None)
    assert told.frame_ids == [1, 2, 3]
    assert {reason: loss["frames"] for reason, loss in told.top["losses"].items()} == {"no_frame": 1}


def test_a_camera_that_freezes_is_told_to_have_died_and_is_grabbed_on(tmp_path: Path) -> None:
    told = grabbed(line(tmp_path, top=pattern_camera("freeze_at = 2")), "-n", 8)
    # It shows the pictures 1, 2, 2, 2, the next one is a fault, and it is opened anew.
    assert told.frame_ids == [1, 2, 3, 4, 1, 2, 3, 4]
    assert told.top["identical"] == 4
    assert told.top["losses"]["frozen"]["frames"] >= 1
    (died,) = told.top["died"]
    assert died.startswith("frozen: more than 3 frames one after the other were identical")


def test_frames_that_the_line_would_refuse_are_saved_and_warned_of(tmp_path: Path) -> None:
    told = grabbed(line(tmp_path, top=pattern_camera("size = [5, 12]\nroi = [[[0, 8], [4, 8], [4, 11]]]")), "-n", 2)
    assert files(told.out) == ["top-00001-1.png", "top-00002-2.png"]
    refused, area = told.top["warnings"]
    assert refused == (
        "the line would refuse 2 of these frames (wrong_size): 12x5 px came, 5x12 px expected; "
        "see size and pixel_format"
    )
    assert area.startswith("no pixel of a frame of 12x5 px is to be looked at")
    assert f"warning: camera top: {refused}\n" in told.result.stderr


def test_people_are_told_in_words_and_a_camera_that_does_not_open_is_an_error_after_the_others(tmp_path: Path) -> None:
    config = line(
        tmp_path,
        top=pattern_camera("lose_frames = [2]\nsize = [12, 5]\nroi = [[[0, 0], [3, 0], [3, 3]]]"),
        gone=folder_camera(tmp_path / "nowhere"),
        absent='kind = "v4l2"\ndevice = "/dev/no-such-device"',
    )
    result = heatline("cameras", "grab", config, "-n", "5", env={"COLUMNS": "300"}, cwd=tmp_path)
    sentence = f"camera gone: {tmp_path / 'nowhere'} is not a folder; name a folder of pictures"
    assert result.returncode == CameraError.exit_code
    assert complaint(result).startswith(f"heatline: {sentence}; camera absent: /dev/no-such-device is not there")
    rows = [text.rstrip() for text in result.stdout.splitlines() if text.strip()]
    assert rows[:3] == [
        "camera top: 5 of 5 frames",
        "found      drawn pictures of 12x5 px, Mono8",
        "frames     5 of 12x5 px Mono8",
    ]
    assert rows[3].startswith("rate       ")
    assert rows[3].endswith(" frames/s, set to 500")
    assert rows[4].endswith(" ms at worst, by arrival")
    assert rows[5:7] == [
        "losses     lost_by_camera 1: the camera counted it and it never arrived; incomplete 0",
        "identical  0 with exactly the pixels of the frame before",
    ]
    assert rows[7].startswith("its clock  counted ")
    assert rows[8:12] == [
        "saved      5: grabbed/top-00001-1.png to top-00005-6.png",
        "area       grabbed/top-area.png: 1 of 1 tile is inspected, for tiles of 224 px",
        "camera gone: 0 of 5 frames",
        f"problem  {sentence}",
    ]


# Grab: what ends it.


def test_a_camera_that_is_too_slow_is_given_up_at_the_timeout(tmp_path: Path) -> None:
    keys = 'trigger = "software"\nignore_triggers = [1]\ntrigger_timeout_ms = 60000'
    told = Grabbed(line(tmp_path, top=pattern_camera(keys)), "-n", 3, "--timeout", "0.2")
    sentence = told.failed(CameraError)
    assert sentence.startswith("camera top: 0 of 3 frames came within 0.2 s; ")
    assert (told.top["problem"], told.top["saved"]) == (sentence, [])


def test_a_camera_that_has_no_more_frames_is_told_so(tmp_path: Path) -> None:
    told = Grabbed(line(tmp_path, top=pattern_camera("frames = 2")))
    assert told.failed(CameraError).startswith("camera top: 2 of 10 frames came, then it had no more; ")
    assert len(told.top["saved"]) == 2


def test_a_camera_that_is_not_in_the_line_or_a_folder_that_cannot_be_written_is_found_before_any_is_opened(
    tmp_path: Path,
) -> None:
    config = line(tmp_path, gone=folder_camera(tmp_path / "nowhere"))
    result = heatline("cameras", "grab", config, "--camera", "side")
    assert (result.returncode, result.stdout) == (2, "")
    assert "has no camera side; it has gone" in result.stderr
    (tmp_path / "file").touch()
    result = heatline("cameras", "grab", config, "--out", tmp_path / "file" / "out")
    assert (result.returncode, result.stdout) == (InputError.exit_code, "")
    assert "cannot be written (Not a directory); check the disk" in complaint(result)


def test_a_disk_that_is_full_ends_the_grab_with_what_was_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "top-00002-2.png").symlink_to("/dev/full")
    told = Grabbed(line(tmp_path, top=pattern_camera()), "-n", 99999)
    assert told.failed(InputError).startswith(f"{out} cannot be written (No space left on device); ")
    assert "until it was stopped" in told.top["problem"]
    assert told.top["saved"] == files(out)


@contextlib.contextmanager
def opened(pipe: Path) -> Iterator[BinaryIO]:
    """The reading end of a pipe, once something has been written to it."""
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        assert select.select([reader], [], [], WITHIN_SECONDS)[0], "nothing was written"
        yield reader


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
    top = json.loads(told)["cameras"]["top"]
    assert 1 <= top["frames"] < 99999
    assert top["saved"] == files(out)
    assert top["problem"] == f"camera top: {top['frames']} of 99999 frames came until it was stopped"


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
    report = grab.report()
    assert (report.frames, report.saved, report.not_saved, report.problem) == (4, ["top-00001-1.png"], 3, None)
    assert report.warnings[0].startswith("3 frames were counted and not saved")


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
        running.join(0.2)  # one that does not wait has ended by then
        assert running.is_alive()
        (tmp_path / "out" / "top-00001-1.png").read_bytes()
        running.join(WITHIN_SECONDS)
    report = grab.report()
    assert (len(report.saved), report.not_saved) == (3, 0)


# Grab: numbers.


def stamps(arrived_ms: Sequence[int], camera_ms: Sequence[int | None] | None = None) -> list[Stamp]:
    own_ms = camera_ms or [None] * len(arrived_ms)
    return [
        Stamp(
            "top",
            None,
            camera_timestamp_ns=None if own is None else own * 1_000_000,
            captured_monotonic_ns=arrived * 1_000_000,
        )
        for arrived, own in zip(arrived_ms, own_ms, strict=True)
    ]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20))
def test_rate_and_jitter_are_those_of_the_intervals(intervals_ms: list[int]) -> None:
    arrivals = Arrivals()
    for stamp in stamps([5 + sum(intervals_ms[:n]) for n in range(len(intervals_ms) + 1)]):
        arrivals.frame(stamp)
    mean = statistics.mean(intervals_ms)
    assert arrivals.rate_fps == pytest.approx(1000 / mean)
    assert arrivals.clock is None
    if len(intervals_ms) == 1:
        assert arrivals.jitter_ms is None
    else:
        worst = max(abs(one - mean) for one in intervals_ms)
        assert arrivals.jitter_ms == pytest.approx((statistics.pstdev(intervals_ms), worst), abs=1e-9)


def test_the_time_in_which_a_frame_was_lost_is_no_jitter() -> None:
    arrivals = Arrivals()
    for stamp in stamps([0, 10, 22]):
        arrivals.frame(stamp)
    arrivals.lost()
    for stamp in stamps([100, 109]):
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


def test_the_area_is_drawn_into_the_first_frame(tmp_path: Path) -> None:
    size = "size = [600, 300]\ndraw_size = [600, 300]\nroi = [[[300, 30], [340, 30], [340, 60], [300, 60]]]"
    told = grabbed(line(tmp_path, top=f'kind = "pattern"\nrate_fps = 500\n{size}'), "-n", 1)
    assert told.top["area"] == {"file": "top-area.png", "tiles_looked_at": 1, "tiles": 6}
    picture, frame = read_rgb(told.out / "top-area.png"), pattern(1, (300, 600))
    # Tiles of 224 px lie at x 0, 222, 376 and y 0, 76: only the one at (222, 0) shows some of the area.
    inside, outside = np.s_[70:220, 230:440], np.s_[:, 450:]
    np.testing.assert_array_equal(picture[inside], np.dstack([frame[inside]] * 3))
    np.testing.assert_array_equal(picture[outside], np.dstack([frame[outside] // SHADE] * 3))
    assert tuple(picture[30, 300]) == tuple(picture[60, 320]) == AREA_RGB
    assert tuple(picture[0, 222]) == tuple(picture[223, 445]) == TILE_RGB


def test_a_colour_frame_keeps_its_colours_and_what_is_looked_away_from_is_outlined_too() -> None:
    (frame,) = noise(1, 224, 224, 3)
    area = RegionOfInterest.of([], [[(50, 50), (100, 50), (100, 100), (50, 100)]])
    picture = area_picture(frame.astype(np.uint8), TileGrid((224, 224), area=area))
    np.testing.assert_array_equal(picture[60:90, 60:90], frame[60:90, 60:90])
    assert tuple(picture[75, 49]) == tuple(picture[75, 101]) == AREA_RGB


# A GigE Vision camera.


def test_a_gige_camera_is_grabbed_with_what_its_transport_counted_and_edges_are_waited_for(tmp_path: Path) -> None:
    with aravis_camera(rate_fps=100) as device:
        keys = f'kind = "genicam"\naddress = "{device.address}"\non_overload = "block"'
        told = grabbed(line(tmp_path, top=keys), "-n", 5)
        edges = line(tmp_path, top=f'{keys}\ntrigger = "hardware"\ntrigger_line = "Line0"')
        waited = heatline("cameras", "grab", edges, "--timeout", "0.2", cwd=tmp_path)
    assert told.top["frames"] == 5
    for name, frame_id in zip(told.top["saved"], told.frame_ids, strict=True):
        np.testing.assert_array_equal(read_image(told.out / name)[0], device.picture(frame_id))
    assert told.top["counters"]["completed"] >= 5
    assert told.top["counters"]["received_packets"] > told.top["counters"]["completed"]
    assert told.top["clock"]["camera_ms"] > 0
    assert told.top["rate_set_fps"] == pytest.approx(100)
    assert waited.returncode == CameraError.exit_code
    assert "camera top waits for edges on its Line0\n" in waited.stderr
    sentence = "camera top: 0 of 10 frames came within 0.2 s; check that the trigger's edges reach its Line0"
    assert complaint(waited) == f"heatline: {sentence}"
    assert "camera top: 0 of 10 frames" in waited.stdout


# List.


def listed(*arguments: str) -> CompletedProcess[str]:
    """What cameras there are, of those on loopback and this machine's own."""
    result = heatline("cameras", "list", "--interface", "lo", *arguments)
    assert result.returncode == 0, result.stderr
    return result


def test_a_camera_that_answers_is_listed_with_its_keys() -> None:
    with aravis_camera() as device:
        report = json.loads(listed("--json").stdout)
        words = listed().stdout
    (found,) = (one for one in report["cameras"] if one["serial"] == device.serial)
    assert report["missing"] is None
    assert found["keys"] == {"kind": "genicam", "address": device.address}
    assert (found["model"], found["protocol"]) == ("Aravis Fake", "GigE Vision")
    for text in (device.serial, "Aravis Fake", 'kind = "genicam"', f'address = "{device.address}"'):
        assert text in words


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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aravis, "LIBRARY", "libaravis-0.8.so.999")
    result = listed("--json")
    report = json.loads(result.stdout)
    assert "apt install libaravis-0.8-0" in report["missing"]
    assert report["cameras"] == msgspec.to_builtins(video_devices())
    assert result.stderr == f"warning: {report['missing']}\n"
    if not report["cameras"]:
        assert listed().stdout.startswith("no camera was found; check power and cable")
