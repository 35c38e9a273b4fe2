"""Folders of labelled pictures: one contract of all layouts, what a kind of folder does besides, and each format."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from heatline.edge.calibration.recalibration import GoodPictures
from heatline.edge.errors import InputError
from heatline.edge.images import read_rgb
from heatline.train.discovery import discover
from heatline.train.readers import LabelledImage, read_folder
from heatline.train.readers.annotation import Box, Circle, Polygon, Runs
from heatline.train.summary import summarise_folder
from tests.train.blobs import draw_blobs, draw_plain, sort_tiles, write_labels

HW = HEIGHT, WIDTH = 24, 32
CLASSES = ("dent", "scratch")


class Drawn(NamedTuple):
    """A picture, recognised by its grey value, with a box of one class or none."""

    value: int
    defect: str | None
    box: tuple[int, int, int, int]
    """Left, top, and the right and bottom that do not belong to it, px."""


Layout = Callable[[Path, Sequence[Drawn]], object]


def write_picture(file: Path, one: Drawn, *, mask: bool = False) -> Path:
    """Write a picture or its mask; return the file."""
    pixels = np.full(HW, 0 if mask else one.value, np.uint8)
    left, top, right, bottom = one.box
    if mask and one.defect is not None:
        pixels[top:bottom, left:right] = 255
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), pixels)
    return file


def write_text(file: Path, text: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)


def counted(drawn: Sequence[Drawn], folder_of: Callable[[int, Drawn], str]) -> Iterator[tuple[str, str, Drawn]]:
    """Name each picture by its number in its folder: names repeat in other folders."""
    counts: dict[str, int] = {}
    for at, one in enumerate(drawn):
        place = folder_of(at, one)
        counts[place] = counts.get(place, -1) + 1
        yield place, f"{counts[place]:03d}", one


def placed(good: str, bad: str, mask: str = "", suffix: str = ".png") -> Layout:
    """Return a layout of folders of good and of bad pictures; some good pictures also have a mask, which is empty."""

    def write(folder: Path, drawn: Sequence[Drawn]) -> None:
        def place_of(at: int, one: Drawn) -> str:
            return (bad if one.defect else good).format(one.defect, part=("train", "test")[at % 2])

        for at, (place, name, one) in enumerate(counted(drawn, place_of)):
            write_picture(folder / place / f"{name}{suffix}", one)
            if mask and (one.defect is not None or (good == bad and at % 2)):
                write_picture(folder / mask.format(one.defect, name=name), one, mask=True)

    return write


def table(folder: Path, drawn: Sequence[Drawn]) -> None:
    named = [*counted(drawn, lambda at, _: ("train", "val")[at % 2])]
    for place, name, one in named:
        write_picture(folder / "images" / place / f"{name}.png", one)
    write_labels(folder, [(f"{at}/{name}.png", "defective" if one.defect else "good", "a") for at, name, one in named])


def texts(pictures: str, file: str, text_of: Callable[[Drawn], str], names: str = "", listed: str = "") -> Layout:
    """Return a layout with a text per picture, and a file of class names; `{}` is train or val.

    The text of a good picture marks nothing or is missing.
    """

    def write(folder: Path, drawn: Sequence[Drawn]) -> None:
        place_of = (lambda at, _: ("train", "val")[at % 2]) if "{}" in pictures else (lambda *_: "")
        for at, (place, name, one) in enumerate(counted(drawn, place_of)):
            write_picture(folder / pictures.format(place) / f"{name}.png", one)
            if one.defect is not None or at % 2:
                write_text(folder / file.format(place, name=name), text_of(one))
        if names:
            write_text(folder / names, listed)

    return write


def yolo(one: Drawn) -> str:
    left, top, right, bottom = one.box
    place = (left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT, (right - left) / WIDTH, (bottom - top) / HEIGHT
    return f"{CLASSES.index(one.defect)} " + " ".join(f"{value:.6f}" for value in place) if one.defect else ""


def yolo_polygon(one: Drawn) -> str:
    left, top, right, bottom = one.box
    corners = [(left, top), (right - 1, top), (right - 1, bottom - 1), (left, bottom - 1)]
    line = " ".join(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in corners)
    return f"{CLASSES.index(one.defect)} {line}\n" if one.defect else ""


def deeppcb(one: Drawn) -> str:
    return (" ", ", ")[one.value % 20 // 10].join(str(value) for value in (*one.box, 1)) if one.defect else "\n"


def labelme(one: Drawn) -> str:
    left, top, right, bottom = one.box
    points = [[left, top], [right - 1, bottom - 1]]
    shape = {"label": one.defect, "shape_type": "rectangle", "points": points}
    return json.dumps({"shapes": [shape] if one.defect else []})


def voc(one: Drawn) -> str:
    left, top, right, bottom = one.box
    box = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    found = f"<object><name>{one.defect}</name><bndbox>{box}</bndbox></object>" if one.defect else ""
    return f"<annotation>{found}</annotation>"


def coco(pictures: str, file: str, listed: str) -> Layout:
    """Return a layout whose pictures are in this folder, and which one file lists with this path before the name."""

    def object_of(one: Drawn) -> dict[str, object]:
        left, top, right, bottom = one.box
        kind, box = CLASSES.index(str(one.defect)), [left, top, right - left, bottom - top]
        return {"id": one.value, "image_id": one.value, "category_id": kind, "bbox": box}

    def write(folder: Path, drawn: Sequence[Drawn]) -> None:
        for number, one in enumerate(drawn):
            write_picture(folder / pictures / f"{number:03d}.png", one)
        images = [
            {"id": one.value, "file_name": f"{listed}{number:03d}.png", "height": HEIGHT, "width": WIDTH}
            for number, one in enumerate(drawn)
        ]
        objects = [object_of(one) for one in drawn if one.defect]
        names = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
        write_text(folder / file, json.dumps({"images": images, "annotations": objects, "categories": names}))
        write_text(folder / "settings.json", "{}")

    return write


flat = placed("images", "images", "masks/{name}.png")
mvtec = placed("{part}/good", "test/{0}", "ground_truth/{0}/{name}_mask.png")
ok_ng = placed("OK", "NG", suffix=".PNG")
beside_good = placed("good", "{0}")
YAML, LIST, NUMBERED = f"names: [{', '.join(CLASSES)}]", "\n".join(CLASSES), "names:\n  0: dent\n  1: scratch\n"
LAYOUTS: dict[str, tuple[Layout, str]] = {  # what is known of defects: p, their place; c, their class
    "flat": (flat, "p"),
    "MVTec": (mvtec, "pc"),
    "sorted, masks": (placed("good", "defective", "masks/{name}.png", ".bmp"), "p"),
    "OK, NG": (ok_ng, ""),
    "OK, NG beside images": (lambda at, all_: (ok_ng(at, all_), write_picture(at / "images" / "a.png", all_[0])), ""),
    "subfolders": (placed("good/day{part}", "defective/{0}", suffix=".tif"), "c"),
    "classes beside good": (lambda at, all_: ((at / "runs/old").mkdir(parents=True), beside_good(at, all_)), "c"),
    "sorted in images": (placed("Images/Normal", "Images/Anomaly", "Masks/Anomaly/{name}.png"), "p"),
    "days, which are no classes": (placed("gut/day{part}", "Schlecht/day{part}"), ""),
    "labels.csv": (table, ""),
    "YOLO": (texts("images/{}", "labels/{}/{name}.txt", yolo, "data.yaml", NUMBERED), "pc"),
    "YOLO polygons": (texts("images", "labels/{name}.txt", yolo_polygon, "labels/classes.txt", LIST), "pc"),
    "YOLO, parts first": (texts("{}/images", "{}/labels/{name}.txt", yolo, "data.yaml", YAML), "pc"),
    "YOLO beside": (texts("obj_train_data", "obj_train_data/{name}.txt", yolo, "obj.names", LIST), "pc"),
    "DeepPCB": (texts("images", "boxes/{name}.txt", deeppcb), "p"),
    "LabelMe beside": (texts("images", "images/{name}.json", labelme), "pc"),
    "VOC": (texts("JPEGImages", "Annotations/{name}.xml", voc), "pc"),
    "COCO": (coco("images", "annotations/instances.json", "images/"), "pc"),
    "COCO beside": (coco("train", "train/_annotations.coco.json", ""), "pc"),
    "COCO above": (coco("images", "result.json", "../../upload/1/"), "pc"),
    "COCO, no folder": (coco("", "instances.json", "/data/set/"), "pc"),
    "COCO, as published": (coco("train2017", "annotations/instances_train2017.json", ""), "pc"),
}
boxes = st.tuples(st.integers(0, 20), st.integers(0, 12), st.integers(4, 12), st.integers(4, 12)).map(
    lambda at: (at[0], at[1], at[0] + at[2], at[1] + at[3])
)
pictures = st.lists(st.tuples(st.sampled_from(CLASSES), boxes), min_size=3, max_size=6).map(
    lambda defects: [
        Drawn(20 + 10 * at, [kind, kind, None][at % 3], box) for at, (kind, box) in enumerate([*defects, *defects])
    ]
)
Known = tuple[bool, frozenset[str], tuple[int, int, int, int] | None]
"""Whether a picture is defective, by which classes, and the box that is marked."""


def read(image: LabelledImage, classes: bool = True) -> tuple[int, Known]:
    mask = image.mask(HW)
    ys, xs = np.nonzero(mask if mask is not None else np.zeros(HW))
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1) if len(xs) else None
    assert box is None or len(xs) == (box[2] - box[0]) * (box[3] - box[1])
    return int(image.pixels()[0, 0, 0]), (image.defective, frozenset(+image.objects() if classes else ()), box)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=4)
@given(drawn=pictures)
def test_every_layout_gives_the_same_labelled_pictures(layout: str, drawn: list[Drawn]) -> None:
    write, knows = LAYOUTS[layout]
    with TemporaryDirectory() as folder:
        write(Path(folder), drawn)
        data = discover(Path(folder)).read()
        found = dict(read(image, layout != "DeepPCB") for image in data.images)
    assert found == {
        one.value: (
            one.defect is not None,
            frozenset({one.defect} if "c" in knows and one.defect else ()),
            one.box if "p" in knows and one.defect else None,
        )
        for one in drawn
    }
    assert data.unmatched == {}
    assert len({image.place for image in data.images}) == len({image.name_in_folder for image in data.images})


SAMPLE = [Drawn(40 + 20 * at, [None, "dent", "scratch"][at % 3], (4, 4, 12, 12)) for at in range(9)]


def test_a_calibration_takes_the_good_pictures_and_none_that_may_be_defective(tmp_path: Path) -> None:
    for layout in [name for name, (_, knows) in LAYOUTS.items() if "OK" in name or knows == "c"]:
        LAYOUTS[layout][0](tmp_path / layout, SAMPLE)
        good = sorted(int(read_rgb(file)[0, 0, 0]) for file in GoodPictures([tmp_path / layout]).files)
        assert good == [one.value for one in SAMPLE if one.defect is None], layout
    flat(tmp_path / "flat", SAMPLE)
    assert len(GoodPictures([tmp_path / "flat" / "images"]).files) == 9
    with pytest.raises(InputError, match="flat holds images/, and only annotations say which pictures of it are good"):
        GoodPictures([tmp_path / "flat"])
    (tmp_path / "empty" / "defective").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no picture of a good part"):
        GoodPictures([tmp_path / "empty"])


@pytest.mark.parametrize(("layout", "told"), [("MVTec", 1), ("YOLO", 1), ("flat", 0)])
def test_it_is_said_that_all_parts_of_a_folder_are_trained_on(tmp_path: Path, layout: str, told: int) -> None:
    LAYOUTS[layout][0](tmp_path, SAMPLE)
    assert discover(tmp_path).assumptions[0].count("all are trained on and cross-validated, whether in train/") == told


@pytest.mark.parametrize(
    ("layout", "files", "unread"),
    [
        (ok_ng, ["unsure/a"], "unsure/ with 1 picture"),
        (ok_ng, ["templates/a", "images/a"], "images/ with 1 picture"),
        (beside_good, ["validation/a", "validation/b", "c"], "./ with 1 picture, validation/ with 2 pictures"),
        (mvtec, ["test/a", "test/bad/b", "templates/a", "test/defect/c"], "test/ with 1 picture"),
    ],
)
def test_folders_that_are_not_read_are_named(tmp_path: Path, layout: Layout, files: list[str], unread: str) -> None:
    layout(tmp_path, SAMPLE)
    for name in files:
        write_picture(tmp_path / f"{name}.png", SAMPLE[1])
    shown, read = summarise_folder(tmp_path), {"bad", "defect"} & {Path(name).parent.name for name in files}
    assert f" (not read: {unread})" in discover(tmp_path).assumptions[0]
    assert shown.warnings[0] == f"pictures in folders that are not read: {unread}"
    assert shown.good + shown.defective == len(SAMPLE) + len(read)
    assert {"bad", "defect", "templates"} & set(shown.classes) == read


def test_a_folder_that_links_to_one_above_is_left_out(tmp_path: Path) -> None:
    ok_ng(tmp_path / "data", SAMPLE)
    (tmp_path / "other").mkdir()
    links = {"data/OK/self": ".", "data/OK/up": "../..", "data/OK/o": "../../other", "other/b": "../data"}
    for link, target in links.items():
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
    assert (image.class_name or [*image.objects()], read(image)[1][2]) == (["0"], box)
    assert "; 1 of 2 pictures has no annotation and counts as good." in found.assumptions[0]


def yolo_line(line: str) -> Callable[[Path], object]:
    return lambda at: (flat(at, SAMPLE[:3]), write_text(at / "labels" / "001.txt", line))


def spoilt(spoil: Callable[[Path], object]) -> Callable[[Path], object]:
    """Draw blobs with masks and labels.csv, and change something."""
    return lambda at: spoil(draw_blobs(at, per_group=1))


def one_class(*labels: str) -> Callable[[Path], object]:
    rows = [(f"{label[:1]}{at}.png", label, "a") for at, label in enumerate(labels)]
    return lambda at: (draw_plain(at, tuple(row[0] for row in rows)), write_labels(at, rows))


REFUSED: list[tuple[Callable[[Path], object], str]] = [
    (lambda at: mvtec(at / "bottle", SAMPLE), r"holds the folders bottle/; expected .*bottle is one of these: name"),
    (
        lambda at: (ok_ng(at / "mon", SAMPLE), ok_ng(at / "tue", SAMPLE)),
        r"mon/, tue/ are each one of these: name one, or .* swap the order of the folders, as good/mon/",
    ),
    (lambda at: draw_plain(at / "day1", ("a.png",)), r"day1 is one of these: name it instead"),
    (lambda at: write_picture(at / "a.png", SAMPLE[0]), "neither annotations nor labels.csv say which are defect"),
    (lambda at: write_text(at / "notes.txt", ""), "holds no folder; expected good/ and defective/; or images/"),
    (lambda at: at.rmdir(), "does not exist"),
    (lambda at: (at / "good").mkdir(), "good holds no picture; expected files ending in"),
    (
        lambda at: texts("images", "labels/{name}.txt", yolo, "data.yaml", "names: 7")(at, SAMPLE),
        r"data.yaml cannot be read .*class",
    ),
    (
        lambda at: (flat(at, SAMPLE), write_picture(at / "masks" / "old" / "001.png", SAMPLE[1], mask=True)),
        "both mark .*001.png; leave one",
    ),
    (
        lambda at: (table(at, SAMPLE), write_labels(at, [("000.png", "good", "a")])),
        "000.png could be .*train/000.png or .*val/000.png; name its folders too",
    ),
    (one_class("defective", "defective"), "only one class: every picture is"),
    (one_class("good", "good"), "holds no defective picture; a classifier needs some: add them, or train on good"),
    (one_class("good", "dubious"), "labels d1.png as 'dubious'; expected good or defective"),
    (lambda at: (sort_tiles(at, 1), (at / "good/g00.png").unlink()), "only one class: every picture is"),
    (spoilt(lambda at: (at / "images/a_0.png").unlink()), "a_0.png has a label and no picture"),
    (spoilt(lambda at: write_picture(at / "images/a_0.jpg", SAMPLE[0])), "a_0.jpg has no label"),
    (
        spoilt(lambda at: ((at / "labels.csv").unlink(), write_picture(at / "images/a_0.jpg", SAMPLE[0]))),
        "a_0.png; name its folders too, or rename a picture",
    ),
    (spoilt(lambda at: (at / "masks/a_0.png").unlink()), "labelled defective and has no annotation of its name"),
    (spoilt(lambda at: (at / "labels.csv").write_bytes(b"image,label\n\xff\xfe,good\n")), "labels.csv cannot be read"),
    (
        spoilt(lambda at: (at / "labels.csv").write_text("image;label\na_0.png;good\n")),
        "labels.csv has no rows with the columns image and label, separated by commas; begin it with image",
    ),
    (yolo_line("0 0.5 0.5 0.1"), "line 1 of .*001.txt is '0 0.5 0.5 0.1'; expected YOLO's class cx cy w h, or"),
    (yolo_line("0 12 14 20 30"), "with a class from 0 and coordinates from 0 to 1"),
    (yolo_line("\n0 .1 .1 .2 .1 .3 .4 .5"), "line 2 of"),
    *((yolo_line(f"{number} .1 .1 .2 .1"), "a class from 0") for number in ("-1", "0.5", "nan", "inf")),
    (yolo_line("0 1.05 .5 .08 .1"), "does not lie in its picture"),
]


@pytest.mark.parametrize(("make", "excerpt"), REFUSED)
def test_what_cannot_be_read_is_refused_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], object], excerpt: str
) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=excerpt) as raised:
        [image.mask(HW) for image in read_folder(tmp_path, "yolo" if (tmp_path / "labels").is_dir() else None).images]
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("asked", "excerpt"),
    [
        ({"truth": "boxes"}, "has no truth 'boxes'; it has masks"),
        ({"group_column": "board"}, r"column 'board' of labels.csv \(which has group\); name the column"),
        ({"group_pattern": "a_"}, "no parenthesis"),
        ({"group_pattern": "("}, "not a regular expression"),
        ({"group_pattern": "(z)"}, r"finds no group in the file name a_0\.png"),
    ],
)
def test_a_truth_or_group_that_is_not_there_is_named(tmp_path: Path, asked: dict[str, str], excerpt: str) -> None:
    folder = draw_blobs(tmp_path / "blobs", per_group=1)
    with pytest.raises(InputError, match=excerpt):
        read_folder(folder, **asked).groups()  # type: ignore[arg-type]


def test_the_first_truth_is_the_default_and_groups_come_from_a_column_or_from_file_names(tmp_path: Path) -> None:
    texts("images", "annotations/{name}.xml", voc)(tmp_path / "voc", SAMPLE)
    assert read_folder(tmp_path / "voc").truth == "boxes"
    for name in ("derived_masks", "masks"):
        placed("images", "images", f"{name}/{{name}}.png")(tmp_path / "voc", SAMPLE)
        assert read_folder(tmp_path / "voc").truth == name
    assert read_folder(tmp_path / "voc", truth="boxes").truth == "boxes"
    folder = draw_blobs(tmp_path / "blobs")
    assert read_folder(folder).groups() == ["a", "b", "c", "d"]
    assert read_folder(folder, group_pattern=r"_(\d)").groups() == ["0", "1", "2"]
    rows = [(f"{group}_{n}.png", "defective" if n < 2 else "good", f"0{n}") for group in "abcd" for n in range(3)]
    write_labels(folder, rows, group="board")
    assert read_folder(folder, group_column="board").groups() == ["00", "01", "02"]  # as written: no numbers
    for file in (folder / "masks").iterdir():
        file.write_bytes(b"no mask")
    read = read_folder(folder, "labels")
    assert (read.truth, sum(image.defective for image in read.images)) == ("labels", 8)
    assert all(image.labels_only and image.truth_files == () for image in read.images)


def test_a_defective_picture_without_annotation_is_known_by_its_label_in_a_mixture(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs")
    (folder / "masks" / "a_0.png").unlink()
    cv2.imwrite(str(folder / "masks" / "b_1.png"), np.zeros((150, 200), np.uint8))  # marks nothing
    read = read_folder(folder, mixed=True)
    assert [image.path.stem for image in read.images if image.labels_only] == ["a_0", "b_1"]
    assert (read.truth, read.images[0].mask((150, 200)), read.images[0].defective) == ("masks", None, True)
    assert read.describe_mixture() == (
        "2 of 8 defective pictures have no defect marked (masks), first a_0.png: only the label is used"
    )
    assert read_folder(folder, "labels", mixed=True).describe_mixture() is None
    placed("good", "defective", "masks/{name}.png")(tmp_path / "sorted", SAMPLE[:2])  # two pictures have one name
    good, defective = read_folder(tmp_path / "sorted", mixed=True).images
    assert (good.annotation, good.defective, good.has_exact_mask()) == (None, False, True)
    assert defective.annotation is not None


def test_masks_may_have_one_bit_a_palette_or_colour(tmp_path: Path) -> None:
    """OpenCV's own PNG has 8 bits per channel; opaque black is not a defect."""
    folder = draw_plain(tmp_path / "f", ("p.png", "q.png", "r.png"), (2, 4))
    (folder / "masks").mkdir()
    marked = np.array([[0, 1, 1, 0], [0] * 4], np.uint8)
    Image.fromarray(marked * 255).convert("1").save(folder / "masks" / "p.png")
    palette = Image.fromarray(marked, "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(folder / "masks" / "q.png")
    Image.fromarray(np.dstack([marked * 9, marked * 0, marked * 0, marked * 0 + 255])).save(folder / "masks" / "r.png")
    for image in read_folder(folder).images:
        np.testing.assert_array_equal(image.mask((2, 4)), marked.astype(bool))


SIZE_HW = (30, 40)
Mask = NDArray[np.bool_]


def mask_of(shape: Box | Polygon | Circle | Runs, hw: tuple[int, int] = SIZE_HW) -> Mask:
    mask = np.zeros(hw, np.bool_)
    shape.draw(mask)
    return mask


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Mask:
    """Both corners belong to it."""
    ys, xs = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    return np.asarray((xs >= x0) & (xs <= x1) & (ys >= y0) & (ys <= y1))


corner = st.tuples(st.integers(0, SIZE_HW[1] - 1), st.integers(0, SIZE_HW[0] - 1))


@given(st.lists(corner, min_size=3, max_size=7))
def test_a_polygon_has_the_pixels_inside_it_and_those_of_its_outline(corners: list[tuple[int, int]]) -> None:
    mask, outline = mask_of(Polygon(corners)), np.array(corners, np.float32)
    for y, x in itertools.product(range(0, SIZE_HW[0], 3), range(0, SIZE_HW[1], 3)):
        inside_by_px = cv2.pointPolygonTest(outline, (x, y), measureDist=True)
        # Nearer than 1 px, which pixels an edge runs through is the drawing's own choice.
        assert abs(inside_by_px) < 1 or mask[y, x] == (inside_by_px > 0)
    assert all(mask[y, x] for x, y in corners)


@given(st.integers(-1, 41), st.integers(-1, 31), st.integers(-1, 42), st.integers(-1, 32))
def test_a_box_has_the_pixels_between_its_corners_or_is_refused(x0: int, y0: int, x1: int, y1: int) -> None:
    expected = rectangle(x0, y0, x1 - 1, y1 - 1)
    if expected.any() and x1 <= 41 and y1 <= 31:
        assert np.array_equal(mask_of(Box(x0, y0, x1, y1)), expected)
    else:
        with pytest.raises(ValueError, match=r"no area|does not lie"):
            mask_of(Box(x0, y0, x1, y1))


@given(st.floats(0, 39), st.floats(0, 29), st.floats(0, 60))
def test_a_circle_has_the_pixels_whose_centre_is_near_enough(x: float, y: float, radius: float) -> None:
    for (row, column), marked in np.ndenumerate(mask_of(Circle(x, y, radius))):
        assert marked == ((column - x) ** 2 + (row - y) ** 2 <= radius**2)


def run_lengths(mask: Mask) -> list[int]:
    """COCO's: down the columns, outside first."""
    runs = [(value, len([*pixels])) for value, pixels in itertools.groupby(mask.T.ravel().tolist())]
    return ([0] if runs[0][0] else []) + [count for _, count in runs]


def labelme_of(folder: Path, *shapes: tuple[str, str, list[list[float]]], **more: object) -> Path:
    draw_plain(folder, ("p.png", "q.png"))
    listed = [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes]
    content = {"imageHeight": SIZE_HW[0], "imageWidth": SIZE_HW[1], "imageData": None, "shapes": listed} | more
    write_text(folder / "labelme" / "p.json", json.dumps(content))
    return folder


TRIANGLE = ("pit", "polygon", [[5.2, 4.0], [20.0, 4.4], [5.0, 18.7]])
ONE_TRIANGLE: Callable[[Path], Path] = lambda at: labelme_of(at, TRIANGLE)  # noqa: E731


def test_labelme_polygons_rectangles_and_circles_mark_what_they_enclose(tmp_path: Path) -> None:
    rust, circle = ("rust", "rectangle", [[33.0, 20.0], [30.0, 10.0]]), ("pit", "circle", [[25.0, 25.0], [28.0, 25.0]])
    marked = read_folder(labelme_of(tmp_path, TRIANGLE, rust, circle)).images[0]
    area = Polygon([(5, 4), (20, 4), (5, 19)])
    assert np.array_equal(marked.mask(SIZE_HW), mask_of(area) | rectangle(30, 10, 33, 20) | mask_of(Circle(25, 25, 3)))
    assert marked.objects() == {"pit": 2, "rust": 1}


CATEGORIES = [{"id": 1, "name": "pit"}, {"id": 7, "name": "rust"}, {"id": 8, "name": "dent"}]


def coco_of(folder: Path, *objects: dict[str, object]) -> Path:
    draw_plain(folder, ("p.png", "q.png", "r.png"))
    images = [
        {"id": number, "file_name": name, "height": SIZE_HW[0], "width": SIZE_HW[1]}
        for number, name in ((1, "batch1\\p.png"), (2, "batch1/q.png"))
    ]
    listed = [{"id": number, "image_id": 1, "category_id": 1} | one for number, one in enumerate(objects, start=1)]
    content = {"images": images, "categories": CATEGORIES, "annotations": listed}
    write_text(folder / "annotations" / "instances.json", json.dumps(content))
    return folder


def test_coco_marks_polygons_run_lengths_and_boxes(tmp_path: Path) -> None:
    runs = rectangle(2, 20, 6, 28)
    folder = coco_of(
        tmp_path,
        {"segmentation": [[5, 4, 20, 4, 5, 19], [30, 2, 35, 2, 35, 6, 30, 6]], "bbox": [0, 0, 40, 30]},
        {"segmentation": {"size": SIZE_HW, "counts": run_lengths(runs)}, "category_id": 7, "iscrowd": 1},
        {"segmentation": [], "bbox": [20.2, 20.4, 5.0, 3.0]},
        {"image_id": 2, "bbox": [38.7, 28.6, 0.3, 0.2]},  # a box that is smaller than a px covers one
    )
    p, q, unlisted = read_folder(folder).images
    expected = mask_of(Polygon([(5, 4), (20, 4), (5, 19)])) | rectangle(30, 2, 35, 6) | runs | rectangle(20, 20, 24, 22)
    assert (p.defective, q.defective, unlisted.defective) == (True, True, False)
    assert np.array_equal(p.mask(SIZE_HW), expected)
    assert np.array_equal(q.mask(SIZE_HW), rectangle(39, 29, 39, 29))
    assert p.objects() == {"pit": 2, "rust": 1, "dent": 0}


def deeppcb_of(folder: Path, text: str) -> Path:
    draw_plain(folder, ("p.png", "q.png"))
    write_text(folder / "boxes" / "p.txt", text)
    write_text(folder / "boxes" / "q.txt", "\n")
    return folder


VOC = """<annotation><size><width>40</width><height>30</height></size>
<object><name>spur</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object>
<object><name>short</name><bndbox><xmin>10</xmin><ymin>10</ymin><xmax>14</xmax><ymax>14</ymax></bndbox></object>
</annotation>"""


def voc_of(folder: Path) -> Path:
    draw_plain(folder, ("p.png", "q.png"))
    write_text(folder / "annotations" / "p.xml", VOC)
    return folder


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (voc_of, ["short", "spur"]),
        (lambda folder: labelme_of(folder, TRIANGLE, ("rust", "rectangle", [[30, 10], [33, 20]])), ["rust", "pit"]),
        (lambda at: coco_of(at, {"bbox": [1, 1, 5, 5]}, {"bbox": [9, 9, 2, 2], "category_id": 7}), ["rust", "pit"]),
        (lambda folder: deeppcb_of(folder, "5 3 9 7 1\n20 10 22 11 6\n"), ["pin-hole", "open"]),
    ],
)
def test_only_objects_of_chosen_classes_count(tmp_path: Path, make: Callable[[Path], Path], names: list[str]) -> None:
    folder = make(tmp_path)
    first, second, both, every = (
        np.asarray(read_folder(folder, classes=classes).images[0].mask(SIZE_HW))
        for classes in (names[:1], names[1:], names, None)
    )
    assert (first.any(), second.any(), (first & second).any()) == (True, True, False)
    assert np.array_equal(first | second, both)
    assert np.array_equal(both, every)
    with pytest.raises(InputError, match=f"has no class 'dust'; its classes are .*{names[1]}"):
        read_folder(folder, classes=["dust"])
    with pytest.raises(InputError, match="classes is empty"):
        read_folder(folder, classes=[])


def test_a_picture_with_ignored_classes_only_is_good_whatever_its_label_says(tmp_path: Path) -> None:
    folder = voc_of(tmp_path)
    (folder / "annotations" / "q.xml").write_text(VOC.replace("spur", "short"))
    write_labels(folder, [("p.png", "defective", "a"), ("q.png", "defective", "a")])
    assert [image.defective for image in read_folder(folder).images] == [True, True]
    assert [image.defective for image in read_folder(folder, classes=["spur"]).images] == [True, False]
    (folder / "annotations" / "q.xml").write_text("<annotation/>")
    assert [image.defective for image in read_folder(folder, classes=["spur"]).images] == [True, True]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (Polygon([(-1, -1), (3, -0.6), (3, 3), (-1, 3)]), rectangle(0, 0, 3, 3)),
        (Polygon([(38, 28), (40, 28), (40, 30), (38, 30)]), rectangle(38, 28, 39, 29)),
    ],
)
def test_shapes_one_px_outside_the_picture_are_clipped(shape: Polygon, expected: Mask) -> None:
    assert np.array_equal(mask_of(shape), expected)


@pytest.mark.parametrize(
    "outside",
    [
        Polygon([(-1.1, 0), (3, 0), (3, 3)]),
        Polygon([(0, 0), (3, 0), (3, 30.1)]),
        Polygon([(0, 0), (1e300, 0), (3, 3)]),
        Circle(40, 3, 2),
    ],
)
def test_shapes_further_outside_the_picture_are_refused(outside: Polygon | Circle) -> None:
    with pytest.raises(ValueError, match=r"does not lie in its picture of 40x30 px \(width x height\)"):
        mask_of(outside)


def damaged(make: Callable[[Path], Path], file: str, content: str | bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_text(make(folder) / file, content)
        return folder

    return write


def damaged_voc(content: str) -> Callable[[Path], Path]:
    return damaged(voc_of, "annotations/p.xml", content)


ONE_BOX, CORNERS = {"bbox": [1, 1, 5, 5]}, [[3.0, 3.0], [9.0, 9.0]]
AREA = {"segmentation": [[1, 1, 9, 1, 9, 9]], **ONE_BOX}
DAMAGE: list[tuple[Callable[[Path], Path], str]] = [
    (damaged(ONE_TRIANGLE, "labelme/p.json", '{"shapes": ['), r"not a LabelMe annotation \(Input data was truncated"),
    (damaged(ONE_TRIANGLE, "labelme/p.json", '{"x":' + "[" * 100_000), "p.json is not a LabelMe annotation"),
    (damaged(ONE_TRIANGLE, "labelme/p.json", "{}"), "missing required field `shapes`"),
    (
        lambda at: labelme_of(at, ("a", "linestrip", [[1, 1], [5, 5]])),
        r"has a linestrip \(a, shape 1\) of 2 points; expected a poly",
    ),
    (lambda at: labelme_of(at, ("a", "polygon", [[1, 1], [2, 2]])), "has 2 corners; expected at least 3"),
    (lambda at: labelme_of(at, TRIANGLE, imageWidth=41), "was made for a picture of 30x41 px"),
    (lambda at: coco_of(at, {"image_id": 9, "bbox": [1, 1, 2, 2]}), "annotation 1 of image 9, which it does not list"),
    (lambda at: coco_of(at, {"category_id": 9, "bbox": [1, 1, 2, 2]}), "annotation 1 of category 9, which it does not"),
    (lambda at: coco_of(at, {}), r"has a pit \(annotation 1\) that has neither segmentation nor bbox"),
    (lambda at: coco_of(at, {"bbox": [1, 1, 2]}), "has a bbox of 3 numbers"),
    (lambda at: coco_of(at, {"bbox": [1, 1, 0, 5]}), "has a bbox of 0x5 px"),
    (lambda at: coco_of(at, {"segmentation": [[1, 1, 2, 2, 3]]}), "has a polygon of 5 numbers"),
    (lambda at: coco_of(at, {"segmentation": {"size": [40, 30], "counts": [1200]}}), "made for a picture of 40x30 px"),
    (lambda at: coco_of(at, {"segmentation": {"size": SIZE_HW, "counts": [10**15]}}), "expected 1200"),
    (lambda at: coco_of(at, {"segmentation": {"size": SIZE_HW, "counts": [1300, -100]}}), "none below 0"),
    (lambda at: coco_of(at, {"segmentation": {"size": SIZE_HW, "counts": "i4a"}}), "Expected `array`, got `str`"),
    (lambda at: deeppcb_of(at, "1 2 3 4\n"), "line 1 of .*p.txt is '1 2 3 4'; expected five whole numbers"),
    (lambda at: deeppcb_of(at, "1 1 5 5 1\n1 1 50 5 1\n"), "box 1,1 to 50,5 px in line 2 that does not lie in its pic"),
    (damaged(lambda at: deeppcb_of(at, ""), "boxes/p.txt", b"\xff\xff"), "p.txt cannot be read"),
    (damaged_voc("<annotation><object>"), "p.xml is not a VOC annotation"),
    (damaged_voc('<?xml version="1.0" encoding="none"?><annotation/>'), "p.xml is not a VOC annotation"),
    (damaged_voc("<html><object/></html>"), "its root is <html>"),
    (damaged_voc("<annotation><object><name>a</name></object></annotation>"), "an object without bndbox"),
    (damaged_voc(VOC.replace("<xmin>2", "<xmin>1e999")), "xmin is '1e999'; expected a number"),
    (damaged_voc(VOC.replace("<width>40", "<width>wide")), "a size whose width is 'wide'"),
    (damaged_voc(VOC.replace("<xmax>14", "<xmax>60")), "box 10,10 to 60,14 px that does not lie in"),
]


@pytest.mark.parametrize(("make", "excerpt"), DAMAGE)
def test_damaged_annotations_are_refused_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], Path], excerpt: str
) -> None:
    with pytest.raises(InputError, match=excerpt) as raised:
        read_folder(make(tmp_path)).images[0].mask(SIZE_HW)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    ("make", "classes", "is_exact"),
    [
        (lambda at: labelme_of(at, TRIANGLE, ("pit", "circle", CORNERS)), None, True),
        (lambda at: labelme_of(at, TRIANGLE, ("rust", "rectangle", CORNERS)), None, False),
        (lambda at: labelme_of(at, TRIANGLE, ("rust", "rectangle", CORNERS)), ["pit"], True),
        (lambda at: coco_of(at, AREA), None, True),
        (lambda at: coco_of(at, AREA, ONE_BOX), None, False),
        (voc_of, None, False),
        (lambda at: deeppcb_of(at, "5 3 9 7 1"), None, False),
    ],
)
def test_boxes_are_loose_whatever_file_they_come_in_and_all_other_marks_exact(
    tmp_path: Path, make: Callable[[Path], Path], classes: list[str] | None, is_exact: bool
) -> None:
    assert read_folder(make(tmp_path), classes=classes).images[0].has_exact_mask() == is_exact
