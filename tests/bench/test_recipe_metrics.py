"""Figures of `heatline bench recipes`, compared with their definitions, computed pixel by pixel."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from heatline.bench.recipes.judge import (
    LEAST_DEFECT_PX,
    FoldFigures,
    Verdicts,
    count_false,
    count_hit,
    count_in_cells,
    label_defects,
    pixel_average_precision,
)
from heatline.bench.recipes.recipes import FIGURES, RecipeResult, tables

masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 13), st.integers(1, 13)))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_pixel_average_precision_agrees_with_its_definition(cells: list[tuple[int, int, int]]) -> None:
    """The definition: each pixel has its cell's evidence; sum recall gain times precision over all thresholds."""
    half = len(cells) // 2
    parts = [np.array(part or [(0, 0, 0)]).T for part in (cells[:half], cells[half:])]  # they come tile by tile
    found = pixel_average_precision((evidence.astype(np.float32), bad, good) for evidence, bad, good in parts)
    pixels = [(value, kind) for value, bad, good in cells for kind in [True] * bad + [False] * good]
    defective = sum(kind for _, kind in pixels)
    if not defective or defective == len(pixels):
        assert found is None
        return
    points = [(0.0, 1.0)]
    for threshold in sorted({value for value, _ in pixels}, reverse=True):
        called = [kind for value, kind in pixels if value >= threshold]
        points.append((sum(called) / defective, sum(called) / len(called)))
    expected = sum((recall - before) * precision for (before, _), (recall, precision) in pairwise(points))
    assert found == pytest.approx(expected)


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


def fold(seed: int, number: int, *verdicts: Verdicts, **figures: float | None) -> FoldFigures:
    values: dict[str, Any] = dict.fromkeys(FIGURES) | figures
    return FoldFigures(
        seed=seed, fold=number, **values, frames=4, good_frames=2, score_threshold=0.0, evidence_threshold=0.0,
        verdicts=list(verdicts),
    )  # fmt: skip


def result(recipe: str, *folds: FoldFigures) -> RecipeResult:
    return RecipeResult(set="s", recipe=recipe, overrides=["a=1|2"], truth="masks", folds=list(folds))


def test_the_table_has_means_and_deviations_and_the_targets_below() -> None:
    measured = result("heatline", fold(0, 0, hit=0.5), fold(0, 1, hit=0.7, pixel_ap=0.25), fold(1, 0, hit=0.9))
    lines = tables([result("padim", fold(0, 0)), measured], {"s": {"hit": 0.75}}).splitlines()
    head, _, padim, heatline, target = ([cell.strip() for cell in line.split(" | ")] for line in lines[6:11])
    column = head.index(FIGURES["hit"])
    assert [padim[0].removeprefix("| "), heatline[0].removeprefix("| ")] == ["padim a=1\\|2", "heatline a=1\\|2"]
    assert [row[column] for row in (padim, heatline, target)] == ["-", "0.700 ± 0.16", "*0.75*"]
    assert heatline[head.index("folds") :] == ["2", "2 |"]
    assert heatline[head.index(FIGURES["pixel_ap"])] == "0.250 ± 0.00"


def test_the_table_adds_up_the_verdicts_of_all_folds() -> None:
    verdicts = [
        Verdicts(wanted=0.01, good=10, rejected=rejected, defective=20, escaped=escaped)
        for rejected, escaped in ((1, 2), (2, 4), (0, 0))
    ]
    one = result("heatline", *(fold(seed, 0, each) for seed, each in enumerate(verdicts)))
    assert "| heatline a=1\\|2 | 1 % | 3 of 30 | 6 of 60 |" in tables([one], {}).splitlines()
