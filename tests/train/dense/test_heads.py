"""Training of a dense head by the loss of its formula; and cross-validation: no head predicts what trained it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from heatline.edge.errors import DivergedError, InputError
from heatline.train.config import DenseRecipeConfig
from heatline.train.dense.cross_validation import cross_validate, divide_groups
from heatline.train.dense.fit_head import (
    DEFECTIVE_CELL,
    NOT_COUNTED,
    WINDOWS,
    BagTiles,
    HeadTraining,
    StepMaps,
    choose_windows,
    compose_shares,
    predict,
    step_loss,
)
from heatline.train.dense.tiles import LabelKind, OutOfFold
from heatline.train.evaluation.figures import auroc
from heatline.train.models.dense import DenseClassifier, DenseHead, Trunk
from heatline.train.readers.labelled import assign_folds
from tests.train.dense.small import CHANNELS, features_of, new_head, recipe_with, samples_of, squares, stored, tiles_of

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


def area_of(maps: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    return auroc(maps.ravel().astype(np.float64), truth.ravel() > 0, np.ones(maps.size)) or 0.0


@pytest.mark.parametrize(("how", "least"), [(masked, 0.999), (boxed, 0.999), (bagged, 0.99), (synthetic, 0.999)])
def test_a_head_learns_from_masks_boxes_bags_or_synthetic_defects_which_cells_are_defective(
    tmp_path: Path, how: Callable[[Path], Task], least: float
) -> None:
    task = how(tmp_path)
    maps = task.maps(task.train(recipe_with()))
    assert area_of(maps, task.truth) > least
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
    HeadTraining(samples, features, TRAINED, recipe_with(), 0, bf16=bf16).train(head)
    maps = np.concatenate([maps for _, maps in predict(head, features, np.arange(24, 40), bf16=False)])
    assert area_of(maps, tested) > 0.999


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


def test_a_far_too_high_learning_rate_ends_the_training_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"recipe\.lr"):
        masked(tmp_path).train(recipe_with(lr=1e30, warmup=0.0))


def test_a_trained_head_gives_the_odds_of_tiles_as_they_come(tmp_path: Path) -> None:
    """If defects are invisible, the logit is about the log-odds of defective tiles, whatever a step contains."""
    known = [LabelKind.BOXED] * 4 + [LabelKind.GOOD] * 60
    task = Task(tmp_path, known, np.zeros((64, 8, 8), np.float32))
    task.samples.share[:4] = 1  # boxes that cover the whole tile
    head = task.train(recipe_with(located=2, good=16))
    logits = np.concatenate([logits for logits, _ in predict(head, task.features, task.tested[16:], bf16=False)])
    # Between the log-odds of the training tiles and of these with the tested ones, which count as tiles too.
    assert np.log(4 / 60) < np.median(logits) < np.log((4 + 16) / (60 + 16))


WINDOWED = 12


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.sampled_from([1, 2]))
def test_each_window_contains_a_defective_cell_of_its_tile(seed: int, multiple: int) -> None:
    rng = np.random.default_rng(seed)
    share = (rng.random((8, WINDOWED, WINDOWED)) * (rng.random((8, WINDOWED, WINDOWED)) < 0.02)).astype(np.float16)
    for tile, (y, x) in zip(share, choose_windows(share, multiple, rng), strict=True):
        assert y % multiple == x % multiple == 0
        window = tile[y : y + WINDOWED // 2, x : x + WINDOWED // 2]
        assert window.shape == (WINDOWED // 2, WINDOWED // 2)
        assert window.max() >= min(DEFECTIVE_CELL, tile.max())


@given(seeds)
def test_labels_come_from_the_windows_and_do_not_count_at_seams(seed: int) -> None:
    rng = np.random.default_rng(seed)
    share = (rng.random((2 * WINDOWS, WINDOWED, WINDOWED)) < 0.1).astype(np.float16)
    corners, half = choose_windows(share, 2, rng), WINDOWED // 2
    labels = compose_shares(share, corners)
    assert labels.shape == (2, WINDOWED, WINDOWED)
    for mosaic, y, x in np.ndindex(*labels.shape):
        tile = WINDOWS * mosaic + 2 * (y // half) + x // half
        source = corners[tile][0] + y % half, corners[tile][1] + x % half
        at_seam = y in (half - 1, half) or x in (half - 1, half)
        assert labels[mosaic, y, x] == (np.float16(NOT_COUNTED) if at_seam else share[tile][source])


CELLS, TOP = 5, 4


Array = NDArray[np.float64]


def softplus(z: Array | float) -> Array:
    return np.asarray(np.logaddexp(0, z))


def top_mean(maps: Array) -> Array:
    return np.array([np.sort(one.ravel())[-TOP:].mean() for one in maps])


def around_defects(maps: Array, share: Array, exact: NDArray[np.bool_]) -> float:
    """Half the mean over cells that are more than 12 % defective, half the mean over untouched cells."""
    hot = [softplus(-maps[i][share[i] > 0.12]) for i in range(len(maps)) if exact[i]]
    cold = [softplus(maps[i][share[i] == 0]) for i in range(len(maps))]
    means = [np.concatenate(parts).mean() if sum(map(len, parts)) else 0.0 for parts in (hot, cold)]
    return float(0.5 * means[0] + 0.5 * means[1])


def expected(parts: dict[str, Array], sizes: list[int], exact: NDArray[np.bool_], shift: float) -> float:
    """The formula of RECIPE: tiles, cells of good tiles, cells around known defects."""
    good, located = parts["good"] + shift, parts["located"] + shift
    positives = list(softplus(-top_mean(located)))
    start = 0
    for size in sizes:
        odds = np.exp(top_mean(parts["bagged"][start : start + size])).sum()
        positives.append(softplus(-(np.log(odds) + shift)))
        start += size
    loss = 0.75 * softplus(top_mean(good)).mean() + softplus(good).mean()
    loss += 0.25 * np.mean(positives) if positives else 0.0
    if len(located):
        loss += around_defects(located, parts["located_share"], exact)
    if len(parts["synthetic"]):
        loss += around_defects(parts["synthetic"] + shift, parts["synthetic_share"], np.ones(999, np.bool_))
    return float(loss)


def drawn(seed: int, located: int, good: int, synthetic: int, sizes: list[int]) -> tuple[dict[str, Array], Array]:
    rng = np.random.default_rng(seed)
    counts = {"located": located, "good": good, "synthetic": synthetic, "bagged": sum(sizes)}
    parts = {name: rng.normal(0, 3, (count, CELLS, CELLS)) for name, count in counts.items()}
    for name in ("located", "synthetic"):
        share = rng.choice([0, 0, 0.05, 0.12, 0.13, 1], (counts[name], CELLS, CELLS))
        parts[f"{name}_share"] = share
    return parts, rng.random(located) < 0.5


def step(parts: dict[str, Array], sizes: list[int], exact: Array) -> StepMaps:
    tensors = {name: torch.from_numpy(part) for name, part in parts.items()}
    return StepMaps(located_exact=torch.from_numpy(exact), sizes=sizes, **tensors)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 4),
    st.integers(1, 5),
    st.integers(0, 4),
    st.lists(st.integers(1, 4), max_size=3),
    st.floats(-4, 4),
)
def test_the_loss_equals_its_formula(
    seed: int, located: int, good: int, synthetic: int, sizes: list[int], shift: float
) -> None:
    parts, exact = drawn(seed, located, good, synthetic, sizes)
    loss = step_loss(step(parts, sizes, exact), shift, TOP)
    assert float(loss) == pytest.approx(expected(parts, sizes, exact, shift), rel=1e-6)


BAG = np.arange(10, 20)


def test_half_of_the_chosen_tiles_are_the_highest_and_all_others_have_their_turn() -> None:
    tiles, rng = BagTiles(4, 200), np.random.default_rng(0)
    chosen = [tiles.choose(BAG, step, lambda rows: rows.astype(np.float32), rng) for step in range(200)]
    assert all(sorted(rows[:2]) == [18, 19] and len(set(rows.tolist())) == 4 for rows in chosen)
    assert set(np.concatenate([rows[2:] for rows in chosen]).tolist()) == set(range(10, 18))
    small = BagTiles(4, 100).choose(BAG[:4], 0, lambda rows: pytest.fail("evaluated"), rng)
    assert small.tolist() == BAG[:4].tolist(), "taken whole"


# Cross-validation.


class Stages(nn.Module):
    """A trunk of three convolutions, with strides 4, 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        early, middle, late = CHANNELS
        self.blocks = nn.Sequential(
            nn.Conv2d(3, early, 4, 4), nn.Conv2d(early, middle, 2, 2), nn.Conv2d(middle, late, 2, 2)
        )

    def forward_features(self, images: Tensor) -> Tensor:
        return self.blocks(images)  # type: ignore[no-any-return]


def untrained(seed: int = 0) -> DenseClassifier:
    head = new_head(seed)
    trunk = Trunk(Stages(), ["blocks.0", "blocks.1", "blocks.2"]).requires_grad_(False)
    return DenseClassifier(trunk, head, (8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Grouped:
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
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Grouped:
    return Grouped(tmp_path_factory.mktemp("features"))


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
    inside, outside = (
        auroc(logits.astype(np.float64), defective, np.ones(len(logits))) for logits in (memorised, found.logit)
    )
    assert (inside or 0) > 0.95
    assert (outside or 1) < 0.75


def test_the_model_gets_the_fine_tuned_trunk_and_its_head_together(grouped: Grouped) -> None:
    model, before = untrained(), untrained()
    images = torch.rand(2, 3, 64, 64)
    assert grouped.validate(model, finetune_steps=3) is not None
    old, new = (dict(each.trunk.named_parameters()) for each in (before, model))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {f"network.blocks.{block}.{part}" for block in (1, 2) for part in ("weight", "bias")}
    with torch.no_grad():
        first, *_ = model.trunk(images)
        later = model.trunk.network.blocks[1](first)
        expected = model.head([first, later, model.trunk.network.blocks[2](later)])
        torch.testing.assert_close(model.evidence(images), expected)


@pytest.mark.parametrize(
    ("known", "groups", "recipe", "folds"),
    [("ggbb", [0, 0, 1, 2], {}, 1), ("bgg", [0, 1, 2], {}, 3), ("bgg", [0, 1, 2], {"synthetic": 0}, 1)],
)
def test_no_fold_holds_all_good_tiles_or_all_defects_that_training_needs(
    known: str, groups: list[int], recipe: dict[str, int], folds: int
) -> None:
    tiles = tiles_of([{"g": LabelKind.GOOD, "b": LabelKind.BAGGED}[each] for each in known], groups)
    assert len(np.unique(divide_groups(tiles, recipe_with(**recipe), 0))) == folds


OUT_OF_FOLD = OutOfFold(
    frames=np.array(["a.png", "ä.png"]),
    fold=np.array([1, 0]),
    logit=np.array([0.5, -2, 7], np.float32),
    map=np.arange(48, dtype=np.float16).reshape(3, 4, 4),
)


@pytest.mark.parametrize("at", [None, 0, 200, 400, 600])
def test_a_damaged_file_is_an_error_and_never_gives_other_numbers(tmp_path: Path, at: int | None) -> None:
    """A byte is changed, and what follows is lost; None: it is whole."""
    file = tmp_path / "out_of_fold.npz"
    OUT_OF_FOLD.write(file)
    if at is None:
        for name in ("frames", "fold", "logit", "map"):
            np.testing.assert_array_equal(getattr(OutOfFold.read(file), name), getattr(OUT_OF_FOLD, name), strict=True)
        return
    whole = file.read_bytes()
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]))
    with pytest.raises(InputError, match=r"out_of_fold.npz cannot be read \(.*; train again$"):
        OutOfFold.read(file)


def test_without_defects_novelty_is_added_to_all_maps(tmp_path: Path) -> None:
    """Novelty finds cells whose late features differ from all good ones, unlike any synthetic defect."""
    tiles = tiles_of([LabelKind.GOOD] * 20, np.repeat(np.arange(5), 4).tolist())
    nothing, drawn = np.zeros((20, 8, 8), np.float32), squares(5, 1)
    samples = samples_of(tiles, nothing, [(4 * group, 4 * group, drawn[group]) for group in range(5)])
    stages = features_of(np.concatenate([nothing, drawn]), 2)
    features, model, alone, tuned = stored(tmp_path, stages), untrained(), untrained(), untrained()
    found = cross_validate(model, tiles, samples, features, recipe_with(steps=12), 0, bf16=False)
    assert found is not None
    assert model.head.novelty is not None
    assert model.head.novelty.gain > 0
    ((_, maps),) = predict(model.head, features, np.arange(20), bf16=False)
    odd = [torch.from_numpy(np.moveaxis(stage[:1].astype(np.float32), 3, 1)) for stage in stages]
    odd[2][:, :, 1, 2] += 3
    with torch.no_grad():
        assert model.head(odd)[0].numpy()[2:4, 4:6].min() > maps.max()
    highest = np.sort(found.map.astype(np.float32).reshape(20, -1))[:, -16:]
    np.testing.assert_allclose(found.logit, highest.mean(axis=1), rtol=1e-3, atol=1e-3)  # maps are stored as float16

    assert cross_validate(alone, tiles, samples, features, recipe_with(steps=12, folds=1), 0, bf16=False) is None
    assert alone.head.novelty is None
    how = recipe_with(steps=4, finetune_steps=2)
    assert cross_validate(tuned, tiles, samples, features, how, 0, bf16=False) is not None
    assert tuned.head.novelty is not None


@given(seeds, st.integers(1, 40), st.integers(1, 4), st.integers(2, 8))
def test_every_group_is_in_one_fold_and_no_fold_stays_empty(seed: int, groups: int, kinds: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    group = np.concatenate([np.arange(groups), rng.integers(0, groups, 200)])
    chances = 0.1 ** np.arange(kinds)[::-1]  # each sample is of one kind; the last is the most common
    weight = np.eye(kinds)[rng.choice(kinds, len(group), p=chances / chances.sum())]
    fold_of = assign_folds(group, weight, folds, seed)
    assert fold_of.shape == (groups,)
    assert set(fold_of.tolist()) == set(range(min(groups, folds)))
    order = rng.permutation(len(group))  # the order of samples does not matter
    assert np.array_equal(fold_of, assign_folds(group[order], weight[order], folds, seed))


@given(seeds, st.integers(2, 30), st.integers(2, 6), st.data())
def test_a_rare_kind_is_spread_over_the_folds(seed: int, groups: int, folds: int, data: st.DataObject) -> None:
    rare = data.draw(st.sets(st.integers(0, groups - 1), min_size=1, max_size=groups))
    group = np.repeat(np.arange(groups), 10)
    is_rare = np.isin(group, list(rare)) & (np.arange(len(group)) % 10 == 0)
    fold_of = assign_folds(group, np.stack([~is_rare, is_rare], axis=1).astype(float), folds, seed)
    counts = np.bincount(fold_of[sorted(rare)], minlength=folds)
    assert counts.max() - counts.min() <= 1


@given(seeds, st.integers(2, 12), st.integers(2, 6))
def test_every_fold_leaves_good_tiles_to_train_on_where_two_groups_have_any(seed: int, groups: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    group = np.concatenate([np.arange(groups), rng.integers(0, groups, 40)])
    chances = rng.dirichlet(np.full(4, 0.4), groups)
    known = np.array([rng.choice(4, p=chances[each]) for each in group])
    with_good = np.unique(group[known == LabelKind.GOOD])
    assume(len(with_good) >= 2)
    fold_of = divide_groups(
        tiles_of([LabelKind(each) for each in known], group.tolist()), recipe_with(folds=folds), seed
    )
    assert len(np.unique(fold_of[with_good])) > 1
