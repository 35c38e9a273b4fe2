"""`heatline cameras`: lists real cameras, grabs from them as a line's file states, and sets what their frames must look
like."""

import json
import logging
import re
import signal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import open_bundle, write_bundle
from heatline.edge.bundle.appearance import Appearance, ImageStatistics
from heatline.edge.bundle.plausibility import fit_plausibility
from heatline.edge.cameras import aravis
from heatline.edge.cameras.discovery import video_devices
from heatline.edge.cameras.pattern import pattern
from heatline.edge.config import load_config
from heatline.edge.errors import CameraError, InputError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.images import read_image, read_rgb
from heatline.edge.service.changeover import prepare
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.gv_cameras import aravis_camera, noise
from tests.edge.lines import started, write_pictures
from tests.edge.supervised import until
from tests.golden import assert_golden
from tests.small_bundle import contents_of, manifest


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
    """A grab into `out` next to the configuration: its JSON report."""

    def __init__(self, config: Path, *arguments: str | int | Path) -> None:
        self.out = config.parent / "out"
        self.result = heatline("cameras", "grab", config, "--out", self.out, "--json", *map(str, arguments))
        self.cameras: dict[str, Any] = json.loads(self.result.stdout)["cameras"]
        self.top: dict[str, Any] = self.cameras.get("top", {})

    def frame_ids(self, camera: str = "top") -> list[int]:
        return [int(name.removesuffix(".png").split("-")[-1]) for name in self.cameras[camera]["saved"]]


def test_frames_of_every_camera_are_saved_exactly_beside_earlier_ones(tmp_path: Path) -> None:
    config = line(tmp_path, top=pattern_camera("first_frame_id = 65533"), **{"top-1": pattern_camera()})
    outcome = Grabbed(config, "-n", 6)
    for name, ids in {"top": [65533, 65534, 65535, 1, 2, 3], "top-1": [1, 2, 3, 4, 5, 6]}.items():
        one = outcome.cameras[name]
        for file, frame_id in zip(one["saved"], ids, strict=True):
            assert re.fullmatch(rf"{name}-20[0-9]{{6}}T[0-9]{{6}}\.[0-9]{{6}}-{frame_id}\.png", file)
            image, pixel_format = read_image(outcome.out / file)
            assert pixel_format == "Mono8"
            np.testing.assert_array_equal(image, pattern(frame_id, (5, 12)))
        assert (one["problem"], one["losses"], one["formats"]) == (None, {}, {"12x5 px Mono8": 6})
    assert Grabbed(config, "-n", 1, "--camera", "top").frame_ids() == [65533]
    assert len(list(outcome.out.iterdir())) == 13


def test_each_format_is_saved_and_unreadable_frames_are_counted(tmp_path: Path) -> None:
    """Colour is saved as RGB, grey as grey, deep grey by its highest 8 bits."""
    colour, grey, deep = noise(1, 7, 9, 3)[0], noise(1, 7, 9)[0], noise(1, 7, 9, dtype=np.uint16)[0]
    same_first_row = np.vstack([grey[:1], 255 - grey[1:]])
    shown = {"1.png": colour, "2.png": grey, "3.png": grey, "5.png": same_first_row, "6.png": deep}
    pictures = write_pictures(tmp_path / "in", shown)  # type: ignore[arg-type]
    (pictures / "4.png").write_bytes(b"no picture")
    outcome = Grabbed(line(tmp_path, top=folder_camera(pictures)), "-n", 5)
    first, second, *_, last = (outcome.out / name for name in outcome.top["saved"])
    np.testing.assert_array_equal(read_rgb(first), colour)
    np.testing.assert_array_equal(read_image(second)[0], grey)
    np.testing.assert_array_equal(read_image(last)[0], deep // 256)
    assert outcome.top["formats"] == {"9x7 px BGR8": 1, "9x7 px Mono8": 3, "9x7 px Mono16": 1}
    assert (len(outcome.top["saved"]), outcome.top["losses"]["unreadable"]["frames"]) == (5, 1)
    assert "4.png is not a picture" in outcome.top["losses"]["unreadable"]["detail"]


def test_the_report_ends_with_the_problem_of_each_camera(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.mp4").write_bytes(b"no video\n" * 100)
    config = line(
        tmp_path,
        top=pattern_camera("lose_frames = [2]"),
        ends=pattern_camera("frames = 2"),
        slow=pattern_camera('trigger = "software"\nignore_triggers = [1]\ntrigger_timeout_ms = 60000'),
        gone=folder_camera(tmp_path / "nowhere"),
        text=f'kind = "video"\npath = "{tmp_path / "text.mp4"}"',
        absent='kind = "v4l2"\ndevice = "/dev/no-such-device"',
    )
    result = heatline("cameras", "grab", config, "-n", "5", "--timeout", "2", env={"COLUMNS": "300"}, cwd=tmp_path)
    assert result.returncode == CameraError.exit_code
    words = result.stdout + complaint(result) + "\n"
    for varies, word in {r"[0-9.e+]+ frames/s": "RATE frames/s", r"20\d{6}T\d{6}\.\d{6}": "TIME"}.items():
        words = re.sub(varies, word, words)
    words = "".join(f"{text.rstrip()}\n" for text in words.splitlines())
    assert_golden("cameras_grab", words, folder=tmp_path)
    assert "ffmpeg" not in capfd.readouterr().err.lower()


def test_an_unknown_camera_or_unwritable_folder_is_refused_before_cameras_are_opened(tmp_path: Path) -> None:
    config = line(tmp_path, gone=folder_camera(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    for option, code, words in (
        (["--camera", "side"], 2, "has no camera side; it has gone"),
        (["--out", tmp_path / "file" / "out"], InputError.exit_code, "cannot be written (Not a directory); check the"),
    ):
        result = heatline("cameras", "grab", config, *option)
        assert (result.returncode, result.stdout, words in result.stderr) == (code, "", True), result.stderr


def test_ctrl_c_ends_the_grab_and_keeps_the_pictures(tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = line(tmp_path, top=pattern_camera())
    with started(HEATLINE, "cameras", "grab", config, "-n", "99999", "--out", out) as process:
        until(lambda: out.exists() and any(out.iterdir()), "a picture")
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=WITHIN_SECONDS)
    assert (process.returncode, log.splitlines()[-1]) == (130, "heatline: interrupted")
    np.testing.assert_array_equal(read_image(min(out.iterdir()))[0], pattern(1, (5, 12)))


def test_a_gige_camera_is_listed_and_a_grab_of_it_reports_its_counters(tmp_path: Path) -> None:
    with aravis_camera(rate_fps=100) as device:
        report, words = json.loads(heatline("cameras", "list", "--json").stdout), heatline("cameras", "list").stdout
        keys = f'kind = "genicam"\naddress = "{device.address}"\non_overload = "block"'
        outcome = Grabbed(line(tmp_path, top=keys), "-n", 150)  # longer than a second: the counters come once
    (found,) = (one for one in report["cameras"] if one["serial"] == device.serial)
    assert (found["model"], found["protocol"], report["missing"]) == ("Aravis Fake", "GigE Vision", None)
    assert found["keys"] == {"kind": "genicam", "address": device.address}
    for text in (device.serial, "Aravis Fake", 'kind = "genicam"', f'address = "{device.address}"'):
        assert text in words
    assert len(outcome.top["saved"]) == 150
    for name, frame_id in zip(outcome.top["saved"], outcome.frame_ids(), strict=True):
        np.testing.assert_array_equal(read_image(outcome.out / name)[0], device.picture(frame_id))
    assert outcome.top["counters"]["received_packets"] > outcome.top["counters"]["completed"] >= 5


def test_video_devices_are_listed_by_number_without_aravis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(aravis, "LIBRARY", "libaravis-0.8.so.999")
    result = heatline("cameras", "list", "--json")
    report = json.loads(result.stdout)
    assert "apt install libaravis-0.8-0" in report["missing"]
    assert report["cameras"] == msgspec.to_builtins(video_devices())
    assert result.stderr == f"warning: {report['missing']}\n"


AREA = "size = [240, 230]\nroi = [[[120, 0], [239, 0], [239, 229], [120, 229]]]"
LINE = """
bundle = "{bundle}"
allow_unsigned = true
[[cameras]]
kind = "folder"
path = "."
name = "bright"
[[cameras]]
kind = "folder"
path = "."
name = "dim"
{area}
"""


def textured(level: int, seed: int) -> NDArray[np.uint8]:
    """A grey frame with noise: RGB [230, 240, 3]."""
    noise = np.random.default_rng(seed).integers(-8, 9, (230, 240, 1))
    return np.clip(level + noise, 0, 255).astype(np.uint8).repeat(3, axis=2)


def half_lit(level: int, seed: int) -> NDArray[np.uint8]:
    """The same with a white left half: light outside the region of interest."""
    picture = textured(level, seed)
    picture[:, :120] = 255
    return picture


def refused(config: Path, camera: str, picture: NDArray[np.uint8]) -> str:
    """Return why the line of this file finds a frame implausible; "" if it does not."""
    setup = prepare(load_config(config)).setup
    pending = setup.inspector.start(Frame(Stamp(camera, 1), picture, "RGB8"), setup.areas[camera])
    return setup.inspector.finish(pending).implausible or ""


def test_a_camera_has_and_keeps_its_own_ranges_in_its_area(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The bundle knows only bright frames, and its dim camera inspects the right half."""
    bright = [Appearance((230, 240), ImageStatistics.of(textured(200, seed)), None) for seed in range(3)]
    made = manifest()
    calibration = msgspec.structs.replace(made.calibration, plausible=fit_plausibility(bright).plausible)
    write_bundle(tmp_path / "all.bundle", msgspec.structs.replace(made, calibration=calibration), contents_of())
    config, good, own = tmp_path / "line.toml", tmp_path / "good", tmp_path / "own"
    config.write_text(LINE.format(bundle="all.bundle", area=AREA))
    write_pictures(good, {f"{seed}.png": half_lit(60, seed) for seed in range(6)})
    command = ("cameras", "calibrate", config)

    report = json.loads(heatline(*command, "dim", good, "--to", own, "--json").stdout)
    was, now = open_bundle(tmp_path / "all.bundle").manifest, open_bundle(own).manifest
    assert report["digest"] == open_bundle(own).digest
    low, high = report["plausible"]["plausible"]["brightness"]
    assert low < 60 < high < 120, "the white half is beside the area, so that it does not count"
    of_all = msgspec.structs.replace(now.calibration, plausible_by_camera={})
    assert of_all == was.calibration, "thresholds, and what all cameras must look like, stay"
    (record,) = now.provenance["calibrations"]
    assert (record["camera"], record["parent"]["version"], now.version) == ("dim", was.version, "1+cal1")

    config.write_text(LINE.format(bundle="own", area=AREA))
    assert refused(config, "dim", half_lit(60, 9)) == refused(config, "bright", textured(200, 9)) == ""
    assert "brightness" in refused(config, "dim", textured(200, 9))
    assert "brightness" in refused(config, "bright", textured(60, 9))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        config.write_text(LINE.format(bundle="own", area=""))
        assert "brightness" in refused(config, "dim", textured(60, 9)), "the area is another: as of all cameras"
    assert "camera dim has another region of interest than when it was calibrated" in caplog.text
    assert "a frame of camera dim must be" in heatline("bundle", "show", own, env={"COLUMNS": "400"}).stdout

    write_pictures(tmp_path / "lit", {f"{seed}.png": textured(200, seed) for seed in range(6)})
    again = heatline("calibrate", own, tmp_path / "lit", "--to", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    both = open_bundle(tmp_path / "again").manifest.calibration.plausible_by_camera
    assert both == now.calibration.plausible_by_camera, "new thresholds leave them unchanged"
