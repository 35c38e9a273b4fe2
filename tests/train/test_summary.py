"""`heatline data show`: the summary of a folder, the files that cannot be used, and warnings of too few labels."""

import json
import os
from fractions import Fraction
from math import comb
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.train.adequacy import (
    MEASURED,
    defect_areas,
    describe_expectation,
    describe_few_groups,
    describe_small_defects,
    describe_threshold_transfer,
    fisher_tail,
)
from heatline.train.readers import LabelledImage
from heatline.train.summary import summarise_folder
from tests.command import heatline
from tests.golden import assert_golden
from tests.train.blobs import draw_blobs, draw_plain, sort_tiles


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


# Too few labels and too small defects.


def test_areas_are_those_of_connected_defects() -> None:
    mask = np.zeros((40, 50), np.bool_)
    mask[2:5, 3:7] = True
    mask[5, 7] = True  # touches only at a corner
    mask[20:30, 20:21] = True
    assert sorted(defect_areas(mask)) == [10, 13]
    assert defect_areas(np.zeros((4, 4), np.bool_)) == []


@pytest.mark.parametrize(
    ("areas_px", "ambiguous", "told"),
    [
        ([], 0, []),
        ([10, 256, 9000], 5, []),
        ([10, 200, 9000], 0, ["half of the 3 have at most 200 px, 0.40 % of a 224 px tile and 3.1 cells"]),
        ([900], 6, ["6 of the 16 tiles with a defect have at most 1.0 % of the area defective"]),
    ],
)
def test_small_defects_are_told_by_their_median_or_by_the_tiles_of_little_area(
    areas_px: list[int], ambiguous: int, told: list[str]
) -> None:
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
def test_few_groups_or_defects_are_reported_with_what_is_missing(
    good: int, defective: int, excerpts: list[str]
) -> None:
    warnings = describe_few_groups(images(good, defective))
    assert [excerpt in warning for excerpt, warning in zip(excerpts, warnings, strict=True)] == [True] * len(excerpts)
    assert describe_few_groups(images(20, 0)) == [], "another warning reports it"


@pytest.mark.parametrize(
    ("good", "defective", "measured"),
    [(2, 1, 10), (12, 12, 10), (20, 5, 25), (0, 30, 25), (240, 10, 50), (4_000, 1_000, max(MEASURED))],
)
def test_what_so_many_pictures_gave_on_measured_sets_is_said(good: int, defective: int, measured: int) -> None:
    sentence = describe_expectation(images(good, defective))
    (least, most), _, sets = MEASURED[measured]
    assert f"on {sets} measured sets, {measured} pictures with marked defects found {least} to {most} %" in sentence
    assert describe_expectation(images(good, 0)) is None


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


@given(first_n=st.integers(1, 30), second_n=st.integers(1, 30), data=st.data())
def test_the_tail_is_that_of_all_tables_with_the_same_sums(first_n: int, second_n: int, data: st.DataObject) -> None:
    first, second = data.draw(st.integers(0, first_n)), data.draw(st.integers(0, second_n))
    counted = first + second
    ways = comb(first_n + second_n, counted)
    tail = sum(Fraction(comb(second_n, k) * comb(first_n, counted - k), ways) for k in range(second, counted + 1))
    assert fisher_tail(first, first_n, second, second_n) == pytest.approx(float(tail), rel=1e-9)
