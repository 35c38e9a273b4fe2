"""Cached frames, their tiles, the label rule, and the augmentation of training tiles."""

import json
import os
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.errors import InputError, TrainingError
from heatline.edge.geometry import TileGrid
from heatline.train.batches import BatchSampler, TrainingBatches, augment, whole_tiles
from heatline.train.compose import compose
from heatline.train.config import AugmentConfig, RecipeConfig, TilesConfig
from heatline.train.frames import FrameStore, TileTable, delete_frames, grid_tiles
from heatline.train.readers import LabelledImage, read_folder
from heatline.train.readers.per_picture import MaskPng
from tests.train.blobs import draw_blobs, draw_plain, sort_tiles

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


@pytest.fixture(scope="module")
def recipe() -> RecipeConfig:
    return compose(["data=.", "recipe=finetune", "recipe.batch=8", "recipe.steps=5", "recipe.jitter_px=40"]).recipe


def frame_with(tmp_path: Path, mask: NDArray[np.bool_], defective: bool = True) -> FrameStore:
    cv2.imwrite(str(tmp_path / "frame.png"), np.full(mask.shape, 90, np.uint8))
    cv2.imwrite(str(tmp_path / "mask.png"), mask.astype(np.uint8))
    image = LabelledImage(tmp_path / "frame.png", "a", defective, MaskPng(tmp_path / "mask.png", None))
    return FrameStore.build([image], tmp_path / "cache")


@pytest.mark.parametrize(
    ("defect_px", "defective", "ambiguous"),
    [
        (0, False, False),
        (1, False, True),
        (501, False, True),  # 0.998 % of 224x224 px
        (502, True, False),  # 1.0005 %
        (224 * 224, True, False),
    ],
)
def test_a_tile_is_defective_above_one_per_cent_of_defective_area(
    tmp_path: Path, defect_px: int, defective: bool, ambiguous: bool
) -> None:
    mask = np.zeros((224, 224), np.bool_)
    mask.flat[:defect_px] = True
    tiles = grid_tiles(frame_with(tmp_path, mask), [0], STUDY_RULE)
    assert tiles.defect_px.tolist() == [defect_px]
    assert tiles.defective.tolist() == [defective]
    assert tiles.ambiguous.tolist() == [ambiguous]


def test_tile_pixels_beyond_a_small_frame_do_not_count_as_defective(tmp_path: Path) -> None:
    mask = np.zeros((100, 300), np.bool_)
    mask[90:, 50:100] = True  # at the lower border, which is repeated below it
    tiles = grid_tiles(frame_with(tmp_path, mask), [0], STUDY_RULE)
    assert list(zip(tiles.y, tiles.x, tiles.defect_px, strict=True)) == [(0, 0, 500), (0, 76, 240)]


def test_a_link_to_nowhere_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(InputError, match=r"gone.png cannot be read \(No such file or directory\); restore it"):
        FrameStore.build([LabelledImage(tmp_path / "gone.png", None, False, None)], tmp_path / "cache")


def test_every_grid_tile_has_the_count_of_its_part_of_the_mask(store: FrameStore, table: TileTable) -> None:
    assert len(table) == len(store) * len(TileGrid(FRAME_HW, 64, 2))
    for frame, y, x, defect_px in zip(table.frame, table.y, table.x, table.defect_px, strict=True):
        mask = store.images[frame].mask(FRAME_HW)
        assert mask is not None
        assert mask[y : y + 64, x : x + 64].sum() == defect_px
    assert table.counts()["defective"] == table.defective.sum() > 20
    assert sum(table.counts().values()) == len(table)
    assert table.drop_ambiguous().counts() == {**table.counts(), "ambiguous": 0}


def test_the_cache_is_used_again_only_while_pictures_and_labels_are_the_same(tmp_path: Path) -> None:
    images = read_folder(draw_blobs(tmp_path / "blobs", per_group=1)).images
    decoded: list[str] = []

    def track(images: object) -> object:
        for image in images:  # type: ignore[attr-defined]
            decoded.append(image.path.name)
            yield image

    first = FrameStore.build(images, tmp_path / "cache", track)  # type: ignore[arg-type]
    assert len(decoded) == 8
    assert np.array_equal(first.pixels(3), images[3].pixels())
    again = FrameStore.build(images, tmp_path / "cache", track)  # type: ignore[arg-type]
    assert len(decoded) == 8
    assert np.array_equal(again.pixels(3), first.pixels(3))
    os.utime(images[0].truth_files[0], (1, 1))
    FrameStore.build(images, tmp_path / "cache", track)  # type: ignore[arg-type]
    assert len(decoded) == 16
    images[0].path.write_bytes(images[0].path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"a_0.png ends before its picture does"):
        FrameStore.build(images, tmp_path / "cache")


def test_the_cache_depends_on_the_classes_that_are_defects(tmp_path: Path) -> None:
    draw_plain(tmp_path, ("p.png",))
    (tmp_path / "labelme").mkdir()
    shapes = [
        {"label": label, "shape_type": "polygon", "points": [[x, 2], [x + 6, 2], [x, 9]]}
        for label, x in (("pit", 2), ("scratch", 20))
    ]
    (tmp_path / "labelme" / "p.json").write_text(json.dumps({"shapes": shapes}))

    def mask_of(classes: list[str] | None) -> NDArray[np.bool_] | None:
        images = read_folder(tmp_path, "polygons", classes=classes).images
        return FrameStore.build(images, tmp_path / "cache").mask(0)

    pits, scratches, all_defects = mask_of(["pit"]), mask_of(["scratch"]), mask_of(None)
    assert pits is not None
    assert scratches is not None
    assert not (pits & scratches).any()
    assert np.array_equal(pits | scratches, np.asarray(all_defects))


def test_a_full_disk_is_reported_and_leaves_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = read_folder(draw_blobs(tmp_path / "blobs", per_group=1)).images

    def full(self: LabelledImage) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LabelledImage, "pixels", full)
    with pytest.raises(TrainingError, match=r"No space left on device.*make room"):
        FrameStore.build(images, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_decoding_deletes_only_its_own_files(tmp_path: Path) -> None:
    images = read_folder(draw_blobs(tmp_path / "blobs", per_group=1)).images
    (tmp_path / "cache" / "letters").mkdir(parents=True)
    (tmp_path / "cache" / "notes.txt").write_text("mine")
    (tmp_path / "cache" / "frames.u8").write_bytes(b"torn")
    FrameStore.build(images, tmp_path / "cache")
    delete_frames(tmp_path / "cache")
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["letters", "notes.txt"]


def test_a_defective_picture_with_an_empty_mask_is_recognised(tmp_path: Path) -> None:
    assert frame_with(tmp_path, np.zeros((30, 30), np.bool_)).is_unplaced(0)
    assert not frame_with(tmp_path, np.ones((30, 30), np.bool_)).is_unplaced(0)
    assert not frame_with(tmp_path, np.zeros((30, 30), np.bool_), defective=False).is_unplaced(0)


def test_all_tiles_of_a_picture_without_annotation_have_its_label(tmp_path: Path) -> None:
    small = FrameStore.build(read_folder(sort_tiles(tmp_path / "small", 2, side=50)).images, tmp_path / "cache")
    assert grid_tiles(small, range(4), RULE).defective.tolist() == [False, False, True, True]
    large = FrameStore.build(read_folder(sort_tiles(tmp_path / "large", 1, side=65)).images, tmp_path / "cache")
    assert grid_tiles(large, range(2), RULE).defective.tolist() == [False] * 4 + [True] * 4


def test_a_jittered_tile_keeps_its_class_by_the_exact_count_at_its_new_place(
    store: FrameStore, table: TileTable, recipe: RecipeConfig
) -> None:
    tiles = table.drop_ambiguous()
    batches = TrainingBatches(store, tiles, RULE, BatchSampler(tiles.defective, 8, 0.25, 0), recipe, list)
    moved = 0
    for row in range(len(tiles)):
        rng = np.random.default_rng(row)
        for _ in range(10):
            y, x = batches.place(row, rng)
            assert abs(y - tiles.y[row]) <= 40
            assert abs(x - tiles.x[row]) <= 40
            assert 0 <= y <= FRAME_HW[0] - 64
            assert 0 <= x <= FRAME_HW[1] - 64
            mask = store.images[tiles.frame[row]].mask(FRAME_HW)
            assert mask is not None
            share = mask[y : y + 64, x : x + 64].mean()
            assert share > 0.01 if tiles.defective[row] else share == 0
            moved += (y, x) != (tiles.y[row], tiles.x[row])
    assert moved > 5 * len(tiles)


def test_a_batch_depends_only_on_seed_and_step(store: FrameStore, table: TileTable, recipe: RecipeConfig) -> None:
    def batches(seed: int, first_step: int = 0) -> TrainingBatches:
        tiles = table.drop_ambiguous()
        sampler = BatchSampler(tiles.defective, 8, 0.25, seed)
        return TrainingBatches(store, tiles, RULE, sampler, recipe, lambda: range(first_step, 5))

    whole, resumed, other = list(batches(1)), list(batches(1, first_step=3)), list(batches(2))
    assert len(whole) == 5
    assert len(resumed) == 2
    for one, same in zip(whole[3:], resumed, strict=True):
        assert one.tiles.equal(same.tiles)
        assert one.labels.equal(same.labels)
    assert not whole[0].tiles.equal(other[0].tiles)
    assert not whole[0].tiles.equal(whole[1].tiles)
    assert all(batch.labels.sum() == 2 for batch in whole)  # a quarter of eight


def test_evaluation_sees_every_tile_once_as_the_line_cuts_it(store: FrameStore, table: TileTable) -> None:
    evaluated = whole_tiles(store, table, 64, range(len(table)))
    tiles = evaluated.tiles.numpy()
    assert len(tiles) == len(table)
    grid = TileGrid(FRAME_HW, 64, 2)
    for frame in range(len(store)):
        expected = np.empty((len(grid), 64, 64, 3), np.uint8)
        grid.cut(store.images[frame].pixels(), expected)
        assert np.array_equal(tiles[frame * len(grid) : (frame + 1) * len(grid)], expected)
    assert np.array_equal(evaluated.labels.numpy(), table.defective)  # ambiguous tiles are included, as good


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
    grey = np.full((32, 32, 3), 128, np.uint8)
    lit = msgspec.structs.replace(NOTHING, brightness=0.1, gain=0.1)
    levels = np.array([augment(grey, lit, np.random.default_rng(n))[0, 0] for n in range(300)], float)
    assert 128 * 0.9 - 25.5 - 1 <= levels.min() < 105
    assert 150 < levels.max() <= 128 * 1.1 + 25.5 + 1
    assert np.ptp(levels, axis=1).max() > 10  # channels change independently
    noisy = msgspec.structs.replace(NOTHING, noise=0.02)
    deviations = [augment(grey, noisy, np.random.default_rng(n)).std() for n in range(200)]
    assert max(deviations) < 5.5
    assert 0.15 < np.mean(np.array(deviations) > 0) < 0.35
    blurred = msgspec.structs.replace(NOTHING, blur=True)
    contrasts = [augment(picture(), blurred, np.random.default_rng(n)).std() for n in range(200)]
    assert 0.15 < np.mean(np.array(contrasts) < picture().std()) < 0.35
