"""Reading of folders of labelled pictures."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from heatline.edge.errors import InputError
from heatline.edge.picture_folders import find_layout
from heatline.train.readers import read_folder
from heatline.train.readers.folder import truths_in
from tests.train.blobs import draw_blobs, draw_plain, sort_tiles, write_labels

BOX = """<annotation><size><width>40</width><height>30</height></size><object><name>spur</name>
<bndbox><xmin>5</xmin><ymin>3</ymin><xmax>10</xmax><ymax>4</ymax></bndbox></object></annotation>"""


def write_picture(file: Path, value: int = 90, frame_hw: tuple[int, int] = (30, 40)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full(frame_hw, value, np.uint8))


def write_box(folder: Path) -> Path:
    write_picture(folder / "images" / "p.png")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "p.xml").write_text(BOX)
    return folder


def test_labels_csv_gives_label_and_group_and_masks_give_the_place(tmp_path: Path) -> None:
    read = read_folder(draw_blobs(tmp_path / "blobs"))
    assert (read.name, read.truth, len(read.images), read.groups()) == ("blobs", "masks", 12, ["a", "b", "c", "d"])
    first, last = read.images[0], read.images[2]
    assert (first.group, first.defective, [file.name for file in first.truth_files]) == ("a", True, ["a_0.png"])
    stored = cv2.imread(str(tmp_path / "blobs/masks/a_0.png"), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert np.array_equal(first.mask((150, 200)), stored > 0)
    assert not last.defective
    assert not np.any(last.mask((150, 200)))  # labelled good, without a mask: no pixel is defective


def test_the_first_truth_of_a_folder_is_the_default_and_any_can_be_chosen(tmp_path: Path) -> None:
    write_box(tmp_path)
    assert read_folder(tmp_path).truth == "boxes"
    write_picture(tmp_path / "derived_masks" / "p.png", 255)
    assert read_folder(tmp_path).truth == "derived_masks"
    write_picture(tmp_path / "masks" / "p.png", 255)
    assert read_folder(tmp_path).truth == "masks"
    assert read_folder(tmp_path, truth="boxes").truth == "boxes"


def test_a_box_covers_both_its_corners_which_voc_counts_from_one(tmp_path: Path) -> None:
    mask = read_folder(write_box(tmp_path)).images[0].mask((30, 40))
    assert mask is not None
    assert np.argwhere(mask).min(axis=0).tolist() == [2, 4]
    assert np.argwhere(mask).max(axis=0).tolist() == [3, 9]
    assert mask.sum() == 2 * 6


def test_without_labels_a_picture_is_defective_if_its_annotation_marks_anything(tmp_path: Path) -> None:
    for name, value in (("marked", 255), ("empty", 0)):
        write_picture(tmp_path / "images" / f"{name}.png")
        write_picture(tmp_path / "masks" / f"{name}.png", value)
    write_picture(tmp_path / "images" / "unmarked.png")
    found = {image.path.stem: image.defective for image in read_folder(tmp_path).images}
    assert found == {"marked": True, "empty": False, "unmarked": False}


def test_groups_come_from_a_column_or_from_file_names(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs")
    assert read_folder(folder, group_pattern=r"_(\d)").groups() == ["0", "1", "2"]
    rows = [(f"{group}_{n}.png", "defective" if n < 2 else "good", f"0{n}") for group in "abcd" for n in range(3)]
    write_labels(folder, rows, group="board")
    assert read_folder(folder, group_column="board").groups() == ["00", "01", "02"]  # as written: no numbers


def test_in_good_and_defective_folders_each_file_is_a_group_unless_a_pattern_says_more(tmp_path: Path) -> None:
    folder = sort_tiles(tmp_path / "tiles", count=3)
    read = read_folder(folder)
    assert (read.truth, read.groups()) == ("labels", ["d00", "d01", "d02", "g00", "g01", "g02"])
    assert [image.defective for image in read.images] == [False] * 3 + [True] * 3
    assert read.images[0].mask((64, 64)) is None
    assert read_folder(folder, group_pattern=r"(\d\d)").groups() == ["00", "01", "02"]


def labelled(*rows: tuple[str, str]) -> Callable[[Path], None]:
    """Replace labels.csv; without rows, all pictures are good."""
    return lambda folder: write_labels(
        folder, [(*row, "a") for row in rows] or [(file.name, "good", "a") for file in (folder / "images").iterdir()]
    )


@pytest.mark.parametrize(
    ("spoil", "excerpt"),
    [
        (labelled(("a_0.png", "dubious")), "labels a_0.png as 'dubious'; expected good or defective"),
        (labelled(("a_0.png", "good"), ("a_0.png", "good")), "names a_0.png twice"),
        (labelled(), "holds no defective picture"),
        (lambda at: (at / "images" / "a_0.png").unlink(), "a_0.png has a label and no picture"),
        (lambda at: write_picture(at / "images" / "new.png"), "new.png has no label"),
        (lambda at: write_picture(at / "images" / "a_0.jpg"), "a_0.jpg has no label"),
        (
            lambda at: ((at / "labels.csv").unlink(), write_picture(at / "images" / "a_0.jpg")),
            "a_0.png; name its folders too, or rename a picture",
        ),
        (lambda at: (at / "masks" / "a_0.png").unlink(), "labelled defective and has no annotation of its name"),
        (
            lambda at: (at / "images").rename(at / "pictures"),
            "holds the folders masks/, pictures/; expected good/ and defective/; or images/ with",
        ),
        (lambda at: [file.unlink() for file in (at / "images").iterdir()], "holds no picture"),
        (
            lambda at: ((at / "masks").rename(at / "elsewhere"), (at / "labels.csv").unlink()),
            "neither annotations nor labels.csv say which are defective; expected good/ and defective/",
        ),
        (lambda at: (at / "labels.csv").write_bytes(b"image,label\n\xff\xfe,good\n"), "labels.csv cannot be read"),
        (lambda at: (at / "labels.csv").write_text("name,kind\na_0.png,good\n"), "the columns image and label"),
        (
            lambda at: (at / "labels.csv").write_text("image;label\na_0.png;good\n"),
            "labels.csv has no rows with the columns image and label, separated by commas; begin it with image",
        ),
    ],
)
def test_a_folder_that_cannot_be_understood_is_refused_in_one_sentence(
    tmp_path: Path, spoil: Callable[[Path], object], excerpt: str
) -> None:
    folder = draw_blobs(tmp_path / "blobs", per_group=1)
    spoil(folder)
    with pytest.raises(InputError) as raised:
        read_folder(folder)
    assert excerpt in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_folders_classes_truths_and_groups_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_folder(tmp_path / "nowhere")
    folder = draw_blobs(tmp_path / "blobs", per_group=1)
    with pytest.raises(InputError, match="has no truth 'boxes'; it has masks"):
        read_folder(folder, truth="boxes")
    with pytest.raises(InputError, match=r"column 'board' of labels.csv \(which has group\); name the column"):
        read_folder(folder, group_column="board").groups()
    with pytest.raises(InputError, match="no parenthesis"):
        read_folder(folder, group_pattern="a_")
    with pytest.raises(InputError, match="not a regular expression"):
        read_folder(folder, group_pattern="(")
    with pytest.raises(InputError, match=r"finds no group in the file name a_0\.png"):
        read_folder(folder, group_pattern="(z)")
    (tmp_path / "tiles" / "good").mkdir(parents=True)
    with pytest.raises(InputError, match="good holds no picture; expected files ending in"):
        read_folder(tmp_path / "tiles")


def test_masks_that_do_not_fit_their_picture_or_its_label_are_refused(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs", per_group=1)
    image = read_folder(folder).images[0]
    with pytest.raises(InputError, match=r"is 150x200 px \(height x width\), its picture is 100x200"):
        image.mask((100, 200))
    names = [file.name for file in (folder / "images").iterdir()]
    write_labels(folder, [(name, "good" if name == "a_0.png" else "defective", "a") for name in names])
    for file in (folder / "images").iterdir():
        write_picture(folder / "masks" / file.name, 255, (150, 200))
    with pytest.raises(InputError, match=r"a_0.png is labelled good, but .* marks 30000 defective px"):
        read_folder(folder).images[0].mask((150, 200))


# Labels only, and pictures of any format, decoded as on the line.

LARGE_HW = (500, 700)


def test_a_folder_without_annotations_has_the_labels_of_its_table(tmp_path: Path) -> None:
    folder = draw_plain(tmp_path / "f", ("p.png", "q.png"), LARGE_HW)
    write_labels(folder, [("p.png", "good", "a"), ("q.png", "defective", "b")])
    read = read_folder(folder)
    assert (read.truth, truths_in(find_layout(folder)), read.groups()) == ("labels", ["labels"], ["a", "b"])
    assert [image.defective for image in read.images] == [False, True]
    assert all(image.labels_only and image.annotation is None for image in read.images)
    assert read.images[1].mask(LARGE_HW) is None


def test_truth_labels_ignores_annotations(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs", per_group=1)
    for file in (folder / "masks").iterdir():
        file.write_bytes(b"no mask")
    read = read_folder(folder, "labels")
    assert (read.truth, sum(image.defective for image in read.images)) == ("labels", 4)
    assert all(image.labels_only and image.truth_files == () for image in read.images)
    (folder / "labels.csv").unlink()
    with pytest.raises(InputError, match=r"has no truth 'labels' \(labels.csv is missing\); it has masks"):
        read_folder(folder, "labels")


def test_labels_of_one_class_are_refused(tmp_path: Path) -> None:
    folder = draw_plain(tmp_path / "f", ("p.png", "q.png"))
    write_labels(folder, [("p.png", "defective", "a"), ("q.png", "defective", "b")])
    with pytest.raises(InputError, match="only one class: every picture is"):
        read_folder(folder)
    tiles = sort_tiles(tmp_path / "tiles", count=1)
    (tiles / "good" / "g00.png").unlink()
    with pytest.raises(InputError, match="only one class: every picture is"):
        read_folder(tiles)


# Mixtures, and good pictures only, if the caller accepts them.


def sorted_with_masks(tmp_path: Path, stems: tuple[str, ...]) -> Path:
    """Three good and three defective pictures, d00 to d02, with masks for some."""
    folder = sort_tiles(tmp_path / "tiles", count=3)
    (folder / "masks").mkdir()
    for stem in stems:
        write_picture(folder / "masks" / f"{stem}.png", 255, (64, 64))
    return folder


def test_a_defective_picture_without_annotation_is_known_by_its_label_in_a_mixture(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs")
    (folder / "masks" / "a_0.png").unlink()
    write_picture(folder / "masks" / "b_1.png", 0, (150, 200))  # marks nothing
    read = read_folder(folder, mixed=True)
    assert read.truth == "masks"
    assert [image.path.stem for image in read.images if image.labels_only] == ["a_0", "b_1"]
    assert read.images[0].mask((150, 200)) is None
    assert read.images[0].defective
    assert read.describe_mixture() == (
        "2 of 8 defective pictures have no defect marked (masks), first a_0.png: only the label is used"
    )
    assert read_folder(draw_blobs(tmp_path / "whole"), mixed=True).describe_mixture() is None
    assert read_folder(folder, "labels", mixed=True).describe_mixture() is None


@pytest.mark.parametrize("stems", [("d00", "d01", "d02"), ("d01",), ()])
def test_masks_may_lie_next_to_sorted_pictures(tmp_path: Path, stems: tuple[str, ...]) -> None:
    folder = sorted_with_masks(tmp_path, stems)
    read = read_folder(folder, mixed=True)
    assert (read.truth, truths_in(find_layout(folder))[-1]) == ("masks" if stems else "labels", "labels")
    assert [image.defective for image in read.images] == [False] * 3 + [True] * 3
    assert tuple(image.path.stem for image in read.images if image.defective and not image.labels_only) == stems
    for image in read.images[3:]:
        mask = image.mask((64, 64))
        assert mask is None if image.labels_only else (mask is not None and mask.all())
    if len(stems) == 3:
        assert [image.annotation is None for image in read_folder(folder).images] == [True] * 3 + [False] * 3
    elif stems:
        with pytest.raises(InputError, match="has no annotation of its name"):
            read_folder(folder)
    assert all(image.labels_only for image in read_folder(folder, "labels").images)


def test_the_annotation_belongs_to_the_defective_of_two_pictures_with_one_name(tmp_path: Path) -> None:
    folder = sorted_with_masks(tmp_path, ("g00",))
    (folder / "defective" / "d00.png").rename(folder / "defective" / "g00.png")
    good, *_, defective = (image for image in read_folder(folder, mixed=True).images if image.path.stem == "g00")
    assert (good.annotation, good.defective, good.has_exact_mask()) == (None, False, True)
    assert defective.annotation is not None


def test_boxes_next_to_sorted_pictures_may_count_by_class(tmp_path: Path) -> None:
    folder = sort_tiles(tmp_path / "tiles", count=2)
    (folder / "boxes").mkdir()
    for number in range(2):
        (folder / "boxes" / f"d0{number}.txt").write_text(f"1 1 9 9 {number + 1}")
    assert [image.defective for image in read_folder(folder, classes=["short"]).images] == [False, False, False, True]


def test_only_good_pictures_are_read_if_the_caller_accepts_that(tmp_path: Path) -> None:
    folder = sort_tiles(tmp_path / "tiles", count=2)
    for file in (folder / "defective").iterdir():
        file.unlink()
    with pytest.raises(
        InputError, match="holds no defective picture; a classifier needs some: add them, or train on good"
    ):
        read_folder(folder)
    assert len(read_folder(folder, mixed=True).images) == 2
    (folder / "defective").rmdir()
    assert [image.defective for image in read_folder(folder, mixed=True).images] == [False, False]
    table = draw_plain(tmp_path / "f", ("p.png", "q.png"))
    write_labels(table, [("p.png", "good", "a"), ("q.png", "good", "b")])
    assert read_folder(table, mixed=True).groups() == ["a", "b"]
    (folder / "good").rename(folder / "defective")
    with pytest.raises(InputError, match="only one class: every picture is defective"):
        read_folder(folder, mixed=True)


def test_a_column_with_an_empty_cell_gives_no_groups(tmp_path: Path) -> None:
    folder = draw_plain(tmp_path / "f", ("p.png", "q.png"))
    write_labels(folder, [("p.png", "good", "a"), ("q.png", "defective", "")])
    with pytest.raises(InputError, match=r"q.png has no group by column 'group' of labels.csv"):
        read_folder(folder).groups()


def png(
    path: Path, bits: int, colour_type: int, rows: bytes, palette: bytes = b"", size: tuple[int, int] = (4, 2)
) -> None:
    """Write a PNG byte by byte (ISO 15948), as OpenCV writes none with a palette or fewer than 8 bits.

    Args:
        rows: each begins with its filter, 0.
    """
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, 0))]
    chunks += [(b"PLTE", palette)] if palette else []
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


RED, BLUE = (200, 10, 30), (5, 60, 250)
WHITE, BLACK, BRIGHT, DARK = (255,) * 3, (0,) * 3, (77,) * 3, (5,) * 3
PNGS = {  # bits, colour type, a row of four px, and the first two of them as RGB; the others are the same again
    "palette": (8, 3, bytes([0, 1, 0, 1, 0]), RED, BLUE),
    "2-bit palette": (2, 3, bytes([0, 0b01_00_01_00]), RED, BLUE),
    "1-bit": (1, 0, bytes([0, 0b1010_0000]), WHITE, BLACK),
    "4-bit": (4, 0, bytes([0, 0xF0, 0xF0]), WHITE, BLACK),
    "grey": (8, 0, bytes([0, 77, 5, 77, 5]), BRIGHT, DARK),
    "16-bit grey": (16, 0, bytes([0, 77, 255, 5, 0, 77, 255, 5, 0]), BRIGHT, DARK),
    "grey with alpha": (8, 4, bytes([0, 77, 9, 5, 255, 77, 0, 5, 128]), BRIGHT, DARK),
    "colour": (8, 2, bytes([0, *RED, *BLUE, *RED, *BLUE]), RED, BLUE),
    "16-bit colour": (16, 2, bytes([0, *(byte for value in (*RED, *BLUE) * 2 for byte in (value, 255))]), RED, BLUE),
    "alpha": (8, 6, bytes([0, *RED, 0, *BLUE, 255, *RED, 9, *BLUE, 128]), RED, BLUE),
}  # fmt: skip


@pytest.mark.parametrize("kind", PNGS)
def test_every_kind_of_png_is_decoded_to_its_rgb_values(tmp_path: Path, kind: str) -> None:
    folder = sort_tiles(tmp_path / "tiles", count=1)
    bits, colour_type, row, first, second = PNGS[kind]
    palette = bytes([*BLUE, *RED]) if colour_type == 3 else b""
    png(folder / "defective" / "d00.png", bits, colour_type, row * 2, palette)
    pixels = read_folder(folder).images[1].pixels()
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [[list(first), list(second)] * 2] * 2


def test_masks_may_have_one_bit_a_palette_or_colour(tmp_path: Path) -> None:
    folder = draw_plain(tmp_path / "f", ("p.png", "q.png", "r.png"), (2, 4))
    (folder / "masks").mkdir()
    png(folder / "masks" / "p.png", 1, 0, bytes([0, 0b0110_0000, 0, 0]))
    png(folder / "masks" / "q.png", 8, 3, bytes([0, 0, 1, 1, 0, 0, 0, 0, 0, 0]), bytes([0, 0, 0, 128, 0, 0]))
    colour = np.zeros((2, 4, 4), np.uint8)
    colour[0, 1:3, 2] = 9
    colour[..., 3] = 255  # opaque black is not a defect
    assert cv2.imwrite(str(folder / "masks" / "r.png"), colour)
    for image in read_folder(folder).images:
        mask = image.mask((2, 4))
        assert mask is not None
        assert mask.tolist() == [[False, True, True, False], [False] * 4]
