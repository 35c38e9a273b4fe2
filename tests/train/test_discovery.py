"""What a folder says of its truth and groups, the assumptions that are told, and how a bundle reads it again."""

import csv
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.train.compose import compose
from heatline.train.discovery import discover, near_duplicate_chains, near_duplicates_across, thumbnail
from heatline.train.readers import read_folder
from heatline.train.readers.labelled import find_scheme
from heatline.train.run import describe_reading, read_as, read_data
from tests.conftest import write_picture
from tests.train.blobs import draw_blobs, draw_plain, sort_tiles

# Near-duplicate pictures.


Rgb = NDArray[np.uint8]


def scene(seed: int, hw: tuple[int, int] = (200, 300)) -> Rgb:
    """Draw random rectangles."""
    rng = np.random.default_rng(seed)
    picture = np.full((*hw, 3), 120, np.uint8)
    for _ in range(25):
        x, y = int(rng.integers(hw[1])), int(rng.integers(hw[0]))
        colour = tuple(int(value) for value in rng.integers(0, 255, 3))
        cv2.rectangle(picture, (x, y), (x + int(rng.integers(10, 60)), y + int(rng.integers(10, 60))), colour, -1)
    return picture


def again(picture: Rgb, gain: float = 0.8, shade: float = 30, defect_px: int = 6) -> Rgb:
    """Draw the same scene under other light, brighter to one side, with noise and a small defect."""
    rng = np.random.default_rng(int(picture.sum()) % 1000)
    slope = np.linspace(0, shade, picture.shape[1])[None, :, None]
    changed = (picture * gain + slope + rng.normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8)
    cv2.circle(changed, (100, 100), defect_px, (0, 0, 0), -1)
    return changed


FIXTURE = scene(0).astype(int)
IN_FIXTURE = [(0.7 * FIXTURE + 0.3 * scene(seed)).clip(0, 255).astype(np.uint8) for seed in range(1, 31)]
"""Different parts before a fixed camera."""
BLANK = np.full((50, 50, 3), 200, np.uint8)


@pytest.mark.parametrize(
    ("train", "val", "test", "pairs"),
    [
        (
            [scene(seed) for seed in range(40)],
            [scene(50), again(scene(7))],
            [again(scene(50)), scene(51), again(scene(3))],
            [("train 3", "test 2"), ("train 7", "val 1"), ("val 0", "test 0")],
        ),
        ([scene(1), again(scene(1))], [scene(2)], [], []),  # within a part
        ([BLANK, scene(1)], [], [BLANK], []),
        (IN_FIXTURE[:20], [], [*IN_FIXTURE[20:], again(IN_FIXTURE[4], 0.9, 20, 2)], [("train 4", "test 10")]),
    ],
    ids=["several", "one part", "blank", "before a fixed camera"],
)
def test_a_picture_taken_twice_is_found_across_parts(
    train: list[Rgb], val: list[Rgb], test: list[Rgb], pairs: list[tuple[str, str]]
) -> None:
    parts = {"train": train, "val": val, "test": test}
    names = [f"{part} {number}" for part, pictures in parts.items() for number in range(len(pictures))]
    small = np.stack([thumbnail(picture) for picture in (*train, *val, *test)])
    found = near_duplicates_across(small, [name.split()[0] for name in names])
    assert sorted((names[min(pair)], names[max(pair)]) for *pair, _ in found) == pairs


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=24))
def test_chains_are_those_of_all_pairs(drawn: list[tuple[int, int]]) -> None:
    """Pictures of one scene differ by what hides them, so some are alike only by way of others."""
    pictures = [again(scene(number), 1 - level / 10, 20 * level, 6 + 40 * level) for number, level in drawn]
    small = np.array([thumbnail(picture) for picture in pictures])
    slow = list(range(len(drawn)))
    for other in range(len(drawn)):
        for one in range(other):
            if near_duplicates_across(small[[one, other]], ["a", "b"]):
                slow = [min(slow[one], slow[other]) if each in (slow[one], slow[other]) else each for each in slow]
    assert near_duplicate_chains(small).tolist() == slow


def test_many_pictures_in_blocks_give_the_same_pairs_as_a_slow_search() -> None:
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (1560, 32, 32), np.uint8)
    copies = {number: int(rng.integers(1500)) for number in range(1500, 1560, 7)}
    for number, original in copies.items():
        small[number] = small[original] // 2 + 10
    pairs = near_duplicates_across(small, ["train"] * 1500 + ["test"] * 60)
    assert sorted((one, other) for one, other, _ in pairs) == sorted(copies.items())


# Names and folders.


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
    scheme = find_scheme([PurePath(name) for name in names])
    assert (scheme and scheme[0]) == groups


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
    scheme = find_scheme([PurePath(name) for name in names])
    assert len(set(zip(scheme[0], (name.split("b")[1][:2] for name in names), strict=True))) == things


def table(folder: Path, **columns: Sequence[str]) -> Path:
    """Draw scenes with a label and more columns; every other one is defective."""
    names = [f"p{chr(ord('a') + number)}.png" for number, _ in enumerate(next(iter(columns.values())))]
    draw_plain(folder, tuple(names))
    rows = [("image", "label", *columns)]
    for number, (name, *values) in enumerate(zip(names, *columns.values(), strict=True)):
        cv2.imwrite(str(folder / "images" / name), scene(number, (30, 40)))
        rows.append((name, ("good", "defective")[number % 2], *values))
    (folder / "labels.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    return folder


BOARDS, TWO = "aabbccdd", "xxxxyyyy"


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"exposure": TWO, "board": BOARDS}, "board"),
        ({"camera": TWO, "width": BOARDS}, None),
        ({"board": BOARDS, "group": TWO}, "group"),
        ({"Serial No.": BOARDS}, "Serial No."),
        ({"item": "abcdefgh", "lot": "11111111"}, None),  # they say nothing
        ({"board": [*BOARDS[:-1], ""]}, None),
        ({"piece": "abcdefgh", "panel": BOARDS, "lot": TWO}, "panel"),  # the coarsest with enough groups
        ({"group": "xyxzxyxz", "item": BOARDS}, "group"),  # that a user named
    ],
)
def test_the_column_of_a_thing_is_found_and_one_of_a_condition_never_is(
    tmp_path: Path, columns: dict[str, Sequence[str]], found: str | None
) -> None:
    groups_are = discover(table(tmp_path, **columns)).groups_are
    assert (groups_are == f"column {found!r} of labels.csv") if found else ("column" not in groups_are)


def test_near_duplicate_pictures_share_a_group_if_nothing_names_groups_unless_all_are_alike(tmp_path: Path) -> None:
    folder = table(tmp_path, camera="abcdef")
    cv2.imwrite(str(folder / "images" / "pe.png"), again(scene(1, (300, 400))))
    cv2.imwrite(str(folder / "images" / "pb.png"), scene(1, (300, 400)))
    (folder / "images" / "pf.png").write_bytes(b"no picture")  # training will stop at it, not this
    found = discover(folder)
    assert found.read().groups() == ["pa", "pb", "pc", "pd", "pf"]
    assert found.assumptions[1].startswith("Each picture is a group of its own, as neither")
    assert found.assumptions[2] == "Near-duplicate pictures are put into one group: 6 groups become 5."
    for name in "bcdef":
        shutil.copy(folder / "images" / "pa.png", folder / "images" / f"p{name}.png")
    found = discover(folder)
    assert len(found.read().groups()) == 6
    assert found.assumptions[2].startswith("6 of 6 pictures look nearly identical, so similarity does not show")


def sort_scenes(folder: Path, good: list[str], defective: list[str], alike: str = " ") -> Path:
    """Write a scene for each name to good/ and defective/; those whose name begins with `alike` are one scene."""
    labels = ["good"] * len(good) + ["defective"] * len(defective)
    for number, (label, name) in enumerate(zip(labels, [*good, *defective], strict=True)):
        picture = again(scene(0), gain=1 - number / 50) if name.startswith(alike) else scene(number + 1)
        write_picture(folder / label / f"{name}.png", picture)
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
            lambda at: table(at, item="xyxzxyxz"),
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


def test_a_picture_without_a_group_by_the_named_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"as pd\.png has no group by column 'group' of labels\.csv; name"):
        discover(table(tmp_path, group=["a", "b", "a", ""])).read().groups()


@pytest.mark.parametrize(
    ("names", "are"),
    [
        ([f"lot{n // 3}_{n % 3:03d}" for n in range(12)], "part 1 of the file name"),
        ([f"board{n // 2:02d}_cam2_{n:04d}" for n in range(12)], "part 1 of the file name"),
        ([f"IMG {n // 2} ({n % 2})" for n in range(12)], "part 2 of the file name"),
        ([f"2024-05-{n // 2:02d}_{n:04d}" for n in range(12)], "part 3 of the file name"),
        ([f"{{}}_{n:03d}" for n in range(12)], "file names, each a group"),
        ([f"{n}" for n in range(12)], "file names, each a group"),
    ],
)
def test_the_example_of_a_pattern_gives_other_groups_than_the_guess(tmp_path: Path, names: list[str], are: str) -> None:
    sort_scenes(tmp_path, *([name.format(label) for name in names] for label in ("good", "defective")))
    found = discover(tmp_path)
    data, told = found.read(), found.assumptions[-1]
    example = data.suggest_pattern()
    assert (found.groups_are, "This is a guess" in told, example.split(" (")[0] in told) == (are, "part" in are, True)
    if "'" in example:
        others = read_folder(tmp_path, group_pattern=example.split("'")[1])
        mine, theirs = ([image.group for image in each.images] for each in (data, others))
        assert len({*zip(mine, theirs, strict=True)}) > min(len({*mine}), len({*theirs}))


def test_truth_mixture_and_the_lack_of_defects_are_reported(tmp_path: Path) -> None:
    folder, tiles = draw_blobs(tmp_path / "blobs"), sort_tiles(tmp_path / "tiles", count=3)
    (folder / "masks" / "a_0.png").unlink()
    (folder / "boxes").mkdir()
    (folder / "boxes" / "b_0.txt").write_text("1 1 5 5 1")
    assert [discover(folder).assumptions[0], discover(folder, "labels").assumptions[0]] == [
        "Pictures are good or defective by labels.csv; where the defects are, by masks (boxes exist too and are "
        "not used). 1 of 8 defective pictures has no defect marked (masks), first a_0.png: only the label is used.",
        "Pictures are good or defective by labels.csv; masks, boxes are not used.",
    ]
    told = "Pictures are good or defective by the folders good/, defective/; no annotation marks the defects."
    assert discover(tiles).assumptions[0] == told
    shutil.rmtree(tiles / "defective")
    assert "No picture is defective" in discover(tiles).assumptions[1]


@pytest.mark.parametrize(
    ("name", "column", "groups"),
    [("kolektorsdd", "item", 41), ("hripcb_subset", "board", 6), ("magnetic_tile", "block", 186)],
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


# A bundle's folder is read again.


@pytest.mark.parametrize("key", ["discover=true", "recipe=heatline"])
@pytest.mark.parametrize("has_table", [True, False])
def test_the_provenance_of_a_bundle_is_enough_to_read_a_folder_as_the_run_does(
    tmp_path: Path, has_table: bool, key: str
) -> None:
    """Groups are a column, or guessed from names or from pictures that look alike; one mask is missing."""
    data = draw_blobs(tmp_path / "data")
    (data / "masks" / "b_0.png").unlink()
    rows = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(rows.replace("image,label,group", "image,label,board"))
    if not has_table:
        (data / "labels.csv").unlink()
        cv2.imwrite(str(data / "images" / "scene0.png"), scene(1, (300, 400)))
        cv2.imwrite(str(data / "images" / "scene1.png"), again(scene(1, (300, 400))))
    config = compose([f"data={data}", key])
    own = read_data(config)
    stored = msgspec.json.decode(msgspec.json.encode(describe_reading(config, own.truth)))
    read = read_as(stored, shutil.copytree(data, tmp_path / "elsewhere" / "data"), own.truth)
    mine, theirs = (
        [(image.name, image.group, image.defective, image.labels_only) for image in each.images] for each in (own, read)
    )
    assert mine == theirs
