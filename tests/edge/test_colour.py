"""Every camera format against values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.colour import PIXEL_FORMATS, PixelFormat, to_rgb
from edge.errors import InputError

RED, GREEN, BLUE = 200, 100, 50


@pytest.mark.parametrize(
    ("pixel_format", "pixel", "rgb"),
    [
        ("Mono8", np.uint8(77), (77, 77, 77)),  # grey in all three
        ("Mono10", np.uint16(1023), (255, 255, 255)),  # the highest 8 of 10 bits
        ("Mono10", np.uint16(515), (128, 128, 128)),  # 515 / 4, rounded down
        ("Mono10", np.uint16(3), (0, 0, 0)),  # less than one step of 8 bits
        ("Mono10", np.uint16(4000), (255, 255, 255)),  # more than 10 bits can hold: white, not wrapped round
        ("Mono12", np.uint16(4095), (255, 255, 255)),  # the highest 8 of 12 bits
        ("Mono12", np.uint16(1616), (101, 101, 101)),  # 1616 / 16
        ("Mono12", np.uint16(65535), (255, 255, 255)),
        ("Mono16", np.uint16(65535), (255, 255, 255)),  # the highest 8 of 16 bits
        ("Mono16", np.uint16(0x1234), (0x12, 0x12, 0x12)),
        ("RGB8", np.array([1, 2, 3], np.uint8), (1, 2, 3)),  # as it is
        ("BGR8", np.array([1, 2, 3], np.uint8), (3, 2, 1)),  # turned round
        ("BGRA8", np.array([1, 2, 3, 0], np.uint8), (3, 2, 1)),  # transparent or not: alpha is dropped
        ("BGRA8", np.array([1, 2, 3, 255], np.uint8), (3, 2, 1)),
        ("BGR16", np.array([0x0102, 0x0304, 0xFFFF], np.uint16), (0xFF, 0x03, 0x01)),  # turned round, highest 8 bits
    ],
)
def test_a_pixel_becomes(
    pixel_format: PixelFormat, pixel: NDArray[np.uint8] | np.uint8, rgb: tuple[int, int, int]
) -> None:
    image = np.broadcast_to(pixel, (3, 5, *np.shape(pixel))).copy()
    came = to_rgb(image, pixel_format)
    assert came.dtype == np.uint8
    assert came.shape == (3, 5, 3)
    assert (came == rgb).all()


@pytest.mark.parametrize(
    ("pixel_format", "pattern"),
    [
        ("BayerRG8", [[RED, GREEN], [GREEN, BLUE]]),  # GenICam names the first row's pixels
        ("BayerGR8", [[GREEN, RED], [BLUE, GREEN]]),
        ("BayerGB8", [[GREEN, BLUE], [RED, GREEN]]),
        ("BayerBG8", [[BLUE, GREEN], [GREEN, RED]]),
    ],
)
@pytest.mark.parametrize("hw", [(6, 8), (5, 7), (3, 3)])
def test_a_mosaic_of_one_colour_is_that_colour_to_its_borders(
    pixel_format: PixelFormat, pattern: list[list[int]], hw: tuple[int, int]
) -> None:
    mosaic = np.tile(np.array(pattern, np.uint8), (4, 4))[: hw[0], : hw[1]].copy()
    assert (to_rgb(mosaic, pixel_format) == (RED, GREEN, BLUE)).all()


@pytest.mark.parametrize("pixel_format", PIXEL_FORMATS)
def test_every_format_keeps_the_size_and_gives_three_bytes(pixel_format: PixelFormat) -> None:
    channels = {"RGB8": (3,), "BGR8": (3,), "BGR16": (3,), "BGRA8": (4,)}.get(pixel_format, ())
    deep = pixel_format in ("Mono10", "Mono12", "Mono16", "BGR16")
    image = np.zeros((13, 9, *channels), np.uint16 if deep else np.uint8)
    came = to_rgb(image, pixel_format)
    assert came.shape == (13, 9, 3)
    assert came.dtype == np.uint8


U8, U16, F32 = np.uint8, np.uint16, np.float32


@pytest.mark.parametrize(
    ("pixel_format", "shape", "dtype", "words"),
    [
        ("Mono8", (4, 4, 3), U8, "expected 1 channel"),  # colour where grey was announced
        ("Mono8", (4, 4), U16, "of uint8"),  # deeper than announced
        ("Mono12", (4, 4), U8, "of uint16"),  # shallower than announced
        ("Mono16", (4, 4), F32, "of uint16"),
        ("BGR8", (4, 4), U8, "expected 3 channel"),  # grey where colour was announced
        ("BGR8", (4, 4, 4), U8, "expected 3 channel"),  # alpha that was not announced
        ("BGRA8", (4, 4, 3), U8, "expected 4 channel"),
        ("BGR16", (4, 4, 3), U8, "of uint16"),
        ("RGB8", (4, 4, 3), F32, "of uint8"),
        ("BayerRG8", (4, 4, 3), U8, "expected 1 channel"),
        ("RGB8", (0, 4, 3), U8, "is no RGB8 image"),  # without a pixel
        ("Mono8", (0, 0), U8, "is no Mono8 image"),
        ("Mono8", (4,), U8, "is no Mono8 image"),  # a line
        ("RGB8", (1, 4, 4, 3), U8, "is no RGB8 image"),  # a stack of images
    ],
)
def test_an_array_that_does_not_fit_its_format_is_refused(
    pixel_format: PixelFormat, shape: tuple[int, ...], dtype: type[np.uint8], words: str
) -> None:
    with pytest.raises(InputError, match="set the camera's pixel_format") as caught:
        to_rgb(np.zeros(shape, dtype), pixel_format)
    assert words in str(caught.value)


@pytest.mark.parametrize("pixel_format", [name for name in PIXEL_FORMATS if name.startswith("Bayer")])
@pytest.mark.parametrize("hw", [(1, 1), (2, 2), (2, 9), (9, 2)])
def test_a_mosaic_too_small_to_hold_its_colours_is_refused(pixel_format: PixelFormat, hw: tuple[int, int]) -> None:
    with pytest.raises(InputError):
        to_rgb(np.full(hw, 200, np.uint8), pixel_format)


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_bgr_and_rgb_of_the_same_picture_agree(height: int, width: int, seed: int) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(to_rgb(np.ascontiguousarray(rgb[..., ::-1]), "BGR8"), rgb)
    np.testing.assert_array_equal(to_rgb(rgb, "RGB8"), rgb)
