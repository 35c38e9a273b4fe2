"""`heatline cameras`: grabs from real cameras as a line's configuration states, and their reports."""

import contextlib
import json
import os
import select
import signal
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, BinaryIO

import cv2
import msgspec
import numpy as np
import pytest

from heatline.edge.cameras import aravis
from heatline.edge.cameras import grab as grab_module
from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.discovery import video_devices
from heatline.edge.cameras.grab import REGION_RGB, SHADE, TILE_RGB, Grab, Loss, draw_region, writers
from heatline.edge.cameras.pattern import pattern
from heatline.edge.cameras.settings import FolderSettings, PatternSettings
from heatline.edge.errors import CameraError, InputError
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.geometry import RegionOfInterest, TileGrid
from heatline.edge.images import read_image, read_rgb
from heatline.edge.wire.events import CameraState
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.gv_cameras import aravis_camera, noise
from tests.edge.lines import started, write_pictures

HW = (5, 12)


def line(folder: Path, **keys: str) -> Path:
    """Write a line with cameras, kind and own keys by name; its bundle is missing."""
    tables = [f'[[cameras]]\nname = "{name}"\n{own}' for name, own in keys.items()]
    path = folder / "line.toml"
    path.write_text("\n".join(['bundle = "none.bundle"', *tables]))
    return path


def pattern_camera(keys: str = "") -> str:
    return f'kind = "pattern"\nrate_fps = 500\ndraw_size = [12, 5]\non_overload = "block"\n{keys}'


def folder_camera(path: Path) -> str:
    return f'kind = "folder"\npath = "{path}"'


class Grabbed:
    """A grab into `out` next to the configuration: its JSON report and its error."""

    def __init__(self, config: Path, *arguments: str | int | Path) -> None:
        self.out = config.parent / "out"
        self.result = heatline("cameras", "grab", config, "--out", self.out, "--json", *map(str, arguments))
        self.cameras: dict[str, Any] = json.loads(self.result.stdout)["cameras"]

    @property
    def top(self) -> dict[str, Any]:
        """Report of the camera `top`."""
        found: dict[str, Any] = self.cameras["top"]
        return found

    @property
    def frame_ids(self) -> list[int]:
        return [int(name.removesuffix(".png").split("-")[-1]) for name in self.top["saved"]]

    def failed(self, error: type[CameraError | InputError]) -> str:
        """Return the error message of the grab."""
        assert self.result.returncode == error.exit_code
        return complaint(self.result).removeprefix("heatline: ")


def grabbed(config: Path, *arguments: str | int | Path) -> Grabbed:
    """Run a grab that succeeds."""
    outcome = Grabbed(config, *arguments)
    assert outcome.result.returncode == 0, outcome.result.stderr
    return outcome


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Grab: pictures.


def test_frames_of_every_camera_are_saved_exactly_and_numbers_continue(tmp_path: Path) -> None:
    config = line(tmp_path, top=pattern_camera("first_frame_id = 65533"), **{"top-1": pattern_camera()})
    outcome = grabbed(config, "-n", 6)
    for name, ids in {"top": [65533, 65534, 65535, 1, 2, 3], "top-1": [1, 2, 3, 4, 5, 6]}.items():
        one = outcome.cameras[name]
        assert one["saved"] == [f"{name}-{n:05d}-{frame_id}.png" for n, frame_id in enumerate(ids, start=1)]
        for file, frame_id in zip(one["saved"], ids, strict=True):
            image, pixel_format = read_image(outcome.out / file)
            assert pixel_format == "Mono8"
            np.testing.assert_array_equal(image, pattern(frame_id, HW))
        assert (one["frames"], one["asked"], one["problem"]) == (6, 6, None)
        assert one["formats"] == {"12x5 px Mono8": 6}
        assert one["rate_set_fps"] == pytest.approx(500)
        assert one["rate_fps"] > 0
        assert one["losses"] == {}
    again = grabbed(config, "-n", 1, "--camera", "top")
    assert again.top["saved"] == ["top-00007-65533.png"]
    assert len(files(outcome.out)) == 13


def test_each_format_is_saved_and_unreadable_frames_are_counted(tmp_path: Path) -> None:
    """Colour is saved as RGB, grey as grey, deep grey by its highest 8 bits."""
    colour, grey, deep = noise(1, 7, 9, 3)[0], noise(1, 7, 9)[0], noise(1, 7, 9, dtype=np.uint16)[0]
    same_first_row = np.vstack([grey[:1], 255 - grey[1:]])
    shown = {"1.png": colour, "2.png": grey, "3.png": grey, "5.png": same_first_row, "6.png": deep}
    pictures = write_pictures(tmp_path / "in", shown)  # type: ignore[arg-type]
    (pictures / "4.png").write_bytes(b"no picture")
    outcome = grabbed(line(tmp_path, top=folder_camera(pictures)), "-n", 5)
    first, second, *_, last = (outcome.out / name for name in outcome.top["saved"])
    np.testing.assert_array_equal(read_rgb(first), colour)
    np.testing.assert_array_equal(read_image(second)[0], grey)
    np.testing.assert_array_equal(read_image(last)[0], deep // 256)
    assert outcome.top["formats"] == {"9x7 px BGR8": 1, "9x7 px Mono8": 3, "9x7 px Mono16": 1}
    assert (outcome.top["frames"], outcome.top["losses"]["unreadable"]["frames"]) == (5, 1)
    assert "4.png is not a picture" in outcome.top["losses"]["unreadable"]["detail"]
    assert not outcome.top["ids_show_gaps"]


# Grab: the report.


def test_a_frame_that_the_camera_lost_is_reported_and_not_counted(tmp_path: Path) -> None:
    outcome = grabbed(line(tmp_path, top=pattern_camera("lose_frames = [2, 3, 5]")), "-n", 4)
    assert outcome.frame_ids == [1, 4, 6, 7]
    assert outcome.top["jitter_ms"] is None, "only 6 and 7 came one after the other"
    assert outcome.top["losses"] == {
        "lost_by_camera": {"frames": 3, "detail": "the camera counted it and it never arrived"}
    }


def test_software_triggers_are_sent_one_by_one_and_missing_frames_are_reported(tmp_path: Path) -> None:
    keys = 'trigger = "software"\nignore_triggers = [2]\ntrigger_timeout_ms = 400'
    outcome = grabbed(line(tmp_path, top=pattern_camera(keys)), "-n", 3)
    assert (outcome.top["trigger"], outcome.top["frames"], outcome.top["rate_set_fps"]) == ("software", 3, None)
    assert outcome.frame_ids == [1, 2, 3]
    assert {reason: loss["frames"] for reason, loss in outcome.top["losses"].items()} == {"no_frame": 1}


def test_a_frozen_camera_is_reported_as_dead_and_the_grab_continues(tmp_path: Path) -> None:
    outcome = grabbed(line(tmp_path, top=pattern_camera("freeze_at = 2")), "-n", 8)
    # It shows the pictures 1, 2, 2, 2; the next one is a fault, and the camera is opened again.
    assert outcome.frame_ids == [1, 2, 3, 4, 1, 2, 3, 4]
    assert outcome.top["losses"]["frozen"]["frames"] >= 1
    (died,) = outcome.top["died"]
    assert died.startswith("frozen: more than 3 frames one after the other were identical")


def test_frames_that_the_line_would_refuse_are_saved_with_a_warning(tmp_path: Path) -> None:
    outcome = grabbed(line(tmp_path, top=pattern_camera("size = [5, 12]\nroi = [[[0, 8], [4, 8], [4, 11]]]")), "-n", 2)
    assert files(outcome.out) == ["top-00001-1.png", "top-00002-2.png"]
    refused, area = outcome.top["warnings"]
    assert refused == (
        "the line would refuse 2 of these frames (wrong_size): 12x5 px came, 5x12 px expected; "
        "see size and pixel_format"
    )
    assert area.startswith("no pixel of a frame of 12x5 px is in the region of interest")
    assert f"warning: camera top: {refused}\n" in outcome.result.stderr


def test_the_printed_report_ends_with_the_error_of_a_camera_that_does_not_open(tmp_path: Path) -> None:
    config = line(
        tmp_path,
        top=pattern_camera("lose_frames = [2]\nsize = [12, 5]\nroi = [[[0, 0], [3, 0], [3, 3]]]"),
        gone=folder_camera(tmp_path / "nowhere"),
        absent='kind = "v4l2"\ndevice = "/dev/no-such-device"',
    )
    result = heatline("cameras", "grab", config, "-n", "5", env={"COLUMNS": "300"}, cwd=tmp_path)
    sentence = f"camera gone: {tmp_path / 'nowhere'} is not a folder; name a folder of pictures"
    assert result.returncode == CameraError.exit_code
    assert complaint(result).startswith(f"heatline: {sentence}; camera absent: /dev/no-such-device cannot be opened (")
    rows = [text.rstrip() for text in result.stdout.splitlines() if text.strip()]
    assert rows[:3] == [
        "camera top: 5 of 5 frames",
        "found   drawn pictures of 12x5 px, Mono8",
        "frames  5 of 12x5 px Mono8",
    ]
    assert rows[3].startswith("rate    ")
    assert rows[3].endswith(" frames/s, set to 500")
    assert rows[4].endswith(" ms at worst, by arrival")
    assert rows[5:10] == [
        "losses  lost_by_camera 1: the camera counted it and it never arrived; incomplete 0",
        "saved   5: grabbed/top-00001-1.png to top-00005-6.png",
        "area    grabbed/top-area.png: 1 of 1 tile is inspected, for tiles of 224 px",
        "camera gone: 0 of 5 frames",
        f"problem  {sentence}",
    ]


# Grab: its end.


def test_a_slow_camera_ends_at_the_timeout(tmp_path: Path) -> None:
    keys = 'trigger = "software"\nignore_triggers = [1]\ntrigger_timeout_ms = 60000'
    outcome = Grabbed(line(tmp_path, top=pattern_camera(keys)), "-n", 3, "--timeout", "0.2")
    sentence = outcome.failed(CameraError)
    assert sentence.startswith("camera top: 0 of 3 frames came within 0.2 s; ")
    assert (outcome.top["problem"], outcome.top["saved"]) == (sentence, [])


def test_a_camera_without_more_frames_is_reported(tmp_path: Path) -> None:
    outcome = Grabbed(line(tmp_path, top=pattern_camera("frames = 2")))
    assert outcome.failed(CameraError).startswith("camera top: 2 of 10 frames came, then it had no more; ")
    assert len(outcome.top["saved"]) == 2


def test_an_unknown_camera_or_unwritable_folder_is_refused_before_cameras_are_opened(
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


def test_a_full_disk_ends_the_grab_and_keeps_what_was_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "top-00002-2.png").symlink_to("/dev/full")
    outcome = Grabbed(line(tmp_path, top=pattern_camera()), "-n", 99999)
    assert outcome.failed(InputError).startswith(f"{out} cannot be written (No space left on device); ")
    assert "until it was stopped" in outcome.top["problem"]
    assert outcome.top["saved"] == files(out)


@contextlib.contextmanager
def opened(pipe: Path) -> Iterator[BinaryIO]:
    """Wait until something was written to a pipe; return its reading end."""
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        assert select.select([reader], [], [], WITHIN_SECONDS)[0], "nothing was written"
        yield reader


def test_ctrl_c_ends_the_grab_with_the_frames_so_far(tmp_path: Path) -> None:
    """The first picture goes into a pipe: the signal comes while it is written."""
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / "top-00001-1.png")
    config = line(tmp_path, top=pattern_camera())
    with started(HEATLINE, "cameras", "grab", config, "-n", "99999", "--out", out, "--json") as process:
        with opened(out / "top-00001-1.png") as pipe:
            process.send_signal(signal.SIGINT)
            written = pipe.read()
        stdout, log = process.communicate(timeout=WITHIN_SECONDS)
    assert (process.returncode, log.splitlines()[-1]) == (130, "heatline: interrupted")
    first = cv2.imdecode(np.frombuffer(written, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(first, pattern(1, HW))
    top = json.loads(stdout)["cameras"]["top"]
    assert 1 <= top["frames"] < 99999
    assert top["saved"] == files(out)
    assert top["problem"] == f"camera top: {top['frames']} of 99999 frames came until it was stopped"


# Grab: the disk.


def test_a_grab_waits_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grab_module, "MAX_WAITING_PICTURES", 1)
    counted = threading.Semaphore(0)
    (picture,) = noise(1, 4, 4)
    pictures = write_pictures(tmp_path / "in", {f"{n}.png": picture for n in range(3)})  # type: ignore[misc]
    (tmp_path / "out").mkdir()
    with writers() as pool:
        os.mkfifo(tmp_path / "out" / "top-00001-1.png")  # written once it is read
        settings = FolderSettings(name="top", path=pictures)
        grab = Grab(settings, 3, WITHIN_SECONDS, tmp_path / "out", pool, threading.Event())
        running = threading.Thread(target=grab.run, args=(counted.release,))
        running.start()
        assert counted.acquire(timeout=WITHIN_SECONDS)
        running.join(0.2)  # it would have ended by then
        assert running.is_alive()
        (tmp_path / "out" / "top-00001-1.png").read_bytes()
        running.join(WITHIN_SECONDS)
    assert len(grab.report().saved) == 3


# Grab: numbers.


def test_rate_and_jitter_are_those_of_the_intervals_without_a_lost_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera whose frames come at known times; after the third, one is lost."""

    class Scripted:
        def __init__(self, *_: object) -> None:
            self._items: list[Frame | BadFrame] = [
                Frame(Stamp("top", n, captured_monotonic_ns=ms * 1_000_000), np.zeros((5, 12, 3), np.uint8), "RGB8")
                for n, ms in enumerate((0, 10, 22, 100, 109), start=1)
            ]
            self._items.insert(3, BadFrame(Stamp("top", None), "incomplete", "a packet was lost"))

        def open(self, _within_s: float) -> Opened:
            return Opened(found="a camera", period_s=0.01)

        def grab(self, _timeout_s: float) -> Frame | BadFrame:
            return self._items.pop(0)

        def state(self) -> CameraState:
            return CameraState(state="LIVE", since_at_ns=0)

        def close(self) -> None:
            pass

    monkeypatch.setattr(grab_module, "SupervisedCamera", Scripted)
    with writers() as pool:
        settings = PatternSettings(name="top")
        grab = Grab(settings, 5, 60.0, tmp_path, pool, threading.Event())
        grab.run(lambda: None)
    report = grab.report()
    assert (report.jitter_ms, report.worst_jitter_ms) == pytest.approx((statistics.pstdev([10, 12, 9]), 12 - 31 / 3))
    assert (report.rate_fps, report.rate_set_fps) == pytest.approx((4 / 0.109, 100))
    assert report.losses == {"incomplete": Loss(1, "a packet was lost")}


# Grab: the region of interest.


def test_the_region_of_interest_is_drawn_into_the_first_frame(tmp_path: Path) -> None:
    size = "size = [600, 300]\ndraw_size = [600, 300]\nroi = [[[300, 30], [340, 30], [340, 60], [300, 60]]]"
    outcome = grabbed(line(tmp_path, top=f'kind = "pattern"\nrate_fps = 500\n{size}'), "-n", 1)
    assert outcome.top["area"] == {"file": "top-area.png", "tiles_looked_at": 1, "tiles": 6}
    picture, frame = read_rgb(outcome.out / "top-area.png"), pattern(1, (300, 600))
    # Tiles of 224 px lie at x 0, 222, 376 and y 0, 76: only the one at (222, 0) shows some of the region.
    inside, outside = np.s_[70:220, 230:440], np.s_[:, 450:]
    np.testing.assert_array_equal(picture[inside], np.dstack([frame[inside]] * 3))
    np.testing.assert_array_equal(picture[outside], np.dstack([frame[outside] // SHADE] * 3))
    assert tuple(picture[30, 300]) == tuple(picture[60, 320]) == REGION_RGB
    assert tuple(picture[0, 222]) == tuple(picture[223, 445]) == TILE_RGB


def test_a_colour_frame_keeps_its_colours_and_excluded_areas_are_outlined() -> None:
    (frame,) = noise(1, 224, 224, 3)
    area = RegionOfInterest.from_polygons([], [[(50, 50), (100, 50), (100, 100), (50, 100)]])
    picture = draw_region(frame.astype(np.uint8), TileGrid((224, 224), region_of_interest=area))
    np.testing.assert_array_equal(picture[60:90, 60:90], frame[60:90, 60:90])
    assert tuple(picture[75, 49]) == tuple(picture[75, 101]) == REGION_RGB


# A GigE Vision camera.


def test_a_grab_of_a_gige_camera_reports_counters_and_waits_for_edges(tmp_path: Path) -> None:
    with aravis_camera(rate_fps=100) as device:
        keys = f'kind = "genicam"\naddress = "{device.address}"\non_overload = "block"'
        outcome = grabbed(line(tmp_path, top=keys), "-n", 150)  # longer than a second: the counters come once
        edges = line(tmp_path, top=f'{keys}\ntrigger = "hardware"\ntrigger_line = "Line0"')
        waited = heatline("cameras", "grab", edges, "--timeout", "0.2", cwd=tmp_path)
    assert outcome.top["frames"] == 150
    for name, frame_id in zip(outcome.top["saved"], outcome.frame_ids, strict=True):
        np.testing.assert_array_equal(read_image(outcome.out / name)[0], device.picture(frame_id))
    assert outcome.top["counters"]["completed"] >= 5
    assert outcome.top["counters"]["received_packets"] > outcome.top["counters"]["completed"]
    assert outcome.top["rate_set_fps"] == pytest.approx(100)
    assert waited.returncode == CameraError.exit_code
    assert "camera top waits for edges on its Line0\n" in waited.stderr
    sentence = "camera top: 0 of 10 frames came within 0.2 s; check that the trigger's edges reach its Line0"
    assert complaint(waited) == f"heatline: {sentence}"
    assert "camera top: 0 of 10 frames" in waited.stdout


# List.


def listed(*arguments: str) -> CompletedProcess[str]:
    """Return the cameras found on loopback and on this machine."""
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


def test_without_aravis_video_devices_are_listed_and_the_missing_library_is_named(
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
