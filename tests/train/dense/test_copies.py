"""Copies: their labels match their pixels, and their keys contain everything that their pixels depend on."""

from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.train.config import AugmentConfig, CopiesConfig, DenseRecipeConfig, TilesConfig
from heatline.train.dense.copies import Kind, Painter, Sample, plan_copies
from heatline.train.dense.tiles import DenseTiles, LabelKind, label_tiles
from heatline.train.frames import FrameStore
from heatline.train.readers import read_folder
from tests.train.dense.small import PLAIN, recipe_with, write_pictures

TILE_PX, CELLS = 32, 8
RULE = TilesConfig(tile_px=TILE_PX, overlap_px=2, defective_share=0.01)
TURNED = msgspec.structs.replace(PLAIN, flips=True, rotate=True)
RECIPE_MOST = recipe_with().copies.most
DISTURBED = msgspec.structs.replace(TURNED, brightness=0.1, contrast=0.1, gain=0.1, noise=0.02, blur=True)
seeds = st.integers(0, 2**32 - 1)


class Pictures:
    """Two groups with a good, a labelled and a masked picture each."""

    def __init__(self, folder: Path) -> None:
        images = read_folder(write_pictures(folder / "pictures"), mixed=True).images
        self.store = FrameStore.build(images, folder / "cache")
        self.tiles = label_tiles(self.store, RULE)
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
    moved = 0
    for sample in plan:
        frame, own = int(tiles.table.frame[sample.row]), int(tiles.table.defect_px[sample.row])
        height, width = store.frame_hw(frame)
        y, x = sample.yx
        assert 0 <= y <= height - TILE_PX
        assert 0 <= x <= width - TILE_PX
        assert abs(y - tiles.table.y[sample.row]) <= recipe.jitter_px
        assert abs(x - tiles.table.x[sample.row]) <= recipe.jitter_px
        defect_px = int(store.mask_tile(frame, y, x, TILE_PX).sum())
        if sample.kind == Kind.COPY and own:
            assert defect_px > own / 2
        else:
            assert (defect_px, own, tiles.known[sample.row]) == (0, 0, LabelKind.GOOD)
        moved += sample.yx != pictures.tile(sample.row).yx
    assert moved > 0.8 * len(plan)


def test_donors_lend_textures_within_their_group_and_defects_from_masks(pictures: Pictures) -> None:
    tiles = pictures.tiles
    kinds = {kind: [sample for sample in pictures.plan if sample.kind == kind] for kind in Kind}
    assert not kinds[Kind.TILE]
    assert len(kinds[Kind.COPY]) == 2 * len(tiles.located) + RECIPE_MOST
    assert len(kinds[Kind.SYNTHETIC]) == len(kinds[Kind.TRANSPLANT]) == RECIPE_MOST
    for sample in kinds[Kind.SYNTHETIC]:
        assert tiles.group[sample.donor] == tiles.group[sample.row]
        assert tiles.known[sample.donor] == LabelKind.GOOD
    for sample in kinds[Kind.TRANSPLANT]:
        assert tiles.known[sample.donor] == LabelKind.MASKED
    assert all(sample.donor == -1 for sample in kinds[Kind.COPY])


def test_there_are_no_more_copies_than_the_recipe_allows(pictures: Pictures) -> None:
    tiles, located = pictures.tiles, len(pictures.tiles.located)
    for most in (0, 1, 10, located, 3 * located):
        plan = pictures.planned(recipe=recipe_with(copies=CopiesConfig(defective=6, most=most)))
        of_good = np.array([tiles.known[sample.row] == LabelKind.GOOD for sample in plan], np.bool_)
        kind = np.array([sample.kind for sample in plan], np.int8)
        assert (~of_good).sum() <= most
        counts = np.bincount(kind[of_good], minlength=4)
        assert counts[[Kind.COPY, Kind.SYNTHETIC, Kind.TRANSPLANT]].tolist() == [most] * 3
        assert len(set(plan)) == len(plan)


def test_copies_do_not_change_when_labels_change(pictures: Pictures) -> None:
    """If a masked and a good tile become part of a bag, only their copies and those that use them as donors change."""
    tiles = pictures.tiles
    gone = [int(tiles.of(LabelKind.MASKED)[0]), int(tiles.of(LabelKind.GOOD)[0])]
    known = tiles.known.copy()
    known[gone] = LabelKind.BAGGED
    recipe = recipe_with(copies=CopiesConfig(defective=2, most=1000))
    before, after = pictures.planned(recipe=recipe), set(pictures.planned(replace(tiles, known=known), recipe))
    stays = {sample for sample in before if sample.row not in gone and sample.donor not in gone}
    assert stays <= after
    assert len(after - set(before)) < 0.2 * len(after)


def test_the_plan_is_the_same_every_time(pictures: Pictures) -> None:
    assert pictures.planned() == pictures.plan


def test_without_masks_nothing_is_transplanted_and_without_good_tiles_nothing_is_drawn(pictures: Pictures) -> None:
    tiles = pictures.tiles

    def kinds(known: NDArray[np.int8]) -> set[Kind]:
        plan = pictures.planned(replace(tiles, known=known))
        return {sample.kind for sample in plan}

    boxed = np.where(tiles.known == LabelKind.MASKED, np.int8(LabelKind.BOXED), tiles.known)
    assert kinds(boxed) == {Kind.COPY, Kind.SYNTHETIC}
    assert kinds(np.full(len(tiles), LabelKind.BAGGED, np.int8)) == set()


def test_a_frame_of_one_tile_is_not_moved(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", (TILE_PX * 3, TILE_PX * 3))
    store = FrameStore.build(read_folder(folder, mixed=True).images, tmp_path / "cache")
    large = TilesConfig(tile_px=128, overlap_px=2, defective_share=0.01)  # larger than the frame
    tiles = label_tiles(store, large)
    digests = [str(number) for number in range(len(store))]
    assert {sample.yx for sample in plan_copies(tiles, store, digests, recipe_with(), 128)} == {(0, 0)}


# Keys.


def test_the_key_of_a_tile_depends_on_picture_and_place_not_on_labels(pictures: Pictures) -> None:
    one, other = pictures.painter(TURNED), pictures.painter(DISTURBED, relabelled(pictures.tiles))
    rows = range(len(pictures.tiles))
    keys = [one.key(pictures.tile(row)) for row in rows]
    assert keys == [other.key(pictures.tile(row)) for row in rows]
    assert len(set(keys)) == len(keys)


def relabelled(tiles: DenseTiles) -> DenseTiles:
    return replace(tiles, known=np.zeros_like(tiles.known), group=np.zeros_like(tiles.group), groups=("one",))


def test_copies_have_unique_keys_that_another_training_shares(pictures: Pictures) -> None:
    keys = [pictures.painter().key(sample) for sample in pictures.plan]
    assert keys == [pictures.painter(tiles=relabelled(pictures.tiles)).key(sample) for sample in pictures.plan]
    unmoved = [pictures.painter().key(pictures.tile(row)) for row in range(len(pictures.tiles))]
    assert len({*keys, *unmoved}) == len(keys) + len(unmoved)


@pytest.mark.parametrize("kind", [Kind.COPY, Kind.SYNTHETIC, Kind.TRANSPLANT])
def test_a_copy_with_other_pixels_has_another_key(pictures: Pictures, kind: Kind) -> None:
    sample = next(sample for sample in pictures.plan if sample.kind == kind)
    tiles = pictures.tiles
    others = [
        replace(sample, row=int(np.flatnonzero(tiles.table.frame != tiles.table.frame[sample.row])[0])),
        replace(sample, yx=(sample.yx[0] + 1, sample.yx[1])),
        replace(sample, yx=(sample.yx[0], sample.yx[1] + 1)),
        replace(sample, seed=sample.seed + 1),
        replace(sample, kind=Kind.SYNTHETIC if kind == Kind.COPY else Kind.COPY),
    ]
    if sample.donor >= 0:
        others += [replace(sample, donor=row) for row in range(0, len(tiles), 3) if row != sample.donor]
    keys = [pictures.painter().key(each) for each in (sample, *others)]
    keys += [pictures.painter(how).key(sample) for how in (PLAIN, DISTURBED)]
    assert len(set(keys)) == len(keys)


def test_a_transplant_has_another_key_after_its_mask_is_corrected(pictures: Pictures, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    for file in (folder / "masks").iterdir():
        mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        cv2.imwrite(str(file), cv2.dilate(mask, np.ones((3, 3))))
    corrected = FrameStore.build(read_folder(folder, mixed=True).images, tmp_path / "cache")
    painter = Painter(corrected, pictures.tiles, pictures.digests, TURNED, TILE_PX, CELLS)
    for sample in pictures.plan:
        if sample.kind == Kind.TRANSPLANT:
            assert painter.key(sample) != pictures.painter().key(sample)
        else:  # their pixels are the same
            assert painter.key(sample) == pictures.painter().key(sample)


# Pixels and masks of copies.


def test_a_tile_is_painted_as_the_line_cuts_it(pictures: Pictures) -> None:
    painter = pictures.painter(DISTURBED)
    for row in range(len(pictures.tiles)):
        sample = pictures.tile(row)
        (y, x), pixels = sample.yx, pictures.store.pixels(int(pictures.tiles.table.frame[row]))
        assert np.array_equal(painted(painter, sample), pixels[y : y + TILE_PX, x : x + TILE_PX])
        if pictures.tiles.known[row] != LabelKind.BAGGED:
            share = painter.defective_share(sample)
            assert share.mean() == pytest.approx(pictures.tiles.table.defect_px[row] / TILE_PX**2)


def test_a_copy_is_rotated_together_with_its_mask(pictures: Pictures) -> None:
    """Discs of grey level 60 on a background of 150."""
    painter = pictures.painter()
    for sample in pictures.plan:
        if sample.kind == Kind.COPY:
            tile, share = painted(painter, sample), painter.defective_share(sample)
            dark = (tile.mean(axis=2) < 105).reshape(CELLS, 4, CELLS, 4).mean(axis=(1, 3))
            np.testing.assert_allclose(share, dark, atol=0.2)


def test_all_eight_orientations_of_a_copy_occur(pictures: Pictures) -> None:
    sample = next(sample for sample in pictures.plan if sample.kind == Kind.COPY)
    assert len({painted(pictures.painter(), replace(sample, seed=seed)).tobytes() for seed in range(8)}) == 8
    assert len({painted(pictures.painter(PLAIN), replace(sample, seed=seed)).tobytes() for seed in range(8)}) == 1


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


@given(st.integers(0, 10**6))
def test_changes_of_light_do_not_move_the_mask(pictures: Pictures, seed: int) -> None:
    sample = replace(pictures.plan[seed % len(pictures.plan)], seed=seed)
    plain, disturbed = pictures.painter(TURNED), pictures.painter(DISTURBED)
    assert np.array_equal(plain.defective_share(sample), disturbed.defective_share(sample))
    difference = painted(plain, sample).astype(int) - painted(disturbed, sample)
    assert np.abs(difference).mean() < 60
    assert np.array_equal(painted(disturbed, sample), painted(disturbed, sample))
