"""Mosaics of windows around synthetic defects."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from heatline.train.dense.fit_head import (
    DEFECTIVE_CELL,
    NOT_COUNTED,
    WINDOWS,
    choose_windows,
    compose_mosaics,
    compose_shares,
)

CELLS = 12
seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.sampled_from([1, 2]))
def test_each_window_contains_a_defective_cell_of_its_tile(seed: int, multiple: int) -> None:
    rng = np.random.default_rng(seed)
    share = (rng.random((8, CELLS, CELLS)) * (rng.random((8, CELLS, CELLS)) < 0.02)).astype(np.float16)
    corners = choose_windows(share, multiple, rng)
    assert len(corners) == len(share)
    for tile, (y, x) in zip(share, corners, strict=True):
        assert y % multiple == x % multiple == 0
        window = tile[y : y + CELLS // 2, x : x + CELLS // 2]
        assert window.shape == (CELLS // 2, CELLS // 2)
        assert window.max() >= min(DEFECTIVE_CELL, tile.max())


@given(seeds)
def test_labels_come_from_the_windows_and_do_not_count_at_seams(seed: int) -> None:
    rng = np.random.default_rng(seed)
    share = (rng.random((2 * WINDOWS, CELLS, CELLS)) < 0.1).astype(np.float16)
    corners, half = choose_windows(share, 2, rng), CELLS // 2
    labels = compose_shares(share, corners)
    assert labels.shape == (2, CELLS, CELLS)
    for mosaic, y, x in np.ndindex(*labels.shape):
        tile = WINDOWS * mosaic + 2 * (y // half) + x // half
        source = corners[tile][0] + y % half, corners[tile][1] + x % half
        at_seam = y in (half - 1, half) or x in (half - 1, half)
        assert labels[mosaic, y, x] == (np.float16(NOT_COUNTED) if at_seam else share[tile][source])


@given(seeds)
def test_stages_of_all_strides_are_cut_at_the_same_places(seed: int) -> None:
    """A coarse stage that is the mean of a fine one stays so in the mosaic."""
    rng = np.random.default_rng(seed)
    fine = rng.integers(0, 8, (WINDOWS, CELLS, CELLS, 3)).astype(np.float16)
    coarse = fine.reshape(WINDOWS, CELLS // 2, 2, CELLS // 2, 2, 3).mean(axis=(2, 4))
    corners = choose_windows(np.zeros((WINDOWS, CELLS, CELLS), np.float16), 2, rng)
    composed = compose_mosaics(fine, corners, CELLS)
    expected = composed.reshape(1, CELLS // 2, 2, CELLS // 2, 2, 3).mean(axis=(2, 4))
    np.testing.assert_array_equal(compose_mosaics(coarse, corners, CELLS), expected)
