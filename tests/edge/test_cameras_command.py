"""`heatline cameras`: grabs from real cameras as a line's configuration states, and their reports."""

import json
import re
import signal
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import msgspec
import numpy as np
import pytest

from heatline.edge.cameras import aravis
from heatline.edge.cameras.discovery import video_devices
from heatline.edge.cameras.pattern import pattern
from heatline.edge.errors import CameraError, InputError
from heatline.edge.images import read_image, read_rgb
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.gv_cameras import aravis_camera, noise
from tests.edge.lines import started, write_pictures
from tests.edge.supervised import until

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


def test_frames_of_every_camera_are_saved_exactly_beside_earlier_ones(tmp_path: Path) -> None:
    config = line(tmp_path, top=pattern_camera("first_frame_id = 65533"), **{"top-1": pattern_camera()})
    outcome = grabbed(config, "-n", 6)
    for name, ids in {"top": [65533, 65534, 65535, 1, 2, 3], "top-1": [1, 2, 3, 4, 5, 6]}.items():
        one = outcome.cameras[name]
        assert one["saved"] == sorted(one["saved"])
        for file, frame_id in zip(one["saved"], ids, strict=True):
            assert re.fullmatch(rf"{name}-20[0-9]{{6}}T[0-9]{{6}}\.[0-9]{{6}}-{frame_id}\.png", file)
            image, pixel_format = read_image(outcome.out / file)
            assert pixel_format == "Mono8"
            np.testing.assert_array_equal(image, pattern(frame_id, HW))
        assert one["problem"] is None
        assert one["formats"] == {"12x5 px Mono8": 6}
        assert one["rate_fps"] > 0
        assert one["losses"] == {}
    again = grabbed(config, "-n", 1, "--camera", "top")
    assert again.frame_ids == [65533]
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
    assert (len(outcome.top["saved"]), outcome.top["losses"]["unreadable"]["frames"]) == (5, 1)
    assert "4.png is not a picture" in outcome.top["losses"]["unreadable"]["detail"]
    assert not outcome.top["ids_show_gaps"]


# Grab: the report.


def test_a_frame_that_the_camera_lost_is_reported_and_not_counted(tmp_path: Path) -> None:
    outcome = grabbed(line(tmp_path, top=pattern_camera("lose_frames = [2, 3, 5]")), "-n", 4)
    assert outcome.frame_ids == [1, 4, 6, 7]
    assert outcome.top["losses"] == {
        "lost_by_camera": {"frames": 3, "detail": "the camera counted it and it never arrived"}
    }


def test_software_triggers_are_sent_one_by_one_and_missing_frames_are_reported(tmp_path: Path) -> None:
    keys = 'trigger = "software"\nignore_triggers = [2]\ntrigger_timeout_ms = 400'
    outcome = grabbed(line(tmp_path, top=pattern_camera(keys)), "-n", 3)
    assert outcome.frame_ids == [1, 2, 3]
    assert {reason: loss["frames"] for reason, loss in outcome.top["losses"].items()} == {"no_frame": 1}


def test_a_frozen_camera_is_reported_and_the_grab_continues(tmp_path: Path) -> None:
    outcome = grabbed(line(tmp_path, top=pattern_camera("freeze_at = 2")), "-n", 8)
    # It shows the pictures 1, 2, 2, 2; the next one is a fault, and the camera is opened again.
    assert outcome.frame_ids == [1, 2, 3, 4, 1, 2, 3, 4]
    frozen = outcome.top["losses"]["frozen"]
    assert frozen["frames"] >= 1
    assert frozen["detail"].startswith("more than 3 frames one after the other were identical")


def test_the_printed_report_ends_with_the_error_of_a_camera_that_does_not_open(tmp_path: Path) -> None:
    config = line(
        tmp_path,
        top=pattern_camera("lose_frames = [2]"),
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
    assert re.fullmatch(r"rate    [0-9.e+]+ frames/s", rows[3])
    assert rows[4] == "losses  lost_by_camera 1: the camera counted it and it never arrived"
    assert re.fullmatch(r"saved   grabbed/top-\S+-1.png to top-\S+-6.png", rows[5])
    assert rows[6:8] == ["camera gone: 0 of 5 frames", f"problem  {sentence}"]


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


def test_a_folder_that_cannot_be_written_any_more_ends_the_grab(tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = line(tmp_path, top=pattern_camera())
    with started(HEATLINE, "cameras", "grab", config, "-n", "99999", "--out", out) as process:
        until(lambda: out.exists() and bool(files(out)), "a picture")
        out.rename(tmp_path / "gone")
        _, log = process.communicate(timeout=WITHIN_SECONDS)
    assert process.returncode == InputError.exit_code
    assert log.splitlines()[-1].startswith(f"heatline: {out} cannot be written (No such file or directory); ")


def test_ctrl_c_ends_the_grab_and_keeps_the_pictures(tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = line(tmp_path, top=pattern_camera())
    with started(HEATLINE, "cameras", "grab", config, "-n", "99999", "--out", out) as process:
        until(lambda: out.exists() and bool(files(out)), "a picture")
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=WITHIN_SECONDS)
    assert (process.returncode, log.splitlines()[-1]) == (130, "heatline: interrupted")
    np.testing.assert_array_equal(read_image(out / files(out)[0])[0], pattern(1, HW))


# A GigE Vision camera.


def test_a_grab_of_a_gige_camera_reports_counters_and_waits_for_edges(tmp_path: Path) -> None:
    with aravis_camera(rate_fps=100) as device:
        keys = f'kind = "genicam"\naddress = "{device.address}"\non_overload = "block"'
        outcome = grabbed(line(tmp_path, top=keys), "-n", 150)  # longer than a second: the counters come once
        edges = line(tmp_path, top=f'{keys}\ntrigger = "hardware"\ntrigger_line = "Line0"')
        waited = heatline("cameras", "grab", edges, "--timeout", "0.2", cwd=tmp_path)
    assert len(outcome.top["saved"]) == 150
    for name, frame_id in zip(outcome.top["saved"], outcome.frame_ids, strict=True):
        np.testing.assert_array_equal(read_image(outcome.out / name)[0], device.picture(frame_id))
    assert outcome.top["counters"]["completed"] >= 5
    assert outcome.top["counters"]["received_packets"] > outcome.top["counters"]["completed"]
    assert waited.returncode == CameraError.exit_code
    sentence = "camera top: 0 of 10 frames came within 0.2 s; raise --timeout, or check losses and trigger"
    assert complaint(waited) == f"heatline: {sentence}"
    assert "camera top: 0 of 10 frames" in waited.stdout


# List.


def listed(*arguments: str) -> CompletedProcess[str]:
    """Return the cameras found."""
    result = heatline("cameras", "list", *arguments)
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
