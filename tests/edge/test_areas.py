"""Areas that the product cannot show: measures equal slow computations, places are right, a defect takes precedence."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from heatline.edge.bundle.appearance import Appearance, Floats
from heatline.edge.bundle.areas import ProductCells, cell_map, find_areas, fit_areas, largest_area
from heatline.edge.bundle.lines import FLAT, SAME, fit_lines, measure_lines
from heatline.edge.bundle.plausibility import ProductTiles, fit_plausibility
from heatline.edge.frames import Stamp
from heatline.edge.geometry import RegionOfInterest, TileGrid
from heatline.edge.inspection.inspector import outcome_of
from heatline.edge.inspection.verdict import Judgement, TileScores
from heatline.edge.wire.events import Verdict
from tests.oracles import components

CHANNELS, SIDE = 10, 7
GRID = TileGrid((446, 446))


def texture(seed: int, hw: tuple[int, int] = (446, 446)) -> NDArray[np.uint8]:
    """A product's surface: slow shades, and a sensor's noise."""
    rng = np.random.default_rng(seed)
    shades = np.add.outer(np.sin(np.arange(hw[0]) / 40), np.cos(np.arange(hw[1]) / 30)) * 20
    return np.clip(120 + shades[..., None] + rng.normal(0, 6, (*hw, 3)), 0, 255).astype(np.uint8)


def cells_of(seed: int, tiles: int = len(GRID)) -> Floats:
    """Features of a good frame's cells: correlated, with a frame's own offset, as of its light."""
    rng = np.random.default_rng(seed)
    mixed = np.random.default_rng(99).normal(size=(4, CHANNELS))
    offset = rng.normal(0, 2, CHANNELS)
    noise = rng.normal(0, 0.2, (tiles, SIDE, SIDE, CHANNELS))
    return np.asarray(rng.normal(size=(tiles, SIDE, SIDE, 4)) @ mixed + noise + offset, np.float32)


def frames(count: int, first: int = 0) -> list[Appearance]:
    return [Appearance.of(texture(seed), GRID, cells_of(seed)) for seed in range(first, first + count)]


@pytest.fixture(scope="module")
def known() -> tuple[object, object]:
    return fit_areas(frames(20), np.arange(20).astype(str))


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
        seams = [
            steps[at] / (np.median([*steps[at - 2 : at], *steps[at + 1 : at + 3]]) + FLAT)
            for at in range(2, len(steps) - 2)
        ]
        assert found[f"torn_{side}"].value == pytest.approx(max(seams, default=0), rel=1e-6)  # type: ignore[index]


@pytest.mark.parametrize("side", range(4))
@pytest.mark.parametrize("value", [0, 128, 255, None])
def test_a_lost_band_is_found_at_its_place_and_noise_is_not(side: int, value: int | None) -> None:
    limits = fit_lines([measure_lines(texture(seed)) for seed in range(8)])
    assert all(each.value <= limits[name] for name, each in measure_lines(texture(50)).items())
    turned = np.rot90(texture(51), side).copy()
    turned[-22:] = turned[-23] if value is None else value
    found = measure_lines(np.rot90(turned, -side))
    name = "repeated_columns" if side % 2 else "repeated_rows"
    assert found[name].value > limits[name]
    first = 424 if value is None else 425  # the first line of one value differs from the line before
    ends = (first, 446) if side in (0, 3) else (1 if value is not None else 0, 22)
    assert abs(found[name].first_px - ends[0]) <= 1
    assert abs(found[name].end_px - ends[1]) <= 1


def test_a_frame_of_two_exposures_is_torn_where_they_meet() -> None:
    smooth = [np.asarray(texture(seed) // 8 * 8, np.uint8) for seed in range(8)]
    limits = fit_lines([measure_lines(each) for each in smooth])
    torn = np.concatenate([smooth[0][:200], np.roll(smooth[1], 90, axis=0)[200:] + 40])
    found = measure_lines(torn)["torn_rows"]
    assert found.value > limits["torn_rows"]
    assert (found.first_px, found.end_px) == (199, 201)


def test_distances_are_those_to_the_nearest_prototype_after_centring() -> None:
    product = ProductCells.of([cells_of(seed) for seed in range(6)])
    frame = cells_of(70)
    projected = frame.reshape(-1, CHANNELS).astype(float) @ product.projection.astype(float)
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
    boxes = {
        (min(x for _, x in part), min(y for y, _ in part), max(x for _, x in part) + 1, max(y for y, _ in part) + 1)
        for part in parts
        if len(part) == largest
    }
    assert box in (boxes or {(0, 0, 0, 0)})


def test_good_frames_have_no_area_and_a_foreign_one_is_found_at_its_place(known) -> None:  # type: ignore[no-untyped-def]
    limits, product = known
    assert limits.groups == 20
    assert limits.refused <= 1
    assert sum(bool(find_areas(each, limits, product)) for each in frames(40, first=100)) <= 2
    cells = cells_of(200)
    cells[3, 2:6, 1:5] += np.random.default_rng(1).normal(0, 6, CHANNELS).astype(np.float32)
    (area,) = find_areas(Appearance.of(texture(200), GRID, cells), limits, product)
    x0, y0, x1, y1 = area.box_xyxy
    assert abs(x0 - (222 + 32)) <= 32
    assert abs(y0 - (222 + 64)) <= 32
    assert abs(x1 - (222 + 160)) <= 32
    assert abs(y1 - (222 + 192)) <= 32
    assert "does not look like the product: " in area.why
    assert not find_areas(replace(Appearance.of(texture(200), GRID, None)), limits, product), "lines alone"


def test_cells_outside_the_region_of_interest_are_not_the_product(known) -> None:  # type: ignore[no-untyped-def]
    limits, product = known
    left = RegionOfInterest.from_polygons([[(0, 0), (200, 0), (200, 445), (0, 445)]])
    grid = TileGrid((446, 446), region_of_interest=left)
    cells = cells_of(300, len(grid))
    cells[:, :, 6] += 9  # x 192 to 224: mostly outside
    stitched = cell_map(product.distances(cells), grid)
    assert np.isnan(stitched[:, 7:]).all()
    assert not find_areas(Appearance.of(texture(300), grid, cells), limits, product)
    cells[:, :, 2:5] += 9
    assert find_areas(Appearance.of(texture(300), grid, cells), limits, product)


def test_half_of_a_small_region_of_interest_is_an_area(known) -> None:  # type: ignore[no-untyped-def]
    """The share is of what is inspected: 10 of 20 cells, which are 5 % of the frame's 196."""
    limits, product = known
    roi = RegionOfInterest.from_polygons([[(0, 0), (159, 0), (159, 127), (0, 127)]])
    grid = TileGrid((446, 446), region_of_interest=roi)
    cells = cells_of(301, len(grid))
    assert not find_areas(Appearance.of(texture(301), grid, cells), limits, product)
    cells[:, :2, :5] += 9
    (area,) = find_areas(Appearance.of(texture(301), grid, cells), limits, product)
    assert "50.0 % of the inspected area" in area.why


def test_every_second_line_lost_is_found() -> None:
    limits = fit_lines([measure_lines(texture(seed)) for seed in range(8)])
    rgb = texture(52)
    rgb[1::2] = rgb[::2]
    assert measure_lines(rgb)["repeated_rows"].value == pytest.approx(0.5, abs=0.01)
    assert limits["repeated_rows"] < 0.1


def test_cells_that_are_not_known_describe_nothing(known) -> None:  # type: ignore[no-untyped-def]
    """A defective frame describes the product without its defects, which are NaN."""
    marked = [each.thinned(keep_cells=True) for each in frames(20)]
    assert all(each.cells is not None and each.cells.dtype == np.float16 for each in marked)
    for each in marked:
        assert each.cells is not None
        each.cells[0, :3, :3] = np.nan
    limits, product = fit_areas(marked, np.arange(20).astype(str))
    assert limits is not None
    assert product is not None
    assert np.isfinite(product.prototypes).all()
    assert limits.cell == pytest.approx(known[0].cell, rel=0.2)


def test_few_groups_compare_lines_only() -> None:
    limits, product = fit_areas(frames(8), np.array(["a", "b"] * 4))
    assert product is None
    assert limits is not None
    assert limits.cell is None
    assert set(limits.lines) == {"repeated_rows", "repeated_columns", "torn_rows", "torn_columns"}
    small = [replace(each, cells=each.cells[:1], grid=TileGrid((224, 224))) for each in frames(20)]  # type: ignore[index]
    assert fit_areas(small, np.arange(20).astype(str))[1] is None, "980 cells"
    assert fit_areas([Appearance((9, 9), frames(1)[0].statistics, None)], np.array(["a"])) == (None, None)


def test_the_file_of_the_product_holds_its_cells(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = fit_plausibility(frames(20))
    assert made.tiles is not None
    (tmp_path / "tiles.npz").write_bytes(made.tiles.to_bytes())
    read = ProductTiles.load(tmp_path / "tiles.npz", CHANNELS)
    assert read.cells is not None
    assert made.tiles.cells is not None
    assert np.array_equal(read.cells.distances(cells_of(1)), made.tiles.cells.distances(cells_of(1)))


@pytest.mark.parametrize(("verdict", "expected"), [("GOOD", "foreign_area"), ("DEFECT", None)])
def test_a_frame_that_shows_the_product_in_part_gets_no_verdict_unless_it_is_defective(
    verdict: Verdict, expected: str | None
) -> None:
    known = fit_plausibility(frames(20))
    rgb = texture(400)
    rgb[356:] = 0
    areas = tuple(known.foreign_areas(Appearance.of(rgb, GRID, cells_of(400))))
    assert areas[0].box_xyxy == (0, 357, 446, 446)
    scores = TileScores(GRID.origins, np.zeros(len(GRID), np.float32), 224)
    judgement = Judgement(verdict, (446, 446), 0.0, np.zeros((112, 112), np.float32), [], scores, None, areas)
    outcome = outcome_of(Stamp("top", 1), judgement)
    assert (None if outcome.unjudged is None else outcome.unjudged.reason) == expected
    assert outcome.shown is not None
    assert outcome.shown.foreign == areas
    whole = outcome_of(Stamp("top", 1), replace(judgement, implausible="it does not look like the product"))
    assert whole.unjudged is not None
    assert (whole.unjudged.reason, whole.shown) == ("implausible", None)
