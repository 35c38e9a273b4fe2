"""Each annotation format: its pixels and classes, and what it refuses."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.train.readers import read_folder
from heatline.train.readers.annotation import Box, Circle, Polygon, Runs
from heatline.train.readers.coco import CocoObjects
from heatline.train.readers.per_picture import LabelMePolygons, VocBoxes
from tests.train.blobs import draw_plain, write_labels

HW = (30, 40)
Mask = NDArray[np.bool_]


def drawn(shape: Box | Polygon | Circle | Runs, hw: tuple[int, int] = HW) -> Mask:
    mask = np.zeros(hw, np.bool_)
    shape.draw(mask)
    return mask


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Mask:
    """Both corners belong to it."""
    mask = np.zeros(HW, np.bool_)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


# The pixels of a shape, compared with a slow reference.

corner = st.tuples(st.integers(0, HW[1] - 1), st.integers(0, HW[0] - 1))


@given(st.lists(corner, min_size=3, max_size=7))
def test_a_polygon_has_the_pixels_inside_it_and_those_of_its_outline(corners: list[tuple[int, int]]) -> None:
    mask, outline = drawn(Polygon(corners)), np.array(corners, np.float32)
    for y in range(0, HW[0], 3):
        for x in range(0, HW[1], 3):
            inside_by_px = cv2.pointPolygonTest(outline, (x, y), measureDist=True)
            if abs(inside_by_px) >= 1:  # nearer, which pixels an edge runs through is the drawing's own choice
                assert mask[y, x] == (inside_by_px > 0)
    assert all(mask[y, x] for x, y in corners)


@given(st.integers(-1, 41), st.integers(-1, 31), st.integers(-1, 42), st.integers(-1, 32))
def test_a_box_has_the_pixels_between_its_corners_or_is_refused(x0: int, y0: int, x1: int, y1: int) -> None:
    inside = [(y, x) for y in range(HW[0]) for x in range(HW[1]) if x0 <= x < x1 and y0 <= y < y1]
    try:
        mask = drawn(Box(x0, y0, x1, y1))
    except ValueError:
        assert not inside or x1 > 41 or y1 > 31
    else:
        assert x1 <= 41
        assert y1 <= 31
        assert [tuple(at) for at in np.argwhere(mask).tolist()] == inside != []


@given(st.floats(0, 39), st.floats(0, 29), st.floats(0, 60))
def test_a_circle_has_the_pixels_whose_centre_is_near_enough(x: float, y: float, radius: float) -> None:
    mask = drawn(Circle(x, y, radius))
    for row in range(HW[0]):
        for column in range(HW[1]):
            assert mask[row, column] == ((column - x) ** 2 + (row - y) ** 2 <= radius**2)


def run_lengths(mask: Mask) -> list[int]:
    """COCO's: down the columns, outside first."""
    counts, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            counts, value = [*counts, 0], bool(pixel)
        counts[-1] += 1
    return counts


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_give_back_the_mask_they_came_from(height: int, width: int, seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    counts = run_lengths(mask)
    assert np.array_equal(drawn(Runs(mask.shape, counts), mask.shape), mask)


# LabelMe.


def labelme(folder: Path, *shapes: tuple[str, str, list[list[float]]], **more: object) -> Path:
    draw_plain(folder, ("p.png", "q.png"))
    (folder / "labelme").mkdir()
    listed = [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes]
    content = {"version": "5.4", "imageHeight": HW[0], "imageWidth": HW[1], "imageData": None, "shapes": listed} | more
    (folder / "labelme" / "p.json").write_text(json.dumps(content))
    return folder


TRIANGLE = ("pit", "polygon", [[5.2, 4.0], [20.0, 4.4], [5.0, 18.7]])


def test_labelme_polygons_rectangles_and_circles_mark_what_they_enclose(tmp_path: Path) -> None:
    folder = labelme(
        tmp_path, TRIANGLE, ("rust", "rectangle", [[33, 20], [30, 10]]), ("pit", "circle", [[25, 25], [28, 25]])
    )
    read = read_folder(folder)
    marked, plain = read.images
    assert (read.truth, marked.defective, plain.defective) == ("polygons", True, False)
    expected = drawn(Polygon([(5, 4), (20, 4), (5, 19)])) | rectangle(30, 10, 33, 20) | drawn(Circle(25, 25, 3))
    assert np.array_equal(marked.mask(HW), expected)
    assert marked.annotation is not None
    assert marked.annotation.objects() == {"pit": 2, "rust": 1}


def test_labelme_polygons_of_real_parts_give_the_masks_that_were_made_of_them(real_data: Path) -> None:
    overlap = union = 0
    for file in sorted((real_data / "bsdata" / "labelme").glob("*.json"))[::8]:
        mask = cv2.imread(str(real_data / "bsdata" / "masks" / f"{file.stem}.png"), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        found = LabelMePolygons(file, None).mask((mask.shape[0], mask.shape[1]))
        overlap += int((found & (mask > 0)).sum())
        union += int((found | (mask > 0)).sum())
    assert overlap / union > 0.999  # 1.0 was measured


# COCO.

CATEGORIES = [{"id": 1, "name": "pit"}, {"id": 7, "name": "rust"}, {"id": 8, "name": "dent"}]


def coco(folder: Path, *objects: dict[str, object], file: str = "instances.json", **more: object) -> Path:
    if not (folder / "images").is_dir():
        draw_plain(folder, ("p.png", "q.png", "r.png"))
    (folder / "annotations").mkdir(exist_ok=True)
    images = [
        {"id": 1, "file_name": "batch1\\p.png", "height": HW[0], "width": HW[1]},
        {"id": 2, "file_name": "batch1/q.png", "height": HW[0], "width": HW[1]},
    ]
    listed = [{"id": number, "image_id": 1, "category_id": 1} | one for number, one in enumerate(objects, start=1)]
    content = {"images": images, "categories": CATEGORIES, "annotations": listed} | more
    (folder / "annotations" / file).write_text(json.dumps(content))
    return folder


def test_coco_marks_polygons_run_lengths_and_boxes(tmp_path: Path) -> None:
    runs = rectangle(2, 20, 6, 28)
    folder = coco(
        tmp_path,
        {"segmentation": [[5, 4, 20, 4, 5, 19], [30, 2, 35, 2, 35, 6, 30, 6]], "bbox": [0, 0, 40, 30]},
        {"segmentation": {"size": HW, "counts": run_lengths(runs)}, "category_id": 7, "iscrowd": 1},
        {"segmentation": [], "bbox": [20.2, 20.4, 5.0, 3.0]},
        {"image_id": 2, "bbox": [38.7, 28.6, 0.3, 0.2]},
    )
    read = read_folder(folder)
    p, q, unlisted = read.images
    assert (read.truth, p.defective, q.defective, unlisted.defective) == ("coco", True, True, False)
    expected = drawn(Polygon([(5, 4), (20, 4), (5, 19)])) | rectangle(30, 2, 35, 6) | runs | rectangle(20, 20, 24, 22)
    assert np.array_equal(p.mask(HW), expected)
    assert np.array_equal(q.mask(HW), rectangle(39, 29, 39, 29))  # a box that is smaller than a px covers one
    assert p.annotation is not None
    assert p.annotation.objects() == {"pit": 2, "rust": 1, "dent": 0}


def test_coco_may_come_in_several_files_but_each_picture_in_one(tmp_path: Path) -> None:
    folder = coco(tmp_path, {"bbox": [1, 1, 5, 5]})
    coco(folder, {"image_id": 3, "bbox": [1, 1, 5, 5]}, file="more.json", images=[{"id": 3, "file_name": "r.png"}])
    assert [image.defective for image in read_folder(folder).images] == [True, False, True]
    coco(folder, {"bbox": [1, 1, 5, 5]}, file="again.json")
    with pytest.raises(InputError, match=r"both mark .*p\.png; leave one"):
        read_folder(folder)


# DeepPCB.


def deeppcb(folder: Path, text: str) -> Path:
    draw_plain(folder, ("p.png", "q.png"))
    (folder / "boxes").mkdir()
    (folder / "boxes" / "p.txt").write_text(text)
    (folder / "boxes" / "q.txt").write_text("\n")
    return folder


@pytest.mark.parametrize("text", ["5 3 9 7 1\n20 10 22 11 6\n", "5,3,9,7,1\r\n20, 10, 22, 11, 6"])
def test_deeppcb_boxes_have_their_first_corner_and_not_their_second(tmp_path: Path, text: str) -> None:
    read = read_folder(deeppcb(tmp_path, text))
    marked, empty = read.images
    assert (read.truth, marked.defective, empty.defective) == ("boxes", True, False)
    assert np.array_equal(marked.mask(HW), rectangle(5, 3, 8, 6) | rectangle(20, 10, 21, 10))
    assert marked.annotation is not None
    assert +marked.annotation.objects() == {"open": 1, "pin-hole": 1}


# Classes.

VOC = """<annotation><size><width>40</width><height>30</height></size>
<object><name>spur</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object>
<object><name>short</name><bndbox><xmin>10</xmin><ymin>10</ymin><xmax>14</xmax><ymax>14</ymax></bndbox></object>
</annotation>"""


def voc(folder: Path) -> Path:
    draw_plain(folder, ("p.png", "q.png"))
    (folder / "annotations").mkdir()
    (folder / "annotations" / "p.xml").write_text(VOC)
    return folder


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (voc, ("short", "spur")),
        (lambda folder: labelme(folder, TRIANGLE, ("rust", "rectangle", [[30, 10], [33, 20]])), ("rust", "pit")),
        (
            lambda folder: coco(folder, {"bbox": [1, 1, 5, 5]}, {"bbox": [9, 9, 2, 2], "category_id": 7}),
            ("rust", "pit"),
        ),
        (lambda folder: deeppcb(folder, "5 3 9 7 1\n20 10 22 11 6\n"), ("pin-hole", "open")),
    ],
)
def test_only_objects_of_the_chosen_classes_are_defects(
    tmp_path: Path, make: Callable[[Path], Path], names: tuple[str, str]
) -> None:
    folder = make(tmp_path)
    masks = {
        classes: read_folder(folder, classes=classes).images[0].mask(HW)
        for classes in (None, names, names[:1], names[1:])
    }
    first, second, both = (np.asarray(masks[classes]) for classes in (names[:1], names[1:], names))
    assert first.any()
    assert second.any()
    assert not (first & second).any()
    assert np.array_equal(first | second, both)
    assert np.array_equal(both, masks[None])
    with pytest.raises(InputError, match=f"has no class 'dust'; its classes are .*{names[1]}"):
        read_folder(folder, classes=["dust"])
    with pytest.raises(InputError, match="classes is empty"):
        read_folder(folder, classes=[])


def test_a_picture_with_ignored_classes_only_is_good_whatever_its_label_says(tmp_path: Path) -> None:
    folder = voc(tmp_path)
    (folder / "annotations" / "q.xml").write_text(VOC.replace("spur", "short"))
    assert [image.defective for image in read_folder(folder, classes=["spur"]).images] == [True, False]
    write_labels(folder, [("p.png", "defective", "a"), ("q.png", "defective", "a")])
    assert [image.defective for image in read_folder(folder).images] == [True, True]
    assert [image.defective for image in read_folder(folder, classes=["spur"]).images] == [True, False]
    (folder / "annotations" / "q.xml").write_text("<annotation/>")
    assert [image.defective for image in read_folder(folder, classes=["spur"]).images] == [True, True]


# Shapes beyond the picture, by one px of rounding or by more.


def test_shapes_one_px_outside_the_picture_are_clipped_and_further_ones_refused() -> None:
    for shape, expected in (
        (Box(-1, -1, 3, 3), rectangle(0, 0, 2, 2)),
        (Box(38, 28, 41, 31), rectangle(38, 28, 39, 29)),
        (Polygon([(-1, -1), (3, -0.6), (3, 3), (-1, 3)]), rectangle(0, 0, 3, 3)),
        (Polygon([(38, 28), (40, 28), (40, 30), (38, 30)]), rectangle(38, 28, 39, 29)),
    ):
        assert np.array_equal(drawn(shape), expected), shape
    for outside in (
        Box(-2, 0, 3, 3),
        Box(0, 0, 3, 32),
        Box(40, 0, 41, 3),  # nothing of it is inside
        Polygon([(-1.1, 0), (3, 0), (3, 3)]),
        Polygon([(0, 0), (3, 0), (3, 30.1)]),
        Polygon([(0, 0), (1e300, 0), (3, 3)]),
        Circle(40, 3, 2),
    ):
        with pytest.raises(ValueError, match=r"does not lie in its picture of 40x30 px \(width x height\)"):
            drawn(outside)


# Damaged files: each error is one sentence that names the file.


def spoil(folder: Path, file: str, content: str | bytes) -> Path:
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def labelme_text(folder: Path, content: str | bytes) -> Path:
    return spoil(labelme(folder, TRIANGLE), "labelme/p.json", content)


def coco_text(folder: Path, content: str | bytes) -> Path:
    return spoil(coco(folder, {"bbox": [1, 1, 5, 5]}), "annotations/instances.json", content)


def coco_beside(folder: Path, content: str) -> Path:
    draw_plain(folder, ("p.png", "q.png"))
    (folder / "images").rename(folder / "train")
    (folder / "train" / "_annotations.coco.json").write_text(content)
    return folder


def voc_text(folder: Path, content: str | bytes) -> Path:
    return spoil(voc(folder), "annotations/p.xml", content)


DAMAGE: list[tuple[Callable[[Path], Path], str]] = [
    (lambda at: labelme_text(at, '{"shapes": ['), r"p.json is not a LabelMe annotation \(Input data was truncated"),
    (lambda at: labelme_text(at, '{"x":' + "[" * 100_000), "p.json is not a LabelMe annotation"),
    (lambda at: labelme_text(at, "{}"), "missing required field `shapes`"),
    (
        lambda at: labelme(at, ("a", "linestrip", [[1, 1], [5, 5]])),
        r"has a linestrip \(a, shape 1\) of 2 points; expected a poly",
    ),
    (lambda at: labelme(at, ("a", "rectangle", [[1, 1]])), "of 1 points; expected a polygon, or"),
    (lambda at: labelme(at, ("a", "polygon", [[1, 1], [2, 2]])), "has 2 corners; expected at least 3"),
    (lambda at: labelme(at, ("a", "polygon", [[1, 1], [9, 2], [50, 2]])), r"polygon \(a, shape 1\) that does not lie"),
    (lambda at: labelme(at, TRIANGLE, imageWidth=41), "was made for a picture of 30x41 px"),
    (lambda at: coco_text(at, '{"images": ['), r"instances.json is not a COCO annotation \(Input data was truncated"),
    (lambda at: coco_beside(at, '{"images": ['), r"coco.json is not a COCO annotation \(Input data was truncated"),
    (lambda at: coco(at, {"image_id": 9, "bbox": [1, 1, 2, 2]}), "annotation 1 of image 9, which it does not list"),
    (lambda at: coco(at, {"category_id": 9, "bbox": [1, 1, 2, 2]}), "annotation 1 of category 9, which it does not"),
    (lambda at: coco(at, {}), r"has a pit \(annotation 1\) that has neither segmentation nor bbox"),
    (lambda at: coco(at, {"bbox": [1, 1, 2]}), "has a bbox of 3 numbers"),
    (lambda at: coco(at, {"bbox": [1, 1, 0, 5]}), "has a bbox of 0x5 px"),
    (lambda at: coco(at, {"bbox": [1, 1, 50, 5]}), "does not lie in its picture"),
    (lambda at: coco(at, {"segmentation": [[1, 1, 2, 2, 3]]}), "has a polygon of 5 numbers"),
    (lambda at: coco(at, {"segmentation": {"size": [40, 30], "counts": [1200]}}), "was made for a picture of 40x30 px"),
    (lambda at: coco(at, {"segmentation": {"size": HW, "counts": [10**15]}}), "expected 1200"),
    (lambda at: coco(at, {"segmentation": {"size": HW, "counts": [1300, -100]}}), "none below 0"),
    (lambda at: coco(at, {"segmentation": {"size": HW, "counts": "i4a"}}), "Expected `array`, got `str`"),
    (lambda at: deeppcb(at, "1 2 3 4\n"), "line 1 of .*p.txt is '1 2 3 4'; expected five whole numbers"),
    (lambda at: deeppcb(at, "1 1 5 5 1\n1 1 50 5 1\n"), "box 1,1 to 50,5 px in line 2 that does not lie in its pic"),
    (lambda at: deeppcb(at, "5 1 5 5 1\n"), "has no area"),
    (lambda at: spoil(deeppcb(at, ""), "boxes/p.txt", b"\xff\xff"), "p.txt cannot be read"),
    (lambda at: voc_text(at, "<annotation><object>"), "p.xml is not a VOC annotation"),
    (lambda at: voc_text(at, '<?xml version="1.0" encoding="none"?><annotation/>'), "p.xml is not a VOC annotation"),
    (lambda at: voc_text(at, "<html><object/></html>"), "its root is <html>"),
    (lambda at: voc_text(at, "<annotation><object><name>a</name></object></annotation>"), "an object without bndbox"),
    (lambda at: voc_text(at, VOC.replace("<xmin>2", "<xmin>1e999")), "xmin is '1e999'; expected a number"),
    (lambda at: voc_text(at, VOC.replace("<width>40", "<width>wide")), "a size whose width is 'wide'"),
    (lambda at: voc_text(at, VOC.replace("<xmax>14", "<xmax>60")), "box 10,10 to 60,14 px that does not lie in"),
]


@pytest.mark.parametrize(("make", "excerpt"), DAMAGE)
def test_damaged_annotations_are_refused_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], Path], excerpt: str
) -> None:
    with pytest.raises(InputError, match=excerpt) as raised:
        read_folder(make(tmp_path)).images[0].mask(HW)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_coco_and_voc_in_one_folder_are_read_separately(tmp_path: Path) -> None:
    folder = coco(voc(tmp_path), {"bbox": [1, 1, 5, 5]})
    assert isinstance(read_folder(folder).images[0].annotation, CocoObjects)  # not VOC: boxes come last
    assert isinstance(read_folder(folder, "boxes").images[0].annotation, VocBoxes)


@given(st.sampled_from(["labelme/p.json", "annotations/instances.json", "annotations/p.xml", "boxes/p.txt"]), st.data())
def test_a_file_with_changed_bytes_is_read_or_refused_without_a_crash(file: str, data: st.DataObject) -> None:
    make: dict[str, Callable[[Path], Path]] = {
        "labelme/p.json": lambda at: labelme(at, TRIANGLE),
        "annotations/instances.json": lambda at: coco(at, {"segmentation": {"size": HW, "counts": [40, 1160]}}),
        "annotations/p.xml": voc,
        "boxes/p.txt": lambda at: deeppcb(at, "5 3 9 7 1\n20 10 22 11 6\n"),
    }
    with TemporaryDirectory() as folder:
        made = make[file](Path(folder))
        content = bytearray((made / file).read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content)))
            content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        (made / file).write_bytes(content)
        with suppress(InputError):
            mask = read_folder(made).images[0].mask(HW)
            assert mask is not None
            assert mask.shape == HW


def test_boxes_are_loose_whatever_file_they_come_in_and_all_other_marks_exact(tmp_path: Path) -> None:
    box: dict[str, object] = {"bbox": [1, 1, 5, 5]}
    area: dict[str, object] = {"segmentation": [[1, 1, 9, 1, 9, 9]], **box}
    square = [[3.0, 3.0], [9.0, 9.0]]

    def is_exact(folder: Path, classes: list[str] | None = None) -> bool:
        return read_folder(folder, classes=classes).images[0].has_exact_mask()

    assert is_exact(labelme(tmp_path / "a", TRIANGLE, ("pit", "circle", square)))
    mixed = labelme(tmp_path / "b", TRIANGLE, ("rust", "rectangle", square))
    assert not is_exact(mixed)
    assert is_exact(mixed, ["pit"])  # the rectangle is not a defect
    assert is_exact(coco(tmp_path / "c", area))
    assert not is_exact(coco(tmp_path / "d", area, box))
    assert not is_exact(voc(tmp_path / "e"))
    assert not is_exact(deeppcb(tmp_path / "f", "5 3 9 7 1"))
    whole = draw_plain(tmp_path / "g", ("p.png", "q.png"))
    (whole / "masks").mkdir()
    assert cv2.imwrite(str(whole / "masks" / "p.png"), np.full(HW, 255, np.uint8))
    assert [image.has_exact_mask() for image in read_folder(whole).images] == [True, True]
    write_labels(whole, [("p.png", "defective", "a"), ("q.png", "good", "b")])
    assert [image.has_exact_mask() for image in read_folder(whole, "labels").images] == [False, False]
