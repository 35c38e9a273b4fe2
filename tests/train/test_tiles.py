"""Cached frames, their tiles and labels, copies with synthetic defects, the draws of a step, and the references."""

import itertools
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.errors import InputError, TrainingError
from heatline.edge.geometry import TileGrid
from heatline.edge.reference.difference import CHANNELS, to_grey
from heatline.edge.reference.reference import Reference
from heatline.edge.wire.events import Stroke
from heatline.train.batches import BatchSampler, TrainingBatches, augment, log_sum_exp, whole_tiles
from heatline.train.compose import compose
from heatline.train.config import AugmentConfig, CopiesConfig, DenseRecipeConfig, TilesConfig
from heatline.train.dense.extraction import compare_samples
from heatline.train.dense.samples import (
    Kind,
    Painter,
    Sample,
    Sampler,
    Samples,
    digest_pictures,
    gather_samples,
    grid_samples,
    plan_copies,
)
from heatline.train.dense.tiles import DEFECTIVE_CELL, DenseTiles, LabelKind, is_marked, label_tiles, share_of_marks
from heatline.train.frames import FrameStore, TileTable, grid_tiles
from heatline.train.readers import LabelledFolder, LabelledImage, read_folder
from heatline.train.readers.labelled import ReviewedFrame
from heatline.train.readers.per_picture import MaskPng
from heatline.train.references import References, find_references
from heatline.train.synthetic import VISIBLE, draw_defect, draw_shape, move, transplant
from tests.conftest import write_picture
from tests.oracles import distance_to_strokes
from tests.train.blobs import BOARD_HW, DEFECT_AT_YX, SQUARE_PX, board, draw_blobs, draw_boards, photograph
from tests.train.dense.small import PLAIN, recipe_with, samples_of, tiles_of, write_pictures

STUDY_RULE = TilesConfig(tile_px=224, overlap_px=2, defective_share=0.01)
RULE = TilesConfig(tile_px=64, overlap_px=2, defective_share=0.01)
FRAME_HW = (150, 200)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    folder = tmp_path_factory.mktemp("tiles")
    return FrameStore.build(read_folder(draw_blobs(folder / "blobs", FRAME_HW)).images, folder / "cache")


@pytest.fixture(scope="module")
def table(store: FrameStore) -> TileTable:
    return grid_tiles(store, range(len(store)), RULE)


def with_first(defect_px: int, hw: tuple[int, int] = (224, 224)) -> NDArray[np.bool_]:
    return np.asarray(np.arange(hw[0] * hw[1]).reshape(hw) < defect_px)


AT_BORDER = np.zeros((100, 300), np.bool_)
AT_BORDER[90:, 50:100] = True  # the lower one, which is repeated below it


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (with_first(0), [(0, 0, 0, False, False)]),
        (with_first(1), [(0, 0, 1, False, True)]),
        (with_first(501), [(0, 0, 501, False, True)]),  # 0.998 % of 224x224 px
        (with_first(502), [(0, 0, 502, True, False)]),  # 1.0005 %
        (AT_BORDER, [(0, 0, 500, False, True), (0, 76, 240, False, True)]),
    ],
)
def test_a_tile_is_defective_above_one_per_cent_of_defective_area(
    tmp_path: Path, mask: NDArray[np.bool_], expected: list[tuple[int, int, int, bool, bool]]
) -> None:
    """Pixels beyond a small frame do not count."""
    cv2.imwrite(str(tmp_path / "frame.png"), np.full(mask.shape, 90, np.uint8))
    cv2.imwrite(str(tmp_path / "mask.png"), mask.astype(np.uint8))
    image = LabelledImage(tmp_path / "frame.png", "a", True, MaskPng(tmp_path / "mask.png", None))
    tiles = grid_tiles(FrameStore.build([image], tmp_path / "cache"), [0], STUDY_RULE)
    assert [*zip(tiles.y, tiles.x, tiles.defect_px, tiles.defective, tiles.ambiguous, strict=True)] == expected


def test_every_grid_tile_has_the_count_of_its_mask_and_the_lines_cut(store: FrameStore, table: TileTable) -> None:
    grid, tiles = TileGrid(FRAME_HW, 64, 2), whole_tiles(store, table, 64, range(len(table)))
    assert len(table) == len(store) * len(grid)
    for frame, y, x, defect_px in zip(table.frame, table.y, table.x, table.defect_px, strict=True):
        assert store.images[frame].mask(FRAME_HW)[y : y + 64, x : x + 64].sum() == defect_px  # type: ignore[index]
    for frame in range(len(store)):
        expected = np.empty((len(grid), 64, 64, 3), np.uint8)
        grid.cut(store.images[frame].pixels(), expected)
        assert np.array_equal(tiles.tiles[frame * len(grid) : (frame + 1) * len(grid)], expected)
    assert np.array_equal(tiles.labels.numpy(), table.defective)  # ambiguous tiles are included, as good
    assert table.counts()["defective"] == table.defective.sum() > 20
    assert table.drop_ambiguous().counts() == {**table.counts(), "ambiguous": 0}


def test_the_cache_is_used_again_only_while_pictures_and_labels_are_the_same(tmp_path: Path) -> None:
    images = read_folder(draw_blobs(tmp_path / "blobs", per_group=1)).images

    def decoded() -> int:
        seen: list[object] = []
        store = FrameStore.build(images, tmp_path / "cache", lambda all_: (seen.append(one) or one for one in all_))
        assert np.array_equal(store.pixels(3), images[3].pixels())
        return len(seen)

    first, again = decoded(), decoded()
    os.utime(images[0].truth_files[0], (1, 1))
    assert (first, again, decoded()) == (8, 0, 8)
    images[0].path.write_bytes(images[0].path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"a_0.png ends before its picture does"):
        decoded()


def test_a_jittered_tile_keeps_its_class_by_the_count_at_its_new_place(store: FrameStore, table: TileTable) -> None:
    recipe = compose(["data=.", "recipe=finetune", "recipe.batch=8", "recipe.steps=5", "recipe.jitter_px=40"]).recipe
    tiles, moved = table.drop_ambiguous(), 0
    batches = TrainingBatches(store, tiles, RULE, BatchSampler(tiles.defective, 8, 0.25, 0), recipe, list)
    for row, seed in itertools.product(range(len(tiles)), range(10)):
        y, x = batches.place(row, np.random.default_rng([row, seed]))
        by = y - tiles.y[row], x - tiles.x[row]
        assert np.abs(by).max() <= 40
        assert (0 <= y <= FRAME_HW[0] - 64, 0 <= x <= FRAME_HW[1] - 64) == (True, True)
        share = store.images[tiles.frame[row]].mask(FRAME_HW)[y : y + 64, x : x + 64].mean()  # type: ignore[index]
        assert share > 0.01 if tiles.defective[row] else share == 0
        moved += any(by)
    assert moved > 5 * len(tiles)


def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(40, 200, (16, 16, 3), np.uint8)


def test_all_eight_orientations_are_equally_frequent() -> None:
    rng = np.random.default_rng(0)
    seen = [augment(picture(), TURNED, rng).tobytes() for _ in range(1600)]
    views = [np.rot90(view, turns).tobytes() for view in (picture(), picture()[::-1]) for turns in range(4)]
    assert set(seen) == set(views)
    assert np.array_equal(augment(picture(), PLAIN, rng), picture())
    assert min(seen.count(view) for view in views) > 140


def test_light_noise_and_blur_change_grey_levels_within_their_limits() -> None:
    def augmented(of: NDArray[np.uint8], **how: object) -> list[NDArray[np.uint8]]:
        changed = msgspec.structs.replace(PLAIN, **how)  # type: ignore[arg-type]
        return [augment(of, changed, np.random.default_rng(n)) for n in range(300)]

    grey = np.full((32, 32, 3), 128, np.uint8)
    levels = np.array([one[0, 0] for one in augmented(grey, brightness=0.1, gain=0.1)], float)
    assert 128 * 0.9 - 25.5 - 1 <= levels.min() < 105
    assert 150 < levels.max() <= 128 * 1.1 + 25.5 + 1
    assert np.ptp(levels, axis=1).max() > 10  # channels change independently
    deviations = np.array([one.std() for one in augmented(grey, noise=0.02)])
    blurred = np.array([one.std() < picture().std() for one in augmented(picture(), blur=True)])
    assert deviations.max() < 5.5
    assert [0.15 < each.mean() < 0.35 for each in (deviations > 0, blurred)] == [True, True]


def sampler_of(defective: int, good: int, batch: int, share: float | None) -> BatchSampler:
    """Of tiles of which the first are defective."""
    return BatchSampler(np.arange(defective + good) < defective, batch, share, 0)


def test_each_batch_has_its_share_and_each_pass_every_tile_once() -> None:
    sampler = sampler_of(6, 18, batch=8, share=0.25)
    batches = [sampler.draw(step) for step in range(12)]
    assert all((batch < 6).sum() == 2 for batch in batches)
    drawn = np.concatenate(batches)
    for kind, tiles in ((drawn[drawn < 6], range(6)), (drawn[drawn >= 6], range(6, 24))):
        assert all(sorted(passed) == [*tiles] for passed in kind.reshape(4, len(tiles)))
    sampler = sampler_of(3, 5, batch=8, share=0.5)
    drawn = np.concatenate([sampler.draw(step)[:4] for step in range(3)])  # a pass may end within a batch
    assert all(sorted(passed) == [0, 1, 2] for passed in drawn.reshape(4, 3))


def test_the_shift_restores_the_natural_odds_of_the_tiles() -> None:
    """By Bayes, the log-odds of a tile in a batch are those among all tiles, plus the difference of the priors.

    Without a wanted share, tiles come in their natural proportion, and even a tiny batch has both classes.
    """
    sampler = sampler_of(3_000, 97_000, batch=32, share=0.25)
    assert sampler.natural_log_odds == pytest.approx(math.log(3 / 97))
    assert sampler.shift == pytest.approx(math.log(1 / 3) - math.log(3 / 97))
    natural = sampler_of(4, 36, batch=8, share=None)
    assert natural.shift == 0
    assert sorted(np.concatenate([natural.draw(step) for step in range(5)])) == list(range(40))
    assert (sampler_of(2, 2, batch=2, share=0.01).draw(0) < 2).sum() == 1


@given(st.lists(st.lists(st.floats(-30, 30), min_size=1, max_size=9), min_size=1, max_size=6))
def test_a_bags_odds_are_the_sum_of_its_tiles_odds(bags: list[list[float]]) -> None:
    tiles = torch.tensor([logit for bag in bags for logit in bag], dtype=torch.float64)
    place = torch.tensor([place for place, bag in enumerate(bags) for _ in bag])
    for logit, bag in zip(log_sum_exp(tiles, place, len(bags)).tolist(), bags, strict=True):
        assert math.exp(logit) == pytest.approx(sum(math.exp(tile) for tile in bag))


SMALL_TILES = TilesConfig(tile_px=32, overlap_px=2, defective_share=0.01)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(("truth", "marked"), [("masks", LabelKind.MASKED), ("boxes", LabelKind.BOXED)])
def test_tiles_of_marked_and_labelled_pictures_have_labels(tmp_path: Path, truth: str, marked: LabelKind) -> None:
    """An annotation that marks nothing is as good as none."""
    folder = write_pictures(tmp_path / "pictures", truth=truth)
    if truth == "masks":
        cv2.imwrite(str(folder / "masks" / "b_labelled.png"), np.zeros((90, 120), np.uint8))
    store = FrameStore.build(read_folder(folder, mixed=True).images, tmp_path / "cache")
    tiles = label_tiles(store, SMALL_TILES)
    expected = {"good": {LabelKind.GOOD}, "labelled": {LabelKind.BAGGED}, "marked": {LabelKind.GOOD, marked}}
    for frame, image in enumerate(store.images):
        assert set(tiles.known[tiles.table.frame == frame].tolist()) == expected[image.path.stem[2:]]
    for row in range(len(tiles)):
        mask = store.mask_tile(tiles.table.frame[row], tiles.table.y[row], tiles.table.x[row], 32)
        assert mask.any() == (tiles.known[row] == marked)
        assert tiles.groups[tiles.group[row]] == store.images[tiles.table.frame[row]].group
    assert tiles.located.tolist() == tiles.of(marked).tolist()


def marked(
    points: Sequence[tuple[int, int]] = (),
    boxes: Sequence[tuple[int, int, int, int]] = (),
    strokes: Sequence[Stroke] = (),
) -> ReviewedFrame:
    where = {"missed_xy": list(points), "boxes_xywh": list(boxes), "strokes": list(strokes)}
    return ReviewedFrame(file="defective/1.png", digest="1", truth="defective", group="line", **where)


def test_a_tile_with_a_point_is_defective_and_nothing_is_known_of_the_tiles_beside_it(tmp_path: Path) -> None:
    """Missed defects of reviewed frames, of 90 x 120 px: tiles at 0, 30, 58 and 0, 30, 60, 88."""
    images = read_folder(write_pictures(tmp_path / "pictures"), mixed=True).images
    pointed, at_border = (
        LabelledImage(images[at].path, group, True, None, labels_only=True, reviewed=marked(points))
        for at, group, points in ((1, "line", [(15, 15)]), (4, "border", [(30, 45), (500, 20)]))
    )
    store = FrameStore.build([*images, pointed, at_border], tmp_path / "cache")
    tiles = label_tiles(store, SMALL_TILES)
    of_pointed, of_border = (tiles.table.frame == frame for frame in (len(images), len(images) + 1))
    assert tiles.known[of_pointed].tolist() == [LabelKind.POINTED] + [LabelKind.UNKNOWN] * 11
    assert set(tiles.known[of_border].tolist()) == {LabelKind.BAGGED}
    (row,) = tiles.of(LabelKind.POINTED)
    assert row in tiles.located
    assert tiles.reviewed.tolist() == (of_pointed | of_border).tolist()

    corners = [(0, 0), (0, 88), (58, 88)]
    for point, found in (((0, 0), [1, 0, 0]), ((119, 89), [0, 0, 1]), ((89, 10), [0, 0, 0]), ((91, 10), [0, 1, 0])):
        got = [is_marked(marked([point]), corner, 32, (90, 120)) for corner in corners]
        assert got == found, "a frame's border has no margin"

    painter = Painter(store, tiles, digest_pictures(store.images), PLAIN, SMALL_TILES.tile_px, 4)
    samples = gather_samples(tiles, grid_samples(tiles), painter)
    assert (samples.share[row][1:3, 1:3] > DEFECTIVE_CELL).all(), "around the point, in the middle of a tile"
    assert samples.share[row].min() > 0, "no cell counts as untouched"
    sampler = Sampler(samples, np.ones(len(tiles.groups), np.bool_), recipe_with(located=6, good=8, bags=4), 0)
    draws = [sampler.draw(step) for step in range(40)]
    drawn = {index for draw in draws for index in (*draw.located, *draw.good, *np.concatenate([[], *draw.bags]))}
    assert not drawn & set(tiles.of(LabelKind.UNKNOWN).tolist())
    times = sum(int((draw.located == row).sum()) for draw in draws)
    assert times > 2 * 40 * 6 / len(tiles.located), "more than twice as often as by chance"


PLACES = st.tuples(st.integers(0, 119), st.integers(0, 89))
BOXES = st.tuples(st.integers(0, 100), st.integers(0, 70), st.integers(1, 20), st.integers(1, 20))
STROKES = st.builds(Stroke, st.lists(PLACES, min_size=1, max_size=4).map(tuple), st.integers(2, 20))
CORNERS = st.sampled_from([(y, x) for y in (0, 30, 58) for x in (0, 30, 60, 88)])
SLACK_PX = 2.0
"""By which a drawn line may differ from the exact one."""


def cell_by_cell(px: NDArray[Any]) -> NDArray[Any]:
    """The 64 px of each of the 4 x 4 cells of a tile."""
    return np.stack([np.stack([px[y : y + 8, x : x + 8].ravel() for x in range(0, 32, 8)]) for y in range(0, 32, 8)])


@given(st.lists(PLACES, max_size=2), st.lists(BOXES, max_size=2), st.lists(STROKES, max_size=2), CORNERS)
def test_cells_by_peoples_marks_are_defective_good_or_do_not_count(
    points: list[tuple[int, int]], boxes: list[tuple[int, int, int, int]], strokes: list[Stroke], yx: tuple[int, int]
) -> None:
    """Of a frame of 90 x 120 px, and tiles of 32 px with cells of 8 px; where the exact distance decides."""
    frame, tile = marked(points, boxes, strokes), np.index_exp[yx[0] : yx[0] + 32, yx[1] : yx[1] + 32]
    far = distance_to_strokes([(each.points_xy, each.width_px / 2) for each in strokes], (90, 120))
    near = distance_to_strokes([((each,), 8.0) for each in points], (90, 120))
    at_point, has_half, boxed = near == -8, False, np.zeros((90, 120), np.bool_)
    for x, y, width, height in boxes:
        box = np.zeros((90, 120), np.bool_)
        box[y : y + height, x : x + width] = True
        boxed |= box
        has_half |= 2 * np.count_nonzero(box[tile]) >= width * height
    inner = np.zeros((90, 120), np.bool_)
    low, high = np.where(np.array(yx) == 0, 0, np.array(yx) + 32 / 14), np.array(yx) + 32
    high = np.where(high == (90, 120), high, high - 32 / 14)
    inner[math.ceil(low[0]) : math.ceil(high[0]), math.ceil(low[1]) : math.ceil(high[1])] = True
    found = is_marked(frame, yx, 32, (90, 120))
    if has_half or at_point[inner].any() or (far[inner] < -SLACK_PX).any():
        assert found
    elif (far[inner] > SLACK_PX).all():
        assert not found

    share, distance = share_of_marks(frame, yx, 32, 4), cell_by_cell(np.minimum(far, near)[tile])
    assert (share[(distance < -SLACK_PX).mean(axis=2) > DEFECTIVE_CELL] > DEFECTIVE_CELL).all()
    assert (share[(distance < SLACK_PX).mean(axis=2) <= DEFECTIVE_CELL] <= DEFECTIVE_CELL).all()
    uncounted = cell_by_cell(boxed[tile]).any(axis=2) | (distance.min(axis=2) < 8 - SLACK_PX) | at_point[tile].any()
    assert (share[uncounted] > 0).all()
    assert (share[~uncounted & (distance.min(axis=2) > 8 + SLACK_PX)] == 0).all()


def test_copies_of_a_tile_with_marks_turn_its_cells_with_its_pixels(tmp_path: Path) -> None:
    images = read_folder(write_pictures(tmp_path / "pictures"), mixed=True).images
    frame = marked(strokes=[Stroke(((36, 34), (45, 34), (45, 51)), 4)])
    image = LabelledImage(images[1].path, "line", True, None, labels_only=True, reviewed=frame)
    store = FrameStore.build([*images, image], tmp_path / "cache")
    tiles = label_tiles(store, SMALL_TILES)
    painter, (row,) = Painter(store, tiles, [""] * 9, TURNED, SMALL_TILES.tile_px, 4), tiles.of(LabelKind.POINTED)
    defective = share_of_marks(frame, (30, 30), 32, 4) > DEFECTIVE_CELL
    copies = [Sample(row, Kind.COPY, (30, 30), seed) for seed in range(8)]
    turned = [painter.defective_share(copy) > DEFECTIVE_CELL for copy in copies]
    for copy, cells in zip(copies, turned, strict=True):
        assert (cells == painter.orient(defective.repeat(8, axis=0).repeat(8, axis=1), copy)[::8, ::8]).all()
    assert len({cells.tobytes() for cells in turned}) == 8


def mixture(seed: int, groups: int, count: int = 40) -> tuple[Samples, NDArray[np.bool_]]:
    """Tiles of all kinds in random groups, and the groups that are trained, at least one of them with a good tile.

    Bags are whole frames; each synthetic defect has a donor of any group.
    """
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, count // 3, count)
    group_of, bagged = rng.integers(0, groups, count), rng.random(count) < 0.3
    known = [LabelKind.BAGGED if bagged[frame] else LabelKind(int(rng.integers(3))) for frame in frames]
    tiles = tiles_of([*known, LabelKind.GOOD], [*group_of[frames], groups - 1], [*frames, count])
    good = tiles.of(LabelKind.GOOD)
    pasted = [(*rng.choice(good, 2).tolist(), np.ones((1, 1))) for _ in range(20)]
    trained = rng.random(groups) < 0.6
    trained[tiles.group[good[0]]] = True
    return samples_of(tiles, np.zeros((len(tiles), 1, 1)), pasted), trained


@given(seeds, st.integers(1, 8), st.integers(0, 1000))
def test_each_part_of_a_draw_holds_its_kind_of_sample_of_trained_groups(seed: int, groups: int, step: int) -> None:
    (samples, trained), recipe = mixture(seed, groups), recipe_with()
    draw = Sampler(samples, trained, recipe, seed).draw(step)
    for part in (draw.located, draw.good, draw.synthetic, *draw.bags):
        assert trained[samples.groups[part]].all(), "of a synthetic defect, also the group of its donor"
    assert np.isin(samples.known[draw.located], (LabelKind.MASKED, LabelKind.BOXED)).all()
    assert np.isin(samples.kind[draw.located], (Kind.TILE, Kind.COPY)).all()
    assert (samples.known[draw.good] == LabelKind.GOOD).all()
    assert np.isin(samples.kind[draw.synthetic], (Kind.SYNTHETIC, Kind.TRANSPLANT)).all()
    assert len(draw.good) == recipe.good
    for bag in draw.bags:
        [frame] = set(samples.frame[bag].tolist())
        whole = (samples.frame == frame) & (samples.kind == Kind.TILE)
        assert np.array_equal(bag, np.flatnonzero(whole))  # every tile of the picture
        assert (samples.known[bag] == LabelKind.BAGGED).all()


@pytest.mark.parametrize(("bags", "share"), [(2, 0.1), (20, 1.0), (30, 1.0)])
def test_few_bags_among_many_marked_tiles_are_drawn_rarely(bags: int, share: float) -> None:
    tiles = tiles_of([LabelKind.GOOD, *[LabelKind.MASKED] * 20, *[LabelKind.BAGGED] * bags], [0] * (21 + bags))
    sampler = Sampler(samples_of(tiles, np.zeros((len(tiles), 1, 1))), np.ones(1, np.bool_), recipe_with(bags=4), 0)
    drawn = sum(len(sampler.draw(step).bags) for step in range(500)) / 500
    assert drawn == pytest.approx(4 * share, rel=0.15)


def test_the_odds_count_tiles_with_marked_defects_and_whole_pictures_against_good_tiles() -> None:
    known = [LabelKind.GOOD] * 8 + [LabelKind.MASKED, LabelKind.BOXED] + [LabelKind.BAGGED] * 3
    tiles = tiles_of(known, [0] * 13, [*range(10), 10, 10, 11])
    assert samples_of(tiles, np.zeros((13, 1, 1)), [(0, 1, np.ones((1, 1)))]).log_odds == pytest.approx(np.log(4 / 8))


@pytest.mark.parametrize(
    ("known", "pasted", "excerpt"),
    [
        ([LabelKind.BAGGED, LabelKind.MASKED], 0, "^no tile of the training is known to be good, .*; add good pictu"),
        ([LabelKind.GOOD], 1, "^there is no defective picture, and recipe.synthetic is 0; add "),
        ([LabelKind.GOOD], 0, "^there is no defective picture, and recipe.copies.most is 0; add "),
    ],
)
def test_a_training_without_good_or_bad_tiles_is_refused(known: list[LabelKind], pasted: int, excerpt: str) -> None:
    tiles = tiles_of(known, [0] * len(known))
    samples = samples_of(tiles, np.zeros((len(tiles), 1, 1)), [(0, 0, np.ones((1, 1)))] * pasted)
    with pytest.raises(TrainingError, match=excerpt):
        Sampler(samples, np.ones(1, np.bool_), recipe_with(synthetic=0 if pasted else 4), 0)


sides = st.sampled_from([32, 64, 96, 224])


def tile_of(seed: int, side: int, low: int = 60, high: int = 190) -> NDArray[np.uint8]:
    """Noise around a grey level between `low` and `high`."""
    rng = np.random.default_rng(seed)
    grey = rng.uniform(low, high, 3)
    return np.clip(rng.normal(grey, 8, (side, side, 3)), 0, 255).astype(np.uint8)


def mask_of(seed: int, side: int) -> NDArray[np.bool_]:
    """A disc within the tile."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    centre, radius = rng.uniform(0.3, 0.7, 2) * side, rng.uniform(0.06, 0.2) * side
    return np.asarray((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2)


@given(seeds, seeds, sides, st.sampled_from([(60, 190), (0, 1), (254, 255), (120, 135)]))
def test_a_defect_is_visible_where_its_shape_is(seed: int, picture: int, side: int, greys: tuple[int, int]) -> None:
    """So is one that is transplanted; each is always the same of one seed."""
    tile, donor, lent = tile_of(picture, side, *greys), tile_of(picture + 1, side, *greys), mask_of(picture, side)
    for make, expected in (
        (lambda rng: draw_defect(tile, donor, rng), draw_shape(np.random.default_rng(seed), side)[1]),
        (lambda rng: transplant(tile, donor, lent, rng), move(lent, np.random.default_rng(seed))),
    ):
        (drawn, mask), again = make(np.random.default_rng(seed)), make(np.random.default_rng(seed))[0]
        assert np.array_equal(mask, expected)
        assert np.array_equal(drawn, again)
        beside = cv2.dilate(mask.astype(np.uint8), np.ones((21, 21))) == 0
        assert np.array_equal(tile[beside], drawn[beside])
    drawn, mask = draw_defect(tile, donor, np.random.default_rng(seed))
    assert np.abs(drawn.astype(int) - tile)[mask].mean() >= VISIBLE


@given(seeds)
def test_a_transplanted_defect_keeps_its_contrast(seed: int) -> None:
    """The defect keeps either its contrast to the surroundings or its own grey level."""
    mask, tile, donor = mask_of(seed, 96), np.full((96, 96, 3), 200, np.uint8), np.full((96, 96, 3), 140, np.uint8)
    donor[mask] = 60
    drawn, moved = transplant(tile, donor, mask, np.random.default_rng(seed))
    core = cv2.erode(moved.astype(np.uint8), np.ones((5, 5))) > 0
    assert not core.any() or min(abs(float(drawn[core].mean()) - level) for level in (200 - 80, 60)) < 4


def test_all_shapes_and_fillings_occur() -> None:
    tiles = [tile_of(seed, 64) for seed in range(300)]
    defects = [draw_defect(tile, tile, np.random.default_rng(seed)) for seed, tile in enumerate(tiles)]
    areas = np.array([mask.mean() for _, mask in defects])
    shades = np.array(
        [drawn[mask].mean() - tile[mask].mean() for tile, (drawn, mask) in zip(tiles, defects, strict=True)]
    )
    often = [(areas < 0.01).mean(), (areas > 0.05).mean(), (shades < -5).mean(), (shades > 5).mean()]
    assert np.all(np.array(often) > [0.1, 0.05, 0.2, 0.15]), often


TILE_PX, CELLS = 32, 8
TURNED = msgspec.structs.replace(PLAIN, flips=True, rotate=True)
DISTURBED = msgspec.structs.replace(TURNED, brightness=0.1, contrast=0.1, gain=0.1, noise=0.02, blur=True)


class Pictures:
    """Two groups with a good, a labelled and a masked picture each."""

    def __init__(self, folder: Path) -> None:
        images = read_folder(write_pictures(folder / "pictures"), mixed=True).images
        self.store = FrameStore.build(images, folder / "cache")
        self.tiles = label_tiles(self.store, SMALL_TILES)
        self.digests = [image.name for image in images]
        self.plan = self.planned()

    def planned(self, tiles: DenseTiles | None = None, recipe: DenseRecipeConfig | None = None) -> list[Sample]:
        return plan_copies(tiles or self.tiles, self.store, self.digests, recipe or recipe_with(), TILE_PX)

    def painter(self, how: AugmentConfig = TURNED, tiles: DenseTiles | None = None) -> Painter:
        return Painter(self.store, tiles or self.tiles, self.digests, how, TILE_PX, CELLS)

    def tile(self, row: int) -> Sample:
        return Sample(row, Kind.TILE, (int(self.tiles.table.y[row]), int(self.tiles.table.x[row])), 0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("copies"))


def painted(painter: Painter, sample: Sample) -> NDArray[np.uint8]:
    out = np.zeros((TILE_PX, TILE_PX, 3), np.uint8)
    painter.paint(sample, out)
    return out


def test_a_copy_of_a_defective_tile_keeps_a_defect_and_one_of_a_good_tile_has_none(pictures: Pictures) -> None:
    store, tiles = pictures.store, pictures.tiles
    recipe = recipe_with(copies=CopiesConfig(defective=20, most=1000))
    plan = pictures.planned(recipe=recipe)
    for sample in plan:
        frame, own = int(tiles.table.frame[sample.row]), int(tiles.table.defect_px[sample.row])
        assert np.abs(np.subtract(sample.yx, pictures.tile(sample.row).yx)).max() <= recipe.jitter_px
        assert (np.array(sample.yx) >= 0).all()
        assert (np.add(sample.yx, TILE_PX) <= store.frame_hw(frame)).all()
        defect_px = int(store.mask_tile(frame, *sample.yx, TILE_PX).sum())
        if sample.kind == Kind.COPY and own:
            assert defect_px > own / 2
        else:
            assert (defect_px, own, tiles.known[sample.row]) == (0, 0, LabelKind.GOOD)
        if sample.kind != Kind.COPY:  # textures are lent within a group, defects from masks
            lent = LabelKind.GOOD if sample.kind == Kind.SYNTHETIC else LabelKind.MASKED
            assert tiles.known[sample.donor] == lent
            assert lent == LabelKind.MASKED or tiles.group[sample.donor] == tiles.group[sample.row]
    assert sum(sample.yx != pictures.tile(sample.row).yx for sample in plan) > 0.8 * len(plan)
    boxed = np.where(tiles.known == LabelKind.MASKED, np.int8(LabelKind.BOXED), tiles.known)
    bagged = np.full(len(tiles), LabelKind.BAGGED, np.int8)
    for known, kinds in ((boxed, {Kind.COPY, Kind.SYNTHETIC}), (bagged, set())):
        assert {sample.kind for sample in pictures.planned(replace(tiles, known=known))} == kinds


@pytest.mark.parametrize("kind", [Kind.COPY, Kind.SYNTHETIC, Kind.TRANSPLANT])
def test_a_copy_with_other_pixels_has_another_key(pictures: Pictures, tmp_path: Path, kind: Kind) -> None:
    """One with the same pixels and other labels has the same. A transplant shows its mask, which may be corrected."""
    sample, tiles = next(sample for sample in pictures.plan if sample.kind == kind), pictures.tiles
    others = [
        replace(sample, row=int(np.flatnonzero(tiles.table.frame != tiles.table.frame[sample.row])[0])),
        replace(sample, yx=(sample.yx[0] + 1, sample.yx[1])),
        replace(sample, yx=(sample.yx[0], sample.yx[1] + 1)),
        replace(sample, seed=sample.seed + 1),
        replace(sample, kind=Kind.SYNTHETIC if kind == Kind.COPY else Kind.COPY),
    ]
    if sample.donor >= 0:
        others += [replace(sample, donor=row) for row in range(0, len(tiles), 3) if row != sample.donor]
    keys = [pictures.painter().key(each) for each in (sample, *others, *map(pictures.tile, range(len(tiles))))]
    keys += [pictures.painter(how).key(sample) for how in (PLAIN, DISTURBED)]
    assert len(set(keys)) == len(keys)
    relabelled = replace(tiles, known=np.zeros_like(tiles.known), group=np.zeros_like(tiles.group), groups=("one",))
    assert pictures.painter(tiles=relabelled).key(sample) == keys[0]
    folder = write_pictures(tmp_path / "pictures")
    for file in (folder / "masks").iterdir():
        cv2.imwrite(str(file), cv2.dilate(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), np.ones((3, 3))))
    corrected = FrameStore.build(read_folder(folder, mixed=True).images, tmp_path / "cache")
    key = Painter(corrected, tiles, pictures.digests, TURNED, TILE_PX, CELLS).key(sample)
    assert (key != keys[0]) == (kind == Kind.TRANSPLANT)


def test_a_tile_is_painted_as_the_line_cuts_it(pictures: Pictures) -> None:
    painter = pictures.painter(DISTURBED)
    for row in range(len(pictures.tiles)):
        sample = pictures.tile(row)
        (y, x), pixels = sample.yx, pictures.store.pixels(int(pictures.tiles.table.frame[row]))
        assert np.array_equal(painted(painter, sample), pixels[y : y + TILE_PX, x : x + TILE_PX])
        if pictures.tiles.known[row] != LabelKind.BAGGED:
            share = painter.defective_share(sample)
            assert share.mean() == pytest.approx(pictures.tiles.table.defect_px[row] / TILE_PX**2)


def test_a_copy_is_rotated_together_with_its_mask_which_changes_of_light_do_not_move(pictures: Pictures) -> None:
    """Discs of grey level 60 on a background of 150; all eight orientations occur."""
    plain, disturbed = pictures.painter(TURNED), pictures.painter(DISTURBED)
    copies = [sample for sample in pictures.plan if sample.kind == Kind.COPY]
    for sample in copies:
        tile, share = painted(plain, sample), plain.defective_share(sample)
        dark = (tile.mean(axis=2) < 105).reshape(CELLS, 4, CELLS, 4).mean(axis=(1, 3))
        np.testing.assert_allclose(share, dark, atol=0.2)
        assert np.array_equal(share, disturbed.defective_share(sample))
        assert np.abs(tile.astype(int) - painted(disturbed, sample)).mean() < 60
    assert len({painted(plain, replace(copies[0], seed=seed)).tobytes() for seed in range(8)}) == 8


@given(seeds, st.sampled_from([Kind.SYNTHETIC, Kind.TRANSPLANT]), st.sampled_from([PLAIN, TURNED]), st.data())
def test_a_synthetic_defect_changes_exactly_its_defective_cells(
    pictures: Pictures, seed: int, kind: Kind, how: AugmentConfig, data: st.DataObject
) -> None:
    samples = [sample for sample in pictures.plan if sample.kind == kind]
    sample = replace(data.draw(st.sampled_from(samples)), seed=seed)
    painter = pictures.painter(how)
    share = painter.defective_share(sample)
    before = painted(painter, replace(sample, kind=Kind.COPY, donor=-1)).astype(int)
    after = painted(painter, sample)
    change = np.abs(after - before).max(axis=2).reshape(CELLS, 4, CELLS, 4).max(axis=(1, 3))
    if kind == Kind.SYNTHETIC:
        assert share.any()
        assert change[share > 0].mean() > 5
    beside = cv2.dilate((share > 0).astype(np.uint8), np.ones((5, 5))) > 0  # edges are soft, up to 8 px
    assert not change[~beside].any()


# Which picture each frame of a training is compared with, and how a fixed pose is found.


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> LabelledFolder:
    """Pictures of one product in four groups."""
    return read_folder(draw_boards(tmp_path_factory.mktemp("boards") / "boards"))


def find(data: LabelledFolder, wanted: str = "auto") -> tuple[References | None, str]:
    sizes = [image.pixels().shape[:2] for image in data.images]
    return find_references(wanted, data, data.images, [(h, w) for h, w in sizes])


def with_templates(folder: Path, *, without: str = "") -> None:
    """Give each picture a template of its design; the pictures of one group have one design."""
    for path in (folder / "images").iterdir():
        if path.stem != without:
            write_picture(folder / "templates" / path.name, photograph("abcd".index(path.stem[0]), (0, 0), 1))


TWO_DESIGNS = {"groups": ("a", "b"), "designs": True, "good": 4, "defective": 1}


@pytest.mark.parametrize(
    ("drawn", "change", "scope", "told"),
    [
        ({"good": 3}, None, "product", "all pictures are compared with one reference"),
        (TWO_DESIGNS, None, "group", "the pictures of each of 2 groups are compared with a reference of it"),
        ({"groups": ("a", "b"), "designs": True, "good": 0, "defective": 5}, None, "group", "of each of 2 groups"),
        ({"designs": True}, with_templates, "templates", "its template in templates/"),
        (
            {"designs": True, "defective": 1},
            lambda at: with_templates(at, without="b_1"),
            None,
            "templates/ has no picture, or the same file, for b_1.png; of 4 pictures of boards, picture 2 does not fit",
        ),
        (
            {"designs": True, "defective": 1},
            lambda at: shutil.copytree(at / "images", at / "templates"),
            None,
            "templates/ has no picture, or the same file, for a_0.png, a_1.png, b_0.png and 5 more; of",
        ),
        ({"fixed": False}, None, None, "does not fit the first: the frame does not show what the reference shows"),
        (
            {},
            lambda at: write_picture(at / "images" / "b_2.png", photograph(0, (0, 0), 1)[:, :-20]),
            None,
            "the pictures differ in size",
        ),
        ({"groups": ("a", "b"), "defective": 4, "masks": False}, None, None, "needs 3 good pictures"),
    ],
)
def test_a_fixed_pose_is_found_without_settings_or_one_sentence_says_why_not(
    tmp_path: Path, drawn: dict[str, object], change: Callable[[Path], object] | None, scope: str | None, told: str
) -> None:
    """Frames of a line make no reference, and take none away."""
    folder = draw_boards(tmp_path / "boards", **drawn)  # type: ignore[arg-type]
    if change is not None:
        change(folder)
    data = read_folder(folder)
    found, why = find(data)
    assert (found and found.scope, told in why, "\n" in why) == (scope, True, False), why
    assert find(data, "off") == (None, "reference=off")
    if found is None:
        with pytest.raises(InputError, match=r"reference=on, and .*/boards has no fixed pose: .*reference=FILE"):
            find(data, "on")
    if found is None or drawn.get("good") == 0:  # which takes long
        return
    file = write_picture(tmp_path / "line.png", photograph(0, (3, 2), 8)[:, :-20])
    frames = [LabelledImage(file, f"reviewed:{part}", False, None, reviewed=marked()) for part in range(4)]
    reviewed, why = find(replace(data, images=(*data.images, *frames)))
    assert (reviewed.scope, reviewed.designs) == (scope, found.designs)
    assert [reviewed.of(frame) is not None for frame in frames] == [scope == "product"] * 4
    assert not any(each.reviewed for group in (*found.designs, None) for each in reviewed.sources(group))


@pytest.mark.parametrize(
    ("scope", "drawn"),
    [
        ("product", {"good": 3}),
        ("group", {"good": 5, "defective": 1, "designs": True}),
        ("group", {"good": 0, "defective": 5, "designs": True}),
    ],
)
def test_no_frame_is_compared_with_a_reference_that_was_made_from_itself(
    tmp_path: Path, scope: str, drawn: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor, of one reference for all groups, from its own group: on the line, a part is new to the reference."""
    made: list[LabelledImage] = []
    monkeypatch.setattr("heatline.train.references._make", lambda sources, _: made.extend(sources))
    images = read_folder(draw_boards(tmp_path / "boards", **drawn)).images  # type: ignore[arg-type]
    references = References(scope, tmp_path, images)  # type: ignore[arg-type]
    for image in images:
        made.clear()
        replace(references).of(image)
        assert image not in made
        assert {each.group == image.group for each in made} == {scope == "group"}
        assert not any(each.defective for each in made) or not drawn["good"]
    assert scope == "group" or len({each.group for each in references.sources(images[0].group)}) == 4


def test_marked_defects_do_not_enter_a_reference_of_defective_pictures(tmp_path: Path) -> None:
    """Three of five show a defect in one place."""
    folder = draw_boards(tmp_path / "boards", ("a", "b"), designs=True, good=0, defective=5, one_place=True)
    good, mask = photograph(0, (0, 0), 9), np.zeros(BOARD_HW, np.uint8)
    good[10:24, 10:24], mask[10:24, 10:24] = 250, 255
    for name in ("a_3.png", "a_4.png"):
        write_picture(folder / "images" / name, good)
        write_picture(folder / "masks" / name, mask)
    reference = References("group", folder, read_folder(folder).images).of_design("a")
    pose, _ = reference.pose_of(photograph(0, (0, 0), 3))
    place = tuple(slice(at, at + SQUARE_PX) for at in DEFECT_AT_YX)
    shown = to_grey(reference.moved_to(pose))[place].astype(int)
    assert np.abs(shown - to_grey(photograph(0, (0, 0), 3))[place]).mean() < 12


@pytest.mark.parametrize("odd", [0, 1, 4])
def test_one_stained_picture_makes_a_reference_without_it_wherever_it_comes(odd: int) -> None:
    """Its place is that of the picture that the others were moved to: the first, or the second if the first is odd."""
    pictures = [photograph(0, (2 * at, at), at) for at in range(5)]
    cv2.circle(pictures[odd], (112, 80), 40, (5, 5, 5), -1)
    reference, first = Reference.of(pictures, "boards"), 1 if odd == 0 else 0
    found, misaligned = reference.pose_of(photograph(0, (0, 0), 9))
    assert (reference.frames, misaligned) == (4, None)
    assert (found.x_px, found.y_px) == pytest.approx((-2 * first, -first), abs=0.3)


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (board(0), "it has 264x200 px, and a_0.png has 224x160 px; name another picture"),
        (np.full((*BOARD_HW, 3), 90, np.uint8), "cannot be a reference, as frames cannot be aligned"),
        (board(7)[20:-20, 20:-20], r"\d+ of \d+ pictures do not show the part where the reference shows it"),
        (np.rot90(board(0)[20:-20, 20:-20], 2), "4 of 4 pictures do not show the part"),
        (b"no picture", "is not a picture"),
        (None, "is not a picture; expected auto, on, off"),
    ],
)
def test_a_named_picture_that_cannot_be_the_reference_is_refused_in_one_sentence(
    boards: LabelledFolder, tmp_path: Path, picture: NDArray[np.uint8] | bytes | None, told: str
) -> None:
    file = tmp_path / "good.png"
    if isinstance(picture, np.ndarray):
        write_picture(file, picture)
    elif picture is not None:
        file.write_bytes(picture)
    with pytest.raises(InputError, match=told) as refused:
        find(boards, str(file))
    assert "good.png" in str(refused.value)


def test_a_named_picture_is_the_reference_of_all_frames_but_itself(boards: LabelledFolder, tmp_path: Path) -> None:
    """The file that is named may be a copy of the picture."""
    good, bad = (next(each for each in boards.images if each.defective == defective) for defective in (False, True))
    file = tmp_path / "golden.png"
    shutil.copyfile(good.path, file)
    found, why = find(boards, str(file))
    assert (found.scope, why) == ("file", f"all pictures are compared with {file}")
    assert [image for image in boards.images if found.of(image) is None] == [good]
    np.testing.assert_array_equal(found.of_design(None).rgb, good.pixels())  # type: ignore[union-attr]
    shutil.copyfile(bad.path, file)
    with pytest.raises(InputError, match=f"golden.png is {bad.name}, which is labelled defective; name a picture of a"):
        find(boards, str(file))


def test_differences_stay_in_step_and_are_oriented_as_their_copies(boards: LabelledFolder, tmp_path: Path) -> None:
    """The oracle paints the whole copy and compares it with the reference turned the same way."""
    recipe = compose([f"data={boards.folder}", "recipe.jitter_px=20", "recipe.copies={defective: 1, most: 12}"]).recipe
    recipe = msgspec.structs.replace(recipe, synthetic=10)  # type: ignore[call-overload]
    store, images = FrameStore.build(boards.images, tmp_path / "frames"), list(boards.images)
    tiles = label_tiles(store, TilesConfig(tile_px=64, overlap_px=2, defective_share=0.01))
    digests = digest_pictures(images)
    painter = Painter(store, tiles, digests, recipe.augment, 64, 8)
    samples = [*grid_samples(tiles), *plan_copies(tiles, store, digests, recipe, 64)]
    assert {sample.kind for sample in samples} == set(Kind)
    file = write_picture(tmp_path / "good.png", photograph(0, (0, 0), 5))
    references = References("file", boards.folder, boards.images, file)
    frame_of = tiles.table.frame[[sample.row for sample in samples]]
    found, poses = compare_samples(store, references, painter, samples, frame_of, 64, lambda: None)
    assert (found.shape, sorted(poses)) == ((len(samples), 8, 8, CHANNELS), list(range(len(images))))
    reference = references.of(images[0])
    tile, expected = np.empty((64, 64, 3), np.uint8), np.empty((8, 8, CHANNELS), np.uint8)

    def fits(sample: Sample, got: NDArray[np.uint8], y: int, x: int) -> bool:
        reference.range.difference(to_grey(tile), (y, x), expected)
        return np.array_equal(painter.orient(expected, sample), got)

    for sample, frame, got in zip(samples, frame_of.tolist(), found, strict=True):
        y, x = (int(at) for at in poses[frame].corners(np.array([sample.yx]), 64, BOARD_HW)[0])
        painter.draw(sample, tile)
        near = range(-3, 4) if sample.kind != Kind.TILE else range(1)
        assert any(fits(sample, got, y + dy, x + dx) for dy, dx in itertools.product(near, near)), sample
