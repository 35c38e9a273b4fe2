"""The gallery: the choice of pictures, their content, and that they do not keep frames in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from heatline.edge.bundle import Calibration
from heatline.edge.errors import InputError, TrainingError
from heatline.edge.images import read_rgb
from heatline.edge.inspection.verdict import Judgement, TileScores
from heatline.train.evaluation.gallery import (
    FOUND_RGB,
    FRAME_PX,
    GAP_PX,
    LINE_TRIPTYCH,
    TRIPTYCH,
    TRUTH_RGB,
    FrameGallery,
    FrameView,
    Gallery,
    TileView,
    draw_gallery,
    relative_name,
)
from heatline.train.models.vit import Fusion

pytestmark = pytest.mark.usefixtures("one_thread")

TILE = 64
CALIBRATION = Calibration(0.0, 2.0, -1.0, 0.01, 1, "drawn ones")


def view(name: str, logit: float, *, group: int = 0, x: int = 0, defective: bool = True) -> TileView:
    """Return a grey tile with a map of one hot cell; a defective tile has a true square."""
    truth = np.zeros((TILE, TILE), np.bool_)
    truth[16:32, 32:48] = defective
    tile_map = np.zeros((4, 4), np.float32)
    tile_map[1, 2] = logit
    return TileView(group, name, (0, x), np.full((TILE, TILE, 3), 90, np.uint8), truth, defective, logit, tile_map)


def places(views: Sequence[TileView]) -> list[tuple[str, tuple[int, int]]]:
    return [(tile.image, tile.yx) for tile in views]


SEEN = st.lists(
    st.tuples(st.integers(0, 9), st.integers(-3, 3), st.booleans()),  # group, logit, whether defective
    max_size=25,
).map(
    lambda rows: [
        view(f"{group}.png", float(logit), group=group, x=number, defective=defective)
        for number, (group, logit, defective) in enumerate(rows)
    ]
)


@given(SEEN, st.sampled_from([3, 12]))
def test_the_worst_tiles_come_first_and_one_per_group_if_there_are_enough(seen: list[TileView], groups: int) -> None:
    """With three tiles of a kind, six groups are enough. Of equal tiles, the first is picked."""
    gallery = Gallery(groups, examples=3, failures=3)
    gallery.add(seen)
    for found, of_kind in (
        (gallery.missed, sorted((one for one in seen if one.defective), key=lambda one: one.logit)),
        (gallery.false, sorted((one for one in seen if not one.defective), key=lambda one: -one.logit)),
        (gallery.examples, sorted((one for one in seen if one.defective), key=lambda one: one.rank)),
    ):
        if groups >= 6:
            of_kind = [
                one
                for number, one in enumerate(of_kind)
                if one.group not in {earlier.group for earlier in of_kind[:number]}
            ]
        assert places(found.items()) == places(of_kind[:3])


@given(SEEN, st.permutations([3.0, -1.0, 0.5]), st.randoms(use_true_random=False))
def test_every_model_shows_the_same_examples_in_any_order_of_pictures(
    seen: list[TileView], logits: list[float], order: Any
) -> None:
    one, other = Gallery(10), Gallery(10)
    one.add(seen)
    answers = [item._replace(logit=logits[number % 3], map=-item.map) for number, item in enumerate(seen)]
    order.shuffle(answers)
    other.add(answers)
    assert places(one.examples.items()) == places(other.examples.items())


def test_picked_tiles_do_not_keep_the_arrays_of_their_frame() -> None:
    """A frame's tiles are slices of one array: a stored slice would keep the whole array in memory."""
    pixels = np.zeros((3, TILE, TILE, 3), np.uint8)
    masks = np.ones((3, TILE, TILE), np.bool_)
    masks[0] = False
    maps = np.ones((3, 4, 4), np.float32)
    gallery = Gallery(3)
    gallery.add(TileView(0, "a.png", (0, n), pixels[n], masks[n], n > 0, 1.0, maps[n]) for n in range(3))
    picked = [*gallery.examples.items(), *gallery.missed.items(), *gallery.false.items()]
    assert len(picked) == 5
    for tile in picked:
        for array in (tile.pixels, tile.truth, tile.map):
            assert array.base is None
            assert not any(np.shares_memory(array, source) for source in (pixels, masks, maps))
    pixels[:] = 255
    assert all(not tile.pixels.any() for tile in picked)


def filled() -> Gallery:
    gallery = Gallery(1, examples=3, failures=2)
    gallery.add([view("a.png", 4.0, x=n) for n in range(4)])
    gallery.add([view("b.png", 3.0, defective=False), view("b.png", 5.0, x=1, defective=False)])
    return gallery


def test_the_gallery_has_pictures_in_files_with_their_captions(tmp_path: Path) -> None:
    gallery = draw_gallery(filled(), "boxes", CALIBRATION, None, tmp_path)
    assert [one.kind for one in gallery] == ["example"] * 3 + ["missed"] * 2 + ["false"] * 2
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")) == sorted(
        one.file for one in gallery
    )
    assert all(one.file.startswith("pictures/boxes-") for one in gallery)
    assert [one.caption for one in gallery] == [TRIPTYCH] * 3 + [LINE_TRIPTYCH] * 4
    assert [(one.image, one.logit) for one in gallery if one.kind == "false"] == [("b.png", 5.0), ("b.png", 3.0)]
    picture = read_rgb(tmp_path / gallery[0].file)
    assert picture.shape == (TILE, 3 * TILE + 2 * GAP_PX, 3)
    tile, truth, heat = (picture[:, start : start + TILE] for start in range(0, 3 * (TILE + GAP_PX), TILE + GAP_PX))
    assert (tile == 90).all()
    outline = (truth == TRUTH_RGB).all(axis=2)
    assert outline[16:32, [32, 47]].all()
    assert outline[[16, 31], 32:48].all()
    assert (truth[20:28, 37:43] == 90).all(), "the outline does not cover the defect"
    assert set(np.unique(truth[~outline])) == {0, 90}, (
        "a dark line lies below the outline, so that it shows on any ground"
    )
    assert (heat == FOUND_RGB).all(axis=2).any()  # a logit above 0 has a mask by the study's rule
    assert heat[24, 40, 0] > 150  # hot where its map is
    cold = draw_gallery(filled(), "boxes", CALIBRATION, None, tmp_path / "again")
    assert [one.file for one in cold] == [one.file for one in gallery]


def test_a_tile_that_is_judged_good_has_no_outline_in_its_map(tmp_path: Path) -> None:
    gallery = Gallery(1, examples=1, failures=1)
    tile_map = np.linspace(-9, -2, 16, dtype=np.float32).reshape(4, 4)
    gallery.add([view("a.png", -4.0)._replace(map=tile_map)])
    (example, _) = draw_gallery(gallery, "masks", CALIBRATION, None, tmp_path)
    heat = read_rgb(tmp_path / example.file)[:, -TILE:]
    assert (heat == 90).all()  # as cold as a good tile


def test_a_failure_is_outlined_where_its_map_reaches_the_evidence_threshold(tmp_path: Path) -> None:
    """It is not outlined below the threshold, where the study's rule would outline its hottest part."""
    for logit, is_outlined in ((4.0, True), (1.5, False)):
        gallery = Gallery(1, examples=1, failures=1)
        gallery.add([view("a.png", logit, defective=False)])
        (false,) = draw_gallery(gallery, "masks", CALIBRATION, None, tmp_path)
        heat = read_rgb(tmp_path / false.file)[:, -TILE:]
        assert (heat == FOUND_RGB).all(axis=2).any() == is_outlined


def frame(name: str, score: float, *, defective: bool, hw: tuple[int, int] = (100, 150)) -> FrameView:
    """Return a grey frame with a hot cell of 10 px at y 20, x 30; a defective frame has a true square."""
    truth = np.zeros(hw, np.bool_)
    truth[20:60, 30:70] = defective
    heatmap = np.full((hw[0] // 10, hw[1] // 10), -1, np.float32)
    heatmap[2, 3] = score
    tiles = TileScores(np.zeros((1, 2), np.int32), np.array([score], np.float32), 100)
    judgement = Judgement("GOOD", hw, score, heatmap, [], tiles)
    return FrameView(Path("data") / name, np.full((*hw, 3), 90, np.uint8), truth, defective, judgement, 10)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=12))
def test_frames_of_the_lowest_and_highest_scores_are_shown_the_worst_first(
    tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[int, bool]]
) -> None:
    gallery = FrameGallery(CALIBRATION, Path("data"), size=3)
    for number, (score, defective) in enumerate(seen):
        gallery.add(frame(f"below/{number}.png", float(score), defective=defective))
    written = gallery.write(tmp_path_factory.mktemp("frames"))
    for kind, sign, is_bad in (("escaped", 1, True), ("rejected", -1, False)):
        expected = sorted(sign * score for score, defective in seen if defective is is_bad)[:3]
        assert [sign * one.logit for one in written if one.kind == kind] == expected
    assert all(one.tile_yx is None and seen[int(Path(one.image).stem)][0] == one.logit for one in written)
    assert all(one.image.startswith("below/") for one in written)


def test_a_frame_is_shown_with_its_truth_and_under_its_heatmap(tmp_path: Path) -> None:
    gallery = FrameGallery(CALIBRATION, Path("data"))
    gallery.add(frame("a.png", 4.0, defective=True, hw=(150, 100)))
    gallery.add(frame("b.png", 4.0, defective=False, hw=(100, 150)))
    gallery.add(frame("c.png", 9.0, defective=False, hw=(2 * FRAME_PX, FRAME_PX)))
    a, c, b = (read_rgb(tmp_path / one.file) for one in gallery.write(tmp_path))
    assert a.shape == (150, 2 * 100 + GAP_PX, 3)
    truth, heat = a[:, :100], a[:, -100:]
    outline = (truth == TRUTH_RGB).all(axis=2)
    assert outline[20:60, [30, 69]].all()
    assert not outline[30:50, 40:60].any()
    assert heat[25, 35, 0] > 150
    assert (heat[100:, 60:] == 90).all(), "as cold as a good frame"
    assert b.shape == (2 * 100 + GAP_PX, 150, 3), "wide frames lie one below the other"
    assert not (b == TRUTH_RGB).all(axis=2).any()
    assert c.shape == (FRAME_PX, 2 * (FRAME_PX // 2) + GAP_PX, 3)


def test_a_picture_is_named_by_its_path_also_if_it_is_not_utf8(tmp_path: Path) -> None:
    assert relative_name(tmp_path, tmp_path / "good" / "a.png") == "good/a.png"
    assert relative_name(tmp_path, Path("elsewhere/a.png")) == "a.png"
    odd = "l\udcefne.png"
    assert relative_name(tmp_path, tmp_path / odd) == "l?ne.png"
    gallery = Gallery(1, examples=1, failures=1)
    gallery.add([view(odd, 4.0)])
    assert {one.image for one in draw_gallery(gallery, "masks", CALIBRATION, None, tmp_path)} == {"l?ne.png"}


def test_two_examples_of_a_vit_show_its_rollouts_by_fusion_and_by_ratio(tmp_path: Path) -> None:
    calls: list[tuple[tuple[int, ...], tuple[str, ...], tuple[float, ...]]] = []

    def sweep(tiles: Tensor, fusions: Sequence[Fusion], ratios: Sequence[float]) -> tuple[Tensor, Tensor]:
        calls.append((tuple(tiles.shape), tuple(fusions), tuple(ratios)))
        maps = torch.zeros(1, len(fusions), len(ratios), 4, 4)
        for row in range(len(fusions)):
            for column in range(len(ratios)):
                maps[0, row, column, row, column] = -1  # with a negative logit, the lowest value is the most relevant
        return torch.tensor([-2.0]), maps

    gallery = draw_gallery(filled(), "masks", CALIBRATION, sweep, tmp_path)
    rollouts = [one for one in gallery if one.kind in ("fusions", "ratios")]
    assert [one.kind for one in rollouts] == ["fusions", "ratios"] * 2
    assert calls == [((1, TILE, TILE, 3), ("min", "mean", "max"), (0.0, 0.2, 0.6, 0.8))] * 2
    assert rollouts[0].caption == "truth; min, mean, max fusion at discard ratio 0.8, each on its own scale"
    assert rollouts[1].caption == "truth; mean fusion at discard ratios 0, 0.2, 0.6, 0.8, each on its own scale"
    for item, cells in ((rollouts[0], [(0, 3), (1, 3), (2, 3)]), (rollouts[1], [(1, 0), (1, 1), (1, 2), (1, 3)])):
        picture = read_rgb(tmp_path / item.file)
        assert picture.shape[1] == (len(cells) + 1) * (TILE + GAP_PX) - GAP_PX
        for number, (row, column) in enumerate(cells, start=1):
            square = picture[:, number * (TILE + GAP_PX) :][:, :TILE].astype(int)
            hottest = cv2.blur(np.abs(square - 90).sum(axis=2).astype(np.float32), (9, 9))
            y, x = np.unravel_index(int(hottest.argmax()), hottest.shape)
            assert (y // 16, x // 16) == (row, column)


def test_pictures_that_cannot_be_written_are_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "pictures").write_text("")
    with pytest.raises(InputError, match=r"pictures cannot be made \(File exists\); check the disk") as raised:
        draw_gallery(filled(), "masks", CALIBRATION, None, tmp_path / "taken")
    assert "\n" not in str(raised.value)
    (tmp_path / "odd" / "pictures" / "masks-00-example.png").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"masks-00-example\.png cannot be written \(Is a directory\)"):
        draw_gallery(filled(), "masks", CALIBRATION, None, tmp_path / "odd")
