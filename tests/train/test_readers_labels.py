"""Folders of which only labels are known, and that pictures of any kind are read as the line would read them."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import InputError
from tests.train.blobs import draw_blobs, draw_plain, sort_tiles, write_labels
from train.readers import read_folder
from train.readers.folder import truths_in

LARGE_HW = (500, 700)


def test_a_folder_without_annotations_has_the_labels_of_its_table(tmp_path: Path) -> None:
    folder = draw_plain(tmp_path / "f", ("p.png", "q.png"), LARGE_HW)
    write_labels(folder, [("p.png", "good", "a"), ("q.png", "defective", "b")])
    read = read_folder(folder)
    assert (read.truth, truths_in(folder), read.groups()) == ("labels", ["labels"], ["a", "b"])
    assert [image.defective for image in read.images] == [False, True]
    assert all(image.labels_only and image.annotation is None for image in read.images)
    assert read.images[1].mask(LARGE_HW) is None


def test_labels_may_be_asked_for_where_there_are_annotations_which_are_then_not_read(tmp_path: Path) -> None:
    folder = draw_blobs(tmp_path / "blobs", per_group=1)
    for file in (folder / "masks").iterdir():
        file.write_bytes(b"no mask")
    read = read_folder(folder, "labels")
    assert (read.truth, sum(image.defective for image in read.images)) == ("labels", 4)
    assert all(image.labels_only and image.truth_files == () for image in read.images)
    (folder / "labels.csv").unlink()
    with pytest.raises(InputError, match=r"has no truth 'labels' \(labels.csv is missing\); it has masks"):
        read_folder(folder, "labels")


def test_pictures_in_good_and_defective_may_have_any_size(tmp_path: Path) -> None:
    read = read_folder(sort_tiles(tmp_path / "tiles", count=1, side=500))
    assert [(image.labels_only, image.mask((500, 500))) for image in read.images] == [(True, None)] * 2
    assert truths_in(tmp_path / "tiles") == ["labels"]


@pytest.mark.parametrize(
    ("label", "says"), [("good", "holds no defective picture"), ("defective", "only one class: every picture is")]
)
def test_labels_of_one_class_teach_nothing(tmp_path: Path, label: str, says: str) -> None:
    folder = draw_plain(tmp_path / "f", ("p.png", "q.png"))
    write_labels(folder, [("p.png", label, "a"), ("q.png", label, "b")])
    with pytest.raises(InputError, match=says):
        read_folder(folder)


def test_an_empty_class_folder_is_told(tmp_path: Path) -> None:
    folder = sort_tiles(tmp_path / "tiles", count=1)
    (folder / "good" / "g00.png").unlink()
    with pytest.raises(InputError, match="good holds no picture"):
        read_folder(folder)


def png(
    path: Path, bits: int, colour_type: int, rows: bytes, palette: bytes = b"", size: tuple[int, int] = (4, 2)
) -> None:
    """A PNG, byte by byte (ISO 15948), as OpenCV writes none with a palette or less than 8 bits.

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
ROW = {  # four px: red, blue, red, blue, or bright, dark, bright, dark
    "palette": (8, 3, bytes([0, 1, 0, 1, 0])),
    "2-bit palette": (2, 3, bytes([0, 0b01_00_01_00])),
    "1-bit": (1, 0, bytes([0, 0b1010_0000])),
    "4-bit": (4, 0, bytes([0, 0xF0, 0xF0])),
    "grey": (8, 0, bytes([0, 77, 5, 77, 5])),
    "16-bit grey": (16, 0, bytes([0, 77, 255, 5, 0, 77, 255, 5, 0])),
    "grey with alpha": (8, 4, bytes([0, 77, 9, 5, 255, 77, 0, 5, 128])),
    "colour": (8, 2, bytes([0, *RED, *BLUE, *RED, *BLUE])),
    "16-bit colour": (16, 2, bytes([0, *(byte for value in (*RED, *BLUE) * 2 for byte in (value, 255))])),
    "alpha": (8, 6, bytes([0, *RED, 0, *BLUE, 255, *RED, 9, *BLUE, 128])),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("palette", RED, BLUE),
        ("2-bit palette", RED, BLUE),
        ("1-bit", (255,) * 3, (0,) * 3),
        ("4-bit", (255,) * 3, (0,) * 3),
        ("grey", (77,) * 3, (5,) * 3),
        ("16-bit grey", (77,) * 3, (5,) * 3),
        ("grey with alpha", (77,) * 3, (5,) * 3),
        ("colour", RED, BLUE),
        ("16-bit colour", RED, BLUE),
        ("alpha", RED, BLUE),
    ],
)
def test_every_kind_of_png_becomes_the_rgb_it_stands_for(
    tmp_path: Path, kind: str, first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    folder = sort_tiles(tmp_path / "tiles", count=1)
    bits, colour_type, row = ROW[kind]
    palette = bytes([*BLUE, *RED]) if colour_type == 3 else b""
    png(folder / "defective" / "d00.png", bits, colour_type, row * 2, palette)
    pixels = read_folder(folder).images[1].pixels()
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [[list(first), list(second)] * 2] * 2


def test_a_png_that_ends_early_is_refused(tmp_path: Path) -> None:
    folder = sort_tiles(tmp_path / "tiles", count=1)
    file = folder / "defective" / "d00.png"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match="ends before its picture does"):
        read_folder(folder).images[1].pixels()


def test_masks_may_have_one_bit_a_palette_or_colour(tmp_path: Path) -> None:
    folder = draw_plain(tmp_path / "f", ("p.png", "q.png", "r.png"), (2, 4))
    (folder / "masks").mkdir()
    png(folder / "masks" / "p.png", 1, 0, bytes([0, 0b0110_0000, 0, 0]))
    png(folder / "masks" / "q.png", 8, 3, bytes([0, 0, 1, 1, 0, 0, 0, 0, 0, 0]), bytes([0, 0, 0, 128, 0, 0]))
    colour = np.zeros((2, 4, 4), np.uint8)
    colour[0, 1:3, 2] = 9
    colour[..., 3] = 255  # opaque black is no defect
    assert cv2.imwrite(str(folder / "masks" / "r.png"), colour)
    for image in read_folder(folder).images:
        mask = image.mask((2, 4))
        assert mask is not None
        assert mask.tolist() == [[False, True, True, False], [False] * 4]
