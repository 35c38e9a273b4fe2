"""Which tiles of a bag get a gradient."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from train.dense.bag_tiles import DRAWS_PER_EVALUATION, BagTiles

BAG = np.arange(10, 20)


def rising(rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return rows.astype(np.float32)


def falling(rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return -rows.astype(np.float32)


def never(rows: NDArray[np.int64]) -> NDArray[np.float32]:
    raise AssertionError(f"tiles {rows} are evaluated")


def test_half_of_the_chosen_tiles_are_the_hottest_and_all_others_have_their_turn() -> None:
    tiles, rng = BagTiles(4), np.random.default_rng(0)
    chosen = [tiles.choose(BAG, rising, rng) for _ in range(200)]
    assert all(sorted(rows[:2]) == [18, 19] and len(set(rows.tolist())) == 4 for rows in chosen)
    assert set(np.concatenate([rows[2:] for rows in chosen]).tolist()) == set(range(10, 18))


def test_the_order_of_a_bag_is_kept_between_its_evaluations_and_each_bag_has_its_own() -> None:
    tiles, rng = BagTiles(1), np.random.default_rng(0)

    def hottest(bag: NDArray[np.int64], evaluate: Callable[[NDArray[np.int64]], NDArray[np.float32]]) -> int:
        (row,) = tiles.choose(bag, evaluate, rng).tolist()
        return int(row)

    assert hottest(BAG, rising) == 19
    assert hottest(BAG + 10, falling) == 20
    for _ in range(DRAWS_PER_EVALUATION - 1):
        assert hottest(BAG, never) == 19
    assert hottest(BAG, falling) == 10
    assert hottest(BAG + 10, never) == 20


@pytest.mark.parametrize("size", [1, 4])
def test_a_bag_that_is_small_enough_is_taken_whole_without_an_evaluation(size: int) -> None:
    assert BagTiles(4).choose(BAG[:size], never, np.random.default_rng(0)).tolist() == BAG[:size].tolist()
