"""Folders as other tools and people lay them out: all of them give the same labelled pictures."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heatline.edge.calibration.recalibration import GoodPictures
from heatline.edge.errors import InputError, MissingExtraError
from heatline.train.discovery import discover
from heatline.train.readers import LabelledImage, read_folder
from heatline.train.summary import summarise_folder
from tests.train.blobs import draw_plain, write_labels

HW = HEIGHT, WIDTH = 24, 32
CLASSES = ("dent", "scratch")


class Drawn(NamedTuple):
    """A picture, recognised by its grey value, with a box of one class or none."""

    value: int
    defect: str | None
    box: tuple[int, int, int, int]
    """Left, top, and the right and bottom that do not belong to it, px."""


class Known(NamedTuple):
    """What is read of a picture."""

    defective: bool
    defects: frozenset[str]
    box: tuple[int, int, int, int] | None
    """None: nothing is marked."""


def write_picture(file: Path, one: Drawn, *, mask: bool = False) -> Path:
    """Write a picture or its mask; return the file."""
    pixels = np.full(HW, 0 if mask else one.value, np.uint8)
    left, top, right, bottom = one.box
    if mask:
        pixels[top:bottom, left:right] = 255
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), pixels)
    return file


def write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def counted(drawn: Sequence[Drawn], folder_of: Callable[[int, Drawn], str]) -> Iterator[tuple[str, str, Drawn]]:
    """Name each picture by its number in its folder: names repeat in other folders."""
    counts: dict[str, int] = {}
    for at, one in enumerate(drawn):
        place = folder_of(at, one)
        counts[place] = counts.get(place, -1) + 1
        yield place, f"{counts[place]:03d}", one


def alternately(at: int, one: Drawn) -> str:
    return ("train", "val")[at % 2]


def by_label(at: int, one: Drawn) -> str:
    return "good" if one.defect is None else "defective"


def flat(folder: Path, drawn: Sequence[Drawn]) -> None:
    for _, name, one in counted(drawn, lambda at, one: ""):
        write_picture(folder / "images" / f"{name}.png", one)
        if one.defect is not None:
            write_picture(folder / "masks" / f"{name}.png", one, mask=True)


def mvtec(folder: Path, drawn: Sequence[Drawn]) -> None:
    for place, name, one in counted(drawn, lambda at, one: one.defect or ("train/good", "test/good")[at % 2]):
        write_picture(folder / ("" if one.defect is None else "test") / place / f"{name}.png", one)
        if one.defect is not None:
            write_picture(folder / "ground_truth" / place / f"{name}_mask.png", one, mask=True)


def sorted_with_masks(folder: Path, drawn: Sequence[Drawn]) -> None:
    for place, name, one in counted(drawn, by_label):
        write_picture(folder / place / f"{name}.bmp", one)
        if one.defect is not None:
            write_picture(folder / "masks" / f"{name}.png", one, mask=True)


def ok_ng(folder: Path, drawn: Sequence[Drawn]) -> None:
    for place, name, one in counted(drawn, by_label):
        write_picture(folder / {"good": "OK", "defective": "NG"}[place] / f"{name}.PNG", one)


def subfolders(folder: Path, drawn: Sequence[Drawn]) -> None:
    for place, name, one in counted(drawn, lambda at, one: one.defect or f"day{at % 2}"):
        write_picture(folder / ("good" if one.defect is None else "defective") / place / f"{name}.tif", one)


def days(folder: Path, drawn: Sequence[Drawn]) -> None:
    """Days are no classes, as the good pictures have them too."""
    for place, name, one in counted(drawn, lambda at, one: f"{'Schlecht' if one.defect else 'gut'}/day{at % 2}"):
        write_picture(folder / place / f"{name}.png", one)


def classes_beside_good(folder: Path, drawn: Sequence[Drawn]) -> None:
    (folder / "runs" / "old" / "report").mkdir(parents=True)
    for place, name, one in counted(drawn, lambda at, one: one.defect or "good"):
        write_picture(folder / place / f"{name}.png", one)


def sorted_in_images(folder: Path, drawn: Sequence[Drawn]) -> None:
    for place, name, one in counted(drawn, by_label):
        write_picture(folder / "Images" / {"good": "Normal", "defective": "Anomaly"}[place] / f"{name}.png", one)
        if one.defect is not None:
            write_picture(folder / "Masks" / "Anomaly" / f"{name}.png", one, mask=True)


def table(folder: Path, drawn: Sequence[Drawn]) -> None:
    rows = []
    for place, name, one in counted(drawn, alternately):
        write_picture(folder / "images" / place / f"{name}.png", one)
        rows.append((f"{place}/{name}.png", by_label(0, one), "a"))
    write_labels(folder, rows)


def yolo_line(one: Drawn, *, polygon: bool) -> str:
    if one.defect is None:
        return ""
    left, top, right, bottom = one.box
    if polygon:
        corners = [(left, top), (right - 1, top), (right - 1, bottom - 1), (left, bottom - 1)]
        return f"{CLASSES.index(one.defect)} " + " ".join(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in corners)
    size = (right - left) / WIDTH, (bottom - top) / HEIGHT
    centre = (left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT
    return f"{CLASSES.index(one.defect)} " + " ".join(f"{value:.6f}" for value in (*centre, *size)) + "\n"


def yolo(pictures: str, labels: str, names: str, text: str, *, polygon: bool = False) -> Callable[..., None]:
    """Return a layout whose pictures and labels are in these folders, `{}` for train or val."""

    def write(folder: Path, drawn: Sequence[Drawn]) -> None:
        for at, (place, name, one) in enumerate(counted(drawn, alternately if "{}" in pictures else lambda *_: "")):
            write_picture(folder / pictures.format(place) / f"{name}.png", one)
            if one.defect is not None or at % 3:  # of a good picture, the text is empty or missing
                write_text(folder / labels.format(place) / f"{name}.txt", yolo_line(one, polygon=polygon))
        write_text(folder / names, text)

    return write


def coco(pictures: str, file: str, listed: str) -> Callable[..., None]:
    """Return a layout whose pictures are in this folder, and which one file lists with this path before the name."""

    def write(folder: Path, drawn: Sequence[Drawn]) -> None:
        images, objects = [], []
        for _, name, one in counted(drawn, lambda *_: ""):
            write_picture(folder / pictures / f"{name}.png", one)
            images.append({"id": one.value, "file_name": f"{listed}{name}.png", "height": HEIGHT, "width": WIDTH})
            if one.defect is not None:
                left, top, right, bottom = one.box
                box = [left, top, right - left, bottom - top]
                kind = CLASSES.index(one.defect)
                objects.append({"id": len(objects), "image_id": one.value, "category_id": kind, "bbox": box})
        names = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
        write_text(folder / file, json.dumps({"images": images, "annotations": objects, "categories": names}))
        write_text(folder / "settings.json", "{}")

    return write


def labelme_beside(folder: Path, drawn: Sequence[Drawn]) -> None:
    for _, name, one in counted(drawn, lambda *_: ""):
        write_picture(folder / "images" / f"{name}.png", one)
        if one.defect is not None:
            left, top, right, bottom = one.box
            points = [[left, top], [right - 1, bottom - 1]]
            shapes = [{"label": one.defect, "shape_type": "rectangle", "points": points}]
            write_text(folder / "images" / f"{name}.json", json.dumps({"shapes": shapes}))


def voc(folder: Path, drawn: Sequence[Drawn]) -> None:
    for _, name, one in counted(drawn, lambda *_: ""):
        write_picture(folder / "JPEGImages" / f"{name}.png", one)
        left, top, right, bottom = one.box
        box = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        found = "" if one.defect is None else f"<object><name>{one.defect}</name><bndbox>{box}</bndbox></object>"
        write_text(folder / "Annotations" / f"{name}.xml", f"<annotation>{found}</annotation>")


YAML, LIST, NUMBERED = f"names: [{', '.join(CLASSES)}]", "\n".join(CLASSES), "names:\n  0: dent\n  1: scratch\n"
LAYOUTS: dict[str, tuple[Callable[[Path, Sequence[Drawn]], None], str]] = {  # what is known of defects: place, class
    "flat": (flat, "p"),
    "MVTec": (mvtec, "pc"),
    "sorted, masks": (sorted_with_masks, "p"),
    "OK, NG": (ok_ng, ""),
    "OK, NG beside images": (
        lambda at, drawn: (ok_ng(at, drawn), write_picture(at / "images" / "a.png", drawn[0])),
        "",
    ),
    "subfolders": (subfolders, "c"),
    "classes beside good": (classes_beside_good, "c"),
    "sorted in images": (sorted_in_images, "p"),
    "labels.csv": (table, ""),
    "YOLO": (yolo("images/{}", "labels/{}", "data.yaml", NUMBERED), "pc"),
    "YOLO polygons": (yolo("images", "labels", "labels/classes.txt", LIST, polygon=True), "pc"),
    "YOLO, parts first": (yolo("{}/images", "{}/labels", "data.yaml", YAML), "pc"),
    "YOLO beside": (yolo("obj_train_data", "obj_train_data", "obj.names", LIST), "pc"),
    "COCO": (coco("images", "annotations/instances.json", "images/"), "pc"),
    "COCO beside": (coco("train", "train/_annotations.coco.json", ""), "pc"),
    "COCO above": (coco("images", "result.json", "../../upload/1/"), "pc"),
    "COCO, no folder": (coco("", "instances.json", "/data/set/"), "pc"),
    "COCO, as published": (coco("train2017", "annotations/instances_train2017.json", ""), "pc"),
    "days": (days, ""),
    "LabelMe beside": (labelme_beside, "pc"),
    "VOC": (voc, "pc"),
}

boxes = st.tuples(st.integers(0, 20), st.integers(0, 12), st.integers(4, 12), st.integers(4, 12)).map(
    lambda at: (at[0], at[1], at[0] + at[2], at[1] + at[3])
)
pictures = st.lists(st.tuples(st.sampled_from(CLASSES), boxes), min_size=3, max_size=6).map(
    lambda defects: [
        Drawn(20 + 10 * at, [kind, kind, None][at % 3], box) for at, (kind, box) in enumerate([*defects, *defects])
    ]
)


def read(image: LabelledImage) -> tuple[int, Known]:
    mask = image.mask(HW)
    ys, xs = np.nonzero(mask if mask is not None else np.zeros(HW))
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1) if len(xs) else None
    assert box is None or len(xs) == (box[2] - box[0]) * (box[3] - box[1])
    return int(image.pixels()[0, 0, 0]), Known(image.defective, frozenset(+image.objects()), box)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=4)
@given(drawn=pictures)
def test_every_layout_gives_the_same_labelled_pictures(layout: str, drawn: list[Drawn]) -> None:
    write, knows = LAYOUTS[layout]
    with TemporaryDirectory() as folder:
        write(Path(folder), drawn)
        data = discover(Path(folder)).read()
        found = dict(read(image) for image in data.images)
    assert found == {
        one.value: Known(
            one.defect is not None,
            frozenset({one.defect} if "c" in knows and one.defect else ()),
            one.box if "p" in knows and one.defect else None,
        )
        for one in drawn
    }
    assert data.unmatched == {}
    assert len({image.place for image in data.images}) == len({image.name_in_folder for image in data.images})


SAMPLE = [Drawn(40 + 20 * at, [None, "dent", "scratch"][at % 3], (4, 4, 12, 12)) for at in range(9)]


@pytest.mark.parametrize("layout", [name for name, (_, knows) in LAYOUTS.items() if "OK" in name or knows == "c"])
def test_a_calibration_takes_the_good_pictures_of_a_sorted_folder(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout][0](tmp_path, SAMPLE)
    found = sorted(int(cv2.imread(str(file))[0, 0, 0]) for file in GoodPictures([tmp_path]).files)  # type: ignore[index]
    assert found == [one.value for one in SAMPLE if one.defect is None]


def test_a_calibration_takes_subfolders_and_refuses_pictures_that_may_be_defective(tmp_path: Path) -> None:
    subfolders(tmp_path, SAMPLE)
    assert len(GoodPictures([tmp_path / "good"]).files) == 3
    flat(tmp_path / "flat", SAMPLE)
    assert len(GoodPictures([tmp_path / "flat" / "images"]).files) == 9
    with pytest.raises(InputError, match="flat holds images/, and only annotations say which pictures of it are good"):
        GoodPictures([tmp_path / "flat"])
    (tmp_path / "empty" / "defective").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no picture of a good part"):
        GoodPictures([tmp_path / "empty"])


@pytest.mark.parametrize(("layout", "told"), [("MVTec", 1), ("YOLO", 1), ("classes beside good", 0), ("flat", 0)])
def test_it_is_said_that_all_parts_of_a_folder_are_trained_on(tmp_path: Path, layout: str, told: int) -> None:
    LAYOUTS[layout][0](tmp_path, SAMPLE)
    assert discover(tmp_path).assumptions[0].count("all are trained on and cross-validated, whether in train/") == told


@pytest.mark.parametrize(
    ("layout", "files", "unread"),
    [
        (ok_ng, ["unsure/a"], "unsure/ with 1 picture"),
        (ok_ng, ["images/a"], "images/ with 1 picture"),
        (classes_beside_good, ["validation/a", "validation/b", "c"], "./ with 1 picture, validation/ with 2 pictures"),
        (mvtec, ["test/a", "test/bad/b", "test/defect/c"], "test/ with 1 picture"),
    ],
)
def test_folders_with_pictures_beside_sorted_ones_that_are_not_read_are_named_and_counted(
    tmp_path: Path, layout: Callable[[Path, Sequence[Drawn]], None], files: list[str], unread: str
) -> None:
    layout(tmp_path, SAMPLE)
    for name in files:
        write_picture(tmp_path / f"{name}.png", SAMPLE[1])
    assert f" (not read: {unread})" in discover(tmp_path).assumptions[0]
    shown = summarise_folder(tmp_path)
    assert shown.warnings[0] == f"pictures in folders that are not read: {unread}"
    read = {"bad", "defect"} & {Path(name).parent.name for name in files}
    assert shown.good + shown.defective == len(SAMPLE) + len(read)
    assert read <= set(shown.classes)


@pytest.mark.parametrize("layout", [ok_ng, classes_beside_good, mvtec])
def test_templates_are_neither_pictures_nor_a_class_nor_unread(
    tmp_path: Path, layout: Callable[[Path, Sequence[Drawn]], None]
) -> None:
    layout(tmp_path, SAMPLE)
    classes = set(summarise_folder(tmp_path).classes)
    write_picture(tmp_path / "templates" / "1.png", SAMPLE[1])
    shown = summarise_folder(tmp_path)
    assert (shown.good + shown.defective, set(shown.classes)) == (len(SAMPLE), classes)
    assert "templates" not in " ".join([*discover(tmp_path).assumptions, *shown.warnings])


def test_control_characters_in_names_of_folders_are_escaped_in_sentences(tmp_path: Path) -> None:
    for at, name in (
        ("data", "good"),
        ("data", "\x1b[31mred"),
        ("data", "new\nline"),
        ("products/\x1b[31mred", "good"),
    ):
        write_picture(tmp_path / at / name / "1.png", SAMPLE[len(name)])
    (tmp_path / "data" / "defective").mkdir()
    write_picture(tmp_path / "data" / "defective" / "2.png", SAMPLE[1])
    sentences = [
        *discover(tmp_path / "data").assumptions,
        *summarise_folder(tmp_path / "data").warnings,
    ]
    with pytest.raises(InputError) as raised:
        read_folder(tmp_path / "products")
    (tmp_path / "data" / "defective" / "2.png").unlink()
    (tmp_path / "data" / "defective").rmdir()
    sentences += discover(tmp_path / "data").assumptions
    assert sum(r"\x1b[31mred/" in text for text in (*sentences, str(raised.value))) == 4
    assert not any(set("\x1b\n") & set(text) for text in sentences)


def test_a_folder_that_links_to_one_above_is_left_out(tmp_path: Path) -> None:
    ok_ng(tmp_path / "data", SAMPLE)
    (tmp_path / "other").mkdir()
    for link, target in (
        ("data/OK/self", "."),
        ("data/OK/up", "../.."),
        ("data/OK/o", "../../other"),
        ("other/b", "../data"),
    ):
        (tmp_path / link).symlink_to(target)
    assert len(discover(tmp_path / "data").read().images) == len(SAMPLE)
    assert len(GoodPictures([tmp_path / "data"]).files) == 3


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.5 0.5 0.25 0.5 0.93", (12, 6, 20, 18)),  # with a detector's confidence
        ("0.0 0.5 0.5 0.25 0.5", (12, 6, 20, 18)),
        ("0 0.97 0.5 0.25 0.5", (27, 6, 32, 18)),
        ("0 0.8 -0.05 1.04 -0.05 1.04 0.5 0.8 0.5", (26, 0, 32, 13)),
    ],
)
def test_yolo_as_tools_write_it_is_read(tmp_path: Path, line: str, box: tuple[int, int, int, int]) -> None:
    flat(tmp_path, SAMPLE[:2])
    write_text(tmp_path / "labels" / "001.txt", line)
    found = discover(tmp_path, "yolo")
    image = found.read().images[1]
    assert (image.class_name or [*image.objects()], read(image)[1].box) == (["0"], box)
    assert "; 1 of 2 pictures has no annotation and counts as good." in found.assumptions[0]


def test_names_of_classes_need_only_the_package_for_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yolo("images", "labels", "data.yaml", YAML)(tmp_path, SAMPLE)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert discover(tmp_path).read().images
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match=r"reading .*data\.yaml needs the extra train: pip install"):
        discover(tmp_path)
    (tmp_path / "data.yaml").unlink()
    assert discover(tmp_path).read().images


@pytest.mark.parametrize(
    ("make", "excerpt"),
    [
        (
            lambda at: mvtec(at / "bottle", SAMPLE),
            r"holds the folders bottle/; expected .*bottle is one of these: name",
        ),
        (
            lambda at: (ok_ng(at / "mon", SAMPLE), ok_ng(at / "tue", SAMPLE)),
            r"mon/, tue/ are each one of these: name one, or .* swap the order of the folders, as good/mon/",
        ),
        (lambda at: draw_plain(at / "day1", ("a.png",)), r"day1 is one of these: name it instead"),
        (lambda at: write_picture(at / "a.png", SAMPLE[0]), "neither annotations nor labels.csv say which are defect"),
        (lambda at: write_text(at / "notes.txt", ""), "holds no folder; expected good/ and defective/; or images/"),
        (lambda at: yolo("images", "labels", "data.yaml", "names: 7")(at, SAMPLE), r"data.yaml cannot be read .*class"),
        (
            lambda at: (flat(at, SAMPLE), write_picture(at / "masks" / "old" / "001.png", SAMPLE[1], mask=True)),
            "both mark .*001.png; leave one",
        ),
        (
            lambda at: (table(at, SAMPLE), write_labels(at, [("000.png", "good", "a")])),
            "000.png could be .*train/000.png or .*val/000.png; name its folders too",
        ),
        *(
            (lambda at, line=line: (flat(at, SAMPLE[:3]), write_text(at / "labels" / "001.txt", line)), excerpt)
            for line, excerpt in (
                ("0 0.5 0.5 0.1", "line 1 of .*001.txt is '0 0.5 0.5 0.1'; expected YOLO's class cx cy w h, or"),
                ("0 12 14 20 30", "with a class from 0 and coordinates from 0 to 1"),
                ("\n0 .1 .1 .2 .1 .3 .4 .5", "line 2 of"),
                ("-1 .1 .1 .2 .1", "a class from 0"),
                ("0.5 .1 .1 .2 .1", "a class from 0"),
                ("nan .1 .1 .2 .1", "a class from 0"),
                ("inf .1 .1 .2 .1", "a class from 0"),
                ("0 1.05 .5 .08 .1", "does not lie in its picture"),
                ("0 .5 .5 1.05 1.3", "expected YOLO"),
            )
        ),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], object], excerpt: str
) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=excerpt) as raised:
        [image.mask(HW) for image in read_folder(tmp_path, "yolo" if (tmp_path / "labels").is_dir() else None).images]
    assert "\n" not in str(raised.value)
