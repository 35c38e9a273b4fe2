"""Cached frames, their tiles, the label rule, and batches of them."""

import itertools
import math
import os
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.geometry import TileGrid
from heatline.train.batches import BatchSampler, TrainingBatches, augment, log_sum_exp, whole_tiles
from heatline.train.compose import compose
from heatline.train.config import AugmentConfig, TilesConfig
from heatline.train.frames import FrameStore, TileTable, grid_tiles
from heatline.train.readers import LabelledImage, read_folder
from heatline.train.readers.per_picture import MaskPng
from tests.train.blobs import draw_blobs

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


def test_every_grid_tile_has_the_count_of_its_part_of_the_mask_and_is_cut_as_on_the_line(
    store: FrameStore, table: TileTable
) -> None:
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


def test_a_jittered_tile_keeps_its_class_by_the_exact_count_at_its_new_place(
    store: FrameStore, table: TileTable
) -> None:
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


NOTHING = AugmentConfig(flips=False, rotate=False, brightness=0, contrast=0, gain=0, noise=0, blur=False)


def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(40, 200, (16, 16, 3), np.uint8)


def test_all_eight_orientations_are_equally_frequent() -> None:
    moving = msgspec.structs.replace(NOTHING, flips=True, rotate=True)
    rng = np.random.default_rng(0)
    seen = [augment(picture(), moving, rng).tobytes() for _ in range(1600)]
    views = [np.rot90(view, turns).tobytes() for view in (picture(), picture()[::-1]) for turns in range(4)]
    assert set(seen) == set(views)
    assert np.array_equal(augment(picture(), NOTHING, rng), picture())
    assert min(seen.count(view) for view in views) > 140


def test_light_noise_and_blur_change_grey_levels_within_their_limits() -> None:
    def augmented(of: NDArray[np.uint8], **how: object) -> list[NDArray[np.uint8]]:
        changed = msgspec.structs.replace(NOTHING, **how)  # type: ignore[arg-type]
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


# The tiles of a batch.


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
