"""Every camera format against values computed by hand, and packed pixels against single bits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.cameras.genicam import unpack_mono10_packed, unpack_mono10p, unpack_mono12_packed, unpack_mono12p
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


# Packed pixels.

Unpack = Callable[[NDArray[np.uint8]], NDArray[np.uint16]]


@pytest.mark.parametrize(("unpack", "bits"), [(unpack_mono10p, 10), (unpack_mono12p, 12)])
@given(st.data())
def test_packed_pixels_equal_bits_of_one_long_integer(unpack: Unpack, bits: int, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, 10))
    pixels = data.draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=4 * groups, max_size=4 * groups))
    number = sum(pixel << (bits * index) for index, pixel in enumerate(pixels))
    packed = np.frombuffer(number.to_bytes(bits * len(pixels) // 8, "little"), U8)
    assert unpack(packed).tolist() == pixels


@pytest.mark.parametrize(
    ("name", "bits", "unpack"),
    [
        ("Mono10p", 10, unpack_mono10p),
        ("Mono12p", 12, unpack_mono12p),
        ("Mono10Packed", 12, unpack_mono10_packed),
        ("Mono12Packed", 12, unpack_mono12_packed),
    ],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_an_independent_decoder_reads_the_same_lines(name: str, bits: int, unpack: Unpack, padding: int) -> None:
    viva = pytest.importorskip("viva_genicam._native", reason="viva-genicam is not installed")
    width, height = 12, 7
    line = width * bits // 8
    lines = np.random.default_rng(5).integers(0, 256, (height, line + padding), U8)[:, :line]
    theirs = viva.Frame(lines.tobytes(), width, height, name).to_numpy()
    np.testing.assert_array_equal(unpack(lines), theirs)
