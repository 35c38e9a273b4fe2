"""Every camera format against values computed by hand, and the expected size and format of a camera's frames."""

from typing import Any

import numpy as np
import pytest

from heatline.edge.colour import PIXEL_FORMATS, PixelFormat, to_rgb
from heatline.edge.errors import InputError
from heatline.edge.frames import BadFrame, Frame, FrameFormat, FrameRule, FrameSize, Stamp

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


def frame(width: int, height: int, pixel_format: PixelFormat = "Mono8") -> Frame:
    return Frame(Stamp("top", 1), np.zeros((height, width), U8), pixel_format)


@pytest.mark.parametrize(
    ("size", "pixel_format", "frames", "wrong"),
    [
        ("first", "first", [frame(8, 6), frame(6, 8), frame(8, 6)], ["", "size", ""]),
        ("first", "first", [frame(8, 6), frame(8, 6, "Mono12")], ["", "colour"]),
        ("any", "first", [frame(8, 6), frame(9, 9), frame(9, 9, "RGB8")], ["", "", "colour"]),
        ((8, 6), "any", [frame(8, 6), frame(6, 8)], ["", "size"]),  # width, then height
        ((8, 6), "Mono8", [frame(7, 6, "RGB8")], ["size"]),  # one reason is given
        ("first", "Mono8", [frame(9, 9, "RGB8"), frame(8, 6)], ["colour", ""]),  # a refused frame sets no size
        ((8, 6), "first", [frame(9, 9, "RGB8"), frame(8, 6)], ["size", ""]),
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
