"""Training of a dense head: it locates defects with every kind of label, reproducibly."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heatline.edge.errors import DivergedError
from heatline.train.config import DenseRecipeConfig
from heatline.train.dense.cache import Features
from heatline.train.dense.fit_head import USED_FOR, HeadTraining, predict
from heatline.train.dense.tiles import LabelKind
from heatline.train.evaluation.figures import auroc
from heatline.train.models.dense import TOP_CELLS, DenseHead, FineTuned
from tests.train.dense.small import features_of, new_head, recipe_with, samples_of, squares, stored, tiles_of

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINED = np.array([True, False])
"""Only the first group is trained on; the other is for testing."""
TESTED = [LabelKind.MASKED] * 16 + [LabelKind.GOOD] * 16


class Task:
    """Tiles of a group for training, and as many for testing, with labels of every cell.

    Args:
        known: of the tiles to train on.
        share: where these are defective, [n, 8, 8].
        synthetic: how many synthetic defects there are on tiles of the trained group.
        bag_tiles: tiles per picture.
    """

    def __init__(
        self, folder: Path, known: list[LabelKind], share: NDArray[np.float32], synthetic: int = 0, bag_tiles: int = 1
    ) -> None:
        count = len(known)
        self.tested = np.arange(count, count + len(TESTED))
        self.truth = np.concatenate([squares(16, 1), np.zeros((16, 8, 8), np.float32)])
        frame = np.concatenate([np.arange(count) // bag_tiles, self.tested])
        tiles = tiles_of([*known, *TESTED], [0] * count + [1] * len(TESTED), frame.tolist())
        drawn = squares(synthetic, 2)
        good = tiles.of(LabelKind.GOOD)[:synthetic].tolist()
        marked = np.where(np.isin(known, (LabelKind.MASKED, LabelKind.BOXED))[:, None, None], share, 0)
        pasted = [(row, row, one) for row, one in zip(good, drawn, strict=True)]
        self.samples = samples_of(tiles, np.concatenate([marked, self.truth]), pasted)
        self.features = stored(folder, features_of(np.concatenate([share, self.truth, drawn]), 3))

    def train(self, recipe: DenseRecipeConfig, seed: int = 0, head: DenseHead | None = None) -> DenseHead:
        head = head or new_head()
        HeadTraining(self.samples, self.features, TRAINED, recipe, seed, bf16=False).train(head)
        return head

    def maps(self, head: DenseHead) -> NDArray[np.float32]:
        return np.concatenate([maps for _, maps in predict(head, self.features, self.tested, bf16=False)])


def masked(folder: Path) -> Task:
    return Task(
        folder,
        [LabelKind.MASKED] * 12 + [LabelKind.GOOD] * 24,
        np.concatenate([squares(12, 0), np.zeros((24, 8, 8), np.float32)]),
    )


def bagged(folder: Path) -> Task:
    """Twelve bags of four tiles, one of them defective, and 24 good tiles."""
    share = np.zeros((72, 8, 8), np.float32)
    share[1:48:4] = squares(12, 0)
    return Task(folder, [LabelKind.BAGGED] * 48 + [LabelKind.GOOD] * 24, share, bag_tiles=4)


def synthetic(folder: Path) -> Task:
    return Task(folder, [LabelKind.GOOD] * 24, np.zeros((24, 8, 8), np.float32), synthetic=24)


def boxed(folder: Path) -> Task:
    """Boxes are twice as wide as the defects."""
    share = np.concatenate([squares(12, 0), np.zeros((24, 8, 8), np.float32)])
    task = Task(folder, [LabelKind.BOXED] * 12 + [LabelKind.GOOD] * 24, share)
    task.samples.share[:12] = share[:12].max(axis=2, keepdims=True)
    return task


@pytest.mark.parametrize(("how", "least"), [(masked, 0.999), (boxed, 0.999), (bagged, 0.99), (synthetic, 0.999)])
def test_a_head_learns_from_masks_boxes_bags_or_synthetic_defects_which_cells_are_defective(
    tmp_path: Path, how: Callable[[Path], Task], least: float
) -> None:
    task = how(tmp_path)
    maps = task.maps(task.train(recipe_with()))
    area = auroc(maps.ravel().astype(np.float64), task.truth.ravel() > 0, np.ones(maps.size))
    assert area is not None
    assert area > least
    assert maps[16:].max() < maps[:16].max(axis=(1, 2)).min()


@pytest.mark.parametrize("bf16", [False, True])
def test_mosaics_teach_which_cells_are_defective(tmp_path: Path, bf16: bool) -> None:
    """Maps of 16 cells are large enough for windows."""
    drawn, tested = (squares(count, seed).repeat(2, axis=1).repeat(2, axis=2) for count, seed in ((24, 2), (16, 1)))
    tiles = tiles_of([LabelKind.GOOD] * 24 + [LabelKind.MASKED] * 16, [0] * 24 + [1] * 16)
    share = np.concatenate([np.zeros((24, 16, 16), np.float32), tested])
    samples = samples_of(tiles, share, [(row, row, one) for row, one in enumerate(drawn)])
    features = stored(tmp_path, features_of(np.concatenate([share, drawn]), 3))
    head = new_head()
    training = HeadTraining(samples, features, TRAINED, recipe_with(), 0, bf16=bf16)
    mosaics, labels = training._synthetic(head, np.arange(40, 45), 0)
    assert [len(each) for each in (*mosaics, labels)] == [2] * 4, "five windows fill one mosaic and begin another"
    assert len(training._synthetic(head, np.arange(0), 0)[1]) == 0
    finetuned = FineTuned(torch.nn.Identity(), head)  # type: ignore[arg-type]
    whole, labels = training._synthetic(finetuned, np.arange(40, 45), 0)
    assert [len(each) for each in (*whole, labels)] == [5] * 4, "stages that are trained see beyond the seams"
    training.train(head)
    maps = np.concatenate([maps for _, maps in predict(head, features, np.arange(24, 40), bf16=False)])
    area = auroc(maps.ravel().astype(np.float64), tested.ravel() > 0, np.ones(maps.size))
    assert area is not None
    assert area > 0.999


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    task, recipe = masked(tmp_path), recipe_with(steps=10)
    one, same, other = (weights(task.train(recipe, seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_heads_trained_in_parallel_equal_heads_trained_one_by_one(tmp_path: Path) -> None:
    task, recipe = bagged(tmp_path), recipe_with(steps=8)
    one_by_one = [weights(task.train(recipe, seed)) for seed in range(3)]
    heads = [new_head() for _ in range(3)]
    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(lambda seed: task.train(recipe, seed, heads[seed]), range(3)))
    for expected, head in zip(one_by_one, heads, strict=True):
        assert torch.equal(expected, weights(head))


def weights(head: DenseHead) -> torch.Tensor:
    return torch.cat([each.detach().float().flatten() for each in head.state_dict().values()])


def test_every_step_is_counted_and_the_head_is_left_in_evaluation_mode(tmp_path: Path) -> None:
    task, head, steps = masked(tmp_path), new_head(), []
    training = HeadTraining(task.samples, task.features, TRAINED, recipe_with(steps=7), 0, bf16=False)
    training.train(head, lambda: steps.append(1))
    assert len(steps) == 7
    assert not head.training


def test_features_that_are_not_finite_end_the_training_with_a_sentence(tmp_path: Path) -> None:
    task = masked(tmp_path / "whole")
    stages = [stage.copy() for stage in task.features.take(np.arange(len(task.samples)))]
    stages[1][:] = np.nan
    damaged = stored(tmp_path / "damaged", stages)
    training = HeadTraining(task.samples, damaged, TRAINED, recipe_with(), 0, bf16=False)
    with pytest.raises(DivergedError, match=r"^the loss became nan at step 0; lower the learning rate: recipe\.lr$"):
        training.train(new_head())


def test_a_far_too_high_learning_rate_ends_the_training_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"recipe\.lr"):
        masked(tmp_path).train(recipe_with(lr=1e30, warmup=0.0))


class Counted(Features):
    """Counts how often each row is read."""

    def __init__(self, features: Features) -> None:
        self._features, self.reads = features, np.zeros(len(features), np.int64)

    def take(self, rows: NDArray[np.int64], *, bf16: bool = False) -> list[NDArray[Any]]:
        np.add.at(self.reads, rows, 1)
        return self._features.take(rows, bf16=bf16)


def test_all_tiles_of_a_bag_are_evaluated_now_and_then_and_none_of_another_group(tmp_path: Path) -> None:
    task = bagged(tmp_path)
    counted = Counted(task.features)
    steps, bags = 60, 4
    recipe = recipe_with(steps=steps, bags=bags, tiles_per_bag=1)  # only the highest tile of a bag gets a gradient
    HeadTraining(task.samples, counted, TRAINED, recipe, 0, bf16=False).train(new_head())
    reads = counted.reads[:48].reshape(12, 4) - 1  # one read is for the mean and deviation of the features
    evaluations = reads.min(axis=1)  # of all tiles of a bag
    draws = (reads - evaluations[:, None]).sum(axis=1)  # each trains on one tile
    assert draws.sum() == steps * bags
    assert (evaluations >= 1).all()
    assert (evaluations <= 1 / USED_FOR).all()
    assert evaluations.sum() < draws.sum()
    assert not counted.reads[task.tested].any()


def test_predictions_are_maps_and_means_of_their_highest_cells_in_order(tmp_path: Path) -> None:
    task, head = masked(tmp_path), new_head().eval()
    rows = np.array([5, 3, 40, 3])
    logits, maps = (
        np.concatenate(parts) for parts in zip(*predict(head, task.features, rows, bf16=False), strict=True)
    )
    stages = [torch.from_numpy(stage).float().permute(0, 3, 1, 2) for stage in task.features.take(rows)]
    with torch.no_grad():
        np.testing.assert_allclose(maps, head(stages).numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits, np.sort(maps.reshape(4, -1))[:, -TOP_CELLS:].mean(axis=1), rtol=1e-5, atol=1e-6)


def test_a_trained_head_gives_the_odds_of_tiles_as_they_come(tmp_path: Path) -> None:
    """If defects are invisible, the logit is about the log-odds of defective tiles, whatever a step contains."""
    known = [LabelKind.BOXED] * 4 + [LabelKind.GOOD] * 60
    task = Task(tmp_path, known, np.zeros((64, 8, 8), np.float32))
    task.samples.share[:4] = 1  # boxes that cover the whole tile
    head = task.train(recipe_with(located=2, good=16))
    logits = np.concatenate([logits for logits, _ in predict(head, task.features, task.tested[16:], bf16=False)])
    # Between the log-odds of the training tiles and of these with the tested ones, which count as tiles too.
    assert np.log(4 / 60) < np.median(logits) < np.log((4 + 16) / (60 + 16))
