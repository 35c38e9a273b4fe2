"""Plausibility of frames: the measures equal independent computations, and a line uses them."""

import json
from collections.abc import Sequence
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

from heatline.edge.bundle import open_bundle, open_verified_engine, write_bundle
from heatline.edge.bundle.appearance import Appearance, ImageStatistics
from heatline.edge.bundle.manifest import PRODUCT_TILES, Plausible, Tensor
from heatline.edge.bundle.plausibility import RIDGE, Plausibility, ProductTiles, find_outliers, fit_plausibility, margin
from heatline.edge.config import load_config
from heatline.edge.errors import BundleError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.service.changeover import prepare
from tests.command import heatline
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


def statistics_of(grey: NDArray[np.uint8]) -> ImageStatistics:
    return ImageStatistics.of(np.stack([grey] * 3, axis=2))


@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(9, 40), st.just(3)), elements=st.integers(0, 255))
)
def test_statistics_equal_mean_deviation_and_steps_of_grey_values(rgb: NDArray[np.uint8]) -> None:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float64)
    found = ImageStatistics.of(rgb)
    assert found.brightness == pytest.approx(grey.mean(), abs=1e-3)
    assert found.contrast == pytest.approx(grey.std(), abs=1e-3)
    near, next_to_near, far = (((grey[:, px:] - grey[:, :-px]) ** 2).mean() for px in (1, 2, 8))
    assert found.sharpness == pytest.approx((near + 0.1) / (far + 6.4), rel=1e-3)
    assert found.detail == pytest.approx((max(0, next_to_near - near) / 3 + 0.1) / (far + 6.4), rel=1e-3)


def test_sharpness_and_detail_have_the_stated_values_for_noise_edges_and_slopes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 400), np.uint8)
    edges = np.where(np.arange(400) % 40 < 20, 50, 200).astype(np.uint8)[None].repeat(60, axis=0)
    slope = (2 * np.abs(np.arange(400) % 240 - 120)).astype(np.uint8)[None].repeat(60, axis=0)
    found = [statistics_of(grey) for grey in (noise, edges, slope, edges // 3)]
    assert [each.sharpness for each in found] == pytest.approx([1, 1 / 8, 1 / 64, 1 / 8], rel=0.2)
    assert [each.detail for each in found] == pytest.approx([0, 1 / 24, 1 / 64, 1 / 24], rel=0.05, abs=0.001)
    blurred = statistics_of(cv2.GaussianBlur(edges, (0, 0), 3))
    assert blurred.sharpness < found[1].sharpness / 4
    assert blurred.detail < found[1].detail / 2


def test_a_frame_narrower_than_the_far_step_has_finite_statistics() -> None:
    for width in range(1, 10):
        statistics = statistics_of(np.random.default_rng(0).integers(0, 256, (20, width), np.uint8))
        assert np.isfinite([statistics.sharpness, statistics.detail]).all(), width


def test_a_defocused_frame_is_implausible_whatever_its_noise() -> None:
    """A gain that follows the light turns noise up: then a blurred picture is as sharp, pixel by pixel, as before."""
    rng = np.random.default_rng(0)
    edges = np.where(np.arange(400) % 40 < 20, 90, 110).astype(np.uint8)[None].repeat(300, axis=0)

    def frame(blur_px: float, noise: float) -> Appearance:
        taken = cv2.GaussianBlur(edges, (0, 0), blur_px).astype(float) if blur_px else edges
        return Appearance((300, 400), statistics_of((taken + rng.normal(0, noise, edges.shape)).astype(np.uint8)), None)

    known = fit_plausibility([frame(0, noise) for noise in (0.5, 1, 2)])
    for noise in (0.5, 1, 2, 4):
        assert known.reject_reason(frame(0, noise)) is None
        assert known.deviations(frame(6, noise))[-1].startswith("detail 0.01")
    grey = np.clip(rng.normal(100, 10, (300, 400)), 0, 255).astype(np.uint8)
    (only,) = known.deviations(Appearance((300, 400), statistics_of(grey), None))
    assert only.startswith("detail ")


def test_a_surface_without_edges_has_no_lowest_detail() -> None:
    """What such frames show is noise, whose detail is about zero: no bound divides it."""
    rng = np.random.default_rng(0)
    flat = [Appearance((60, 60), statistics_of(rng.normal(100, 5, (60, 60)).astype(np.uint8)), None) for _ in range(80)]
    known = fit_plausibility(flat[:5])
    assert known.plausible.detail == (0, None)
    assert [known.reject_reason(each) for each in flat] == [None] * 80


def test_bundles_before_schema_9_know_no_detail() -> None:
    known = fit_plausibility(frames(40))
    older = Plausibility(msgspec.structs.replace(known.plausible, detail=None), known.tiles)
    (noisy,) = (replace(each, statistics=replace(GREY, detail=0)) for each in frames(1))
    assert known.deviations(noisy) == ["detail 0, expected 0.0199 or more"]
    assert older.reject_reason(noisy) is None


def test_some_rows_of_a_large_frame_are_enough() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2000, 3000, 3), np.uint8)
    whole = ImageStatistics.of(rgb[:20])
    for name in ("brightness", "contrast", "sharpness"):  # the detail of noise is 0
        assert getattr(ImageStatistics.of(rgb), name) == pytest.approx(getattr(whole, name), rel=0.02), name


def test_the_distance_equals_mahalanobis() -> None:
    features = np.concatenate([each.features for each in frames(40) if each.features is not None])
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    inverse = np.linalg.inv((1 - RIDGE) * np.corrcoef(features, rowvar=False) + RIDGE * np.eye(CHANNELS))
    expected = [float(np.sqrt(row @ inverse @ row / CHANNELS)) for row in scaled[:25]]
    known = ProductTiles.of(features)
    for row, distance in zip(features[:25], expected, strict=True):
        assert known.distance(row[None]) == pytest.approx(distance, rel=0.02)
    assert known.distance(features[:25]) == pytest.approx(float(np.median(expected)), rel=0.02)


def test_similar_frames_are_plausible_and_deviations_are_described() -> None:
    known = fit_plausibility(frames(40))
    assert [known.reject_reason(each) for each in frames(200, seed=1)] == [None] * 200
    (one,) = frames(1, seed=2)
    assert one.features is not None
    far = known.reject_reason(replace(one, features=one.features + 40))
    assert far is not None
    assert far.startswith("it does not look like the product: features ")
    assert far.endswith(f"expected up to {known.plausible.distance:.3g}")
    small = known.reject_reason(replace(one, frame_hw=(100, 300)))
    assert small == "it does not look like the product: height 100 px, expected 200 px"
    dark = known.reject_reason(replace(one, statistics=ImageStatistics(2, 1, 0.02, 0.01)))
    assert dark is not None
    assert dark.split("; ") == [
        "it does not look like the product: brightness 2, expected 60 to 140",
        "contrast 1, expected 10 or more",
        "sharpness 0.02, expected 0.06 or more",
        "detail 0.01, expected 0.0199 or more",
    ]
    for unknown in (np.full((9, CHANNELS), np.nan, np.float32), None):
        assert known.reject_reason(replace(one, features=unknown)) is not None


def test_a_defect_in_some_tiles_is_plausible() -> None:
    known = fit_plausibility(frames(40))
    (one,) = frames(1, seed=3)
    assert one.features is not None
    features = one.features.copy()
    features[:4] += 40
    assert known.reject_reason(replace(one, features=features)) is None
    features[:5] += 40
    assert known.reject_reason(replace(one, features=features)) is not None


def test_a_defect_may_add_contrast_and_sharpness() -> None:
    white = np.full((300, 300, 3), 240, np.uint8)
    holed = cv2.rectangle(white.copy(), (90, 90), (150, 150), (0, 0, 0), -1)
    known = fit_plausibility([Appearance((300, 300), ImageStatistics.of(white), None)])
    assert known.reject_reason(Appearance((300, 300), ImageStatistics.of(holed), None)) is None


def test_a_frame_unlike_all_others_is_an_outlier() -> None:
    own = frames(12)
    assert find_outliers(own) == {}
    dark = replace(own[0], statistics=ImageStatistics(2, 20, 0.1, 0.03))
    bright = replace(own[0], statistics=ImageStatistics(250, 20, 0.1, 0.03))
    small = replace(own[0], frame_hw=(200, 299))
    assert find_outliers([*own[:7], dark, *own[7:]]) == {7: "brightness 2, expected 60 to 140"}
    assert find_outliers([bright, *own]) == {0: "brightness 250, expected 60 to 140"}
    assert find_outliers([*own, small]) == {12: "width 299 px, expected 300 px"}
    assert own[0].features is not None
    assert list(find_outliers([*own, replace(own[0], features=own[0].features + 40)])) == [12]
    assert find_outliers([*own, dark, replace(dark, statistics=ImageStatistics(3, 20, 0.1, 0.03))]) == {}, (
        "a second light"
    )
    assert list(find_outliers([*own, dark, bright])) == [12, 13]
    assert find_outliers([*own[:3], dark]) == {}
    assert list(find_outliers([*own[:4], dark])) == [4]


def test_frames_of_one_product_are_rarely_outliers() -> None:
    assert sum(bool(find_outliers(frames(count, seed=seed))) for seed in range(10) for count in (5, 10, 40)) <= 1


def test_few_frames_use_no_features_and_more_frames_narrow_the_margin() -> None:
    assert fit_plausibility(frames(2)).plausible.distance is None
    assert fit_plausibility(frames(20), groups=["a", "b"] * 10).plausible.distance is None
    assert fit_plausibility([replace(each, features=None) for each in frames(40)]).tiles is None
    assert margin(4) > margin(100) > 1
    few, many = fit_plausibility(frames(5)).plausible, fit_plausibility(frames(100)).plausible
    assert few.distance is not None
    assert many.distance is not None
    assert few.distance > many.distance


def test_identical_frames_except_one_have_a_distance_that_fits_a_manifest() -> None:
    same = replace(frames(1)[0], features=np.ones((1, CHANNELS), np.float32))
    other = replace(same, features=np.full((1, CHANNELS), 5, np.float32))
    found = fit_plausibility([*[same] * 5, other]).plausible.distance
    assert found is not None
    assert 0 < found <= 1e6


def test_a_sample_of_the_tiles_describes_the_product_as_well() -> None:
    many = frames(30, tiles=100)
    thinned = [each.thinned() for each in many]
    assert {None if each.features is None else each.features.shape for each in thinned} == {(16, CHANNELS)}
    known = fit_plausibility(thinned)
    assert [known.reject_reason(each) for each in frames(50, tiles=100, seed=9)] == [None] * 50


def test_a_left_out_group_with_another_appearance_widens_the_range() -> None:
    """Frames of one group share an appearance that others lack: each is judged without the whole group."""
    own, other = frames(20), [replace(each, features=each.features + 4) for each in frames(4, seed=5)]  # type: ignore[operator]
    together = fit_plausibility([*own, *other], [*map(str, range(20)), *["x"] * 4]).plausible.distance
    apart = fit_plausibility([*own, *other], [*map(str, range(20)), *"xyzw"]).plausible.distance
    assert together is not None
    assert apart is not None
    assert together > apart


def test_frames_of_several_sizes_allow_other_sizes() -> None:
    sizes = [replace(each, frame_hw=(200, 300 + 10 * number)) for number, each in enumerate(frames(5))]
    plausible = fit_plausibility(sizes).plausible
    assert (plausible.height_px, plausible.width_px) == ((200, 200), (240, 408))


def bundle_with(folder: Path, plausible: Plausible, files: dict[str, bytes], channels: Sequence[int | None]) -> None:
    made = manifest()
    made = msgspec.structs.replace(
        made,
        calibration=msgspec.structs.replace(made.calibration, plausible=plausible),
        tensors=msgspec.structs.replace(made.tensors, features=Tensor("features", "float32", list(channels))),
    )
    write_bundle(folder, made, {**contents_of(), **files})


def test_a_bundle_stores_product_tiles_and_is_refused_if_they_do_not_fit(tmp_path: Path) -> None:
    known = fit_plausibility(frames(40))
    assert known.tiles is not None
    file = {PRODUCT_TILES: known.tiles.to_bytes()}
    bundle_with(tmp_path / "a", known.plausible, file, (None, CHANNELS))
    opened = open_bundle(tmp_path / "a").plausibility()
    assert opened is not None
    for each in frames(20, seed=7):
        assert opened.reject_reason(each) == known.reject_reason(each)
    with pytest.raises(BundleError, match="holds no features of tiles"):
        bundle_with(tmp_path / "b", known.plausible, {}, (None, CHANNELS))
    with pytest.raises(BundleError, match="has mean of shape"):
        bundle_with(tmp_path / "c", known.plausible, file, (None, CHANNELS + 1))
    assert not any((tmp_path / name).exists() for name in "bc")


WHOLE = ProductTiles.of(np.eye(4, dtype=np.float32)).to_bytes()


@pytest.mark.parametrize("data", [b"", b"no archive", WHOLE[:-9]], ids=["empty", "no archive", "cut off"])
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / PRODUCT_TILES).write_bytes(data)
    with pytest.raises(BundleError, match="holds no features of tiles"):
        ProductTiles.load(tmp_path / PRODUCT_TILES, 4)


# On the line.


def test_a_graph_without_the_declared_features_is_refused(tmp_path: Path) -> None:
    known = fit_plausibility(frames(40))
    assert known.tiles is not None
    file = {PRODUCT_TILES: known.tiles.to_bytes()}
    bundle_with(tmp_path / "a", known.plausible, file, (None, CHANNELS))
    with pytest.raises(BundleError, match=r"gives openvino features of shape none, the manifest declares \(1, 6\)"):
        open_verified_engine(open_bundle(tmp_path / "a"), "openvino", "f32")


LINE = """
bundle = "bundle"
allow_unsigned = true
product = "a"
[[cameras]]
name = "top"
kind = "pattern"
[[products]]
name = "a"
bundle = "bundle"
thresholds = {{ score = -1.0 }}
[[products]]
name = "b"
bundle = "bundle"
thresholds = {{ check_plausibility = true }}
[thresholds]
{keys}
"""


def test_check_shows_the_plausibility_of_the_active_product(tmp_path: Path) -> None:
    white = white_frame((230, 240))
    made = manifest()
    known = fit_plausibility([Appearance((230, 240), ImageStatistics.of(white), None)]).plausible
    made = msgspec.structs.replace(made, calibration=msgspec.structs.replace(made.calibration, plausible=known))
    write_bundle(tmp_path / "bundle", made, contents_of())
    (tmp_path / "line.toml").write_text(LINE.format(keys="check_plausibility = false").replace('"a"', '"b"', 1))
    checked = heatline("check", tmp_path / "line.toml", "--json")
    assert checked.returncode == 0, checked.stderr
    report = json.loads(checked.stdout)
    assert report["product"] == "b"
    assert report["plausible"]["height_px"] == [230, 230]
    assert report["other_products"]["a"]["plausible"] is None
    refused = report["cameras"]["top"]["implausible"]
    assert refused.startswith("it does not look like the product: height"), "a drawn frame is none of the product"
    shown = heatline("check", tmp_path / "line.toml", env={"COLUMNS": "400"}).stdout
    assert f"IT WOULD GET NO VERDICT: {refused}" in " ".join(shown.split())
    (tmp_path / "line.toml").write_text(LINE.format(keys="check_plausibility = false"))
    shown = heatline("check", tmp_path / "line.toml", env={"COLUMNS": "400"}).stdout
    assert "not checked, as thresholds.check_plausibility is false" in shown
    assert "NO VERDICT" not in shown


def test_a_line_gives_implausible_frames_no_verdict_unless_the_check_is_off(tmp_path: Path) -> None:
    white = white_frame((230, 240))
    made = manifest()
    known = fit_plausibility([Appearance((230, 240), ImageStatistics.of(white), None)]).plausible
    made = msgspec.structs.replace(made, calibration=msgspec.structs.replace(made.calibration, plausible=known))
    write_bundle(tmp_path / "bundle", made, contents_of())
    black, like, found = Frame(Stamp("top", 1), white * 0, "RGB8"), None, {}
    for keys in ("", "check_plausibility = false", "check_plausibility = true"):
        (tmp_path / "line.toml").write_text(LINE.format(keys=keys))
        for product in "ab":
            like = prepare(load_config(tmp_path / "line.toml").of_product(product), active=like)
            inspector = like.setup.inspector
            found[keys, product] = inspector.finish(inspector.start(black)).implausible is not None
    assert found == {
        ("", "a"): True,
        ("", "b"): True,
        ("check_plausibility = false", "a"): False,  # the product does not set it
        ("check_plausibility = false", "b"): True,
        ("check_plausibility = true", "a"): True,
        ("check_plausibility = true", "b"): True,
    }
