"""Figures of `heatline bench recipes`, compared with their definitions, computed pixel by pixel."""

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from heatline.bench.recipes.metrics import (
    LEAST_DEFECT_PX,
    PixelRanking,
    count_false,
    count_hit,
    count_in_cells,
    label_defects,
    most_beyond,
)
from heatline.bench.recipes.rows import FIGURES, FoldFigures, RecipeResult, Training, tables

masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 13), st.integers(1, 13)))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_pixel_average_precision_agrees_with_its_definition(cells: list[tuple[int, int, int]]) -> None:
    """The definition: each pixel has its cell's evidence; sum recall gain times precision over all thresholds."""
    ranking = PixelRanking()
    half = len(cells) // 2
    for part in (cells[:half], cells[half:]):  # the ranking is built tile by tile
        evidence, defective, good = np.array(part or [(0, 0, 0)]).T
        ranking.add(evidence.astype(np.float32), defective, good)
    pixels = [(value, kind) for value, bad, good in cells for kind in [True] * bad + [False] * good]
    defective = sum(kind for _, kind in pixels)
    if not defective or defective == len(pixels):
        assert ranking.average_precision() is None
        return
    points = [(0.0, 1.0)]
    for threshold in sorted({value for value, _ in pixels}, reverse=True):
        called = [kind for value, kind in pixels if value >= threshold]
        points.append((sum(called) / defective, sum(called) / len(called)))
    expected = sum((recall - before) * precision for (before, _), (recall, precision) in pairwise(points))
    assert ranking.average_precision() == pytest.approx(expected)


@given(masks, st.integers(1, 5))
def test_each_cell_counts_the_pixels_that_it_covers(mask: NDArray[np.bool_], cell_px: int) -> None:
    counts = count_in_cells(mask, cell_px)
    expected = np.zeros_like(counts)
    for y, x in zip(*np.nonzero(mask), strict=True):
        expected[y // cell_px, x // cell_px] += 1
    assert counts.shape == tuple(-(-side // cell_px) for side in mask.shape)
    np.testing.assert_array_equal(counts, expected)


def flood_areas(mask: NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    """Return the connected areas, found by flooding from neighbour to neighbour."""
    left = set(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True))
    areas = []
    while left:
        area, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            area.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        areas.append(area)
    return areas


@given(masks.map(lambda mask: mask.repeat(3, axis=0).repeat(3, axis=1)), st.integers(1, 6), st.integers(0, 9))
def test_a_found_cell_on_a_pixel_of_a_defect_is_a_hit(mask: NDArray[np.bool_], cell: int, seed: int) -> None:
    defects = [area for area in flood_areas(mask) if len(area) >= LEAST_DEFECT_PX]
    labels, count = label_defects(mask)
    assert count == len(defects)
    assert {int(labels[place]) for area in defects for place in area} == set(range(1, count + 1))
    assert np.count_nonzero(labels) == sum(map(len, defects))
    found = np.random.default_rng(seed).random([-(-side // cell) for side in mask.shape]) < 0.1
    hit = [area for area in defects if any(found[y // cell, x // cell] for y, x in area)]
    assert count_hit(labels, found, cell) == len(hit)


@given(masks, st.integers(1, 4), st.integers(0, 9), st.integers(0, 9))
def test_an_area_of_found_cells_is_false_without_a_defective_pixel_near(
    mask: NDArray[np.bool_], cell: int, near_px: int, seed: int
) -> None:
    found = np.random.default_rng(seed).random([-(-side // cell) for side in mask.shape]) < 0.2
    defective = {(y // cell, x // cell) for y, x in zip(*np.nonzero(mask), strict=True)}
    reach = next(cells for cells in range(10) if cells * cell >= near_px)
    near = {
        (y + dy, x + dx) for y, x in defective for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)
    }
    expected = [area for area in flood_areas(found) if not area & near]
    assert count_false(mask, found, cell, near_px) == len(expected)


def fold(seed: int, number: int, **figures: float | None) -> FoldFigures:
    values: dict[str, Any] = dict.fromkeys(FIGURES) | figures
    return FoldFigures(
        seed=seed, fold=number, **values, frames=4, good_frames=2,
        score_threshold=0.0, evidence_threshold=0.0, hit_by_class={"crack": (seed + number, 4)},
    )  # fmt: skip


def result(recipe: str, *folds: FoldFigures) -> RecipeResult:
    trainings = [Training(seed=0, fold=None, seconds=20.0, tiles_per_s=None)]
    return RecipeResult(
        set="s", recipe=recipe, overrides=["a=1|2"], truth="masks", folds=list(folds), trainings=trainings
    )


def test_the_table_has_means_and_deviations_and_the_targets_below() -> None:
    measured = result("heatline", fold(0, 0, hit=0.5), fold(0, 1, hit=0.7, pixel_ap=0.25), fold(1, 0, hit=0.9))
    assert measured.mean_and_spread("hit") == pytest.approx((0.7, np.std([0.5, 0.7, 0.9])))
    assert measured.mean_and_spread("rejected") is None
    assert measured.hit_by_class() == {"crack": (1.0, 6.0)}  # (0 + 1 + 1) of 12, by two seeds
    lines = tables([measured, result("bank", fold(0, 0))], {"s": {"hit": 0.75}}).splitlines()
    head, _, bank, heatline, target = ([cell.strip() for cell in line.split(" | ")] for line in lines[8:13])
    column = head.index(FIGURES["hit"])
    assert [bank[0].removeprefix("| "), heatline[0].removeprefix("| ")] == ["bank a=1\\|2", "heatline a=1\\|2"]
    assert [row[column] for row in (bank, heatline, target)] == ["-", "0.700 ± 0.16", "*0.75*"]
    assert heatline[head.index("folds") :][:2] == ["2", "2"]
    assert heatline[head.index(FIGURES["pixel_ap"])] == "0.250 ± 0.00"


@given(st.integers(1, 6), st.integers(0, 5), st.data())
def test_the_most_values_beyond_agrees_with_counting_all_orders(known: int, new: int, data: st.DataObject) -> None:
    allowed, confidence = data.draw(st.integers(0, known - 1)), data.draw(st.sampled_from([0.5, 0.8, 0.95]))
    beyond = []
    for places in combinations(range(known + new), new):  # of the new values, in descending order
        of_known = [place for place in range(known + new) if place not in places]
        beyond.append(sum(place < of_known[allowed] for place in places))
    share = [sum(each <= most for each in beyond) / len(beyond) for most in range(new + 1)]
    expected = next(most for most in range(new + 1) if share[most] >= confidence)
    assert most_beyond(allowed, known, new, confidence) == expected
