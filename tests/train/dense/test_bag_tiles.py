"""Which tiles of a bag get a gradient."""

import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.train.dense.fit_head import BagTiles, Evaluate

BAG = np.arange(10, 20)


def rising(rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return rows.astype(np.float32)


def falling(rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return -rows.astype(np.float32)


def never(rows: NDArray[np.int64]) -> NDArray[np.float32]:
    raise AssertionError(f"tiles {rows} are evaluated")


def test_half_of_the_chosen_tiles_are_the_highest_and_all_others_have_their_turn() -> None:
    tiles, rng = BagTiles(4, 200), np.random.default_rng(0)
    chosen = [tiles.choose(BAG, step, rising, rng) for step in range(200)]
    assert all(sorted(rows[:2]) == [18, 19] and len(set(rows.tolist())) == 4 for rows in chosen)
    assert set(np.concatenate([rows[2:] for rows in chosen]).tolist()) == set(range(10, 18))


def test_an_evaluation_is_used_for_a_twentieth_of_the_steps_and_each_bag_has_its_own() -> None:
    tiles, rng = BagTiles(1, 100), np.random.default_rng(0)

    def highest(bag: NDArray[np.int64], step: int, evaluate: Evaluate) -> int:
        (row,) = tiles.choose(bag, step, evaluate, rng).tolist()
        return int(row)

    assert highest(BAG, 0, rising) == 19
    assert highest(BAG + 10, 3, falling) == 20
    for step in (0, 1, 4):
        assert highest(BAG, step, never) == 19
    assert highest(BAG, 5, falling) == 10
    assert highest(BAG + 10, 7, never) == 20
    assert highest(BAG, 9, never) == 10
    assert highest(BAG, 50, rising) == 19


@pytest.mark.parametrize("size", [1, 4])
def test_a_bag_that_is_small_enough_is_taken_whole_without_an_evaluation(size: int) -> None:
    assert BagTiles(4, 100).choose(BAG[:size], 0, never, np.random.default_rng(0)).tolist() == BAG[:size].tolist()
