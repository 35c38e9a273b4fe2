"""Which picture each frame of a training is compared with, and how a fixed pose is found."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.reference.difference import CELL_PX, CHANNELS, to_grey
from heatline.edge.reference.reference import Reference, _middle
from heatline.train.compose import compose
from heatline.train.config import DenseRecipeConfig, TilesConfig
from heatline.train.dense.cache import Features
from heatline.train.dense.copies import Kind, Painter, digest_pictures, grid_samples, plan_copies
from heatline.train.dense.extraction import compare_samples
from heatline.train.dense.tiles import label_tiles
from heatline.train.frames import FrameStore
from heatline.train.readers import LabelledFolder, LabelledImage, read_folder
from heatline.train.references import References, find_references
from tests.train.boards import BOARD_HW, DEFECT_AT_YX, SQUARE_PX, board, draw_boards, photograph


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> LabelledFolder:
    """Pictures of one product in four groups."""
    return read_folder(draw_boards(tmp_path_factory.mktemp("boards") / "boards"))


def find(data: LabelledFolder, wanted: str = "auto") -> tuple[References | None, str]:
    sizes = [image.pixels().shape[:2] for image in data.images]
    return find_references(wanted, data, data.images, [(h, w) for h, w in sizes])


def with_templates(folder: Path, *, without: str | None = None) -> None:
    """Give each picture a template of its design; the pictures of one group have one design."""
    (folder / "templates").mkdir()
    designs = sorted({path.stem[0] for path in (folder / "images").iterdir()})
    for path in (folder / "images").iterdir():
        if path.stem != without:
            template = photograph(designs.index(path.stem[0]), (0, 0), 1)
            cv2.imwrite(str(folder / "templates" / path.name), cv2.cvtColor(template, cv2.COLOR_RGB2BGR))


def squash(folder: Path) -> None:
    path = folder / "images" / "b_2.png"
    cv2.imwrite(str(path), cv2.imread(str(path))[:, :-20])


@pytest.mark.parametrize(
    ("drawn", "change", "scope", "told"),
    [
        ({}, None, "product", "all pictures are compared with one reference"),
        ({"good": 3}, None, "product", "all pictures are compared with one reference"),
        (
            {"groups": ("a", "b"), "designs": True, "good": 4, "defective": 1},
            None,
            "group",
            "the pictures of each of 2 groups are compared with a reference of it",
        ),
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
        ({}, squash, None, "the pictures differ in size"),
        ({"groups": ("a", "b"), "defective": 4, "masks": False}, None, None, "needs 3 good pictures"),
    ],
)
def test_a_fixed_pose_is_found_without_settings_or_one_sentence_says_why_not(
    tmp_path: Path, drawn: dict[str, object], change: Callable[[Path], object] | None, scope: str | None, told: str
) -> None:
    folder = draw_boards(tmp_path / "boards", **drawn)  # type: ignore[arg-type]
    if change is not None:
        change(folder)
    data = read_folder(folder)
    found, why = find(data)
    assert (found and found.scope, told in why) == (scope, True), why
    assert "\n" not in why
    if scope is None:
        with pytest.raises(InputError, match=r"reference=on, and .*/boards has no fixed pose: .*reference=FILE"):
            find(data, "on")
    assert find(data, "off") == (None, "reference=off")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[LabelledImage, ...]]:
    """The pictures of each reference that is made."""
    made: list[tuple[LabelledImage, ...]] = []

    def record(sources: tuple[LabelledImage, ...], _: str) -> Reference:
        made.append(sources)
        return Reference(np.zeros((*BOARD_HW, 3), np.uint8))

    monkeypatch.setattr("heatline.train.references._make", record)
    return made


@pytest.mark.parametrize(
    ("scope", "drawn"),
    [
        ("product", {"good": 3}),
        ("group", {"good": 5, "defective": 1, "designs": True}),
        ("group", {"good": 0, "defective": 5, "designs": True}),
    ],
)
def test_no_frame_is_compared_with_a_reference_that_was_made_from_itself(
    tmp_path: Path, scope: str, drawn: dict[str, int], made: list[tuple[LabelledImage, ...]]
) -> None:
    """Nor, of one reference for all groups, from its own group: on the line, a part is new to the reference."""
    images = read_folder(draw_boards(tmp_path / "boards", **drawn)).images  # type: ignore[arg-type]
    references = References(scope, tmp_path, images)  # type: ignore[arg-type]
    for image in images:
        made.clear()
        assert replace(references).of(image) is not None
        (own,) = made
        assert image not in own
        assert {each.group == image.group for each in own} == {scope == "group"}
        assert not any(each.defective for each in own) or not drawn["good"]
    full = references.sources(images[0].group)
    if scope == "product":
        assert len({each.group for each in full}) == 4, "evenly of all groups"


@pytest.mark.parametrize(
    ("drawn", "change", "scope", "compared"),
    [
        ({"good": 3}, None, "product", True),
        ({"groups": ("a", "b"), "designs": True, "good": 4, "defective": 1}, None, "group", False),
        ({"designs": True}, with_templates, "templates", False),
    ],
)
def test_frames_of_a_line_make_no_reference_and_take_none_away(
    tmp_path: Path, drawn: dict[str, object], change: Callable[[Path], object] | None, scope: str, compared: bool
) -> None:
    folder = draw_boards(tmp_path / "boards", **drawn)  # type: ignore[arg-type]
    if change is not None:
        change(folder)
    data, file = read_folder(folder), tmp_path / "line.png"
    cv2.imwrite(str(file), photograph(0, (3, 2), 8)[:, :-20, ::-1])
    frames = [LabelledImage(file, f"reviewed:{part}", False, None, reviewed=True) for part in range(4)]
    found, why = find(replace(data, images=(*data.images, *frames)))
    assert found is not None, why
    assert found.scope == scope
    assert [found.of(frame) is not None for frame in frames] == [compared] * 4
    assert not any(each.reviewed for group in (*found.designs, None) for each in found.sources(group))
    assert found.designs == (["a", "b"] if scope == "group" else [])


@pytest.mark.parametrize(("scope", "expected"), [("group", 6 * 12 + 6), ("product", 6)])
def test_no_reference_is_made_twice_whatever_the_order_of_pictures(
    scope: str, expected: int, made: list[tuple[LabelledImage, ...]]
) -> None:
    """120 pictures of 6 groups: 12 of each design make its reference, and each is compared with one of the others."""
    images = [LabelledImage(Path(f"{number}.png"), str(number % 6), False, None) for number in range(120)]
    references = References(scope, Path(), tuple(images))  # type: ignore[arg-type]
    for at in np.random.default_rng(0).permutation(120):
        assert references.of(images[at]) is not None
    assert len(made) == expected


def test_marked_defects_do_not_enter_a_reference_of_defective_pictures(tmp_path: Path) -> None:
    """Three of five show a defect in one place."""
    folder = draw_boards(tmp_path / "boards", ("a", "b"), designs=True, good=0, defective=5, one_place=True)
    y, x = DEFECT_AT_YX
    good, mask = photograph(0, (0, 0), 9), np.zeros(BOARD_HW, np.uint8)
    good[10:24, 10:24], mask[10:24, 10:24] = 250, 255
    for name in ("a_3", "a_4"):
        cv2.imwrite(str(folder / "images" / f"{name}.png"), cv2.cvtColor(good, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)
    data = read_folder(folder)
    reference = References("group", folder, data.images).of_design("a")
    assert reference is not None
    pose, misaligned = reference.pose_of(photograph(0, (0, 0), 3))
    assert pose is not None
    assert misaligned is None
    shown = to_grey(reference.moved_to(pose))[y : y + SQUARE_PX, x : x + SQUARE_PX].astype(int)
    assert np.abs(shown - to_grey(photograph(0, (0, 0), 3))[y : y + SQUARE_PX, x : x + SQUARE_PX]).mean() < 12


@pytest.mark.parametrize("odd", range(5))
def test_one_stained_picture_makes_a_reference_without_it_wherever_it_comes(odd: int) -> None:
    """Its place is that of the picture that the others were moved to: the first, or the second if the first is odd."""
    pictures = [photograph(0, (2 * at, at), at) for at in range(5)]
    cv2.circle(pictures[odd], (112, 80), 40, (5, 5, 5), -1)
    reference = Reference.of(pictures, "boards")
    assert reference.frames == 4
    found, misaligned = reference.pose_of(photograph(0, (0, 0), 9))
    assert misaligned is None
    assert found is not None
    first = 1 if odd == 0 else 0
    assert (found.x_px, found.y_px) == pytest.approx((-2 * first, -first), abs=0.3)


def test_pictures_whose_median_would_show_a_ghost_are_refused(tmp_path: Path) -> None:
    """Two of four good pictures show a square."""
    folder = draw_boards(tmp_path / "boards", defective=0, masks=False)
    for seed, name in enumerate(("a_0", "b_0")):
        picture = photograph(0, (0, 0), seed)
        picture[60:78, 60:78] = 255
        cv2.imwrite(str(folder / "images" / f"{name}.png"), picture[..., ::-1])
    images = read_folder(folder, mixed=True).images
    with pytest.raises(InputError, match=r"4 pictures of .*, so their median would show a ghost there; choose"):
        References("product", folder, images).of_design(None)


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (board(0)[20:-20, 20:-20], None),
        (board(0), "it has 264x200 px, and a_0.png has 224x160 px; name another picture"),
        (np.full((*BOARD_HW, 3), 90, np.uint8), "cannot be a reference, as frames cannot be aligned"),
        (board(7)[20:-20, 20:-20], "12 of 12 pictures do not show the part where the reference shows it"),
        (np.rot90(board(0)[20:-20, 20:-20], 2), "4 of 4 pictures do not show the part"),
        (b"no picture", "is not a picture"),
        (None, "is not a picture; expected auto, on, off"),
    ],
)
def test_a_named_picture_is_the_reference_of_all_frames_or_is_refused_in_one_sentence(
    boards: LabelledFolder, tmp_path: Path, picture: NDArray[np.uint8] | bytes | None, told: str | None
) -> None:
    file = tmp_path / "good.png"
    if isinstance(picture, np.ndarray):
        cv2.imwrite(str(file), picture[..., ::-1])
    elif picture is not None:
        file.write_bytes(picture)
    if told is not None:
        with pytest.raises(InputError, match=told.replace("12 of 12", r"\d+ of \d+")) as refused:
            find(boards, str(file))
        assert "good.png" in str(refused.value)
        return
    found, why = find(boards, str(file))
    assert found is not None
    assert (found.scope, why) == ("file", f"all pictures are compared with {file}")
    np.testing.assert_array_equal(found.of(boards.images[0]).rgb, picture)  # type: ignore[union-attr]


def test_a_picture_of_the_set_is_not_compared_with_itself_and_a_defective_one_is_no_reference(
    boards: LabelledFolder, tmp_path: Path
) -> None:
    """The file that is named may be a copy of the picture."""
    good, bad = (next(each for each in boards.images if each.defective == defective) for defective in (False, True))
    file = tmp_path / "golden.png"
    shutil.copyfile(good.path, file)
    found, _ = find(boards, str(file))
    assert found is not None
    assert [image for image in boards.images if found.of(image) is None] == [good]
    assert found.of_design(None) is not None, "for the bundle"
    shutil.copyfile(bad.path, file)
    with pytest.raises(InputError, match=f"golden.png is {bad.name}, which is labelled defective; name a picture of a"):
        find(boards, str(file))


def test_differences_stay_in_step_with_the_samples_and_are_oriented_as_their_copies(
    boards: LabelledFolder, tmp_path: Path
) -> None:
    """The oracle paints the whole copy and compares it with the reference turned the same way."""
    recipe = compose([f"data={boards.folder}", "recipe.jitter_px=20", "recipe.copies={defective: 1, most: 12}"]).recipe
    assert isinstance(recipe, DenseRecipeConfig)
    recipe = msgspec.structs.replace(recipe, synthetic=10)
    store, images = FrameStore.build(boards.images, tmp_path / "frames"), list(boards.images)
    tiles, digests = (
        label_tiles(store, TilesConfig(tile_px=64, overlap_px=2, defective_share=0.01)),
        digest_pictures(images),
    )
    painter = Painter(store, tiles, digests, recipe.augment, 64, 8)
    samples = [*grid_samples(tiles), *plan_copies(tiles, store, digests, recipe, 64)]
    assert {sample.kind for sample in samples} == set(Kind)
    file = tmp_path / "good.png"
    cv2.imwrite(str(file), photograph(0, (0, 0), 5)[..., ::-1])
    references = References("file", boards.folder, boards.images, file)
    frame_of = tiles.table.frame[[sample.row for sample in samples]]
    advanced: list[None] = []
    found, poses = compare_samples(store, references, painter, samples, frame_of, 64, lambda: advanced.append(None))
    assert len(advanced) == len(images)
    assert found.shape == (len(samples), 64 // CELL_PX, 64 // CELL_PX, CHANNELS)
    assert sorted(poses) == list(range(len(images)))
    reference = references.of(images[0])
    assert reference is not None
    tile, expected = np.empty((64, 64, 3), np.uint8), np.empty((8, 8, CHANNELS), np.uint8)
    turned = 0
    for sample, frame, got in zip(samples, frame_of.tolist(), found, strict=True):
        corner = poses[frame].corners(np.array([sample.yx]), 64, BOARD_HW)[0]
        painter.draw(sample, tile)
        places = [(corner[0] + dy, corner[1] + dx) for dy in range(-3, 4) for dx in range(-3, 4)]
        fits = []
        for place in places if sample.kind != Kind.TILE else [(corner[0], corner[1])]:
            reference.range.difference(to_grey(tile), (int(place[0]), int(place[1])), expected)
            fits.append(np.array_equal(painter.orient(expected, sample), got))
        assert any(fits), sample
        painted = np.empty_like(tile)
        painter.paint(sample, painted)
        np.testing.assert_array_equal(painted, painter.orient(tile, sample))
        turned += not np.array_equal(painted, tile)
    assert turned > 0
    rows = np.array([5, 2, len(samples) - 1])
    numbers = np.arange(len(samples), dtype=np.float16).view(np.uint8).reshape(-1, 2)
    features, difference = Features([*numbers], [(1, 1, 1)]).with_differences(found).take(rows)
    np.testing.assert_array_equal(features.ravel(), rows)
    np.testing.assert_array_equal(difference, found[rows])


@given(st.integers(1, 13), st.integers(0, 1 << 32))
def test_the_middle_of_pictures_is_their_median(count: int, seed: int) -> None:
    planes = np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 3), np.uint8)
    np.testing.assert_array_equal(_middle([*planes]), np.median(planes, axis=0).astype(np.uint8))
