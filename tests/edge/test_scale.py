"""The scale of a camera, against grids that this file renders by a lens of its own; tolerances; the command."""

import dataclasses
import logging
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge import describe
from heatline.edge.bridge.modbus.registers import IdMap, result_values
from heatline.edge.bridge.opcua.address_space import RESULT_FIELDS, values_of
from heatline.edge.bundle import Bundle
from heatline.edge.calibration.scale import find_grid, scale_of_grid, scale_of_points
from heatline.edge.cameras.settings import FolderSettings, Zone
from heatline.edge.config import load_config
from heatline.edge.frames import Frame, Stamp
from heatline.edge.inference import open_engine
from heatline.edge.inspection.inspector import outcome_of
from heatline.edge.monitor.memory import row_of, tolerance_of
from heatline.edge.service.events import verdict_message
from heatline.edge.wire.events import Region
from tests.command import heatline
from tests.edge.lines import setup_of, write_line_with, write_pictures
from tests.small_bundle import TILE, dark_square, white_frame

WIDTH, HEIGHT = SIZE = 640, 480
COLUMNS, ROWS, PITCH_MM, PX_MM, SAMPLES = 9, 6, 5.0, 9.5, 4
CENTRE_MM = np.array([(COLUMNS - 1) / 2, (ROWS - 1) / 2]) * PITCH_MM


class Lens(NamedTuple):
    """A pinhole camera over the grid's centre, whose lens moves a place at r half diagonals to r (1 + k r^2)."""

    tilt: float
    """Degrees, around the axis `towards`, degrees."""
    towards: float
    roll: float
    k: float

    def mm(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        """Places [..., 2] of the grid's plane that the px show, by the ray through each."""
        radius, focal, axis = math.hypot(WIDTH, HEIGHT) / 2, 900.0, np.radians(self.towards)
        xy = (np.stack([x, y], -1) - (WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5)) / radius
        seen = np.linalg.norm(xy, axis=-1)
        straight = seen.copy()
        for _ in range(8):
            straight -= (straight * (1 + self.k * straight**2) - seen) / (1 + 3 * self.k * straight**2)
        xy *= radius * np.divide(straight, seen, where=seen > 0, out=np.ones_like(seen))[..., None]
        tilted = cv2.Rodrigues(np.radians(self.tilt) * np.array([np.cos(axis), np.sin(axis), 0]))[0]
        turned = tilted @ cv2.Rodrigues(np.radians([0, 0, self.roll]))[0]
        rays = np.concatenate([xy, np.full((*seen.shape, 1), focal)], -1) @ turned  # in the grid's axes
        camera = turned.T @ np.array([0, 0, focal / PX_MM])
        return np.asarray(rays[..., :2] * (camera[2] / rays[..., 2:]) - camera[:2] + CENTRE_MM)

    def picture(self, pattern: str) -> NDArray[np.uint8]:
        """Render the grid: each px is the mean of 4 x 4 samples."""
        offsets = (np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5
        across, down = ((np.arange(side)[:, None] + offsets).ravel() for side in SIZE)
        at = self.mm(*np.meshgrid(across, down)) / PITCH_MM
        if pattern == "checkerboard":
            dark = ((at > -1) & (at < (COLUMNS, ROWS))).all(-1) & (np.floor(at).sum(-1) % 2 == 0)
        else:
            dark = np.linalg.norm(at - np.clip(np.round(at), 0, (COLUMNS - 1, ROWS - 1)), axis=-1) < 0.25
        return np.asarray(np.round(225 - 190 * dark.reshape(HEIGHT, SAMPLES, WIDTH, SAMPLES).mean((1, 3))), np.uint8)


def errors(lens: Lens, pattern: str = "checkerboard") -> tuple[Any, float, float]:
    """Return the scale, and its largest error of a position and of a length within the grid, mm."""
    found = find_grid(lens.picture(pattern), pattern, COLUMNS, ROWS)
    scale = scale_of_grid(found, COLUMNS, PITCH_MM, SIZE)
    xy = np.random.default_rng(1).uniform(found.min(0), found.max(0), (400, 2))
    true, got = lens.mm(xy[:, 0], xy[:, 1]), scale.to_mm(xy)
    within = ((true > 0) & (true < 2 * CENTRE_MM)).all(1)
    apart = [np.linalg.norm(each - np.roll(each, 7, 0), axis=1) for each in (got[within], true[within])]
    return scale, np.linalg.norm(got - true, axis=1)[within].max(), np.abs(apart[0] - apart[1]).max()


@settings(max_examples=4, deadline=None)
@given(
    lens=st.builds(Lens, st.floats(0, 40), st.floats(0, 360), st.floats(-20, 20), st.floats(-0.05, 0.05)),
    pattern=st.sampled_from(["checkerboard", "dots"]),
    place=st.tuples(st.integers(200, 400), st.integers(150, 300), st.integers(2, 30), st.integers(2, 30)),
)
def test_positions_and_lengths_are_those_of_the_rendered_plane(
    lens: Lens, pattern: str, place: tuple[int, int, int, int]
) -> None:
    scale, of_position, of_length = errors(lens, pattern)
    assert max(of_position / 0.03, of_length / 0.02) < 1
    left, top, width, height = place
    right, bottom = left + width - 1, top + height - 1
    outline = [(left, top), (right, top), (right, bottom), (left, bottom)]
    measured = scale.measure(Region((left, top, right + 1, bottom + 1), outline, width * height, (left, top), 1.0))
    in_mm = lens.mm(*np.mgrid[left - 0.5 : right + 1, top - 0.5 : bottom + 1])
    corners, flat = in_mm[[0, 0, -1, -1], [0, -1, -1, 0]], in_mm.reshape(-1, 2)
    assert measured.extent == pytest.approx(np.linalg.norm(flat[:, None] - flat, axis=2).max(), abs=0.02)
    assert measured.area == pytest.approx(cv2.contourArea(corners.astype(np.float32)), rel=0.01)


def test_a_small_distortion_is_stated_and_not_corrected() -> None:
    small, large = (errors(Lens(10, 0, 0, k))[0] for k in (0.002, 0.02))
    assert (small.distortion, large.distortion != 0) == (0, True)
    assert 0.1 < small.distortion_px < 0.5 < large.distortion_px


def test_frames_of_tolerated_regions_are_good(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    frame = dark_square(dark_square(white_frame(), 100, 100), 300, 500, 90)
    setup = setup_of(bundle, open_engine("openvino", bundle.path, TILE, threads=1))
    scale, other = (scale_of_points((0, 0, 100, 0), 10, size) for size in ((700, 500), (200, 100)))

    def event(**keys: Any) -> Any:
        camera = FolderSettings(name="top", path=Path(), **{"scale": scale, **keys})
        judging = dataclasses.replace(setup, cameras={"top": camera})
        started = setup.inspector.start(Frame(Stamp("top", 1), frame, "RGB8"))
        outcome = outcome_of(started.frame.stamp, judging.finish(started))
        return verdict_message("boot", dataclasses.replace(outcome, setup=judging)).event

    by_size = sorted(event().regions, key=lambda each: each.area_px)
    assert [each.mm.box[0] for each in by_size] == [each.box_xyxy[0] / 10 for each in by_size]
    small, large = (each.mm.extent + each.mm.error for each in by_size)
    around_small = [(80, 80), (180, 80), (180, 180), (80, 180)]
    zones = [Zone(polygon=around_small, ignore_below_mm=small + 0.01), Zone(polygon=around_small)]
    limited = [
        event(scale=None),
        event(ignore_below_mm=small),
        event(ignore_below_mm=small + 0.01),
        event(ignore_below_mm=large + 0.01, zones=zones[1:]),
        event(zones=zones),
    ]
    assert [(each.verdict, each.tolerated) for each in limited] == [("DEFECT", count) for count in (0, 0, 1, 1, 1)]
    good, longest = event(ignore_below_mm=large + 0.01), by_size[1].mm
    assert (good.verdict, good.tolerated, good.reason, good.detail) == ("GOOD", 2, None, "tolerated")
    assert describe.describe_event(good).detail.endswith(f"the longest {longest.extent:.2f} mm; tolerated")
    told: Any = result_values(good, IdMap(["top"], []))
    assert (
        describe.columns_of(good, 1, good.topic, 0)[-4:]
        == [values_of(RESULT_FIELDS, good)[name] for name in ("ExtentMm", "AreaMm2", "ErrorMm", "Tolerated")]
        == [longest.extent, longest.area, longest.error, 2]
        == pytest.approx(
            [told["extent_um"] / 1e3, told["area_um2"] / 1e6, told["error_um"] / 1e3, told["tolerated"]], 1e-4
        )
    )
    setup.inspector.thresholds = dataclasses.replace(setup.inspector.thresholds, evidence=1e3)
    unsized = event(ignore_below_mm=large + 0.01)
    assert (unsized.verdict, [each.mm for each in unsized.regions]) == ("DEFECT", [None] * len(unsized.regions))
    tried = [FolderSettings(name="top", path=Path(), scale=scale, zones=each) for each in ([], zones, zones[1:])]
    above = [tolerance_of(row_of(good), camera) for camera in (*tried, None)]
    assert (row_of(good)["longest_mm"], above) == (longest.extent, [large, large, None, 0.0])
    with caplog.at_level(logging.WARNING):
        assert [event(scale=other, ignore_below_mm=1000.0).verdict for _ in range(2)] == ["DEFECT"] * 2
    assert len([each for each in caplog.messages if "700x500 px get no mm" in each]) == 1


def test_the_command_writes_the_scale_of_one_camera(tmp_path: Path, bundle: Bundle) -> None:
    lens, plain = Lens(20, 35, 7, -0.02), np.full((HEIGHT, WIDTH), 200, np.uint8)
    dots, (y, x) = lens.picture("dots"), np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    bent = cv2.remap(dots, x, y + 9 * np.cos(x / 40), cv2.INTER_LINEAR, borderValue=225)
    grid, curved = (each.picture("checkerboard") for each in (lens, Lens(0, 0, 0, 0.8)))
    pictures = {"grid.png": grid, "plain.png": plain, "dots.png": dots, "bent.png": bent, "curved.png": curved}
    shown = write_pictures(tmp_path / "shown", {name: np.dstack([each] * 3) for name, each in pictures.items()})
    of_both = {"kind": "folder", "path": str(write_pictures(tmp_path / "frames", {"1.png": white_frame()}))}
    cameras = {"side": {**of_both, "size": [700, 500]}, "top": of_both}
    line = write_line_with(tmp_path, bundle.path, f"ipc://{tmp_path}/events", cameras)
    before, of_top = line.read_text(), ("calibrate", "scale", line, "top")
    of_grid = (*of_top, shown / "grid.png", "--checkerboard", "9", "6", "--mm", "5")
    told = heatline(*of_grid).stdout
    middle = lens.mm(np.array([320.0, 321, 320]), np.array([240.0, 240, 241]))
    (sides,) = re.findall(rf"is stored in {line}; heatline reload[\s\S]*a px in the middle +(\S+) x (\S+) mm", told)
    assert np.linalg.norm(middle[1:] - middle[0], axis=1) == pytest.approx([*map(float, sides)], 0.01)
    assert [each.scale and each.scale.size for each in load_config(line).cameras] == [None, SIZE]
    added = [each for each in line.read_text().splitlines() if each not in before.splitlines()]
    assert line.read_text().replace(f"{added[0]}\n", "") == before
    assert "700x500 px get no mm" in heatline("check", line).stderr
    assert heatline(*of_top, shown / "plain.png", "--points", "0", "0", "300", "400", "--mm", "25").returncode == 0
    two: Any = load_config(line).cameras[1].scale
    assert two.to_mm(np.array([(-0.5, -0.5), (299.5, 399.5)])) == pytest.approx(np.array([(0, 0), (15, 20)]))
    for code, sentence, arguments in [
        (9, "no whole grid of 9 x 6 inner", (*of_top, shown / "plain.png", *of_grid[5:])),
        (9, "no whole grid of 10 x 6 dark dots", (*of_top, shown / "grid.png", "--dots", "10", "6", "--mm", "5")),
        (9, "more dots continue the grid of 9 x 5", (*of_top, shown / "dots.png", "--dots", "9", "5", "--mm", "5")),
        (9, "mm from a flat grid; lay it flat", (*of_top, shown / "bent.png", "--dots", "9", "6", "--mm", "5")),
        (9, "curved.png: distortion is -0.36, and below", (*of_top, shown / "curved.png", *of_grid[5:])),
        (9, "camera side gives (700, 500); keep one of its own", (*of_grid[:3], "side", *of_grid[4:])),
        (9, "0,0 and 640,3 are not two", (*of_top, shown / "grid.png", "--points", "0", "0", "640", "3", "--mm", "1")),
        (9, "are not two points", (*of_top, shown / "grid.png", "--points", "7", "7", "7", "7", "--mm", "1")),
        (3, "no camera 'bottom'; expected one of side, top", (*of_grid[:3], "bottom", *of_grid[4:])),
        *((2, "0<x<=10000", (*of_grid[:-1], mm)) for mm in ("0", "inf", "10001")),
        (2, "2 is not in the range x>=3", (*of_top, shown / "grid.png", "--dots", "2", "6", "--mm", "5")),
        (2, "name one of", (*of_grid, "--dots", "9", "6")),
    ]:
        refused = heatline(*arguments)
        assert (refused.returncode, sentence in refused.stderr) == (code, True), refused.stderr
    assert load_config(line).cameras[1].scale == two
    of_number = (
        "scale = {{ size = [9, 9], homography = [[{0}, 0, 0], [0, {0}, 0], [0, 0, 1]], error_mm = 0, distortion = {1}, "
        'measured_at = "2026-01-01T00:00:00Z" }}'
    )
    for key, sentence in [
        (of_number.format("0.0", 0), "scale is zero, infinite or ends in the picture"),
        (of_number.format("inf", 0), "scale is zero, infinite or ends in the picture"),
        (of_number.format("0.1", -0.34), "distortion is -0.34, and below -0.33 the"),
        ("ignore_below_mm = 1.0", "camera top has limits in mm and no scale"),
        *(
            (f"{of_number.format('0.1', -0.33)}\nzones = [{{ polygon = {polygon} }}]", sentence)
            for polygon, sentence in (
                ("[[9, 9], [19, 9], [9, 19]]", "a zone without a px of"),
                ("[[1, 1], [2, 2], [5, 5]]", "zone [(1, 1), (2, 2), (5, 5)] all lie on one line"),
            )
        ),
    ]:
        line.write_text(before.replace('name = "top"', f'name = "top"\n{key}'))
        assert sentence in heatline("check", line).stderr
