"""Packed pixels, against bits counted one by one and against an independent decoder."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.cameras.unpacking import unpack_mono10_packed, unpack_mono10p, unpack_mono12_packed, unpack_mono12p

Unpack = Callable[[NDArray[np.uint8]], NDArray[np.uint16]]


@pytest.mark.parametrize(("unpack", "bits"), [(unpack_mono10p, 10), (unpack_mono12p, 12)])
@given(st.data())
def test_pixels_are_so_many_bits_of_one_long_number(unpack: Unpack, bits: int, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, 10))
    pixels = data.draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=4 * groups, max_size=4 * groups))
    number = sum(pixel << (bits * index) for index, pixel in enumerate(pixels))
    packed = np.frombuffer(number.to_bytes(bits * len(pixels) // 8, "little"), np.uint8)
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
    lines = np.random.default_rng(5).integers(0, 256, (height, line + padding), np.uint8)[:, :line]
    theirs = viva.Frame(lines.tobytes(), width, height, name).to_numpy()
    np.testing.assert_array_equal(unpack(lines), theirs)
