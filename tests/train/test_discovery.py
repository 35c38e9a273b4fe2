"""What a folder says of its truth and groups, and the summary and the warnings that `heatline data show` prints."""

import csv
import json
import os
import shutil
from collections.abc import Sequence
from fractions import Fraction
from math import comb
from pathlib import Path, PurePath

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.near_duplicates import near_duplicate_chains, thumbnail
from heatline.train.adequacy import (
    defect_areas,
    describe_doubtful_groups,
    describe_few_groups,
    describe_small_defects,
    describe_threshold_transfer,
    fisher_tail,
)
from heatline.train.compose import compose
from heatline.train.discovery import discover, near_duplicates_across
from heatline.train.readers import LabelledImage, read_folder
from heatline.train.readers.labelled import find_scheme
from heatline.train.run import describe_reading, read_as, read_data
from heatline.train.summary import summarise_folder
from tests.command import heatline
from tests.conftest import write_picture
from tests.golden import assert_golden
from tests.train.blobs import draw_blobs, draw_plain, sort_tiles

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
def test_a_picture_twice_is_found(
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
        ([f"{n // 2}P_top_2026T{n}.png" for n in range(6)], ["0P", "0P", "1P", "1P", "2P", "2P"]),  # as a line collects
        ([f"top_2026T{n}.png" for n in range(6)], None),  # without parts
        ([], None),
    ],
)  # fmt: skip
def test_the_leftmost_part_that_repeats_names_the_thing(names: list[str], groups: list[str] | None) -> None:
    scheme = find_scheme([PurePath(name) for name in names])
    assert (scheme and scheme[0]) == groups


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


EACH, PART = "file names, each a group", "part 1 of the file name"
GUESSED: list[tuple[list[str], list[str], str, str, str | None]] = [
    # names of good and of defective pictures, of which those that begin with a letter are alike; groups, and the note
    ([f"597500_{n}" for n in range(4)], [f"{597501 + n % 3}_{n}" for n in range(6)], " ", EACH,
     f"be {PART}: all good pictures"),
    ([f"7{n}_a" for n in range(3)], [f"8{n // 2}_{n}" for n in range(9)], "7", PART,
     f"be {PART}, near-duplicate pictures in one: all good pictures"),
    (["a", "b", "c"], ["d", "e", "f", "g"], "a", EACH, None),
    (["xa", "xb", "xc"], ["d", "e", "f", "g"], "x", EACH, "be near-duplicate pictures: all good pictures"),
    ([f"lot{1 + n // 10}_{n}" for n in range(20)], [f"lot{3 + n // 2}_{n}" for n in range(16)], " ", EACH,
     f"be {PART}: a fold of the cross-validation would have no good picture"),
    (["1_a", "2_b", "3_c"], [f"{n // 2}_{n}" for n in range(12)], " ", PART, None),
]  # fmt: skip


@pytest.mark.parametrize(("good", "defective", "alike", "are", "note"), GUESSED)
def test_a_guess_that_puts_all_good_or_all_defective_pictures_into_one_group_is_not_made(
    tmp_path: Path, good: list[str], defective: list[str], alike: str, are: str, note: str | None
) -> None:
    found = discover(sort_scenes(tmp_path, good, defective, alike))
    assert found.groups_are == are
    assert [note in line for line in found.assumptions].count(True) == 1 if note else len(found.assumptions) == 2
    assert "pattern='^([^_.]+)'" not in found.assumptions[-1]  # the guess that is not made
    data = found.read()
    for label in (False, True):
        assert len({image.group for image in data.images if image.defective == label}) > 1


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


@pytest.mark.parametrize("key", ["discover=true", "recipe=heatline"])
@pytest.mark.parametrize("has_table", [True, False])
def test_provenance_of_a_bundle_is_enough_to_read_as_the_run_does(tmp_path: Path, has_table: bool, key: str) -> None:
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


def test_a_sound_folder_is_summarised_completely(tmp_path: Path) -> None:
    """With a darker copy of a picture in another group."""
    folder = draw_blobs(tmp_path / "blobs", per_group=2)
    original = cv2.imread(str(folder / "images" / "a_0.png"))
    smooth = cv2.GaussianBlur(original, (0, 0), 6)  # noise has no structure to compare
    cv2.imwrite(str(folder / "images" / "a_0.png"), smooth)
    cv2.imwrite(str(folder / "images" / "d_2.png"), (smooth * 0.8).astype(np.uint8))
    printed = heatline("data", "show", folder)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert_golden("train_data_show", printed.stdout, folder=folder)
    found = json.loads(heatline("data", "show", folder, "--json").stdout)
    assert (found["truth"], found["truths"], found["good"], found["defective"]) == ("masks", ["masks", "labels"], 4, 8)
    assert (found["sizes"], found["groups"]) == ({"200x150": 12}, {"a": 3, "b": 3, "c": 3, "d": 3})
    assert [Path(file).name for file in found["near_duplicates"][0]] == ["d_2.png", "a_0.png"]


def test_every_unusable_file_is_listed_and_the_rest_is_counted(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs", per_group=3)
    images, masks, table = folder / "images", folder / "masks", folder / "labels.csv"
    torn = (images / "a_0.png").read_bytes()[:900]
    for file, content in {images / "a_0.png": torn, images / "a_1.png": b"no", masks / "b_1.png": b"no mask"}.items():
        file.write_bytes(content)
    for file in (masks / "b_2.png", images / "c_0.png"):
        file.unlink()
    for name, hw in {"b_0": (9, 9), "c_3": (150, 200), "lonely": (150, 200)}.items():
        cv2.imwrite(str(masks / f"{name}.png"), np.full(hw, 255, np.uint8))
    (images / "notes.txt").write_text("")
    (images / "more").mkdir()
    cv2.imwrite(str(images / "new.png"), np.full((150, 200), 9, np.uint8))
    table.write_text(table.read_text().replace("c_1.png,defective", "c_1.png,dubious") + "c_2.png,good,c\n")
    found = summarise_folder(folder)
    assert_golden("train_unusable_files", "\n".join(sorted(found.unusable)) + "\n", folder=folder)
    assert (found.good, found.defective) == (3, 6)  # a_3, b_3, d_3; a_2, b_2, c_2, d_0, d_1, d_2
    assert (found.sizes, found.labels_only) == ({"200x150": 9}, 1)

    table.write_text(table.read_text().replace("good", "A").replace("defective", "B"))
    result = heatline("data", "show", folder)
    assert result.returncode == 9
    assert "labels a_0.png as 'B'; expected good or defective" in " ".join(result.stdout.split())
    assert "synthetic" not in result.stdout, "nothing is assumed of no pictures"
    assert "holds no labelled picture that can be used; mend what is listed" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("folder", "asked", "shares"),
    [
        ("kolektorsdd", {"column": "item"}, [86.8, 3.1, 10.1]),
        pytest.param("deeppcb", {"truth": "boxes", "pattern": "^(.{5})"}, [37.2, 6.6, 56.2], marks=pytest.mark.long),
    ],
)
def test_real_pictures_have_the_known_number_of_tiles(
    real_data: Path, folder: str, asked: dict[str, str], shares: list[float]
) -> None:
    found = summarise_folder(real_data / folder, **asked)
    counts = np.array([*(found.tiles or {}).values()])
    assert (np.round(100 * counts / counts.sum(), 1).tolist(), found.unusable) == (shares, [])


def test_names_that_are_no_utf8_are_shown_with_question_marks(tmp_path: Path) -> None:
    folder = sort_tiles(tmp_path / "tiles", count=3)
    for number, label in enumerate(("good", "defective")):
        os.rename(folder / label / f"{label[0]}00.png", os.fsencode(folder / label) + b"/\xff\xe4_%d.png" % number)
    (folder / "good" / "\udcfe.png").write_bytes(b"no picture")
    summary = json.loads(heatline("data", "show", folder, "--json").stdout)
    assert (summary["good"], summary["defective"]) == (3, 3)
    assert [Path(sentence.split()[0]).name for sentence in summary["unusable"]] == ["?.png"]


def test_classes_and_colour_formats_are_counted(tmp_path: Path) -> None:
    folder = draw_plain(tmp_path, ("p.png",))
    formats = {"deep": (900,), "deep_colour": (900,) * 3, "colour": (9, 90, 200), "alpha": (9, 90, 200, 7)}
    for name, value in formats.items():
        pixels = np.full((30, 40, len(value)), value, np.uint16 if "deep" in name else np.uint8)
        cv2.imwrite(str(folder / "images" / f"{name}.png"), pixels)
    (folder / "boxes").mkdir()
    (folder / "boxes" / "p.txt").write_text("1 1 9 9 1\n1 1 9 9 1\n20 20 25 25 4\n")
    found = summarise_folder(folder)
    assert found.classes == {"open": 2, "spur": 1, "copper": 0, "mousebite": 0, "pin-hole": 0, "short": 0}
    assert sorted(found.colours) == ["16-bit colour", "16-bit grey", "colour", "colour with alpha", "grey"]


def test_areas_are_those_of_connected_defects() -> None:
    mask = np.zeros((40, 50), np.bool_)
    mask[2:5, 3:7] = True
    mask[5, 7] = True  # touches only at a corner
    mask[20:30, 20:21] = True
    assert (sorted(defect_areas(mask)), defect_areas(np.zeros((4, 4), np.bool_))) == ([10, 13], [])


@pytest.mark.parametrize(
    ("areas_px", "ambiguous", "told"),
    [
        ([], 0, []),
        ([10, 256, 9000], 5, []),
        ([10, 200, 9000], 0, ["half of the 3 have at most 200 px, 0.40 % of a 224 px tile and 3.1 cells"]),
        ([900], 6, ["6 of the 16 tiles with a defect have at most 1.0 % of the area defective"]),
    ],
)
def test_small_defects_are_told_by_median_or_by_tile_area(areas_px: list[int], ambiguous: int, told: list[str]) -> None:
    warnings = describe_small_defects(areas_px, ambiguous, 10, tile_px=224, defective_share=0.01)
    assert [part in line for line, part in zip(warnings, told, strict=True)] == [True] * len(told)


def images(good: int, defective: int) -> list[LabelledImage]:
    labels = [False] * good + [True] * defective
    return [LabelledImage(Path(f"{n}.png"), f"g{n}", label, None, True) for n, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("good", "defective", "excerpts"),
    [
        (20, 25, []),
        (7, 25, ["only 7 groups have a good picture: a threshold from so few may reject 1 in 8 new good parts; add "
                 "good pictures of 13 other groups"]),
        (0, 25, ["no picture is good"]),
        (20, 24, ["only 24 pictures are defective: with so few, models told new pictures apart less well"]),
        (20, 2, ["only 2 groups have a defective picture: the figures depend on g20, g21 and may differ on others; add "
                 "23 defective pictures of 8 other groups"]),
        (1, 1, ["only 1 group has a defective picture", "only 1 group has a good picture"]),
    ],
)  # fmt: skip
def test_few_groups_or_defects_are_told_with_what_is_missing(good: int, defective: int, excerpts: list[str]) -> None:
    warnings = describe_few_groups(images(good, defective))
    assert [excerpt in warning for excerpt, warning in zip(excerpts, warnings, strict=True)] == [True] * len(excerpts)
    assert describe_few_groups(images(20, 0)) == [], "another warning reports it"


def test_a_group_that_the_threshold_would_reject_is_named_with_advice() -> None:
    rng = np.random.default_rng(0)
    groups = [str(number // 10) for number in range(100)]
    even = rng.normal(size=100)
    hot = np.where(np.array(groups) == "7", even + 8, even).tolist()
    (warning,) = describe_threshold_transfer(hot, groups, 0.01)
    assert "it would reject 10 of 10 of 7, all good, where 1.0 % was wanted" in warning
    assert "calibrate with 299 good frames of it" in warning
    assert describe_threshold_transfer(even.tolist(), groups, 0.01) == []
    assert describe_threshold_transfer(hot, groups, 0.01, lowest_defect=30.0) == [], "the margin has room for it"
    assert describe_threshold_transfer(even.tolist(), ["one"] * 100, 0.01) == []


def test_few_groups_of_good_pictures_that_cost_many_defects_are_named() -> None:
    rng = np.random.default_rng(0)
    groups, even, defective = [str(number // 10) for number in range(200)], rng.normal(size=200), [4.0] * 19 + [9.0]
    doubtful = np.where(np.isin(groups, ("7", "12")), even + 8, even).tolist()
    assert describe_doubtful_groups(doubtful, groups, defective, 0.01) == (
        "20 good pictures of groups 7, 12 set the threshold: without them, 0 instead of 20 of 20 defective pictures "
        "would be missed; look at them, and call them defective if they are"
    )
    assert describe_doubtful_groups(even.tolist(), groups, defective, 0.01) is None, "none is missed"
    assert describe_doubtful_groups([*even[:100] + 8, *even[100:]], groups, defective, 0.01) is None, "half are alike"
    assert describe_doubtful_groups(doubtful, groups, [], 0.01) is None
    assert describe_doubtful_groups([], [], defective, 0.01) is None


@given(first_n=st.integers(1, 30), second_n=st.integers(1, 30), data=st.data())
def test_the_tail_is_that_of_all_tables_with_the_same_sums(first_n: int, second_n: int, data: st.DataObject) -> None:
    first, second = data.draw(st.integers(0, first_n)), data.draw(st.integers(0, second_n))
    counted = first + second
    ways = comb(first_n + second_n, counted)
    tail = sum(Fraction(comb(second_n, k) * comb(first_n, counted - k), ways) for k in range(second, counted + 1))
    assert fisher_tail(first, first_n, second, second_n) == pytest.approx(float(tail), rel=1e-9)
