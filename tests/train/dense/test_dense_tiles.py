"""Labels of tiles from masks, boxes, labels of whole pictures, and mixtures of these."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.blobs import draw_blobs, sort_tiles
from tests.train.dense.small import write_pictures
from train.dense.tiles import DenseTiles, Known, defective_share, label_tiles
from train.frames import FrameStore
from train.readers import read_folder
from train.tiles import TileRule

RULE = TileRule(tile_px=32, overlap_px=2, defective_share=0.01)


def known_of(folder: Path, cache: Path, **how: object) -> tuple[FrameStore, DenseTiles]:
    store = FrameStore.build(read_folder(folder, mixed=True, **how).images, cache)  # type: ignore[arg-type]
    return store, label_tiles(store, RULE)


def by_picture(store: FrameStore, tiles: DenseTiles) -> dict[str, set[Known]]:
    return {
        image.path.stem: {Known(known) for known in tiles.known[tiles.table.frame == frame]}
        for frame, image in enumerate(store.images)
    }


@pytest.mark.parametrize(("truth", "marked"), [("masks", Known.MASKED), ("boxes", Known.BOXED)])
def test_tiles_of_marked_and_labelled_pictures_are_labelled_one_by_one(
    tmp_path: Path, truth: str, marked: Known
) -> None:
    store, tiles = known_of(write_pictures(tmp_path / "pictures", truth=truth), tmp_path / "cache")
    assert by_picture(store, tiles) == {
        f"{group}_{kind}": known
        for group in "ab"
        for kind, known in (("good", {Known.GOOD}), ("labelled", {Known.BAGGED}), ("marked", {Known.GOOD, marked}))
    }
    for row in range(len(tiles)):
        mask = store.mask_tile(tiles.table.frame[row], tiles.table.y[row], tiles.table.x[row], 32)
        assert mask.any() == (tiles.known[row] == marked)
        assert tiles.groups[tiles.group[row]] == store.images[tiles.table.frame[row]].group
    assert tiles.located.tolist() == tiles.of(marked).tolist()
    assert len(tiles.of(Known.GOOD, Known.BAGGED)) + len(tiles.located) == len(tiles)


def test_all_tiles_of_a_defective_picture_without_annotation_are_its_bag(tmp_path: Path) -> None:
    folder = sort_tiles(tmp_path / "pictures", count=2, side=50)
    store, tiles = known_of(folder, tmp_path / "cache")
    assert {Known(known) for known in tiles.known} == {Known.GOOD, Known.BAGGED}
    for frame, image in enumerate(store.images):
        expected = Known.BAGGED if image.defective else Known.GOOD
        assert set(tiles.known[tiles.table.frame == frame].tolist()) == {expected}
    assert not len(tiles.located)


def test_a_defective_picture_whose_mask_is_empty_is_a_bag(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    for group in "ab":
        cv2.imwrite(str(folder / "masks" / f"{group}_labelled.png"), np.zeros((90, 120), np.uint8))
    for mixed in (True, False):  # as a picture without annotation, and as one whose annotation marks nothing
        store = FrameStore.build(read_folder(folder, mixed=mixed).images, tmp_path / f"cache-{mixed}")
        assert store.is_unplaced(1) is not mixed
        assert by_picture(store, label_tiles(store, RULE))["a_labelled"] == {Known.BAGGED}


def test_every_tile_of_a_good_picture_is_good(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    for picture in (folder / "images").glob("*_[lm]*.png"):
        picture.unlink()
    (folder / "labels.csv").write_text("image,label,group\na_good.png,good,a\nb_good.png,good,b\n")
    store, tiles = known_of(folder, tmp_path / "cache")
    assert by_picture(store, tiles) == {"a_good": {Known.GOOD}, "b_good": {Known.GOOD}}
    assert len(tiles) == len(tiles.of(Known.GOOD))


def test_a_tile_with_one_defective_pixel_is_known_to_be_defective(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs", (50, 50), per_group=1)
    mask = np.zeros((50, 50), np.uint8)
    mask[5, 7] = 255
    cv2.imwrite(str(folder / "masks" / "a_0.png"), mask)
    _, tiles = known_of(folder, tmp_path / "cache")
    assert (tiles.known[0], tiles.table.defect_px[0], bool(tiles.table.ambiguous[0])) == (Known.MASKED, 1, True)


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
