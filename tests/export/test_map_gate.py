"""The map gate: its figures equal those of plain loops, and its limits decide what passes."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from heatline.edge.bundle.manifest import Agreement, Grid
from heatline.edge.errors import EngineError
from heatline.edge.inference.engine import Done, Engine, Failed, Fill
from heatline.export.precisions import describe_missed_limits, measure_agreement, nearness, overlaps
from heatline.export.validation_tiles import RegionFinder, ValidationTiles

TILE, CELLS = 32, 4
TWO_REGIONS = st.integers(1, 5).flatmap(
    lambda n: st.tuples(arrays(np.bool_, (n, 3, 4)), arrays(np.bool_, (n, 3, 4)), st.integers(0, 11))
)
"""Two sets of regions of n tiles, and a cell that is always in the first."""
GRID = Grid(tile_px=TILE, heatmap_cell_px=4, smoothing_px=4.0)


class Answers(Engine):
    """An engine that finds its answer by the tile's number, which is in the first pixel."""

    name = "answers"

    def __init__(self, logit: NDArray[np.float32], maps: NDArray[np.float32], batch: int = 1) -> None:
        self.logit, self.maps, self.batch = logit, maps, batch

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        tiles = np.empty((count, TILE, TILE, 3), np.uint8)
        fill(tiles)
        rows = tiles[:, 0, 0, 0]
        done(self.logit[rows], self.maps[rows])

    def drain(self) -> None: ...


def validation_tiles(
    maps: NDArray[np.float32], score_threshold: float = 0.0, evidence_threshold: float = 2.0
) -> ValidationTiles:
    tiles = np.zeros((len(maps), TILE, TILE, 3), np.uint8)
    tiles[:, 0, 0, 0] = np.arange(len(maps))
    find = RegionFinder(GRID, (CELLS, CELLS), evidence_threshold, float(np.abs(maps).max()))
    return ValidationTiles(tiles, maps.mean(axis=(1, 2)), maps, find(maps), "drawn", score_threshold, find)


def some_maps(count: int = 12, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(1.0, 2.0, (count, CELLS, CELLS)).astype(np.float32)


@given(TWO_REGIONS)
def test_overlaps_equal_those_of_sets_of_cells(case: tuple[NDArray[np.bool_], NDArray[np.bool_], int]) -> None:
    reference, found, cell = case
    reference.reshape(len(reference), -1)[:, cell] = True
    for one, other, came in zip(reference, found, overlaps(reference, found), strict=True):
        a, b = ({tuple(place) for place in np.argwhere(mask)} for mask in (one, other))
        assert came == pytest.approx(len(a & b) / len(a | b))


@given(TWO_REGIONS)
def test_neighbouring_cells_count_as_near(case: tuple[NDArray[np.bool_], NDArray[np.bool_], int]) -> None:
    reference, found, cell = case
    reference.reshape(len(reference), -1)[:, cell] = True
    for one, other, came in zip(reference, found, nearness(reference, found), strict=True):
        assert came == pytest.approx(near_by_loops(one, other))


def near_by_loops(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    a, b = ([tuple(place) for place in np.argwhere(mask)] for mask in (one, other))
    near = [any(max(abs(y - v), abs(x - u)) <= 1 for v, u in them) for us, them in ((a, b), (b, a)) for y, x in us]
    return sum(near) / len(near)


def test_a_region_that_grows_by_a_cell_is_near() -> None:
    regions = np.zeros((3, 4, 4), np.bool_)
    regions[0, 1, 1] = regions[1, 1, 1] = regions[1, 1, 2] = True
    assert list(nearness(regions[:1], regions[1:2])) == [1.0]
    assert list(nearness(regions[:1], regions[2:])) == [0.0]


def test_the_model_agrees_with_itself() -> None:
    validation = validation_tiles(some_maps())
    assert 0 < validation.with_region.sum() < len(validation.tiles)
    same = measure_agreement(validation, Answers(validation.logit, validation.map, batch=5))
    assert same == Agreement(5, 0.0, 0, pytest.approx(1.0), 1.0, 1.0, 1.0)
    assert describe_missed_limits("f32", validation, [same]) == []


def test_figures_equal_those_of_plain_loops() -> None:
    validation = validation_tiles(some_maps(40), score_threshold=1.0)
    maps = validation.map + np.random.default_rng(1).normal(0, 0.7, validation.map.shape).astype(np.float32)
    logit = maps.mean(axis=(1, 2))
    came = measure_agreement(validation, Answers(logit, maps))
    flips = sum((a >= 1.0) != (b >= 1.0) for a, b in zip(logit, validation.logit, strict=True))
    found = [(a, b) for a, b in zip(validation.regions, validation.find_regions(maps), strict=True) if a.any()]
    shares = sorted((a & b).sum() / (a | b).sum() for a, b in found)
    assert (came.flips, came.logit_difference) == (flips, pytest.approx(max(abs(logit - validation.logit))))
    assert flips > 0
    assert came.map_correlation == pytest.approx(np.corrcoef(validation.map.ravel(), maps.ravel())[0, 1], abs=1e-6)
    assert came.iou_median == pytest.approx(np.median(shares))
    assert came.iou_p5 == pytest.approx(np.quantile(shares, 0.05))
    assert came.near_p5 == pytest.approx(np.quantile([near_by_loops(a, b) for a, b in found], 0.05))


def test_without_regions_the_correlation_of_the_maps_is_limited() -> None:
    validation = validation_tiles(some_maps(), evidence_threshold=1e6)
    came = measure_agreement(validation, Answers(validation.logit, validation.map))
    assert came.iou_median is None
    assert came.iou_p5 is None
    assert came.near_p5 is None
    assert describe_missed_limits("bf16", validation, [came]) == []
    noisy = validation.map + np.random.default_rng(1).normal(0, 0.7, validation.map.shape).astype(np.float32)
    noisy_too = [came, measure_agreement(validation, Answers(validation.logit, noisy))]
    (reason,) = describe_missed_limits("int8", validation, noisy_too)
    assert re.fullmatch(r"no tile has a region, and the maps correlate by 0\.9\d+, expected at least 0\.99", reason)
    constant = measure_agreement(validation, Answers(validation.logit, np.ones_like(validation.map)))
    (reason,) = describe_missed_limits("int8", validation, [constant])
    assert "correlate by 0.0000" in reason


def test_a_region_equals_that_of_the_line() -> None:
    """A map with one hot cell: the smoothed peak lies there, and less than half of it is as hot as its centre."""
    maps = np.zeros((1, CELLS, CELLS), np.float32)
    maps[0, 1, 2] = 10.0
    find = RegionFinder(GRID, (CELLS, CELLS), 2.0, 10.0)
    rows, columns = np.nonzero(find(maps)[0])
    assert find(maps).shape == (1, TILE // 4, TILE // 4)
    assert rows.mean() * 4 + 2 == pytest.approx(1.5 * TILE / CELLS)
    assert columns.mean() * 4 + 2 == pytest.approx(2.5 * TILE / CELLS)


@pytest.mark.parametrize("output", ["logit", "map"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_an_error(output: str, value: float) -> None:
    validation = validation_tiles(some_maps())
    answers = {"logit": validation.logit.copy(), "map": validation.map.copy()}
    answers[output][3] = value
    with pytest.raises(EngineError, match="not finite"):
        measure_agreement(validation, Answers(answers["logit"], answers["map"]))


@pytest.mark.parametrize(
    ("tiles", "flips", "passes"), [(199, 1, False), (200, 1, True), (600, 3, True), (600, 4, False)]
)
def test_half_a_percent_of_verdicts_may_flip(tiles: int, flips: int, passes: bool) -> None:
    validation = dataclasses.replace(validation_tiles(some_maps()), tiles=np.zeros((tiles, 1, 1, 3), np.uint8))
    figures = [Agreement(1, 0.0, 0, 1.0, 1.0, 1.0, 1.0), Agreement(8, 0.0, flips, 1.0, 1.0, 1.0, 1.0)]
    assert (describe_missed_limits("int8", validation, figures) == []) is passes


def test_a_tile_on_the_threshold_is_not_a_flip() -> None:
    """The threshold equals the logit of a tile: rounding alone decides the model's verdict."""
    validation = validation_tiles(some_maps())
    validation = dataclasses.replace(validation, score_threshold=float(validation.logit[4]))
    assert list(np.flatnonzero(~validation.settled)) == [4]
    off = validation.logit.copy()
    off[4] -= 1e-5
    assert measure_agreement(validation, Answers(off, validation.map)).flips == 0
    off[5] = validation.score_threshold + np.sign(validation.score_threshold - off[5])
    assert measure_agreement(validation, Answers(off, validation.map)).flips == 1


def test_a_region_that_is_only_on_the_threshold_is_not_compared() -> None:
    """The evidence threshold equals the peak of a tile: rounding alone decides whether it has a region."""
    maps = np.zeros((3, CELLS, CELLS), np.float32)
    maps[:2, 1, 2] = 10.0, 20.0
    peak = float(validation_tiles(maps).find_regions._heatmaps(maps)[0].max())
    validation = validation_tiles(maps, evidence_threshold=peak)
    assert list(validation.regions.any(axis=(1, 2))) == [True, True, False]
    assert list(validation.with_region) == [False, True, False]
    off = maps * np.array([1 - 1e-6, 1, 1], np.float32)[:, None, None]
    assert measure_agreement(validation, Answers(validation.logit, off)).near_p5 == 1.0


@pytest.mark.parametrize(
    ("median", "near", "message"),
    [
        (0.8, 0.95, "regions overlap by 0.800 at the median, expected at least 0.9"),
        (0.95, 0.5, "0.500 of the regions lie within a cell of each other at the 5th percentile"),
    ],
)
def test_the_worst_batch_size_counts(median: float, near: float, message: str) -> None:
    validation = validation_tiles(some_maps())
    figures = [Agreement(1, 0.0, 0, 1.0, median, 0.5, near), Agreement(8, 0.0, 0, 1.0, 1.0, 1.0, 1.0)]
    (limit,) = describe_missed_limits("int8", validation, figures)
    assert message in limit
