"""Which picture each frame of a training is compared with, and how a fixed pose is found."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.reference.difference import CHANNELS, to_grey
from heatline.edge.reference.reference import Reference
from heatline.train.compose import compose
from heatline.train.config import TilesConfig
from heatline.train.dense.copies import Kind, Painter, Sample, digest_pictures, grid_samples, plan_copies
from heatline.train.dense.extraction import compare_samples
from heatline.train.dense.tiles import label_tiles
from heatline.train.frames import FrameStore
from heatline.train.readers import LabelledFolder, LabelledImage, read_folder
from heatline.train.references import References, find_references
from tests.conftest import write_picture
from tests.train.blobs import BOARD_HW, DEFECT_AT_YX, SQUARE_PX, board, draw_boards, photograph


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
    frames = [LabelledImage(file, f"reviewed:{part}", False, None, reviewed=True) for part in range(4)]
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


def test_a_named_picture_is_the_reference_of_all_frames_but_itself_and_shows_no_defect(
    boards: LabelledFolder, tmp_path: Path
) -> None:
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


def test_differences_stay_in_step_with_the_samples_and_are_oriented_as_their_copies(
    boards: LabelledFolder, tmp_path: Path
) -> None:
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
