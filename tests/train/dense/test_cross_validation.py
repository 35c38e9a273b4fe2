"""Grouped cross-validation: no head predicts a group that it was trained on, and every tile is predicted once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heatline.edge.errors import InputError, TrainingError
from heatline.train.dense import cross_validation
from heatline.train.dense.cache import Features
from heatline.train.dense.cross_validation import cross_validate, divide_groups
from heatline.train.dense.fit_head import HeadTraining, predict
from heatline.train.dense.samples import Samples
from heatline.train.dense.tiles import DenseTiles, LabelKind, OutOfFold
from heatline.train.evaluation.figures import auroc
from heatline.train.models.dense import DenseClassifier, DenseHead, FineTuned, LaterStages, Trunk
from tests.train.dense.small import CHANNELS, features_of, new_head, recipe_with, samples_of, squares, stored, tiles_of

pytestmark = pytest.mark.usefixtures("one_thread")


class Stages(nn.Module):
    """A trunk of three convolutions, with strides 4, 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        early, middle, late = CHANNELS
        self.blocks = nn.Sequential(
            nn.Conv2d(3, early, 4, 4),
            nn.Conv2d(early, middle, 2, 2),
            nn.Conv2d(middle, late, 2, 2),
        )

    def forward_features(self, images: Tensor) -> Tensor:
        return self.blocks(images)  # type: ignore[no-any-return]


def untrained(seed: int = 0) -> DenseClassifier:
    head = new_head(seed)
    trunk = Trunk(Stages(), ["blocks.0", "blocks.1", "blocks.2"]).requires_grad_(False)
    return DenseClassifier(trunk, head, (8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Task:
    """Groups with a masked and three good tiles each, and a synthetic defect with a donor from the next group."""

    def __init__(self, folder: Path, groups: int = 5) -> None:
        known = [LabelKind.MASKED, LabelKind.GOOD, LabelKind.GOOD, LabelKind.GOOD] * groups
        self.tiles = tiles_of(known, np.repeat(np.arange(groups), 4).tolist(), np.repeat(np.arange(2 * groups), 2))
        self.share = np.zeros((4 * groups, 8, 8), np.float32)
        self.share[::4] = squares(groups, 0)
        drawn = squares(groups, 1)
        pasted = [(4 * group + 1, (4 * group + 5) % (4 * groups), drawn[group]) for group in range(groups)]
        self.samples = samples_of(self.tiles, self.share, pasted)
        self.features = stored(folder, features_of(np.concatenate([self.share, drawn]), 2))

    def validate(self, model: DenseClassifier, seed: int = 0, **recipe: Any) -> OutOfFold | None:
        how = recipe_with(**{"steps": 12, **recipe})
        return cross_validate(model, self.tiles, self.samples, self.features, how, seed, bf16=False)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task(tmp_path_factory.mktemp("features"))


def test_no_head_predicts_a_group_that_it_was_trained_on(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_on: dict[int, NDArray[np.bool_]] = {}
    asked: list[int] = []

    class Watched(HeadTraining):
        def __init__(self, samples: Samples, features: Features, trained: NDArray[np.bool_], *rest: Any, bf16: bool):
            super().__init__(samples, features, trained, *rest, bf16=bf16)
            self.groups = trained

        def train(self, head: DenseHead, *rest: Any) -> None:
            trained_on[id(head)] = self.groups
            super().train(head, *rest)

    def watched(head: DenseHead, features: Features, rows: NDArray[np.int64], bf16: bool) -> Any:
        assert not trained_on[id(head)][task.tiles.group[rows]].any()
        asked.extend(rows.tolist())
        return predict(head, features, rows, bf16)

    monkeypatch.setattr(cross_validation, "HeadTraining", Watched)
    monkeypatch.setattr(cross_validation, "predict", watched)
    found = task.validate(untrained(), steps=2)
    assert found is not None
    assert sorted(asked) == list(range(len(task.tiles)))
    assert sum(bool(groups.all()) for groups in trained_on.values()) == 1  # the final head
    assert len(trained_on) == 3 + 1
    np.testing.assert_allclose(np.sort(found.map.reshape(20, -1))[:, -16:].mean(axis=1), found.logit, atol=1e-2)
    for frame, fold in enumerate(found.fold.tolist()):
        [group] = set(task.tiles.group[task.tiles.table.frame == frame].tolist())
        assert fold == divide_groups(task.tiles, recipe_with(), 0)[group]
    assert found.frames.tolist() == [f"{frame}.png" for frame in range(10)]


def test_memorised_labels_do_not_help_out_of_fold(tmp_path: Path) -> None:
    """Features only identify the group of a tile, and half of the groups are defective."""
    groups, rng = 16, np.random.default_rng(0)
    number = np.repeat(np.arange(groups), 4)
    defective = number % 2 == 0
    share = np.where(defective[:, None, None], 1, np.zeros((64, 8, 8))).astype(np.float32)
    tiles = tiles_of([LabelKind.MASKED if each else LabelKind.GOOD for each in defective], number.tolist())
    code = rng.normal(0, 1, (groups, CHANNELS[0] * 256 + CHANNELS[1] * 64 + CHANNELS[2] * 16))[number]
    parts = np.split(code.astype(np.float16), np.cumsum([CHANNELS[0] * 256, CHANNELS[1] * 64]), axis=1)
    stages = [part.reshape(64, side, side, -1) for part, side in zip(parts, (16, 8, 4), strict=True)]
    samples, features, model = samples_of(tiles, share), stored(tmp_path, stages), untrained()
    recipe = recipe_with(steps=60, folds=4, located=16, good=16)
    found = cross_validate(model, tiles, samples, features, recipe, 0, bf16=False)
    assert found is not None
    [(memorised, _)] = predict(model.head, features, np.arange(64), bf16=False)
    assert known_by(memorised, defective) > 0.95
    assert known_by(found.logit, defective) < 0.75


def known_by(logits: NDArray[np.float32], defective: NDArray[np.bool_]) -> float:
    area = auroc(logits.astype(np.float64), defective, np.ones(len(logits)))
    assert area is not None
    return area


def test_the_same_seed_gives_the_same_predictions_and_the_same_model(task: Task) -> None:
    models, answered = [], []
    for seed in (1, 1, 2):
        models.append(untrained())
        answered.append(task.validate(models[-1], seed))
    found, again, others = answered
    assert found is not None
    assert again is not None
    assert others is not None
    assert np.array_equal(found.map, again.map)
    assert all(torch.equal(a, b) for a, b in zip(*(model.state_dict().values() for model in models[:2]), strict=True))
    assert not np.array_equal(found.map, others.map)


def test_the_model_gets_the_fine_tuned_trunk_and_its_head_together(task: Task) -> None:
    model, before = untrained(), untrained()
    images = torch.rand(2, 3, 64, 64)
    assert task.validate(model, finetune_steps=3) is not None
    old, new = (dict(each.trunk.named_parameters()) for each in (before, model))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {f"network.blocks.{block}.{part}" for block in (1, 2) for part in ("weight", "bias")}
    with torch.no_grad():
        first, *_ = model.trunk(images)
        later = model.trunk.network.blocks[1](first)
        expected = model.head([first, later, model.trunk.network.blocks[2](later)])
        torch.testing.assert_close(model.evidence(images), expected)


def test_a_single_group_trains_a_head_without_cross_validation(tmp_path: Path) -> None:
    task, model = Task(tmp_path, groups=1), untrained()
    before = model.head
    assert task.validate(model, steps=2) is None
    assert model.head is not before
    assert not model.head.training


def folds_of(tiles: DenseTiles, **recipe: Any) -> int:
    return len(np.unique(divide_groups(tiles, recipe_with(**recipe), 0)))


def test_no_fold_holds_all_good_tiles_or_all_defects_that_training_needs() -> None:
    good_in_one = tiles_of([LabelKind.GOOD, LabelKind.GOOD, LabelKind.BAGGED, LabelKind.BAGGED], [0, 0, 1, 2])
    assert folds_of(good_in_one) == 1
    defects_in_one = tiles_of([LabelKind.BAGGED, LabelKind.GOOD, LabelKind.GOOD], [0, 1, 2])
    assert folds_of(defects_in_one) == 3
    assert folds_of(defects_in_one, synthetic=0) == 1


def test_tiles_that_cannot_train_a_head_are_refused_in_a_sentence(tmp_path: Path) -> None:
    task = Task(tmp_path, groups=2)
    bags = tiles_of([LabelKind.BAGGED] * 8, task.tiles.group.tolist())
    task.tiles, task.samples = bags, samples_of(bags, np.zeros((8, 8, 8)))
    with pytest.raises(TrainingError, match="no tile of the training is known to be good"):
        task.validate(untrained())


OUT_OF_FOLD = OutOfFold(
    frames=np.array(["a.png", "ä.png"]),
    fold=np.array([1, 0]),
    logit=np.array([0.5, -2, 7], np.float32),
    map=np.arange(48, dtype=np.float16).reshape(3, 4, 4),
)


def assert_equal(one: OutOfFold, other: OutOfFold) -> None:
    for name in ("frames", "fold", "logit", "map"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.dtype == second.dtype
        assert np.array_equal(first, second)


def test_written_predictions_are_read_back(tmp_path: Path) -> None:
    OUT_OF_FOLD.write(tmp_path / "out_of_fold.npz")
    assert_equal(OutOfFold.read(tmp_path / "out_of_fold.npz"), OUT_OF_FOLD)


def test_a_damaged_file_is_an_error_and_never_gives_other_numbers(tmp_path: Path) -> None:
    file = tmp_path / "out_of_fold.npz"
    OUT_OF_FOLD.write(file)
    whole = file.read_bytes()
    cut = [whole[:length] for length in range(0, len(whole), 97)]
    flipped = [whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :] for at in range(0, len(whole), 13)]
    refusals = []
    for damaged in [*cut, *flipped, b"", b"no archive"]:
        file.write_bytes(damaged)
        try:
            found = OutOfFold.read(file)
        except InputError as error:
            refusals.append(str(error))
        else:
            assert_equal(found, OUT_OF_FOLD)  # the damage is in unused bytes, such as a date
    assert len(refusals) > len(cut) + len(flipped) / 2
    assert all(line.startswith(f"{file} cannot be read (") and line.endswith("; train again") for line in refusals)
    file.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        OutOfFold.read(file)


def test_without_defects_novelty_is_added_to_all_maps(tmp_path: Path) -> None:
    """Novelty finds cells whose late features differ from all good ones, unlike any synthetic defect."""
    groups = 5
    tiles = tiles_of([LabelKind.GOOD] * 4 * groups, np.repeat(np.arange(groups), 4).tolist())
    drawn = squares(groups, 1)
    samples = samples_of(
        tiles,
        np.zeros((4 * groups, 8, 8), np.float32),
        [(4 * group, 4 * group, drawn[group]) for group in range(groups)],
    )
    stages = features_of(np.concatenate([np.zeros((4 * groups, 8, 8), np.float32), drawn]), 2)
    features, model = stored(tmp_path, stages), untrained()
    how = recipe_with(steps=12)
    found = cross_validate(model, tiles, samples, features, how, 0, bf16=False)
    assert found is not None
    novelty = model.head.novelty
    assert novelty is not None
    assert novelty.gain > 0
    all_rows = np.arange(4 * groups)
    ((_, maps),) = predict(model.head, features, all_rows, bf16=False)
    odd = [torch.from_numpy(np.moveaxis(stage[:1].astype(np.float32), 3, 1)) for stage in stages]
    odd[2][:, :, 1, 2] += 3
    with torch.no_grad():
        changed = model.head(odd)[0].numpy()
    assert changed[2:4, 4:6].min() > maps.max()
    np.testing.assert_allclose(
        found.logit,
        np.sort(found.map.astype(np.float32).reshape(20, -1))[:, -16:].mean(axis=1),
        rtol=1e-3,
        atol=1e-3,  # maps are stored as float16
    )

    alone = untrained()
    assert cross_validate(alone, tiles, samples, features, recipe_with(steps=12, folds=1), 0, bf16=False) is None
    assert alone.head.novelty is None

    tuned = untrained()
    answered = cross_validate(tuned, tiles, samples, features, recipe_with(steps=4, finetune_steps=2), 0, bf16=False)
    assert answered is not None
    assert tuned.head.novelty is not None
    expected = tuned.head(
        LaterStages(tuned.trunk)(torch.from_numpy(np.moveaxis(stages[0][:3].astype(np.float32), 3, 1)))
    )
    fine = FineTuned(LaterStages(tuned.trunk), tuned.head).eval()
    ((_, maps),) = predict(fine, features, np.arange(3), bf16=False)
    np.testing.assert_allclose(maps, expected.detach().numpy(), rtol=1e-4, atol=1e-4)  # the trunk has the tuned stages
    assert np.isfinite(answered.map.astype(np.float32)).all()
