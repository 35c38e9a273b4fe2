"""Labels of tiles from masks, boxes, labels of whole pictures, and mixtures of these."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.train.config import TilesConfig
from heatline.train.dense.copies import Painter, digest_pictures, grid_samples
from heatline.train.dense.samples import Sampler, gather_samples
from heatline.train.dense.tiles import (
    POINT_MARGIN,
    DenseTiles,
    LabelKind,
    defective_share,
    label_tiles,
    tiles_of_points,
)
from heatline.train.frames import FrameStore
from heatline.train.readers import LabelledImage, read_folder
from tests.train.blobs import draw_blobs, sort_tiles
from tests.train.dense.small import PLAIN, recipe_with, write_pictures

RULE = TilesConfig(tile_px=32, overlap_px=2, defective_share=0.01)


def known_of(folder: Path, cache: Path, **how: object) -> tuple[FrameStore, DenseTiles]:
    store = FrameStore.build(read_folder(folder, mixed=True, **how).images, cache)  # type: ignore[arg-type]
    return store, label_tiles(store, RULE)


def by_picture(store: FrameStore, tiles: DenseTiles) -> dict[str, set[LabelKind]]:
    return {
        image.path.stem: {LabelKind(known) for known in tiles.known[tiles.table.frame == frame]}
        for frame, image in enumerate(store.images)
    }


@pytest.mark.parametrize(("truth", "marked"), [("masks", LabelKind.MASKED), ("boxes", LabelKind.BOXED)])
def test_tiles_of_marked_and_labelled_pictures_are_labelled_one_by_one(
    tmp_path: Path, truth: str, marked: LabelKind
) -> None:
    store, tiles = known_of(write_pictures(tmp_path / "pictures", truth=truth), tmp_path / "cache")
    assert by_picture(store, tiles) == {
        f"{group}_{kind}": known
        for group in "ab"
        for kind, known in (
            ("good", {LabelKind.GOOD}),
            ("labelled", {LabelKind.BAGGED}),
            ("marked", {LabelKind.GOOD, marked}),
        )
    }
    for row in range(len(tiles)):
        mask = store.mask_tile(tiles.table.frame[row], tiles.table.y[row], tiles.table.x[row], 32)
        assert mask.any() == (tiles.known[row] == marked)
        assert tiles.groups[tiles.group[row]] == store.images[tiles.table.frame[row]].group
    assert tiles.located.tolist() == tiles.of(marked).tolist()
    assert len(tiles.of(LabelKind.GOOD, LabelKind.BAGGED)) + len(tiles.located) == len(tiles)


def test_all_tiles_of_a_defective_picture_without_annotation_are_its_bag(tmp_path: Path) -> None:
    folder = sort_tiles(tmp_path / "pictures", count=2, side=50)
    store, tiles = known_of(folder, tmp_path / "cache")
    assert {LabelKind(known) for known in tiles.known} == {LabelKind.GOOD, LabelKind.BAGGED}
    for frame, image in enumerate(store.images):
        expected = LabelKind.BAGGED if image.defective else LabelKind.GOOD
        assert set(tiles.known[tiles.table.frame == frame].tolist()) == {expected}
    assert not len(tiles.located)


def test_a_defective_picture_whose_mask_is_empty_is_a_bag(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    for group in "ab":
        cv2.imwrite(str(folder / "masks" / f"{group}_labelled.png"), np.zeros((90, 120), np.uint8))
    for mixed in (True, False):  # as a picture without annotation, and as one whose annotation marks nothing
        store = FrameStore.build(read_folder(folder, mixed=mixed).images, tmp_path / f"cache-{mixed}")
        assert store.is_unplaced(1) is not mixed
        assert by_picture(store, label_tiles(store, RULE))["a_labelled"] == {LabelKind.BAGGED}


def test_every_tile_of_a_good_picture_is_good(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    for picture in (folder / "images").glob("*_[lm]*.png"):
        picture.unlink()
    (folder / "labels.csv").write_text("image,label,group\na_good.png,good,a\nb_good.png,good,b\n")
    store, tiles = known_of(folder, tmp_path / "cache")
    assert by_picture(store, tiles) == {"a_good": {LabelKind.GOOD}, "b_good": {LabelKind.GOOD}}
    assert len(tiles) == len(tiles.of(LabelKind.GOOD))


def test_a_tile_with_one_defective_pixel_is_known_to_be_defective(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs", (50, 50), per_group=1)
    mask = np.zeros((50, 50), np.uint8)
    mask[5, 7] = 255
    cv2.imwrite(str(folder / "masks" / "a_0.png"), mask)
    _, tiles = known_of(folder, tmp_path / "cache")
    assert (tiles.known[0], tiles.table.defect_px[0], bool(tiles.table.ambiguous[0])) == (LabelKind.MASKED, 1, True)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(32, 4), (64, 8), (24, 3)]), st.floats(0, 1))
def test_the_defective_share_of_a_cell_is_that_of_its_pixels(seed: int, size: tuple[int, int], density: float) -> None:
    side, cells = size
    mask = np.random.default_rng(seed).random((side, side)) < density
    share, px = defective_share(mask, cells), side // cells
    assert (share.shape, share.dtype) == ((cells, cells), np.float32)
    for row in range(cells):
        for column in range(cells):
            count = sum(bool(mask[row * px + y, column * px + x]) for y in range(px) for x in range(px))
            assert share[row, column] == pytest.approx(count / px**2, abs=1e-6)
            assert (share[row, column] > 0) == (count > 0)


def reviewed(path: Path, *points_xy: tuple[int, int], group: str = "line") -> LabelledImage:
    """A reviewed frame with missed defects at these points."""
    return LabelledImage(path, group, True, None, labels_only=True, points_xy=points_xy, reviewed=True)


def test_a_tile_with_a_point_is_defective_and_nothing_is_known_of_the_tiles_beside_it(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")  # of 90 x 120 px: tiles at 0, 29, 58 and 0, 29, 58, 88
    images = read_folder(folder, mixed=True).images
    pointed = reviewed(images[1].path, (15, 15))
    beside = reviewed(images[4].path, (30, 45), (500, 20), group="border")  # at a tile's border; outside the picture
    store = FrameStore.build([*images, pointed, beside], tmp_path / "cache")
    tiles = label_tiles(store, RULE)
    of_pointed, of_beside = (tiles.table.frame == frame for frame in (len(images), len(images) + 1))
    assert tiles.known[of_pointed].tolist() == [LabelKind.POINTED] + [LabelKind.UNKNOWN] * 11
    assert set(tiles.known[of_beside].tolist()) == {LabelKind.BAGGED}
    (row,) = tiles.of(LabelKind.POINTED)
    assert row in tiles.located
    assert tiles.reviewed.tolist() == (of_pointed | of_beside).tolist()

    painter = Painter(store, tiles, digest_pictures(store.images), PLAIN, RULE.tile_px, 4)
    samples = gather_samples(tiles, grid_samples(tiles), painter)
    assert (samples.share[row] == 1).all(), "no cell counts as untouched"
    sampler = Sampler(samples, np.ones(len(tiles.groups), np.bool_), recipe_with(located=6, good=8, bags=4), 0)
    draws = [sampler.draw(step) for step in range(40)]
    drawn = {index for draw in draws for index in (*draw.located, *draw.good, *np.concatenate([[], *draw.bags]))}
    assert not drawn & set(tiles.of(LabelKind.UNKNOWN).tolist())
    drawn_of_point = sum(int((draw.located == row).sum()) for draw in draws)
    assert drawn_of_point > 2 * 40 * 6 / len(tiles.located), "more than twice as often as by chance"


@given(
    st.lists(st.tuples(st.integers(-5, 130), st.integers(-5, 100)), max_size=4),
    st.sampled_from([(90, 120), (32, 32), (20, 70)]),
)
def test_a_point_belongs_to_the_tiles_in_which_it_lies_well_inside(
    points: list[tuple[int, int]], frame_hw: tuple[int, int]
) -> None:
    height, width = frame_hw
    ys, xs = range(0, max(1, height - 31), 29), range(0, max(1, width - 31), 29)
    corners = np.array([(y, x) for y in ys for x in xs])
    found = tiles_of_points(points, corners, 32, frame_hw)
    margin = 32 * POINT_MARGIN
    for (top, left), is_found in zip(corners.tolist(), found.tolist(), strict=True):
        expected = False
        for x, y in points:
            inside = True
            for at, start, size in ((y, top, height), (x, left, width)):
                low = 0 if start == 0 else start + margin
                high = size if start + 32 >= size else start + 32 - margin
                inside = inside and low <= at < high
            expected = expected or inside
        assert is_found == expected
