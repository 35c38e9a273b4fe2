"""The selection of validation tiles, good tiles and quantisation samples."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.bundle import Calibration
from heatline.edge.bundle.manifest import Grid
from heatline.edge.errors import InputError
from heatline.edge.inference.engine import Done, Engine, Failed, Fill
from heatline.export import validation_tiles
from heatline.export.validation_tiles import (
    cut_frame,
    divide_by_group,
    good_tiles,
    quantisation_tiles,
    select_validation_tiles,
)
from heatline.train.readers import LabelledImage, read_folder
from tests.train.blobs import draw_blobs

GRID = Grid(tile_px=64)
CALIBRATION = Calibration(
    score_threshold=0.0,
    evidence_threshold=0.25,
    background=0.0,
    false_reject_per_frame=0.01,
    frames=1,
    frames_are="drawn",
)


class Darkness(Engine):
    """A model whose evidence is the darkness of each quarter of the tile."""

    name = "darkness"
    batch = 4

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        tiles = np.empty((count, 64, 64, 3), np.uint8)
        fill(tiles)
        maps = self.maps(tiles)
        done(maps.mean(axis=(1, 2)), maps)

    def maps(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        dark = (tiles.astype(np.float32).mean(axis=3) < 100).astype(np.float32)
        return dark.reshape(len(tiles), 2, 32, 2, 32).mean(axis=(2, 4))

    def drain(self) -> None: ...


def picture(number: int, group: str, defective: bool) -> LabelledImage:
    return LabelledImage(Path(f"{number}.png"), group, defective, None)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledImage]:
    return list(read_folder(draw_blobs(tmp_path_factory.mktemp("selected") / "blobs", per_group=5)).images)


def test_all_tiles_are_selected_if_there_are_few(images: list[LabelledImage]) -> None:
    selected = select_validation_tiles(images, Darkness(), GRID, (2, 2), CALIBRATION, 1.0)
    assert len(selected.tiles) == len(images) * 12
    assert selected.tiles_are == f"tiles of {len(images)} of the {len(images)} frames of the validation groups"
    assert 0 < selected.with_region.sum() < len(selected.tiles)
    np.testing.assert_array_equal(selected.map, Darkness().maps(selected.tiles))
    np.testing.assert_array_equal(selected.regions, selected.find_regions(selected.map))


def test_after_enough_tiles_only_those_with_a_region_are_selected(
    images: list[LabelledImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = select_validation_tiles(images, Darkness(), GRID, (2, 2), CALIBRATION, 1.0)
    wanted = int(everything.with_region.sum()) - 2
    monkeypatch.setattr(validation_tiles, "ENOUGH_TILES", 20)
    monkeypatch.setattr(validation_tiles, "ENOUGH_WITH_REGION", wanted)
    selected = select_validation_tiles(images, Darkness(), GRID, (2, 2), CALIBRATION, 1.0)
    assert selected.with_region.sum() >= wanted
    assert selected.with_region[24:].all()  # the first twenty tiles come from two frames of twelve tiles
    assert re.search(
        r"^tiles of 2 of the \d+ frames .* groups, and those with a region of \d+ more$", selected.tiles_are
    )
    np.testing.assert_array_equal(selected.tiles[:24], everything.tiles[:24])
    assert len(selected.tiles) < len(everything.tiles)


def test_enough_of_both_ends_the_search(images: list[LabelledImage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation_tiles, "ENOUGH_TILES", 20)
    monkeypatch.setattr(validation_tiles, "ENOUGH_WITH_REGION", 0)
    selected = select_validation_tiles(images, Darkness(), GRID, (2, 2), CALIBRATION, 1.0)
    assert (len(selected.tiles), selected.tiles_are) == (
        24,
        f"tiles of 2 of the {len(images)} frames of the validation groups",
    )


def test_good_tiles_come_from_good_frames_or_clean_parts_of_defective_ones(
    images: list[LabelledImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [image for image in images if not image.defective]
    (tiles,) = good_tiles(images, GRID)
    assert len(tiles) == 12 * len(good)
    assert {tile.tobytes() for tile in tiles} == {tile.tobytes() for each in good for tile in tiles_of(each)}
    defective = [image for image in images if image.defective]
    (stand_ins,) = good_tiles(defective, GRID)
    assert 0 < len(stand_ins) < 12 * len(defective)
    assert (stand_ins.mean(axis=3).min(axis=(1, 2)) > 80).all()  # a blob is darker than the noise
    unknown = [dataclasses.replace(image, labels_only=True) for image in defective]
    assert good_tiles(unknown, GRID)[0].shape == good_tiles([], GRID)[0].shape == (0, 64, 64, 3)
    monkeypatch.setattr(validation_tiles, "GOOD_TILES", len(good) + 1)
    assert len(good_tiles(images, GRID)[0]) == len(good) + 1


def tiles_of(image: LabelledImage) -> NDArray[np.uint8]:
    inputs = cut_frame(image, GRID)
    assert inputs is not None
    return inputs[0]


@given(groups=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30))
def test_no_group_gives_both_validation_tiles_and_quantisation_samples(groups: list[tuple[int, bool]]) -> None:
    frames = [picture(number, str(group), defective) for number, (group, defective) in enumerate(groups)]
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


def test_both_halves_get_good_and_defective_groups() -> None:
    frames = [picture(number, str(number), number < 4) for number in range(20)]
    for half in divide_by_group(frames)[:2]:
        assert (len(half), sum(frame.defective for frame in half)) == (10, 2)


def test_quantisation_tiles_come_from_all_frames_and_are_reproducible(images: list[LabelledImage]) -> None:
    (tiles,) = quantisation_tiles(images, GRID)
    assert tiles.shape == (len(images) * 12, 64, 64, 3)  # 300 were wanted
    np.testing.assert_array_equal(tiles, quantisation_tiles(images, GRID)[0])


def test_without_training_images_nothing_can_be_quantised() -> None:
    with pytest.raises(InputError, match="no image in the training groups"):
        quantisation_tiles([], GRID)


def test_quantisation_takes_no_more_tiles_than_it_needs(
    images: list[LabelledImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation_tiles, "QUANTISATION_TILES", len(images) + 1)
    (tiles,) = quantisation_tiles(images, GRID)
    assert len(tiles) == len(images) + 1
