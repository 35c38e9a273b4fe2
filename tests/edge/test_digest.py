"""Frames differ by their digests."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from heatline.edge.cameras.child import digest

SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 90), st.integers(1, 3))


@given(arrays(np.uint8, SHAPES), st.data())
def test_equal_images_have_one_digest_and_one_changed_byte_another(image: np.ndarray, data: st.DataObject) -> None:
    assert digest(image.copy()) == digest(image)
    changed = image.copy()
    place = data.draw(st.integers(0, image.size - 1))
    changed.reshape(-1)[place] ^= data.draw(st.integers(1, 255))
    assert digest(changed) != digest(image)


def test_a_picture_that_moved_is_another_one() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 2448), np.uint8)
    moved = [image[::-1], *(np.roll(image, by) for by in (1, 8, 1024, 2448, 8 * 2448))]
    assert len({digest(each) for each in (image, *moved)}) == 1 + len(moved)


def test_deeper_formats_and_views_are_read_as_they_lie() -> None:
    image = np.random.default_rng(0).integers(0, 4096, (101, 77), np.uint16)
    assert digest(image[:, ::2]) == digest(image[:, ::2].copy())
    lowest_bit = image.copy()
    lowest_bit[50, 40] ^= 1
    assert digest(lowest_bit) != digest(image)
