"""Frames and areas that do not show the product: measures equal slow computations, and a line gives them no verdict."""

import itertools
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle, open_verified_engine, write_bundle
from heatline.edge.bundle.appearance import (
    SAME,
    SEAM_FLAT,
    Appearance,
    Floats,
    ImageStatistics,
    fit_lines,
    measure_lines,
)
from heatline.edge.bundle.manifest import PRODUCT_TILES, CameraPlausible, Plausible, Tensor, product_tiles_of
from heatline.edge.bundle.plausibility import (
    RIDGE,
    ProductCells,
    ProductTiles,
    cell_map,
    find_areas,
    fit_areas,
    fit_plausibility,
    largest_area,
)
from heatline.edge.config import load_config
from heatline.edge.errors import BundleError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import RegionOfInterest, TileGrid
from heatline.edge.inspection.inspector import outcome_of
from heatline.edge.inspection.verdict import Judgement, TileScores
from heatline.edge.service.changeover import prepare
from tests.command import heatline
from tests.oracles import components
from tests.small_bundle import contents_of, manifest, white_frame

CHANNELS = 6
GREY = ImageStatistics(100, 20, 0.1, 0.03)


def frames(count: int, tiles: int = 9, seed: int = 0) -> list[Appearance]:
    """Appearances of a product with correlated features."""
    rng = np.random.default_rng(seed)
    mixed = np.random.default_rng(99).normal(size=(CHANNELS, CHANNELS))
    return [
        Appearance((200, 300), GREY, (rng.normal(size=(tiles, CHANNELS)) @ mixed + 3).astype(np.float32))
        for _ in range(count)
    ]


def by(one: Appearance, amount: float, tiles: int | None = None) -> Appearance:
    """The frame with other features in its first tiles, or in all."""
    features = one.features.copy()
    features[:tiles] += amount
    return replace(one, features=features)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(9, 40), st.just(3))))
def test_statistics_equal_mean_deviation_and_steps_of_grey_values(rgb: NDArray[np.uint8]) -> None:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float64)
    found = ImageStatistics.of(rgb)
    assert (found.brightness, found.contrast) == pytest.approx((grey.mean(), grey.std()), abs=1e-3)
    near, next_to_near, far = (((grey[:, px:] - grey[:, :-px]) ** 2).mean() for px in (1, 2, 8))
    assert found.sharpness == pytest.approx((near + 0.1) / (far + 6.4), rel=1e-3)
    assert found.detail == pytest.approx((max(0, next_to_near - near) / 3 + 0.1) / (far + 6.4), rel=1e-3)
    narrow = ImageStatistics.of(np.ascontiguousarray(rgb[:, : len(rgb) % 9 + 1]))
    assert np.isfinite([narrow.sharpness, narrow.detail]).all()


def test_a_defocused_frame_is_implausible_whatever_its_noise() -> None:
    """A gain that follows the light turns noise up: then a blurred picture is as sharp, pixel by pixel, as before."""
    rng = np.random.default_rng(0)
    edges = np.where(np.arange(400) % 40 < 20, 90, 110).astype(np.uint8)[None].repeat(300, axis=0)

    def frame(blur_px: float, noise: float, of: NDArray[np.uint8] = edges) -> Appearance:
        taken = cv2.GaussianBlur(of, (0, 0), blur_px).astype(float) if blur_px else of
        grey = (taken + rng.normal(0, noise, of.shape)).astype(np.uint8)
        return Appearance((300, 400), ImageStatistics.of(np.stack([grey] * 3, axis=2)), None)

    known = fit_plausibility([frame(0, noise) for noise in (0.5, 1, 2)])
    for noise in (0.5, 1, 2, 4):
        assert known.reject_reason(frame(0, noise)) is None
        assert known.deviations(frame(6, noise))[-1].startswith("detail 0.01")
    flat = np.full_like(edges, 100)  # which has no lowest detail, as it shows but noise
    surface = fit_plausibility([frame(0, 5, flat) for _ in range(5)])
    assert [surface.reject_reason(frame(0, 5, flat)) for _ in range(40)] == [None] * 40


def test_the_distance_equals_mahalanobis() -> None:
    features = np.concatenate([each.features for each in frames(40) if each.features is not None])
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    inverse = np.linalg.inv((1 - RIDGE) * np.corrcoef(features, rowvar=False) + RIDGE * np.eye(CHANNELS))
    expected = [float(np.sqrt(row @ inverse @ row / CHANNELS)) for row in scaled[:25]]
    known = ProductTiles.of(features)
    assert [known.distance(row[None]) for row in features[:25]] == pytest.approx(expected, rel=0.02)
    assert known.distance(features[:25]) == pytest.approx(float(np.median(expected)), rel=0.02)


def test_similar_frames_are_plausible_and_deviations_are_described() -> None:
    known = fit_plausibility(frames(40))
    assert [known.reject_reason(each) for each in frames(200, seed=1)] == [None] * 200
    (one,) = frames(1, seed=2)
    assert known.reject_reason(by(one, 40, 4)) is None, "a defect in less than half of the tiles"
    for tiles in (5, None):
        far = str(known.reject_reason(by(one, 40, tiles)))
        assert far.startswith("it does not look like the product: features ")
        assert far.endswith(f"expected up to {known.plausible.distance:.3g}")
    small = known.reject_reason(replace(one, frame_hw=(100, 300)))
    assert small == "it does not look like the product: height 100 px, expected 200 px"
    assert known.reject_reason(replace(one, statistics=ImageStatistics(2, 1, 0.02, 0.01))) == (
        "it does not look like the product: brightness 2, expected 60 to 140; contrast 1, expected 10 or more; "
        "sharpness 0.02, expected 0.06 or more; detail 0.01, expected 0.0199 or more"
    )
    assert known.reject_reason(replace(one, statistics=ImageStatistics(100, 90, 0.9, 0.9))) is None, "a defect adds"
    for unknown in (np.full((9, CHANNELS), np.nan, np.float32), None):
        assert known.reject_reason(replace(one, features=unknown)) is not None


@pytest.mark.parametrize("camera", ["", "top"])
def test_a_bundle_stores_product_tiles_and_is_refused_if_they_do_not_fit(tmp_path: Path, camera: str) -> None:
    known = fit_plausibility(frames(40))
    whole, made = known.tiles.to_bytes(), manifest()
    of_camera = {"plausible_by_camera": {camera: CameraPlausible(known.plausible, [], [])}}
    calibration = msgspec.structs.replace(made.calibration, **of_camera if camera else {"plausible": known.plausible})
    file = product_tiles_of(camera) if camera else PRODUCT_TILES

    def write(name: str, tiles: bytes, channels: int = CHANNELS) -> Bundle:
        tensors = msgspec.structs.replace(made.tensors, features=Tensor("features", "float32", [None, channels]))
        described = msgspec.structs.replace(made, calibration=calibration, tensors=tensors)
        return write_bundle(tmp_path / name, described, contents_of() | {file: tiles})

    opened = write("a", whole)
    plausibility = opened.plausibility_by_camera()[camera][1] if camera else opened.plausibility()
    for each in [*frames(9, seed=7), by(frames(1)[0], 40)]:
        assert plausibility.reject_reason(each) == known.reject_reason(each)
    for tiles in (b"", whole[:-9]):
        with pytest.raises(BundleError, match=f"{file} holds no features of tiles"):
            write("b", tiles)
    with pytest.raises(BundleError, match="has mean of shape"):
        write("b", whole, CHANNELS + 1)
    assert not (tmp_path / "b").exists()
    with pytest.raises(BundleError, match=r"gives openvino features of shape none, the manifest declares \(1, 6\)"):
        open_verified_engine(opened, "openvino", "f32")


FEATURES, SIDE = 10, 7
GRID = TileGrid((446, 446))


def texture(seed: int) -> NDArray[np.uint8]:
    """A product's surface: slow shades, and a sensor's noise."""
    rng = np.random.default_rng(seed)
    shades = np.add.outer(np.sin(np.arange(446) / 40), np.cos(np.arange(446) / 30)) * 20
    return np.clip(120 + shades[..., None] + rng.normal(0, 6, (446, 446, 3)), 0, 255).astype(np.uint8)


def cells_of(seed: int, tiles: int = len(GRID)) -> Floats:
    """Features of a good frame's cells: correlated, with a frame's own offset, as of its light."""
    rng = np.random.default_rng(seed)
    mixed = np.random.default_rng(99).normal(size=(4, FEATURES))
    offset = rng.normal(0, 2, FEATURES)
    noise = rng.normal(0, 0.2, (tiles, SIDE, SIDE, FEATURES))
    return np.asarray(rng.normal(size=(tiles, SIDE, SIDE, 4)) @ mixed + noise + offset, np.float32)


@pytest.fixture(scope="module")
def textured() -> list[Appearance]:
    return [Appearance.of(texture(seed), GRID, cells_of(seed)) for seed in range(20)]


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(0, 9)))
def test_lines_equal_a_slow_count(grey: NDArray[np.uint8]) -> None:
    found = measure_lines(np.stack([grey] * 3, axis=2))
    for side, lines in (("rows", grey.astype(int)), ("columns", grey.T.astype(int))):
        repeated, run, longest, steps = 0, 0, 0, []
        for before, line in itertools.pairwise(lines):
            steps.append(np.abs(line - before).mean())
            run = run + 1 if np.abs(line - before).max() <= SAME else 0
            longest, repeated = max(longest, run), repeated + (run > 0)
        stretch = found[f"repeated_{side}"]  # type: ignore[index]
        assert stretch.value == pytest.approx(repeated / len(lines))
        assert stretch.end_px - stretch.first_px == longest
        beside = [[*steps[at - 2 : at], *steps[at + 1 : at + 3]] for at in range(2, len(steps) - 2)]
        seams = [step / (np.median(near) + SEAM_FLAT) for step, near in zip(steps[2:], beside, strict=False)]
        assert found[f"torn_{side}"].value == pytest.approx(max(seams, default=0), rel=1e-6)  # type: ignore[index]


def test_a_lost_band_and_a_torn_frame_are_found_at_their_place_and_noise_is_not() -> None:
    limits = fit_lines([measure_lines(texture(seed)) for seed in range(8)])
    assert all(each.value <= limits[name] for name, each in measure_lines(texture(50)).items())
    for side, value in enumerate((0, 128, 255, 0)):
        turned = np.rot90(texture(51), side).copy()
        turned[-22:] = value
        found = measure_lines(np.rot90(turned, -side))["repeated_columns" if side % 2 else "repeated_rows"]
        assert found.value > max(limits["repeated_columns"], limits["repeated_rows"])
        assert abs(found.first_px - (425 if side in (0, 3) else 1)) <= 1
        assert abs(found.end_px - (446 if side in (0, 3) else 22)) <= 1
    smooth = [np.asarray(texture(seed) // 8 * 8, np.uint8) for seed in range(8)]
    torn = np.concatenate([smooth[0][:200], np.roll(smooth[1], 90, axis=0)[200:] + 40])
    found = measure_lines(torn)["torn_rows"]
    assert found.value > fit_lines([measure_lines(each) for each in smooth])["torn_rows"]
    assert (found.first_px, found.end_px) == (199, 201)


def test_distances_are_those_to_the_nearest_prototype_after_centring() -> None:
    product, frame = ProductCells.of([cells_of(seed) for seed in range(6)]), cells_of(70)
    projected = frame.reshape(-1, FEATURES).astype(float) @ product.projection.astype(float)
    centred = projected - np.median(projected, axis=0)
    expected = np.array([np.sqrt(((cell - product.prototypes) ** 2).sum(axis=1)).min() for cell in centred])
    assert product.distances(frame).ravel() == pytest.approx(expected, abs=1e-3)
    assert product.distances(frame + 3) == pytest.approx(product.distances(frame), abs=1e-3), "other light"


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_largest_area_is_the_largest_component(foreign: NDArray[np.bool_]) -> None:
    share, box = largest_area(foreign.astype(np.float32), 0.5)
    parts = components(foreign)
    largest = max(map(len, parts), default=0)
    assert share == pytest.approx(largest / foreign.size)
    corners = (np.array(list(part))[:, ::-1] for part in parts if len(part) == largest)
    assert box in ({(*each.min(axis=0), *(each.max(axis=0) + 1)) for each in corners} or {(0, 0, 0, 0)})


def test_good_frames_have_no_area_and_a_foreign_one_is_found_at_its_place(textured: list[Appearance]) -> None:
    limits, product = fit_areas(textured, np.arange(20).astype(str))
    assert (limits.groups, limits.refused <= 1) == (20, True)
    good = [Appearance.of(texture(seed), GRID, cells_of(seed)) for seed in range(100, 130)]
    assert sum(bool(find_areas(each, limits, product)) for each in good) <= 2
    cells = cells_of(200)
    cells[3, 2:6, 1:5] += np.random.default_rng(1).normal(0, 6, FEATURES).astype(np.float32)
    (area,) = find_areas(Appearance.of(texture(200), GRID, cells), limits, product)
    assert np.abs(np.subtract(area.box_xyxy, (254, 286, 382, 414))).max() <= 32
    assert "does not look like the product: " in area.why
    few, none = fit_areas(textured[:8], np.array(["a", "b"] * 4))
    assert (few is not None and few.cell, none) == (None, None), "of few groups, lines alone are compared"


def test_cells_outside_the_region_of_interest_are_not_the_product(textured: list[Appearance]) -> None:
    limits, product = fit_areas(textured, np.arange(20).astype(str))
    # The share is of what is inspected: 10 of 20 cells, which are 5 % of the frame's 196.
    part = RegionOfInterest.from_polygons([[(0, 0), (159, 0), (159, 127), (0, 127)]])
    grid = TileGrid((446, 446), region_of_interest=part)
    outside, inside = cells_of(301, len(grid)), cells_of(301, len(grid))
    outside[:, :, 6] += 9  # x 192 to 224
    inside[:, :2, :5] += 9
    assert np.isnan(cell_map(product.distances(outside), grid)[:, 5:]).all()
    assert not find_areas(Appearance.of(texture(301), grid, outside), limits, product)
    (area,) = find_areas(Appearance.of(texture(301), grid, inside), limits, product)
    assert "50.0 % of the inspected area" in area.why


def test_a_product_shown_in_part_gets_no_verdict_unless_defective(textured: list[Appearance], tmp_path: Path) -> None:
    known = fit_plausibility(textured)
    (tmp_path / "tiles.npz").write_bytes(known.tiles.to_bytes())
    read, cells = ProductTiles.load(tmp_path / "tiles.npz", FEATURES).cells, known.tiles.cells
    assert np.array_equal(read.distances(cells_of(1)), cells.distances(cells_of(1)))
    rgb = texture(400)
    rgb[356:] = 0
    areas = tuple(known.foreign_areas(Appearance.of(rgb, GRID, cells_of(400))))
    assert areas[0].box_xyxy == (0, 357, 446, 446)
    scores = TileScores(GRID.origins, np.zeros(len(GRID), np.float32), 224)
    good = Judgement("GOOD", (446, 446), 0.0, np.zeros((112, 112), np.float32), [], scores, None, areas)
    for judgement, reason in (
        (good, "foreign_area"),
        (replace(good, verdict="DEFECT"), None),
        (replace(good, implausible="x"), "implausible"),
    ):
        outcome = outcome_of(Stamp("top", 1), judgement)
        assert (outcome.unjudged and outcome.unjudged.reason) == reason
        assert (outcome.shown is not None and outcome.shown.foreign == areas) == (reason != "implausible")


LINE = """
bundle = "bundle"
allow_unsigned = true
product = "b"
cameras = [{{name = "top", kind = "pattern"}}]
products = [
    {{name = "a", bundle = "bundle", thresholds = {{score = -1.0}}}},
    {{name = "b", bundle = "bundle", thresholds = {{check_plausibility = true}}}},
]
[thresholds]
{keys}
"""


def test_a_line_gives_implausible_frames_no_verdict_unless_the_check_is_off(tmp_path: Path) -> None:
    white, made = white_frame((230, 240)), manifest()
    known: Plausible = fit_plausibility([Appearance((230, 240), ImageStatistics.of(white), None)]).plausible
    made = msgspec.structs.replace(made, calibration=msgspec.structs.replace(made.calibration, plausible=known))
    write_bundle(tmp_path / "bundle", made, contents_of())
    black, like, line = Frame(Stamp("top", 1), white * 0, "RGB8"), None, tmp_path / "line.toml"
    for keys, expected in (("", [True, True]), ("check_plausibility = false", [False, True])):
        line.write_text(LINE.format(keys=keys))
        found = []
        for product in "ab":
            like = prepare(load_config(line).of_product(product), active=like)
            inspector = like.setup.inspector
            found.append(inspector.finish(inspector.start(black)).implausible is not None)
        assert found == expected
    report = msgspec.json.decode(heatline("check", line, "--json").stdout)
    assert (report["plausible"]["height_px"], report["other_products"]["a"]["plausible"]) == ([230, 230], None)
    refused = report["cameras"]["top"]["implausible"]
    assert refused.startswith("it does not look like the product: height"), "a drawn frame is none of the product"
    shown = heatline("check", line, env={"COLUMNS": "400"}).stdout
    assert f"IT WOULD GET NO VERDICT: {refused}" in " ".join(shown.split())
