"""Where the limit of a screening stage lies, and what it promises. tests/train/test_dense_run.py exports one."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from heatline.edge.errors import InputError
from heatline.export.screening import RUN_SHARE, choose_limit, lost_at_most
from heatline.train.dense.screening import HeldOutTiles, train_screening
from heatline.train.run import load_run

LOGITS = st.floats(-9, 9, width=32)


def held_out_tiles(
    logit: NDArray[np.float32], peak: NDArray[np.float32], frame: Any, is_good: Any, defect: Any
) -> HeldOutTiles:
    """Tiles of which each that is not good shows the defect of this number."""
    defects = [np.flatnonzero(~is_good & (defect == number)) for number in np.unique(defect[~is_good])]
    return HeldOutTiles(logit, peak, frame, is_good, defects)


@given(
    st.lists(
        st.tuples(LOGITS, LOGITS, LOGITS, st.integers(0, 5), st.booleans(), st.integers(0, 9)), min_size=1, max_size=60
    ),
    LOGITS,
)
def test_of_each_defect_and_frame_that_reaches_the_threshold_a_tile_that_does_so_runs(
    tiles: list[tuple[float, float, float, int, bool, int]], score: float
) -> None:
    logit, one, other, frame, is_good, defect = (np.array(each) for each in zip(*tiles, strict=True))
    peak = np.stack([one, other]).astype(np.float32)
    held_out = held_out_tiles(logit.astype(np.float32), peak, frame, is_good, defect)
    reach = [(min(a, b), of, None if good else by) for lg, a, b, of, good, by in tiles if lg >= score]
    assume(is_good.any() and any(by is not None for _, _, by in reach))
    limit, cleared = choose_limit(held_out, score)
    for wanted in (lambda tile: tile[1], lambda tile: tile[2]):
        for shown in {wanted(tile) for tile in reach} - {None}:
            assert max(tile[0] for tile in reach if wanted(tile) == shown) >= limit
    good = np.array([not any(of == at and not fine for *_, of, fine, _ in tiles) for at in frame])
    counted = good if good.any() else is_good
    for peaks in (one, other):
        assert cleared <= (peaks[counted] < limit).mean() <= 1 - RUN_SHARE + 1 / counted.sum()


def test_what_is_plain_is_cleared_and_without_a_defect_nothing_is() -> None:
    peak, is_good, number = np.arange(200, dtype=np.float32) / 10, np.arange(200) < 100, np.arange(200)
    held_out = held_out_tiles(peak, np.stack([peak, peak]), number, is_good, number)
    assert choose_limit(held_out, 10.0) == (pytest.approx(9.4, abs=0.1), 0.95)
    with pytest.raises(InputError, match="no held-out tile of a defect reaches"):
        choose_limit(held_out, 30.0)


@pytest.mark.parametrize("seen", [1, 87, 399, 2995])
def test_with_a_larger_share_than_the_bound_some_tile_would_be_lost_of_as_many(seen: int) -> None:
    """19 of 20 times, by the binomial distribution."""
    assert binom.pmf(0, seen, lost_at_most(seen)) == pytest.approx(0.05)


def test_only_a_run_with_held_out_tiles_gets_a_stage(trained_run: str) -> None:
    with pytest.raises(InputError, match="no cross-validation by recipe=heatline"):
        train_screening(load_run(trained_run), 64, print)
