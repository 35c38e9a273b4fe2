"""`heatline cameras`: lists real cameras, and sets what their frames must look like."""

import json
import logging
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import open_bundle, write_bundle
from heatline.edge.bundle.appearance import Appearance, ImageStatistics
from heatline.edge.bundle.plausibility import fit_plausibility
from heatline.edge.cameras import aravis
from heatline.edge.cameras.discovery import video_devices
from heatline.edge.config import load_config
from heatline.edge.frames import Frame, Stamp
from heatline.edge.service.changeover import prepare
from tests.command import heatline, successful
from tests.edge.gv_cameras import aravis_camera
from tests.edge.lines import write_pictures
from tests.small_bundle import contents_of, manifest


def test_a_gige_camera_is_listed_with_its_keys() -> None:
    with aravis_camera() as device:
        report, words = json.loads(heatline("cameras", "list", "--json").stdout), heatline("cameras", "list").stdout
    (found,) = (one for one in report["cameras"] if one["serial"] == device.serial)
    assert (found["model"], found["protocol"], report["missing"]) == ("Aravis Fake", "GigE Vision", None)
    assert found["keys"] == {"kind": "genicam", "address": device.address}
    for text in (device.serial, "Aravis Fake", 'kind = "genicam"', f'address = "{device.address}"'):
        assert text in words


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
    successful(heatline("calibrate", own, tmp_path / "lit", "--to", tmp_path / "again"))
    both = open_bundle(tmp_path / "again").manifest.calibration.plausible_by_camera
    assert both == now.calibration.plausible_by_camera, "new thresholds leave them unchanged"
