"""The map gate: its tiles are selected, its figures equal those of plain loops, its limits decide what passes."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.bundle import Calibration
from heatline.edge.bundle.manifest import Agreement, Grid
from heatline.edge.errors import EngineError, InputError
from heatline.edge.inference.engine import Done, Engine, Failed, Fill
from heatline.export import validation_tiles
from heatline.export.precisions import describe_missed_limits, measure_agreement
from heatline.export.validation_tiles import (
    QUANTISATION_TILES,
    RegionFinder,
    ValidationTiles,
    cut_frame,
    divide_by_group,
    good_tiles,
    quantisation_tiles,
    select_validation_tiles,
)
from heatline.train.readers import LabelledImage, read_folder
from tests.train.blobs import draw_blobs

TILE, CELLS = 32, 4
GRID = Grid(tile_px=TILE, heatmap_cell_px=4, smoothing_px=4.0)


class Computed(Engine):
    """An engine that computes maps from tiles."""

    name, tile_px, batch = "computed", TILE, 1

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        tiles = np.empty((count, self.tile_px, self.tile_px, 3), np.uint8)
        fill(tiles)
        done(*self.answer(tiles))

    def answer(self, tiles: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        raise NotImplementedError

    def drain(self) -> None: ...


class Answers(Computed):
    """Finds its answer by the tile's number, which is in the first pixel."""

    def __init__(self, logit: NDArray[np.float32], maps: NDArray[np.float32], batch: int = 1) -> None:
        self.logit, self.maps, self.batch = logit, maps, batch

    def answer(self, tiles: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rows = tiles[:, 0, 0, 0]
        return self.logit[rows], self.maps[rows]


class Darkness(Computed):
    """A model whose evidence is the darkness of each quarter of the tile."""

    tile_px, batch = 64, 4

    def answer(self, tiles: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        dark = (tiles.astype(np.float32).mean(axis=3) < 100).astype(np.float32)
        maps = dark.reshape(len(tiles), 2, 32, 2, 32).mean(axis=(2, 4))
        return maps.mean(axis=(1, 2)), maps


def checked_tiles(
    maps: NDArray[np.float32], score_threshold: float = 0.0, evidence_threshold: float = 2.0
) -> ValidationTiles:
    tiles = np.zeros((len(maps), TILE, TILE, 3), np.uint8)
    tiles[:, 0, 0, 0] = np.arange(len(maps))
    find = RegionFinder(GRID, (CELLS, CELLS), evidence_threshold, float(np.abs(maps).max()))
    return ValidationTiles(tiles, maps.mean(axis=(1, 2)), maps, find(maps), "drawn", score_threshold, find)


def some_maps(count: int = 12, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(1.0, 2.0, (count, CELLS, CELLS)).astype(np.float32)


def near_by_loops(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    a, b = ([tuple(place) for place in np.argwhere(mask)] for mask in (one, other))
    near = [any(max(abs(y - v), abs(x - u)) <= 1 for v, u in them) for us, them in ((a, b), (b, a)) for y, x in us]
    return sum(near) / len(near)


def test_figures_equal_those_of_plain_loops() -> None:
    validation = checked_tiles(some_maps(40), score_threshold=1.0)
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


def test_a_region_equals_that_of_the_line() -> None:
    """A map with one hot cell: the smoothed peak lies there, and less than half of it is as hot as its centre."""
    maps = np.zeros((1, CELLS, CELLS), np.float32)
    maps[0, 1, 2] = 10.0
    find = RegionFinder(GRID, (CELLS, CELLS), 2.0, 10.0)
    rows, columns = np.nonzero(find(maps)[0])
    assert find(maps).shape == (1, TILE // 4, TILE // 4)
    assert rows.mean() * 4 + 2 == pytest.approx(1.5 * TILE / CELLS)
    assert columns.mean() * 4 + 2 == pytest.approx(2.5 * TILE / CELLS)


def test_a_tile_on_the_threshold_is_not_a_flip() -> None:
    """The threshold equals the logit of a tile: rounding alone decides the model's verdict."""
    validation = checked_tiles(some_maps())
    validation = dataclasses.replace(validation, score_threshold=float(validation.logit[4]))
    assert list(np.flatnonzero(~validation.settled)) == [4]
    off = validation.logit.copy()
    off[4] -= 1e-5
    assert measure_agreement(validation, Answers(off, validation.map)).flips == 0
    off[5] = validation.score_threshold + np.sign(validation.score_threshold - off[5])
    assert measure_agreement(validation, Answers(off, validation.map)).flips == 1


def test_without_regions_the_correlation_of_the_maps_is_limited() -> None:
    validation = checked_tiles(some_maps(), evidence_threshold=1e6)
    same = measure_agreement(validation, Answers(validation.logit, validation.map, batch=5))
    assert same == Agreement(5, 0.0, 0, pytest.approx(1.0), None, None, None)
    assert describe_missed_limits("bf16", validation, [same]) == []
    noisy = validation.map + np.random.default_rng(1).normal(0, 0.7, validation.map.shape).astype(np.float32)
    for maps, correlation in ((noisy, r"0\.9\d+"), (np.ones_like(validation.map), r"0\.0000")):
        both = [same, measure_agreement(validation, Answers(validation.logit, maps))]
        (reason,) = describe_missed_limits("int8", validation, both)
        assert re.search(f"no tile has a region, and the maps correlate by {correlation}, expected at least", reason)


@pytest.mark.parametrize("output", ["logit", "map"])
def test_an_answer_that_is_not_finite_is_an_error(output: str) -> None:
    validation = checked_tiles(some_maps())
    answers = {"logit": validation.logit.copy(), "map": validation.map.copy()}
    answers[output][3] = np.nan
    with pytest.raises(EngineError, match="not finite"):
        measure_agreement(validation, Answers(answers["logit"], answers["map"]))


@pytest.mark.parametrize(
    ("tiles", "flips", "median", "near", "missed"),
    [
        (199, 1, 1.0, 1.0, "verdicts differ; at most 0.5 % may"),
        (200, 1, 1.0, 1.0, None),
        (200, 0, 0.8, 0.95, "regions overlap by 0.800 at the median, expected at least 0.9"),
        (200, 0, 0.95, 0.5, "0.500 of the regions lie within a cell of each other at the 5th percentile"),
    ],
)
def test_the_worst_batch_keeps_limits(tiles: int, flips: int, median: float, near: float, missed: str | None) -> None:
    validation = dataclasses.replace(checked_tiles(some_maps()), tiles=np.zeros((tiles, 1, 1, 3), np.uint8))
    figures = [Agreement(1, 0.0, flips, 1.0, median, 0.5, near), Agreement(8, 0.0, 0, 1.0, 1.0, 1.0, 1.0)]
    for order in (figures, figures[::-1]):
        found = "; ".join(describe_missed_limits("int8", validation, order))
        assert missed in found if missed else not found


FRAME_GRID = Grid(tile_px=64)
CALIBRATION = Calibration(
    score_threshold=0.0, evidence_threshold=0.25, background=0.0, false_reject_per_frame=0.01, frames=1,
    frames_are="drawn",
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledImage]:
    return list(read_folder(draw_blobs(tmp_path_factory.mktemp("selected") / "blobs", per_group=5)).images)


@pytest.fixture(scope="module")
def everything(images: list[LabelledImage]) -> ValidationTiles:
    return select_validation_tiles(images, Darkness(), Darkness(), FRAME_GRID, (2, 2), CALIBRATION, 1.0)


def test_all_tiles_are_selected_if_there_are_few(images: list[LabelledImage], everything: ValidationTiles) -> None:
    assert len(everything.tiles) == len(images) * 12
    assert everything.tiles_are == f"tiles of {len(images)} of the {len(images)} frames of the validation groups"
    assert 0 < everything.with_region.sum() < len(everything.tiles)
    np.testing.assert_array_equal(everything.map, Darkness().answer(everything.tiles)[1])
    np.testing.assert_array_equal(everything.regions, everything.find_regions(everything.map))


def test_good_tiles_come_from_good_or_clean_parts(images: list[LabelledImage], monkeypatch: pytest.MonkeyPatch) -> None:
    good = [image for image in images if not image.defective]
    (tiles,) = good_tiles(images, FRAME_GRID)
    assert len(tiles) == 12 * len(good)
    assert {tile.tobytes() for tile in tiles} == {tile.tobytes() for each in good for tile in tiles_of(each)}
    defective = [image for image in images if image.defective]
    (stand_ins,) = good_tiles(defective, FRAME_GRID)
    assert 0 < len(stand_ins) < 12 * len(defective)
    assert (stand_ins.mean(axis=3).min(axis=(1, 2)) > 80).all()  # a blob is darker than the noise
    unknown = [dataclasses.replace(image, labels_only=True) for image in defective]
    assert good_tiles(unknown, FRAME_GRID)[0].shape == good_tiles([], FRAME_GRID)[0].shape == (0, 64, 64, 3)
    monkeypatch.setattr(validation_tiles, "GOOD_TILES", len(good) + 1)
    assert len(good_tiles(images, FRAME_GRID)[0]) == len(good) + 1


def tiles_of(image: LabelledImage) -> NDArray[np.uint8]:
    return cut_frame(image, FRAME_GRID)[0]


@given(groups=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30))
def test_no_group_gives_both_validation_tiles_and_quantisation_samples(groups: list[tuple[int, bool]]) -> None:
    frames = [LabelledImage(Path(f"{at}.png"), str(group), bad, None) for at, (group, bad) in enumerate(groups)]
    selected, others, are = divide_by_group(frames)
    if len(frames) == 1:
        assert (selected, others) == (frames, frames)
        assert are.endswith("by which int8 is quantised too")
        return
    assert sorted([*selected, *others], key=frames.index) == frames
    assert selected
    assert others
    if len({frame.group for frame in frames}) > 1:
        assert not {frame.group for frame in selected} & {frame.group for frame in others}
    if any(not frame.defective for frame in frames):
        assert any(not frame.defective for frame in selected)


def test_after_enough_tiles_only_those_with_a_region_are_selected(
    images: list[LabelledImage], everything: ValidationTiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough of both end the search."""
    of_frames = f"tiles of 2 of the {len(images)} frames of the validation groups"
    monkeypatch.setattr(validation_tiles, "ENOUGH_TILES", 20)
    for wanted in (int(everything.with_region.sum()) - 2, 0):
        monkeypatch.setattr(validation_tiles, "ENOUGH_WITH_REGION", wanted)
        selected = select_validation_tiles(images, Darkness(), Darkness(), FRAME_GRID, (2, 2), CALIBRATION, 1.0)
        assert selected.with_region.sum() >= wanted
        assert selected.with_region[24:].all()  # the first twenty tiles come from two frames of twelve tiles
        np.testing.assert_array_equal(selected.tiles[:24], everything.tiles[:24])
        assert len(selected.tiles) < len(everything.tiles)
        more = r", and those with a region of \d+ more that are defective" if wanted else ""
        assert re.fullmatch(of_frames + more, selected.tiles_are)
        assert wanted or len(selected.tiles) == 24


def test_quantisation_tiles_come_from_all_frames(images: list[LabelledImage], monkeypatch: pytest.MonkeyPatch) -> None:
    (tiles,) = quantisation_tiles(images, FRAME_GRID)
    assert tiles.shape == (min(QUANTISATION_TILES, len(images) * 12), 64, 64, 3)
    np.testing.assert_array_equal(tiles, quantisation_tiles(images, FRAME_GRID)[0])
    monkeypatch.setattr(validation_tiles, "QUANTISATION_TILES", len(images) + 1)
    assert len(quantisation_tiles(images, FRAME_GRID)[0]) == len(images) + 1
    with pytest.raises(InputError, match="no image in the training groups"):
        quantisation_tiles([], FRAME_GRID)
