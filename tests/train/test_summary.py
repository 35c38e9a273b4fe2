"""`heatline data show`: the summary of a folder, and the files that cannot be used."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from heatline.edge.errors import InputError
from heatline.train.discovery import discover
from heatline.train.frames import FrameStore
from heatline.train.summary import summarise_folder
from tests.command import heatline
from tests.train.blobs import draw_blobs, draw_plain, sort_tiles, write_labels

VOC = """<annotation><object><name>{name}</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>{xmax}</xmax><ymax>20</ymax>
</bndbox></object></annotation>"""


def box(folder: Path, stem: str, name: str = "spur", xmax: int = 20) -> None:
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"{stem}.xml").write_text(VOC.format(name=name, xmax=xmax))


def test_a_sound_folder_is_summarised_completely(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs", per_group=2)
    found = summarise_folder(folder)
    assert (found.truth, found.truths, found.good, found.defective) == ("masks", ["masks", "labels"], 4, 8)
    assert (found.sizes, found.colours) == ({"200x150": 12}, {"colour": 12})
    assert (found.groups, found.classes) == ({"a": 3, "b": 3, "c": 3, "d": 3}, {})
    assert (found.near_duplicates, found.unusable, found.labels_only) == ([], [], 0)
    assert [warning.split(" picture")[0] for warning in found.warnings] == [
        "only 4 groups have a defective", "only 4 groups have a good",
    ]  # fmt: skip
    assert found.assumptions[1] == "Groups are the column 'group' of labels.csv: 4 groups."


def test_near_duplicates_count_wherever_two_groups_have_them(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs", per_group=1)
    shutil.copy(folder / "images" / "a_1.png", folder / "images" / "b_1.png")
    found = summarise_folder(folder)
    assert [[Path(file).name for file in pair] for pair in found.near_duplicates] == [["b_1.png", "a_1.png"]]
    assert any("of another group, as do b_1.png (b) and a_1.png (a)" in warning for warning in found.warnings)


def test_every_unusable_file_is_listed_and_the_rest_is_counted(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs", per_group=3)
    images, masks = folder / "images", folder / "masks"
    (images / "a_0.png").write_bytes((images / "a_0.png").read_bytes()[:900])
    (images / "a_1.png").write_bytes(b"no picture")
    cv2.imwrite(str(masks / "b_0.png"), np.full((9, 9), 255, np.uint8))
    (masks / "b_1.png").write_bytes(b"no mask")
    (masks / "b_2.png").unlink()
    cv2.imwrite(str(masks / "c_3.png"), np.full((150, 200), 255, np.uint8))
    cv2.imwrite(str(masks / "lonely.png"), np.full((150, 200), 255, np.uint8))
    (images / "c_0.png").unlink()
    (images / "notes.txt").write_text("")
    (images / "more").mkdir()
    cv2.imwrite(str(images / "new.png"), np.full((150, 200), 9, np.uint8))
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace("c_1.png,defective", "c_1.png,dubious") + "c_2.png,good,c\n")
    found = summarise_folder(folder)
    assert len(found.unusable) == 12
    whys = "\n".join(found.unusable)
    for why in (
        "a_0.png ends before its picture does",
        "a_1.png is not a picture that can be decoded",
        "b_0.png is 9x9 px (height x width), its picture is 150x200",
        "b_1.png is not a picture that can be decoded",
        "c_3.png is labelled good, but",
        "marks lonely, and there is no such picture",
        "marks c_0, and there is no such picture",
        "c_0.png has a label and no picture",
        "labels c_1.png as 'dubious'; expected good or defective",
        "names c_2.png twice",
        "notes.txt is not a PNG, JPEG",
        "new.png has no label",
    ):
        assert why in whys
    assert whys.count("\n") == len(found.unusable) - 1
    assert (found.good, found.defective) == (3, 6)  # a_3, b_3, d_3; a_2, b_2, c_2, d_0, d_1, d_2
    assert found.sizes == {"200x150": 9}
    assert found.labels_only == 1
    mixture = "defective pictures has no defect marked (masks), first b_2.png: only the label is used"
    assert f"1 of 9 {mixture}" in found.assumptions[0]  # before any picture is decoded
    assert f"1 of 6 {mixture}" in summarise_folder(folder, column="group").warnings


def test_classes_are_counted(tmp_path: Path) -> None:
    folder = draw_plain(tmp_path, ("p.png", "q.png"))
    (folder / "boxes").mkdir()
    (folder / "boxes" / "p.txt").write_text("1 1 9 9 1\n1 1 9 9 1\n20 20 25 25 4\n")
    found = summarise_folder(folder)
    assert found.classes == {"open": 2, "spur": 1, "copper": 0, "mousebite": 0, "pin-hole": 0, "short": 0}


def test_colour_formats_are_reported_as_they_are_stored(tmp_path: Path) -> None:
    folder = draw_plain(tmp_path, ("grey.png",))
    images = folder / "images"
    cv2.imwrite(str(images / "deep.png"), np.full((30, 40), 900, np.uint16))
    cv2.imwrite(str(images / "deep_colour.png"), np.full((30, 40, 3), 900, np.uint16))
    cv2.imwrite(str(images / "colour.jpg"), np.full((30, 40, 3), (9, 90, 200), np.uint8))
    cv2.imwrite(str(images / "alpha.png"), np.full((30, 40, 4), (9, 90, 200, 7), np.uint8))
    write_labels(folder, [(file.name, "defective", file.stem) for file in images.iterdir()])
    assert summarise_folder(folder).colours == {
        "grey": 1, "16-bit grey": 1, "16-bit colour": 1, "colour": 1, "colour with alpha": 1,
    }  # fmt: skip


def with_near_duplicate(folder: Path) -> Path:
    """Add a darker copy of a picture of group a as a good picture of group d."""
    original = cv2.imread(str(folder / "images" / "a_0.png"))
    assert original is not None
    smooth = cv2.GaussianBlur(original, (0, 0), 6)  # noise has no structure to compare
    cv2.imwrite(str(folder / "images" / "a_0.png"), smooth)
    cv2.imwrite(str(folder / "images" / "d_2.png"), (smooth * 0.8).astype(np.uint8))
    return folder


def test_a_darker_copy_in_another_group_is_reported(tmp_path: Path) -> None:
    folder = with_near_duplicate(draw_blobs(tmp_path / "blobs", per_group=2))
    found = summarise_folder(folder, column="group")
    (pair,) = found.near_duplicates
    assert [Path(file).name for file in pair] == ["d_2.png", "a_0.png"]
    (line,) = (warning for warning in found.warnings if "nearly identical" in warning)
    assert "1 picture looks nearly identical to one of another group, as do d_2.png (d) and" in line


def test_without_groups_all_pictures_are_compared_and_the_lack_is_reported(tmp_path: Path) -> None:
    folder = with_near_duplicate(draw_blobs(tmp_path / "blobs", per_group=2))
    found = summarise_folder(folder, column="board")
    assert (found.groups, len(found.near_duplicates)) == (None, 1)
    assert any("groups are not known: they were looked for in column 'board'" in w for w in found.warnings)
    assert any("nearly identical to one of the others" in warning for warning in found.warnings)


def test_problems_for_a_training_are_reported(tmp_path: Path) -> None:
    def warns(rows: list[tuple[str, str, str]], excerpt: str) -> bool:
        write_labels(folder, rows)
        warnings = summarise_folder(folder, column="group").warnings
        return any(excerpt in warning for warning in warnings)

    folder = draw_blobs(tmp_path / "blobs", per_group=1)
    names = sorted(file.name for file in (folder / "images").iterdir())
    cv2.imwrite(str(folder / "masks" / "a_0.png"), np.zeros((150, 200), np.uint8))
    (folder / "masks" / "b_0.png").unlink()
    rows = [(name, "defective" if "_0" in name and "b" not in name else "good", name[0]) for name in names]
    assert warns(rows, "1 of 3 defective pictures has no defect marked (masks), first a_0.png")
    folder = draw_plain(tmp_path / "f", ("p.png", "q.png"))
    for label, excerpt in (("good", "no picture is defective"), ("defective", "no picture is good")):
        assert warns([("p.png", label, "a"), ("q.png", label, "b")], excerpt)


def test_folders_without_labelled_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        summarise_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no folder; expected good/ and defective/"):
        summarise_folder(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        summarise_folder(tmp_path)


def test_a_folder_of_which_no_label_is_known_is_listed_and_refused(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs", per_group=1)
    csv = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(csv.replace("good", "A").replace("defective", "B"))
    result = heatline("data", "show", folder)
    assert result.returncode == 9
    assert "labels a_0.png as 'B'; expected good or defective" in " ".join(result.stdout.split())
    assert "synthetic" not in result.stdout, "nothing is assumed of no pictures"
    assert "holds no labelled picture that can be used; mend what is listed" in " ".join(result.stderr.split())
    result = heatline("data", "show", folder, "--json")
    assert result.returncode == 9
    assert len(json.loads(result.stdout)["unusable"]) == len(list((folder / "images").iterdir()))


def show(*arguments: str) -> str:
    result = heatline("data", "show", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_command_prints_for_people_and_for_programs(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs", per_group=2)
    (folder / "images" / "a_0.png").write_bytes(b"no picture")
    text = show(str(folder))
    assert "11: 4 good, 7 defective" in text
    assert f"unusable: {folder / 'images' / 'a_0.png'} is not a picture that can be decoded" in text
    assert "to expect: on 5 measured sets, 10 pictures with marked defects found " in text
    assert text.rstrip().endswith("1 file cannot be used")
    summary = json.loads(show(str(folder), "--json"))
    assert (summary["good"], summary["defective"], len(summary["groups"])) == (4, 7, 4)
    assert [sentence.split()[0] for sentence in summary["unusable"]] == [str(folder / "images" / "a_0.png")]


def test_labels_and_groups_on_the_command_line(tmp_path: Path) -> None:
    folder = draw_plain(tmp_path / "f", ("p.png", "q.png"))
    box(folder, "p")
    box(folder, "q", name="short")
    text = show(str(folder), "--pattern", "(.)")
    for part in ("2: 0 good, 2 defective", "short (1), spur (1)", "all files can be used"):
        assert part in text
    text = show(str(sort_tiles(tmp_path / "tiles", count=10, side=300)))
    assert "20: 10 good, 10 defective" in text
    assert "tiles: " not in text


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
    assert found.tiles is not None
    assert [round(100 * count / sum(found.tiles.values()), 1) for count in found.tiles.values()] == shares
    assert found.unusable == []


def test_names_that_are_no_utf8_are_shown_with_question_marks(tmp_path: Path) -> None:
    folder = sort_tiles(tmp_path / "tiles", count=3)
    for number, label in enumerate(("good", "defective")):
        os.rename(folder / label / f"{label[0]}00.png", os.fsencode(folder / label) + b"/\xff\xe4_%d.png" % number)
    (folder / "good" / "\udcff.txt").write_text("")
    (folder / "good" / "\udcfe.png").write_bytes(b"no picture")
    summary = json.loads(show(str(folder), "--json"))
    assert (summary["good"], summary["defective"]) == (3, 3)
    assert sorted(Path(sentence.split()[0]).name for sentence in summary["unusable"]) == ["?.png", "?.txt"]
    assert "?.txt is not a PNG" in show(str(folder), "--pattern", "(.)")
    data = discover(folder).read()
    json.dumps(data.groups(), ensure_ascii=False).encode()
    usable = [image for image in data.images if image.path.name != "\udcfe.png"]
    assert len(FrameStore.build(usable, tmp_path / "cache")) == 6
