"""Pooling of a map to a logit: the line's function and training's, compared with each other and with a reference."""

import math

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.bundle import pooling
from heatline.train.models.explained import pool

CELL = st.floats(-1000, 1000, width=32)
MAPS = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)), elements=CELL)


def by_hand(maps: NDArray[np.float32], top_cells: int | None) -> list[float]:
    """Sorted, and summed exactly."""
    highest = [sorted(map(float, one.ravel()))[-(top_cells or 0) :] for one in maps]
    return [math.fsum(cells) / len(cells) for cells in highest]


@given(maps=MAPS, data=st.data())
def test_both_poolings_equal_a_manual_one(maps: NDArray[np.float32], data: st.DataObject) -> None:
    top_cells = data.draw(st.none() | st.integers(1, maps[0].size))
    expected = by_hand(maps, top_cells)
    of_edge, of_train = pooling.pool(maps, top_cells), pool(torch.from_numpy(maps), top_cells).numpy()
    for came in (of_edge, of_train):
        assert (came.shape, came.dtype) == ((len(maps),), np.float32)
        np.testing.assert_allclose(came, expected, rtol=0, atol=1e-6 * max(1, np.abs(maps).max()))


@given(maps=MAPS)
def test_the_mean_of_as_many_cells_as_there_are_is_the_mean(maps: NDArray[np.float32]) -> None:
    scale = max(1, np.abs(maps).max())
    np.testing.assert_allclose(pooling.pool(maps, maps[0].size), pooling.pool(maps, None), rtol=0, atol=1e-6 * scale)
    np.testing.assert_array_equal(pooling.pool(maps, 1), maps.max(axis=(1, 2)))


@pytest.mark.parametrize("top_cells", [None, 3])
def test_a_nan_cell_gives_a_nan_logit(top_cells: int | None) -> None:
    maps = np.zeros((2, 4, 4), np.float32)
    maps[1, 2, 2] = np.nan
    for came in (pooling.pool(maps, top_cells), pool(torch.from_numpy(maps), top_cells).numpy()):
        np.testing.assert_array_equal(np.isnan(came), [False, True])


def test_only_the_highest_cells_get_a_gradient() -> None:
    maps = torch.arange(18.0).reshape(2, 3, 3).requires_grad_()
    pool(maps, 2).sum().backward()
    assert maps.grad is not None
    assert maps.grad.flatten(1).tolist() == [[0.0] * 7 + [0.5] * 2] * 2


@given(st.none() | st.integers(1, 99_999_999))
def test_an_identity_states_how_many_cells_are_pooled(top_cells: int | None) -> None:
    assert pooling.top_cells_of(pooling.identity_of(top_cells)) == top_cells
