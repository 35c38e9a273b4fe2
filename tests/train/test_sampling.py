"""The tiles of a batch, and the effect of sampling on the odds."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from heatline.edge.errors import TrainingError
from heatline.train.batches import BatchSampler


def labels(defective: int, good: int) -> NDArray[np.bool_]:
    return np.asarray(np.arange(defective + good) < defective)


def test_each_batch_has_its_share_and_each_pass_every_tile_once() -> None:
    sampler = BatchSampler(labels(defective=6, good=18), batch=8, defective_share=0.25, seed=3)
    batches = [sampler.draw(step) for step in range(12)]
    assert all((batch < 6).sum() == 2 for batch in batches)
    defective = np.concatenate([batch[batch < 6] for batch in batches])
    good = np.concatenate([batch[batch >= 6] for batch in batches])
    for passed in defective.reshape(4, 6):  # three batches of two
        assert sorted(passed) == list(range(6))
    for passed in good.reshape(4, 18):  # three batches of six
        assert sorted(passed) == list(range(6, 24))
    assert not np.array_equal(*defective.reshape(4, 6)[:2])
    sampler = BatchSampler(labels(defective=3, good=5), batch=8, defective_share=0.5, seed=0)
    drawn = np.concatenate([sampler.draw(step)[:4] for step in range(3)])  # a pass may end within a batch
    assert all(sorted(passed) == [0, 1, 2] for passed in drawn.reshape(4, 3))


def test_draws_depend_only_on_seed_and_step() -> None:
    tiles = labels(10, 90)
    later_first = BatchSampler(tiles, 8, 0.25, seed=1)
    backwards = [later_first.draw(step) for step in reversed(range(50))][::-1]
    forwards = BatchSampler(tiles, 8, 0.25, seed=1)
    assert all(np.array_equal(forwards.draw(step), drawn) for step, drawn in enumerate(backwards))
    assert not np.array_equal(BatchSampler(tiles, 8, 0.25, seed=2).draw(0), backwards[0])
    assert forwards.details(7).random() == later_first.details(7).random() != forwards.details(8).random()


def test_without_a_wanted_share_tiles_come_in_their_natural_proportion() -> None:
    sampler = BatchSampler(labels(defective=4, good=36), batch=8, defective_share=None, seed=0)
    assert sampler.shift == 0
    assert sorted(np.concatenate([sampler.draw(step) for step in range(5)])) == list(range(40))
    tiny = BatchSampler(labels(2, 2), batch=2, defective_share=0.01, seed=0)
    assert (tiny.draw(0) < 2).sum() == 1  # even a tiny batch has both classes


@pytest.mark.parametrize(("defective", "good"), [(0, 5), (5, 0)])
def test_a_single_class_is_refused(defective: int, good: int) -> None:
    with pytest.raises(TrainingError, match=f"{defective} defective and {good} good ones; both classes are needed"):
        BatchSampler(labels(defective, good), 4, 0.25, 0)


def test_the_shift_restores_the_natural_odds_of_the_tiles() -> None:
    """Tiles of known odds: x is normal around +1 if defective, -1 if good; by Bayes the log-odds are 2 x + prior."""
    defective = labels(defective=3_000, good=97_000)
    x = torch.from_numpy(np.random.default_rng(0).normal(np.where(defective, 1.0, -1.0), 1.0))
    truth = torch.from_numpy(defective.astype(float))
    sampler = BatchSampler(defective, batch=32, defective_share=0.25, seed=0)
    rows = torch.from_numpy(np.concatenate([sampler.draw(step) for step in range(375)]))  # one pass over the defective
    assert sampler.natural_log_odds == pytest.approx(math.log(3 / 97))
    assert sampler.shift == pytest.approx(math.log(1 / 3) - math.log(3 / 97))

    def fit(shift: float) -> tuple[float, float]:
        line = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([line], max_iter=100)

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            value = binary_cross_entropy_with_logits(line[0] * x[rows] + line[1] + shift, truth[rows])
            value.backward()
            return value

        optimizer.step(loss)
        slope, offset = line.tolist()
        return slope, offset

    slope, offset = fit(sampler.shift)
    assert slope == pytest.approx(2, abs=0.1)
    assert offset == pytest.approx(sampler.natural_log_odds, abs=0.1)
    assert torch.sigmoid(slope * x + offset).mean() == pytest.approx(0.03, abs=0.002)
    slope, offset = fit(0.0)  # without it, the odds are those of the batch, and ten times too high
    assert offset == pytest.approx(math.log(1 / 3), abs=0.1)
    assert torch.sigmoid(slope * x + offset).mean() > 0.08
