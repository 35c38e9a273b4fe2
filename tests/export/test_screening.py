"""Where the limit of a screening stage lies, and what it promises. tests/train/test_dense_run.py exports one."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binom

from heatline.edge.errors import InputError
from heatline.export.screening import RUN_SHARE, choose_limit, lost_at_most
from heatline.train.dense.screening import HeldOutTiles, train_screening
from heatline.train.run import load_run

LOGITS = st.floats(-9, 9, width=32)


@given(st.lists(st.tuples(LOGITS, LOGITS, LOGITS, st.integers(0, 5), st.booleans()), min_size=1, max_size=60), LOGITS)
def test_no_defective_tile_that_reaches_the_threshold_lies_below_the_limit_nor_do_all_of_a_frame(
    tiles: list[tuple[float, float, float, int, bool]], score: float
) -> None:
    logit, one, other, frame, is_good = (np.array(each) for each in zip(*tiles, strict=True))
    held_out = HeldOutTiles(logit.astype(np.float32), np.stack([one, other]).astype(np.float32), frame, is_good)
    reach = [(min(a, b), of, good) for lg, a, b, of, good in tiles if lg >= score]
    assume(is_good.any() and not all(good for _, _, good in reach))
    limit, cleared = choose_limit(held_out, score)
    assert min(low for low, _, good in reach if not good) >= limit
    assert all(any(low >= limit for low, of, _ in reach if of == number) for number in {of for _, of, _ in reach})
    for peaks in (one, other):
        assert cleared <= (peaks[is_good] < limit).mean() <= 1 - RUN_SHARE + 1 / is_good.sum()


def test_what_is_plain_is_cleared_and_without_a_defect_nothing_is() -> None:
    peak, is_good = np.arange(200, dtype=np.float32) / 10, np.arange(200) < 100
    held_out = HeldOutTiles(peak, np.stack([peak, peak]), np.arange(200), is_good)
    assert choose_limit(held_out, 10.0) == (pytest.approx(9.1, abs=0.1), 0.92)
    with pytest.raises(InputError, match="no defective held-out tile reaches"):
        choose_limit(held_out, 30.0)


@pytest.mark.parametrize("seen", [1, 87, 399, 2995])
def test_with_a_larger_share_than_the_bound_some_tile_would_be_lost_of_as_many(seen: int) -> None:
    """19 of 20 times, by the binomial distribution."""
    assert binom.pmf(0, seen, lost_at_most(seen)) == pytest.approx(0.05)


def test_only_a_run_with_held_out_tiles_gets_a_stage(trained_run: str) -> None:
    with pytest.raises(InputError, match="no cross-validation by recipe=heatline"):
        train_screening(load_run(trained_run), 64, print)
