"""The difference of a tile to a reference, against a slow and obvious version."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.reference.difference import CELL_PX, CHANNELS, TOLERANCES_PX, GreyRange, differences, to_grey

SIDE = 64


def textured(seed: int, height: int = 150, width: int = 170) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return np.asarray(cv2.GaussianBlur(rng.integers(0, 256, (height, width), np.uint8), (0, 0), 2) * 2, np.uint8)


def slow_difference(tile: NDArray[np.uint8], grey: NDArray[np.uint8], y: int, x: int) -> NDArray[np.float64]:
    """Pixel by pixel in float64: the excess of the matched tile over the range of the reference's window."""
    height, width = grey.shape
    known = [
        (row, column)
        for row in range(SIDE)
        for column in range(SIDE)
        if 0 <= y + row < height and 0 <= x + column < width
    ]
    own = np.array([float(tile[place]) for place in known])
    theirs = np.array([float(grey[y + row, x + column]) for row, column in known])
    gain = float(np.clip(theirs.std() / max(own.std(), 1), 1 / 1.43, 1.43)) if theirs.std() > 8 else 1.0
    out = np.zeros((SIDE // CELL_PX, SIDE // CELL_PX, CHANNELS))
    for number, px in enumerate(TOLERANCES_PX):
        excess = np.zeros((2, SIDE, SIDE))
        for row, column in known:
            value = float(np.clip(np.rint((tile[row, column] - own.mean()) * gain + theirs.mean()), 0, 255))
            at_y, at_x = y + row, x + column
            window = grey[max(at_y - px, 0) : at_y + px + 1, max(at_x - px, 0) : at_x + px + 1]
            excess[:, row, column] = max(0, value - window.max()), max(0, window.min() - value)
        for side in range(2):
            cells = excess[side].reshape(SIDE // CELL_PX, CELL_PX, SIDE // CELL_PX, CELL_PX)
            out[..., 4 * number + 2 * side] = cells.mean(axis=(1, 3))
            out[..., 4 * number + 2 * side + 1] = cells.max(axis=(1, 3))
    return out


@pytest.mark.parametrize("corner", [(40, 50), (-20, 3), (120, 150), (-70, 0)])
@pytest.mark.parametrize("light", [(1.0, 0), (0.8, 10)])
def test_a_difference_is_what_lies_beyond_the_range_of_the_reference(
    corner: tuple[int, int], light: tuple[float, int]
) -> None:
    grey = textured(0)
    tile = np.clip(textured(1)[:SIDE, :SIDE] * light[0] + light[1], 0, 255).astype(np.uint8)
    out = np.empty((SIDE // CELL_PX, SIDE // CELL_PX, CHANNELS), np.uint8)
    GreyRange(grey).difference(tile, corner, out)
    if corner[0] <= -SIDE:
        assert not out.any()
        return
    assert np.abs(out - slow_difference(tile, grey, *corner)).max() <= 1.5  # means are rounded twice


@given(
    seed=st.integers(0, 50), y=st.integers(0, 86), x=st.integers(0, 106), dy=st.integers(-1, 1), dx=st.integers(-1, 1)
)
def test_a_part_that_lies_within_the_tolerance_does_not_differ(seed: int, y: int, x: int, dy: int, dx: int) -> None:
    grey = textured(seed)
    tile = grey[y : y + SIDE, x : x + SIDE]
    out = np.empty((SIDE // CELL_PX, SIDE // CELL_PX, CHANNELS), np.uint8)
    reference = GreyRange(grey)
    reference.difference(tile, (y, x), out)
    assert not out.any()
    inside = max(0, min(y + dy, 86)), max(0, min(x + dx, 106))
    reference.difference(tile, inside, out)
    # A shift changes mean and contrast of the tile's own window a little, and nothing else.
    assert out.max() <= 24


@pytest.mark.parametrize("shift", [4, 5, 6, 7])
def test_a_component_that_is_moved_differs_where_it_was_and_where_it_is(shift: int) -> None:
    """Also if it is all that its tile shows."""
    good, moved = np.full((2, 150, 170), 200, np.uint8)
    good[60:90, 60:80], moved[60:90, 60 + shift : 80 + shift] = 40, 40
    found = differences(moved, GreyRange(good), [(40, 50)], np.array([(40, 50)], np.int32), SIDE)[0]
    assert found[..., 5].any()
    assert found[..., 7].any()


def test_px_that_the_reference_does_not_know_do_not_differ() -> None:
    grey, unknown = np.full((150, 170), 100, np.uint8), np.zeros((150, 170), np.bool_)
    unknown[30:50, 70:90] = True
    frame = np.repeat(grey[..., None], 3, axis=2)
    frame[40:44, 80:84] = frame[40:44, 20:24] = 130
    found = differences(to_grey(frame), GreyRange(grey, unknown), [(0, 0), (0, 64)], np.array([(0, 0), (0, 64)]), SIDE)
    assert found[0].any()
    assert not found[1].any()


def test_a_defect_differs_where_it_is_and_says_whether_it_is_brighter_or_darker() -> None:
    grey = np.full((150, 170), 100, np.uint8)
    frame = np.repeat(grey[..., None], 3, axis=2)
    frame[40:44, 80:84] = 130
    origins = [(0, 0), (0, 64), (86, 106)]
    found = differences(to_grey(frame), GreyRange(grey), origins, np.array(origins, np.int32), SIDE)
    assert found.shape == (3, SIDE // CELL_PX, SIDE // CELL_PX, CHANNELS)
    assert not found[[0, 2]].any()
    assert np.argwhere(found[1, ..., 1]).tolist() == [[5, 2]]
    assert not found[1, ..., 2:4].any()  # nothing is darker
