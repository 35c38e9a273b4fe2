"""Pictures from disk: complete ones are read exactly, broken ones refused; frames differ by their digests. Every camera
format against values computed by hand, and the expected size and format of a camera's frames.
"""

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from heatline.edge.cameras.child import digest
from heatline.edge.colour import PIXEL_FORMATS, PixelFormat, to_rgb
from heatline.edge.errors import InputError
from heatline.edge.frames import BadFrame, Frame, FrameFormat, FrameRule, FrameSize, Stamp
from heatline.edge.images import list_images, read_image, read_rgb
from tests.command import sentence_of


def png_file(width: int, height: int, depth: int, kind: int, rows: bytes, extra: bytes = b"") -> bytes:
    """Return a handmade PNG; `rows` with a filter byte before each, `extra` between header and pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def encoded(suffix: str, image: NDArray[np.uint8], *options: int) -> bytes:
    return cv2.imencode(suffix, image, options)[1].tobytes()


GREY, COLOUR, PALETTE, ALPHA = 0, 2, 3, 6
TWO_COLOURS = chunk(b"PLTE", b"\x0a\x14\x1e\xc8\x64\x32")
NOISE = np.random.default_rng(7).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.mark.parametrize(
    ("data", "pixel_format", "rgb"),
    [
        (png_file(2, 1, 8, GREY, b"\x00\x07\xff"), "Mono8", [[7, 7, 7], [255, 255, 255]]),
        (png_file(2, 1, 16, GREY, b"\x00\x12\x34\xff\xff"), "Mono16", [[18, 18, 18], [255, 255, 255]]),
        (png_file(2, 1, 8, COLOUR, b"\x00\x01\x02\x03\x04\x05\x06"), "BGR8", [[1, 2, 3], [4, 5, 6]]),
        (png_file(1, 1, 16, COLOUR, b"\x00\x01\x99\x02\x99\x03\x99"), "BGR16", [[1, 2, 3]]),
        (png_file(2, 1, 8, ALPHA, b"\x00\x01\x02\x03\x00\x04\x05\x06\xff"), "BGRA8", [[1, 2, 3], [4, 5, 6]]),
        (png_file(2, 1, 8, PALETTE, b"\x00\x01\x00", TWO_COLOURS), "BGR8", [[200, 100, 50], [10, 20, 30]]),
        (png_file(2, 1, 1, GREY, b"\x00\x40"), "Mono8", [[0, 0, 0], [255, 255, 255]]),  # one bit per pixel
        (encoded(".jpg", np.full((1, 1), 99, np.uint8)), "Mono8", [[99, 99, 99]]),
    ],
    ids=["grey-8", "grey-16", "colour-8", "colour-16", "alpha", "palette", "one-bit", "jpeg"],
)
def test_a_handmade_picture_is_read_exactly(
    tmp_path: Path, data: bytes, pixel_format: str, rgb: list[list[int]]
) -> None:
    (tmp_path / "hand.png").write_bytes(data)
    (tmp_path / "link.png").symlink_to("hand.png")
    assert read_image(tmp_path / "link.png")[1] == pixel_format
    assert read_rgb(tmp_path / "hand.png").tolist() == [rgb]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_formats_are_read_to_the_last_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(encoded(suffix, NOISE, *([cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else [])))
    np.testing.assert_array_equal(read_rgb(path), NOISE[..., ::-1])


def test_a_rotation_tag_is_ignored_and_a_thumbnail_does_not_end_a_picture(tmp_path: Path) -> None:
    """Training and line need the sensor's own rows; a tag would rotate only some pictures."""
    jpeg, path = encoded(".jpg", NOISE), tmp_path / "photo.jpg"
    # Big-endian TIFF with one tag: Orientation, one SHORT, 6 = rotated by 90 degrees; then a complete JPEG.
    tag = struct.pack(">HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\x00\x00MM" + tag + encoded(".jpg", np.full((16, 16, 3), 200, np.uint8))
    whole = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    path.write_bytes(whole)
    assert read_image(path)[0].shape == (40, 60, 3)
    for kept in range(0, 70, 5):
        path.write_bytes(whole[: 6 + len(exif) + kept])
        with pytest.raises(InputError, match=r"photo\.jpg"):
            read_image(path)


WHOLE: dict[str, bytes] = {
    "noise.jpg": encoded(".jpg", NOISE),
    "progressive.jpg": encoded(".jpg", NOISE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts.jpg": encoded(".jpg", NOISE, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    "noise.png": encoded(".png", NOISE),
    "flat.png": encoded(".png", np.full((300, 300, 3), 9, np.uint8)),
    "noise.bmp": encoded(".bmp", NOISE),
    "noise.tif": encoded(".tif", NOISE),
    "flat.tif": encoded(".tif", np.full((300, 300, 3), 9, np.uint8)),
    "noise.webp": encoded(".webp", NOISE),
}


@given(name=st.sampled_from(sorted(WHOLE)), share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=10 * len(WHOLE))
def test_a_cut_or_damaged_picture_is_refused(tmp_path_factory: pytest.TempPathFactory, name: str, share: float) -> None:
    whole = WHOLE[name]
    path = tmp_path_factory.mktemp("cut") / name
    cut = [whole[: int(len(whole) * share)], whole[: len(whole) - 1 - int(40 * share)]]
    if name == "noise.png":  # which has checksums
        at = 60 + int((len(whole) - 120) * share)
        cut.append(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
    for data in cut:
        path.write_bytes(data)
        with pytest.raises(InputError, match=name):
            read_image(path)
    path.write_bytes(whole)
    read_image(path)


NO_PICTURES: list[tuple[bytes, str]] = [
    (b"", "not a picture"),
    (b"hello, I am a letter", "not a picture"),
    (b"\xff\xd8\xff\xd9", "not a picture"),  # a JPEG with markers only
    (b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), "picture"),
    (png_file(0, 0, 8, GREY, b""), "picture"),
    (png_file(900_000, 900_000, 8, GREY, b"\x00"), "decoded"),  # a terapixel
    (png_file(1, 1, 16, ALPHA, b"\x00" + b"\x01\x00" * 4), "has 4 channel(s) of uint16"),
]


@pytest.mark.parametrize(("data", "words"), [(None, "cannot be read"), *NO_PICTURES])
def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, data: bytes | None, words: str) -> None:
    path = tmp_path / "picture.png"
    if data is not None:
        path.write_bytes(data)
    assert re.search(rf"{re.escape(str(path))}.*{re.escape(words)}", sentence_of(InputError, read_image, path))


def test_only_pictures_of_a_folder_are_listed_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.tiff", "notes.txt", ".hidden", "d.png.part", "e.webp"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "z.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.JPG", "b.png", "c.tiff", "e.webp"]
    for place, words in (("z.png", "holds no picture"), ("no", "is not a folder")):
        with pytest.raises(InputError, match=words):
            list_images(tmp_path / place)


@given(arrays(st.sampled_from([np.uint8, np.uint16]), st.tuples(*[st.integers(1, 90)] * 2)), st.data())
def test_equal_frames_have_one_digest_and_a_changed_bit_another(image: NDArray[np.uint16], data: st.DataObject) -> None:
    assert digest(image[:, ::2]) == digest(image[:, ::2].copy())
    changed = image.copy()
    changed.reshape(-1)[data.draw(st.integers(0, image.size - 1))] ^= 1
    noise = np.random.default_rng(0).integers(0, 256, (64, 2448), np.uint8)
    moved = [noise[::-1], *(np.roll(noise, by) for by in (1, 8, 1024, 2448, 8 * 2448))]
    assert len({digest(each) for each in (image, changed, noise, *moved)}) == 3 + len(moved)


RED, GREEN, BLUE = 200, 100, 50
U8, U16, F32 = np.uint8, np.uint16, np.float32
PIXELS: list[tuple[PixelFormat, Any, tuple[int, int, int]]] = [
    ("Mono8", U8(77), (77, 77, 77)),
    ("Mono10", U16(515), (128, 128, 128)),  # the highest 8 of 10 bits, rounded down
    ("Mono10", U16(4000), (255, 255, 255)),  # more than 10 bits can hold: white, no overflow
    ("Mono12", U16(1616), (101, 101, 101)),
    ("Mono16", U16(0x1234), (0x12, 0x12, 0x12)),
    ("RGB8", np.array([1, 2, 3], U8), (1, 2, 3)),
    ("BGR8", np.array([1, 2, 3], U8), (3, 2, 1)),
    ("BGRA8", np.array([1, 2, 3, 0], U8), (3, 2, 1)),  # transparent or not: alpha is dropped
    ("BGR16", np.array([0x0102, 0x0304, 0xFFFF], U16), (0xFF, 0x03, 0x01)),
]
MOSAICS: dict[PixelFormat, list[list[int]]] = {
    "BayerRG8": [[RED, GREEN], [GREEN, BLUE]],  # GenICam names the first row's pixels
    "BayerGR8": [[GREEN, RED], [BLUE, GREEN]],
    "BayerGB8": [[GREEN, BLUE], [RED, GREEN]],
    "BayerBG8": [[BLUE, GREEN], [GREEN, RED]],
}


def test_pixels_of_every_format_are_converted() -> None:
    for pixel_format, pixel, rgb in PIXELS:
        came = to_rgb(np.broadcast_to(pixel, (3, 5, *np.shape(pixel))).copy(), pixel_format)
        assert (came.dtype, came.shape) == (U8, (3, 5, 3))
        assert (came == rgb).all(), pixel_format
    assert {pixel_format for pixel_format, *_ in PIXELS} | MOSAICS.keys() == set(PIXEL_FORMATS)


@pytest.mark.parametrize("pixel_format", MOSAICS)
def test_a_mosaic_of_one_colour_has_that_colour_up_to_its_borders(pixel_format: PixelFormat) -> None:
    for height, width in ((6, 8), (5, 7), (3, 3)):
        mosaic = np.tile(np.array(MOSAICS[pixel_format], U8), (4, 4))[:height, :width].copy()
        assert (to_rgb(mosaic, pixel_format) == np.full((height, width, 3), (RED, GREEN, BLUE))).all()
    for hw in ((1, 1), (2, 9), (9, 2)):  # too small to hold its colours
        with pytest.raises(InputError):
            to_rgb(np.full(hw, 200, U8), pixel_format)


@pytest.mark.parametrize(
    ("pixel_format", "shape", "dtype", "words"),
    [
        ("Mono8", (4, 4, 3), U8, "expected 1 channel"),  # colour where grey was announced
        ("Mono12", (4, 4), U8, "of uint16"),  # shallower than announced
        ("BGR8", (4, 4, 4), U8, "expected 3 channel"),  # alpha that was not announced
        ("RGB8", (4, 4, 3), F32, "of uint8"),
        ("BayerRG8", (4, 4, 3), U8, "expected 1 channel"),
        ("RGB8", (0, 4, 3), U8, "does not fit RGB8"),  # without a pixel
        ("Mono8", (4,), U8, "does not fit Mono8"),  # a single line
        ("RGB8", (1, 4, 4, 3), U8, "does not fit RGB8"),  # a stack of images
    ],
)
def test_an_array_that_does_not_fit_its_format_is_refused(
    pixel_format: PixelFormat, shape: tuple[int, ...], dtype: type[np.uint8], words: str
) -> None:
    with pytest.raises(InputError, match=rf"{words}.*set pixel_format"):
        to_rgb(np.zeros(shape, dtype), pixel_format)


def frame_of(width: int, height: int, pixel_format: PixelFormat = "Mono8") -> Frame:
    return Frame(Stamp("top", 1), np.zeros((height, width), U8), pixel_format)


@pytest.mark.parametrize(
    ("size", "pixel_format", "frames", "wrong"),
    [
        ("first", "first", [frame_of(8, 6), frame_of(6, 8), frame_of(8, 6)], ["", "size", ""]),
        ("first", "first", [frame_of(8, 6), frame_of(8, 6, "Mono12")], ["", "colour"]),
        ("any", "first", [frame_of(8, 6), frame_of(9, 9), frame_of(9, 9, "RGB8")], ["", "", "colour"]),
        ((8, 6), "any", [frame_of(8, 6), frame_of(6, 8)], ["", "size"]),  # width, then height
        ((8, 6), "Mono8", [frame_of(7, 6, "RGB8")], ["size"]),  # one reason is given
        ("first", "Mono8", [frame_of(9, 9, "RGB8"), frame_of(8, 6)], ["colour", ""]),  # a refused frame sets no size
        ((8, 6), "first", [frame_of(9, 9, "RGB8"), frame_of(8, 6)], ["size", ""]),
    ],
)
def test_frames_with_the_expected_size_and_format_pass_and_the_first_one_sets_what_is_not_stated(
    size: FrameSize, pixel_format: FrameFormat, frames: list[Frame], wrong: list[str]
) -> None:
    rule = FrameRule(size, pixel_format)
    for one, expected in zip(frames, wrong, strict=True):
        checked = rule.check(one)
        if isinstance(checked, BadFrame):
            came = one.pixel_format if expected == "colour" else "{1}x{0} px".format(*one.image.shape)
            assert (checked.reason, checked.detail.partition(" came, ")[0]) == (f"wrong_{expected}", came)
        else:
            assert (checked, expected) == (one, "")
