"""Frames are told apart by their digests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge.cameras.digest import digest

SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 90), st.integers(1, 3))


@given(arrays(np.uint8, SHAPES), st.data())
def test_equal_images_have_one_digest_and_one_changed_byte_another(image: np.ndarray, data: st.DataObject) -> None:
    assert digest(image.copy()) == digest(image)
    changed = image.copy()
    place = data.draw(st.integers(0, image.size - 1))
    changed.reshape(-1)[place] ^= data.draw(st.integers(1, 255))
    assert digest(changed) != digest(image)


@pytest.mark.parametrize("bytes_moved", [1, 3, 8, 64, 1024, 2448, 3 * 2448, 8 * 2448])
def test_a_picture_that_moved_is_another_one(bytes_moved: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (600, 2448), np.uint8)
    assert digest(np.roll(image, bytes_moved)) != digest(image)


def test_rows_that_changed_places_are_another_picture() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 8 * 1024), np.uint8)
    assert digest(image[::-1]) != digest(image)


def test_deeper_formats_and_views_are_read_as_they_lie() -> None:
    image = np.random.default_rng(0).integers(0, 4096, (101, 77), np.uint16)
    assert digest(image[:, ::2]) == digest(image[:, ::2].copy())
    lowest_bit = image.copy()
    lowest_bit[50, 40] ^= 1
    assert digest(lowest_bit) != digest(image)
