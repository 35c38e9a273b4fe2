"""`heatline cameras calibrate`: each camera has its own ranges, within its region of interest."""

import json
import logging
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import SCHEMA, open_bundle, write_bundle
from heatline.edge.bundle.appearance import Appearance, ImageStatistics
from heatline.edge.bundle.manifest import CameraPlausible, Tensor, product_tiles_of
from heatline.edge.bundle.plausibility import fit_plausibility
from heatline.edge.config import load_config
from heatline.edge.errors import BundleError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.service.changeover import prepare
from tests.command import complaint, heatline
from tests.edge.lines import write_pictures
from tests.edge.test_plausibility import CHANNELS, frames
from tests.small_bundle import contents_of, manifest

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


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """A line whose bundle knows only bright frames, and whose dim camera inspects the right half."""
    made = manifest()
    known = fit_plausibility(
        [Appearance((230, 240), ImageStatistics.of(textured(200, seed)), None) for seed in range(3)]
    )
    made = msgspec.structs.replace(
        made, calibration=msgspec.structs.replace(made.calibration, plausible=known.plausible)
    )
    write_bundle(tmp_path / "all.bundle", made, contents_of())
    (tmp_path / "line.toml").write_text(LINE.format(bundle="all.bundle", area=AREA))
    write_pictures(tmp_path / "good", {f"{seed}.png": half_lit(60, seed) for seed in range(6)})
    return tmp_path / "line.toml"


def refused(line: Path, camera: str, picture: NDArray[np.uint8]) -> str | None:
    setup = prepare(load_config(line)).setup
    pending = setup.inspector.start(Frame(Stamp(camera, 1), picture, "RGB8"), setup.areas[camera])
    return setup.inspector.finish(pending).implausible


def test_a_camera_has_its_own_ranges_within_its_region_of_interest(
    line: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = heatline("cameras", "calibrate", line, "dim", line.parent / "good", "--to", line.parent / "own", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    was, now = open_bundle(line.parent / "all.bundle").manifest, open_bundle(line.parent / "own").manifest
    assert report["digest"] == open_bundle(line.parent / "own").digest
    low, high = report["plausible"]["plausible"]["brightness"]
    assert low < 60 < high < 120, "the white half is beside the area, so that it does not count"
    assert now.schema == SCHEMA
    assert now.version == "1+cal1"
    of_all = msgspec.structs.replace(now.calibration, plausible_by_camera={})
    assert of_all == was.calibration, "thresholds, and what all cameras must look like, stay"
    (record,) = now.provenance["calibrations"]
    assert record["camera"] == "dim"
    assert record["parent"]["version"] == was.version

    line.write_text(LINE.format(bundle="own", area=AREA))
    assert refused(line, "dim", half_lit(60, 9)) is None
    assert "brightness" in (refused(line, "dim", textured(200, 9)) or "")
    assert refused(line, "bright", textured(200, 9)) is None
    assert "brightness" in (refused(line, "bright", textured(60, 9)) or "")

    caplog.clear()
    with caplog.at_level(logging.WARNING):
        line.write_text(LINE.format(bundle="own", area=""))
        assert "brightness" in (refused(line, "dim", textured(60, 9)) or ""), "the area is another: as of all cameras"
    assert "camera dim has another region of interest than when it was calibrated" in caplog.text

    shown = heatline("bundle", "show", line.parent / "own", env={"COLUMNS": "400"}).stdout
    assert "a frame of camera dim must be" in shown


def test_new_thresholds_leave_the_cameras_ranges_unchanged(line: Path) -> None:
    heatline("cameras", "calibrate", line, "dim", line.parent / "good", "--to", line.parent / "own")
    write_pictures(line.parent / "lit", {f"{seed}.png": textured(200, seed) for seed in range(6)})
    again = heatline("calibrate", line.parent / "own", line.parent / "lit", "--to", line.parent / "again")
    assert again.returncode == 0, again.stderr
    own, now = (open_bundle(line.parent / name).manifest.calibration for name in ("own", "again"))
    assert now.plausible_by_camera == own.plausible_by_camera
    assert now.score_threshold != own.score_threshold


def test_a_dry_run_describes_the_result_and_writes_nothing(line: Path) -> None:
    result = heatline("cameras", "calibrate", line, "dim", line.parent / "good", "--dry-run", env={"COLUMNS": "400"})
    assert result.returncode == 0, result.stderr
    assert "would be written" in result.stdout
    assert "a frame of camera dim must be" in result.stdout
    assert "6 good frames of good, in f32" in result.stdout
    assert sorted(path.name for path in line.parent.iterdir()) == ["all.bundle", "good", "line.toml"]


def test_an_unknown_camera_is_refused(line: Path) -> None:
    result = heatline("cameras", "calibrate", line, "side", line.parent / "good")
    assert result.returncode == 3
    assert complaint(result).endswith("line.toml has no camera 'side'; it has bright, dim")


def test_a_bundle_stores_the_product_tiles_of_each_camera(tmp_path: Path) -> None:
    known = fit_plausibility(frames(40))
    assert known.tiles is not None
    own = CameraPlausible(known.plausible, [], [])
    made = manifest()
    made = msgspec.structs.replace(
        made,
        calibration=msgspec.structs.replace(made.calibration, plausible_by_camera={"top": own}),
        tensors=msgspec.structs.replace(made.tensors, features=Tensor("features", "float32", [None, CHANNELS])),
    )
    file = {product_tiles_of("top"): known.tiles.to_bytes()}
    write_bundle(tmp_path / "a", made, {**contents_of(), **file})
    _, opened = open_bundle(tmp_path / "a").plausibility_by_camera()["top"]
    for each in frames(20, seed=7):
        assert opened.reject_reason(each) == known.reject_reason(each)
    with pytest.raises(BundleError, match=r"product_tiles\.top\.npz holds no features of tiles"):
        write_bundle(tmp_path / "b", made, contents_of())
