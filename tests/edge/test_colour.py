"""Every camera format against values computed by hand."""

from typing import Any

import numpy as np
import pytest

from heatline.edge.colour import PIXEL_FORMATS, PixelFormat, to_rgb
from heatline.edge.errors import InputError

RED, GREEN, BLUE = 200, 100, 50
U8, U16, F32 = np.uint8, np.uint16, np.float32


PIXELS: list[tuple[PixelFormat, Any, tuple[int, int, int]]] = [
    ("Mono8", U8(77), (77, 77, 77)),  # grey in all channels
    ("Mono10", U16(1023), (255, 255, 255)),  # the highest 8 of 10 bits
    ("Mono10", U16(515), (128, 128, 128)),  # 515 / 4, rounded down
    ("Mono10", U16(4000), (255, 255, 255)),  # more than 10 bits can hold: white, no overflow
    ("Mono12", U16(1616), (101, 101, 101)),  # 1616 / 16
    ("Mono12", U16(65535), (255, 255, 255)),
    ("Mono16", U16(0x1234), (0x12, 0x12, 0x12)),  # the highest 8 of 16 bits
    ("RGB8", np.array([1, 2, 3], U8), (1, 2, 3)),  # unchanged
    ("BGR8", np.array([1, 2, 3], U8), (3, 2, 1)),  # channels reversed
    ("BGRA8", np.array([1, 2, 3, 0], U8), (3, 2, 1)),  # transparent or not: alpha is dropped
    ("BGR16", np.array([0x0102, 0x0304, 0xFFFF], U16), (0xFF, 0x03, 0x01)),  # channels reversed, highest 8 bits
]


@pytest.mark.parametrize(("pixel_format", "pixel", "rgb"), PIXELS)
def test_a_pixel_is_converted_to(pixel_format: PixelFormat, pixel: Any, rgb: tuple[int, int, int]) -> None:
    came = to_rgb(np.broadcast_to(pixel, (3, 5, *np.shape(pixel))).copy(), pixel_format)
    assert (came.dtype, came.shape) == (U8, (3, 5, 3))
    assert (came == rgb).all()


MOSAICS: dict[PixelFormat, list[list[int]]] = {
    "BayerRG8": [[RED, GREEN], [GREEN, BLUE]],  # GenICam names the first row's pixels
    "BayerGR8": [[GREEN, RED], [BLUE, GREEN]],
    "BayerGB8": [[GREEN, BLUE], [RED, GREEN]],
    "BayerBG8": [[BLUE, GREEN], [GREEN, RED]],
}


@pytest.mark.parametrize("pixel_format", MOSAICS)
def test_a_mosaic_of_one_colour_has_that_colour_up_to_its_borders(pixel_format: PixelFormat) -> None:
    for height, width in ((6, 8), (5, 7), (3, 3)):
        mosaic = np.tile(np.array(MOSAICS[pixel_format], U8), (4, 4))[:height, :width].copy()
        came = to_rgb(mosaic, pixel_format)
        assert came.shape == (height, width, 3)
        assert (came == (RED, GREEN, BLUE)).all()
    for hw in ((1, 1), (2, 9), (9, 2)):  # too small to hold its colours
        with pytest.raises(InputError):
            to_rgb(np.full(hw, 200, U8), pixel_format)


def test_every_format_has_an_example() -> None:
    assert {pixel_format for pixel_format, *_ in PIXELS} | MOSAICS.keys() == set(PIXEL_FORMATS)


@pytest.mark.parametrize(
    ("pixel_format", "shape", "dtype", "words"),
    [
        ("Mono8", (4, 4, 3), U8, "expected 1 channel"),  # colour where grey was announced
        ("Mono8", (4, 4), U16, "of uint8"),  # deeper than announced
        ("Mono12", (4, 4), U8, "of uint16"),  # shallower than announced
        ("BGR8", (4, 4), U8, "expected 3 channel"),  # grey where colour was announced
        ("BGR8", (4, 4, 4), U8, "expected 3 channel"),  # alpha that was not announced
        ("BGRA8", (4, 4, 3), U8, "expected 4 channel"),
        ("RGB8", (4, 4, 3), F32, "of uint8"),
        ("BayerRG8", (4, 4, 3), U8, "expected 1 channel"),
        ("RGB8", (0, 4, 3), U8, "does not fit RGB8: expected 3 channel(s)"),  # without a pixel
        ("Mono8", (4,), U8, "does not fit Mono8: expected 1 channel(s)"),  # a single line
        ("RGB8", (1, 4, 4, 3), U8, "does not fit RGB8: expected 3 channel(s)"),  # a stack of images
    ],
)
def test_an_array_that_does_not_fit_its_format_is_refused(
    pixel_format: PixelFormat, shape: tuple[int, ...], dtype: type[np.uint8], words: str
) -> None:
    with pytest.raises(InputError, match="set pixel_format") as caught:
        to_rgb(np.zeros(shape, dtype), pixel_format)
    assert words in str(caught.value)
