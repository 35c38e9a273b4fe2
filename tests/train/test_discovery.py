"""Discovery of a folder's truth and groups, and the reported assumptions."""

import csv
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.errors import InputError
from heatline.train.compose import compose
from heatline.train.config import DenseRecipeConfig
from heatline.train.discovery import discover
from heatline.train.readers import LabelledImage, read_folder
from heatline.train.readers.labelled import FOLDS, find_scheme
from heatline.train.whole_network import prepare
from tests.train.blobs import draw_blobs, draw_plain, sort_tiles, write_labels
from tests.train.test_near_duplicates import again, scene

# File names.


def groups_of(names: list[str]) -> list[str] | None:

    scheme = find_scheme([PurePath(name) for name in names])
    return None if scheme is None else scheme[0]


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["k1_Part4.jpg", "k1_Part5.jpg", "k2_Part5.jpg", "k3_Part1.jpg"], ["k1", "k1", "k2", "k3"]),
        (["x_1-a.png", "x_1-b.png", "x_2-a.png", "x_3-a.png"], ["1", "1", "2", "3"]),  # constant digits are ignored
        (["cam1_007.png", "cam2_007.png", "cam1_008.png", "cam2_009.png"], ["007", "007", "008", "009"]),
        (["cam 1 b7.png", "cam 2 b7.png", "cam 1 b8.png", "cam 1 b9.png"], ["b7", "b7", "b8", "b9"]),
        (["spur_01.png", "short_01.png", "spur_02.png", "spur_03.png"], ["01", "01", "02", "03"]),
        (["1001.png", "1002.png", "1003.png"], None),  # a counter
        (["001.png", "002.png", "003.png", "001.png", "002.png"], None),  # counters of two folders
        (["7_1.png", "7_2.png", "8_3.png", "8_4.png"], None),  # two things cannot be divided into three parts
        (["b1_1.png", "b1_2.png", "b2_1.png", "scratch.png"], None),  # not all follow it
        ([f"{at}/{word}_{n}.png" for at, word in [("OK", "ok"), ("NG", "defect")] for n in range(4)], None),
        ([f"{at}/{at}_{n // 2}_{n}.png" for at in ("good", "cut") for n in range(6)], list("001122" * 2)),
        ([], None),
    ],
)  # fmt: skip
def test_the_leftmost_part_that_repeats_names_the_thing(names: list[str], groups: list[str] | None) -> None:
    assert groups_of(names) == groups


@given(
    things=st.integers(3, 12),
    pictures=st.integers(2, 8),
    before=st.sampled_from(["", "line2_", "img_", "x-"]),
    after=st.sampled_from(["_{}", "_cam1_{:04d}", "-view{}_a", "_2026_{:06d}"]),
)
def test_a_thing_is_not_divided_if_a_counter_follows_its_number(
    things: int, pictures: int, before: str, after: str
) -> None:
    names = [f"{before}b{thing:02d}{after.format(n)}.jpg" for thing in range(things) for n in range(pictures)]
    found = groups_of(names)
    assert found is not None
    assert len(set(zip(found, (name.split("b")[1][:2] for name in names), strict=True))) == things


# Folders.


def table(folder: Path, **columns: list[str]) -> Path:
    """Grey pictures with a label and more columns; every other one is defective."""
    count = len(next(iter(columns.values())))
    names = [f"p{chr(ord('a') + number)}.png" for number in range(count)]
    draw_plain(folder, tuple(names))
    for number, name in enumerate(names):
        cv2.imwrite(str(folder / "images" / name), scene(number, (30, 40)))
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label", *columns])
        for number, name in enumerate(names):
            rows.writerow([name, ("good", "defective")[number % 2], *(values[number] for values in columns.values())])
    return folder


def test_the_column_of_a_thing_is_found_and_one_of_a_condition_never_is(tmp_path: Path) -> None:
    boards, two = list("aabbccdd"), list("xxxxyyyy")
    assert discover(table(tmp_path / "1", exposure=two, board=boards)).groups_are == "column 'board' of labels.csv"
    assert "column" not in discover(table(tmp_path / "2", camera=two, width=boards)).groups_are
    assert discover(table(tmp_path / "3", board=boards, group=two)).groups_are == "column 'group' of labels.csv"
    assert discover(table(tmp_path / "4", **{"Serial No.": boards})).groups_are == "column 'Serial No.' of labels.csv"
    assert (
        "column" not in discover(table(tmp_path / "5", item=list("abcdefgh"), lot=["1"] * 8)).groups_are
    )  # say nothing
    assert "column" not in discover(table(tmp_path / "6", board=[*boards[:-1], ""])).groups_are


def test_of_several_columns_the_coarsest_with_enough_groups_is_taken(tmp_path: Path) -> None:
    numbers = range(24)
    lots, panels = [str(n // 12) for n in numbers], [str(n // 2) for n in numbers]
    pieces = [str(n // 2 * 2 + n % 2 if n < 12 else n // 2 * 2) for n in numbers]
    found = discover(table(tmp_path, piece=pieces, panel=panels, lot=lots))
    assert found.groups_are == "column 'panel' of labels.csv"
    assert "12 groups of 24 pictures" in found.assumptions[-1]
    assert found.read().groups() == sorted({str(n) for n in range(12)})


def test_near_duplicate_pictures_share_a_group_if_nothing_names_groups(tmp_path: Path) -> None:
    folder = table(tmp_path, camera=list("abcdef"))
    cv2.imwrite(str(folder / "images" / "pe.png"), again(scene(1, (300, 400))))
    cv2.imwrite(str(folder / "images" / "pb.png"), scene(1, (300, 400)))
    (folder / "images" / "pf.png").write_bytes(b"no picture")  # training will stop at it, not this
    found = discover(folder)
    assert found.read().groups() == ["pa", "pb", "pc", "pd", "pf"]
    assert found.assumptions[1].startswith("Each picture is a group of its own, as neither")
    assert found.assumptions[2] == "Near-duplicate pictures are put into one group: 6 groups become 5."


def test_pictures_that_all_look_alike_are_not_merged_into_one_group(tmp_path: Path) -> None:
    folder = table(tmp_path, camera=list("abcdef"))
    for name in "bcdef":
        shutil.copy(folder / "images" / "pa.png", folder / "images" / f"p{name}.png")
    found = discover(folder)
    assert len(found.read().groups()) == 6
    assert found.assumptions[2].startswith("6 of 6 pictures look nearly identical, so similarity does not show")


def sort_scenes(folder: Path, good: list[str], defective: list[str], alike: str = "") -> Path:
    """Write a scene for each name to good/ and defective/; those whose name begins with `alike` are one scene."""
    for number, (label, name) in enumerate(
        [*(("good", each) for each in good), *(("defective", each) for each in defective)]
    ):
        (folder / label).mkdir(parents=True, exist_ok=True)
        picture = again(scene(0), gain=1 - number / 50) if alike and name.startswith(alike) else scene(number + 1)
        assert cv2.imwrite(str(folder / label / f"{name}.png"), picture)
    return folder


GOOD, BAD = [f"597500_{n}" for n in range(4)], [f"{597501 + n % 3}_{n}" for n in range(6)]


@pytest.mark.parametrize(
    ("make", "are", "note"),
    [
        (lambda at: sort_scenes(at, GOOD, BAD), "file names, each a group", "be part 1 of the file name: all good pic"),
        (
            lambda at: sort_scenes(at, [f"7{n}_a" for n in range(3)], [f"8{n // 2}_{n}" for n in range(9)], alike="7"),
            "part 1 of the file name",
            "be part 1 of the file name, near-duplicate pictures in one: all good pictures",
        ),
        (
            lambda at: sort_scenes(at, ["a", "b", "c"], ["d", "e", "f", "g"], alike="a"),
            "file names, each a group",
            None,
        ),
        (
            lambda at: sort_scenes(at, ["xa", "xb", "xc"], ["d", "e", "f", "g"], alike="x"),
            "file names, each a group",
            "be near-duplicate pictures: all good pictures",
        ),
        (
            lambda at: table(at, item=list("xyxzxyxz")),
            "file names, each a group",
            "be column 'item' of labels.csv: all good pictures",
        ),
        (
            lambda at: sort_scenes(
                at, [f"lot{1 + n // 10}_{n}" for n in range(20)], [f"lot{3 + n // 2}_{n}" for n in range(16)]
            ),
            "file names, each a group",
            "be part 1 of the file name: a fold of the cross-validation would have no good picture",
        ),
        (
            lambda at: sort_scenes(at, ["1_a", "2_b", "3_c"], [f"{n // 2}_{n}" for n in range(12)]),
            "part 1 of the file name",
            None,
        ),
    ],
)
def test_a_guess_that_puts_all_good_or_all_defective_pictures_into_one_group_is_not_made(
    tmp_path: Path, make: Callable[[Path], Path], are: str, note: str | None
) -> None:
    found = discover(make(tmp_path))
    assert found.groups_are == are
    assert [note in line for line in found.assumptions].count(True) == 1 if note else len(found.assumptions) == 2
    assert "pattern='^([^_.]+)'" not in found.assumptions[-1]  # the guess that is not made
    data = found.read()
    for defective in (False, True):
        assert len({image.group for image in data.images if image.defective == defective}) > 1


def test_guesses_are_checked_with_the_folds_of_a_default_training() -> None:
    recipe = compose(["data=x", "recipe=heatline"]).recipe
    assert isinstance(recipe, DenseRecipeConfig)
    assert recipe.folds == FOLDS


def test_the_groups_that_a_user_named_are_kept(tmp_path: Path) -> None:
    folder = table(tmp_path, group=list("xyxzxyxz"), item=list("aabbccdd"))
    assert discover(folder).groups_are == "column 'group' of labels.csv"
    with pytest.raises(InputError, match=r"as pd\.png has no group by column 'group' of labels\.csv; name"):
        discover(table(tmp_path / "gap", group=["a", "b", "a", ""])).read().groups()


def test_an_example_of_a_pattern_is_made_of_the_folders_own_names_and_can_be_validated(tmp_path: Path) -> None:
    data = discover(sort_scenes(tmp_path, GOOD, BAD)).read()
    example = data.suggest_pattern()
    assert example == "split.pattern='^[^_.]+[_.]+([^_.]+)' (0 of 597500_0.png)"
    assert "with split.pattern='^[^_.]+" in discover(tmp_path).assumptions[-1]
    assert read_folder(tmp_path, group_pattern=example.split("'")[1]).groups() == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("names", "are"),
    [
        ([f"lot{n // 3}_{n % 3:03d}" for n in range(12)], "part 1 of the file name"),
        ([f"board{n // 2:02d}_cam2_{n:04d}" for n in range(12)], "part 1 of the file name"),
        ([f"kos{n // 3:02d}_Part{n % 3}" for n in range(12)], "part 1 of the file name"),
        ([f"IMG {n // 2} ({n % 2})" for n in range(12)], "part 2 of the file name"),
        ([f"2024-05-{n // 2:02d}_{n:04d}" for n in range(12)], "part 3 of the file name"),
        ([f"{{}}_{n:03d}" for n in range(12)], "file names, each a group"),
        ([f"{n}" for n in range(12)], "file names, each a group"),
    ],
)
def test_the_example_of_a_pattern_gives_other_groups_than_the_guess(tmp_path: Path, names: list[str], are: str) -> None:
    sort_scenes(tmp_path, *([name.format(label) for name in names] for label in ("good", "defective")))
    found = discover(tmp_path)
    data = found.read()
    assert found.groups_are == are
    example = data.suggest_pattern()
    assert example.split(" (")[0] in found.assumptions[-1]
    assert "pattern" in example
    if "'" in example:
        others = read_folder(tmp_path, group_pattern=example.split("'")[1])
        assert partition(others.images) != partition(data.images)


def partition(images: Sequence[LabelledImage]) -> set[frozenset[Path]]:
    groups: dict[str | None, set[Path]] = {}
    for image in images:
        groups.setdefault(image.group, set()).add(image.path)
    return {frozenset(group) for group in groups.values()}


def test_pictures_of_one_stem_are_two_groups(tmp_path: Path) -> None:
    sort_scenes(tmp_path, ["0", "a"], ["b", "c"])
    assert cv2.imwrite(str(tmp_path / "good" / "0.jpg"), scene(7))
    for data in (discover(tmp_path).read(), read_folder(tmp_path)):
        assert data.groups() == ["a", "b", "c", "good/0.jpg", "good/0.png"]


def test_a_pattern_with_a_slash_is_of_the_path_below_the_folder(tmp_path: Path) -> None:
    for day in "12":
        sort_scenes(tmp_path / "unsorted", list("abc"), list("abc"))
        for label in ("good", "defective"):
            (tmp_path / label).mkdir(exist_ok=True)
            (tmp_path / "unsorted" / label).rename(tmp_path / label / f"day{day}")
    (tmp_path / "unsorted").rmdir()
    assert read_folder(tmp_path, group_pattern="day(.)/").groups() == ["1", "2"]
    assert discover(tmp_path).read().suggest_pattern() == "split.pattern='([^/]+)/[^/]+$' (day1 of a.png)"


def test_groups_from_file_names_are_reported_as_a_guess(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs")
    rows = [(file.name, "defective" if "_2" not in file.name else "good", "") for file in (folder / "images").iterdir()]
    for file in [*(folder / "images").iterdir(), *(folder / "masks").iterdir()]:
        file.rename(file.with_name(f"7{file.name}"))
    write_labels(folder, [(f"7{name}", label, "") for name, label, _ in rows], group="cls")
    found = discover(folder)
    assert found.read().groups() == ["7a", "7b", "7c", "7d"]
    assert found.read().groups_are == "part 1 of the file name"
    assert "part 1 of the file name (7a, 7b, 7c, ...): 4 groups. This is a guess" in found.assumptions[1]


def test_recipes_that_need_every_mark_get_the_groups_and_refuse_a_missing_one(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs")
    config = compose([f"data={folder}", "discover=true", "truth=masks", "recipe=finetune", f"out={tmp_path / 'run'}"])
    lines: list[str] = []
    prepare(config, tmp_path / "cache", lines.append)
    assert any(line.startswith("Groups are the column 'group' of labels.csv") for line in lines)
    (folder / "masks" / "a_0.png").unlink()
    with pytest.raises(InputError, match=r"a_0\.png is labelled defective and has no annotation"):
        prepare(config, tmp_path / "other", lines.append)


def test_truth_mixture_and_the_lack_of_defects_are_reported(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs")
    (folder / "masks" / "a_0.png").unlink()
    (folder / "boxes").mkdir()
    (folder / "boxes" / "b_0.txt").write_text("1 1 5 5 1")
    assert discover(folder).assumptions[0] == (
        "Pictures are good or defective by labels.csv; where the defects are, by masks (boxes exist too and are "
        "not used). 1 of 8 defective pictures has no defect marked (masks), first a_0.png: only the label is used."
    )
    assert discover(folder, "labels").assumptions[0] == (
        "Pictures are good or defective by labels.csv; masks, boxes are not used."
    )
    tiles = sort_tiles(tmp_path / "tiles", count=3)
    assert discover(tiles).assumptions[0] == (
        "Pictures are good or defective by the folders good/, defective/; no annotation marks the defects."
    )
    shutil.rmtree(tiles / "defective")
    found = discover(tiles)
    assert "No picture is defective" in found.assumptions[1]
    assert len(found.read().images) == 3
    with pytest.raises(InputError, match="does not exist"):
        discover(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "column", "groups"),
    [
        ("kolektorsdd", "item", 41),
        ("hripcb_subset", "board", 6),
        ("magnetic_tile", "block", 186),
        ("bsdata", "place", 62),
    ],
)
def test_groups_of_real_sets_are_found(real_data: Path, name: str, column: str, groups: int) -> None:
    found = discover(real_data / name)
    assert found.groups_are == f"column {column!r} of labels.csv"
    assert len(found.read().groups()) == groups


@pytest.mark.long
def test_boards_of_deeppcb_are_found_in_its_file_names(real_data: Path) -> None:
    assert set(discover(real_data / "deeppcb").read().groups()) == {
        "00041", "12000", "12100", "12300", "13000", "20085", "44000", "50600", "77000", "90100", "92000",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["kolektorsdd", pytest.param("hripcb_subset", marks=pytest.mark.long)])
def test_without_labels_csv_no_board_or_item_is_divided(real_data: Path, tmp_path: Path, name: str) -> None:
    column = {"kolektorsdd": "item", "hripcb_subset": "board"}[name]
    with (real_data / name / "labels.csv").open() as file:
        true = {row["image"]: row[column] for row in csv.DictReader(file)}
    masks = "masks" if name == "kolektorsdd" else "derived_masks"
    for part in ("images", masks):
        (tmp_path / part).symlink_to(real_data / name / part)
    images = discover(tmp_path).read().images
    assert len({(true[image.path.name], image.group) for image in images}) == len(set(true.values()))
