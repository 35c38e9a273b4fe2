"""Features of the trunk and their cache; training of a dense head by the loss of its formula; cross-validation."""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from heatline.edge.bundle.pooling import pool
from heatline.edge.errors import DivergedError, InputError, TrainingError
from heatline.train.config import DenseRecipeConfig
from heatline.train.dense.cache import FeatureCache, key_of
from heatline.train.dense.cross_validation import CrossValidation, choose_pooling, divide_groups
from heatline.train.dense.extraction import BATCH, extract
from heatline.train.dense.fit_head import (
    WINDOWS,
    BagTiles,
    HeadTraining,
    StepMaps,
    choose_windows,
    compose_shares,
    cut_windows,
    predict,
    step_loss,
)
from heatline.train.dense.samples import MARKED
from heatline.train.dense.tiles import DEFECTIVE_CELL, NOT_COUNTED, DenseTiles, LabelKind, OutOfFold
from heatline.train.evaluation.scoring import auroc
from heatline.train.models.dense import TOP_CELLS, DenseClassifier, DenseHead, Trunk
from heatline.train.readers.labelled import assign_folds
from tests.edge.fault_disks import small_disk
from tests.train.dense.small import (
    CHANNELS,
    STRIDES,
    features_of,
    new_head,
    recipe_with,
    samples_of,
    squares,
    stored,
    tiles_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")
TRAINED = np.array([True, False])
"""Only the first group is trained on; the other is for testing."""
TESTED = [LabelKind.MASKED] * 16 + [LabelKind.GOOD] * 16


class Task:
    """Tiles of a group for training, and as many for testing, with labels of every cell.

    Args:
        known: of the tiles to train on.
        share: where these are defective, [n, cells, cells].
        synthetic: of synthetic defects on the first good tiles of the trained group.
        bag_tiles: tiles per picture.
    """

    def __init__(
        self,
        folder: Path,
        known: list[LabelKind],
        share: NDArray[np.float32],
        synthetic: NDArray[np.float32] | None = None,
        bag_tiles: int = 1,
    ) -> None:
        count, cells = share.shape[:2]
        self.tested = np.arange(count, count + len(TESTED))
        self.truth = np.concatenate([scaled(squares(16, 1), cells), np.zeros((16, cells, cells), np.float32)])
        frame = np.concatenate([np.arange(count) // bag_tiles, self.tested])
        tiles = tiles_of([*known, *TESTED], [0] * count + [1] * len(TESTED), frame.tolist())
        drawn = np.zeros((0, cells, cells), np.float32) if synthetic is None else synthetic
        marked = np.where(np.isin(known, MARKED)[:, None, None], share, 0)
        pasted = [(row, row, one) for row, one in zip(tiles.of(LabelKind.GOOD).tolist(), drawn, strict=False)]
        self.samples = samples_of(tiles, np.concatenate([marked, self.truth]), pasted)
        self.features = stored(folder, features_of(np.concatenate([share, self.truth, drawn]), 3))

    def train(
        self, recipe: DenseRecipeConfig, seed: int = 0, head: DenseHead | None = None, *, bf16: bool = False
    ) -> DenseHead:
        head = head or new_head()
        HeadTraining(self.samples, self.features, TRAINED, recipe, seed, bf16=bf16).train(head)
        return head

    def predict(self, head: DenseHead) -> NDArray[np.float32]:
        """Return the maps of the tiles for testing."""
        return np.concatenate(predict(head, self.features, self.tested, bf16=False))


def scaled(share: NDArray[np.float32], cells: int) -> NDArray[np.float32]:
    return share.repeat(cells // 8, axis=1).repeat(cells // 8, axis=2)


def task(how: str, folder: Path) -> Task:
    """Return a task of tiles with masks, with boxes twice as wide as the defects, and so on."""
    nothing = np.zeros((24, 8, 8), np.float32)
    first = [LabelKind.BOXED if how == "boxes" else LabelKind.MASKED] * 12
    share = np.concatenate([squares(12, 0), nothing])
    if how == "bags":  # twelve of four tiles, one of them defective
        first, share = [LabelKind.BAGGED] * 48, np.zeros((72, 8, 8), np.float32)
        share[1:48:4] = squares(12, 0)
    elif how in ("synthetic", "mosaics"):  # maps of 16 cells are large enough for windows
        cells = 16 if how == "mosaics" else 8
        return Task(folder, [LabelKind.GOOD] * 24, scaled(nothing, cells), scaled(squares(24, 2), cells))
    made = Task(folder, [*first, *[LabelKind.GOOD] * 24], share, bag_tiles=4 if how == "bags" else 1)
    if how == "boxes":
        made.samples.share[:12] = share[:12].max(axis=2, keepdims=True)
    return made


@pytest.mark.parametrize(
    ("how", "bf16", "least"),
    [
        ("masks", False, 0.999), ("boxes", False, 0.999), ("bags", False, 0.99), ("synthetic", False, 0.999),
        ("mosaics", False, 0.999), ("mosaics", True, 0.999),
    ],
)  # fmt: skip
def test_a_head_learns_which_cells_are_defective(tmp_path: Path, how: str, bf16: bool, least: float) -> None:
    on = task(how, tmp_path)
    maps = on.predict(on.train(recipe_with(), bf16=bf16))
    assert auroc(maps.ravel().astype(np.float64), on.truth.ravel() > 0, np.ones(maps.size)) > least
    assert maps[16:].max() < maps[:16].max(axis=(1, 2)).min()


def test_cells_under_marks_count_as_those_under_masks_and_cells_in_boxes_do_not(tmp_path: Path) -> None:
    share = np.concatenate([squares(12, 0), np.zeros((24, 8, 8), np.float32)])
    masked, pointed, boxed = (
        Task(tmp_path / kind.name, [*[kind] * 12, *[LabelKind.GOOD] * 24], share).train(recipe_with(steps=4))
        for kind in (LabelKind.MASKED, LabelKind.POINTED, LabelKind.BOXED)
    )
    torch.testing.assert_close(pointed.state_dict(), masked.state_dict(), rtol=0, atol=0)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(boxed.state_dict(), masked.state_dict())


def test_heads_trained_in_parallel_equal_heads_trained_one_by_one(tmp_path: Path) -> None:
    on, recipe = task("bags", tmp_path), recipe_with(steps=8)
    one_by_one = [on.train(recipe, seed) for seed in range(3)]
    heads = [new_head() for _ in range(3)]
    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(lambda seed: on.train(recipe, seed, heads[seed]), range(3)))
    for expected, head in zip(one_by_one, heads, strict=True):
        torch.testing.assert_close(head.state_dict(), expected.state_dict(), rtol=0, atol=0)
    with pytest.raises(DivergedError, match=r"recipe\.lr"):
        on.train(recipe_with(lr=1e30, warmup=0.0))


def test_a_trained_head_gives_the_odds_of_tiles_as_they_come(tmp_path: Path) -> None:
    """If defects are invisible, the logit is about the log-odds of defective tiles, whatever a step contains."""
    on = Task(tmp_path, [LabelKind.BOXED] * 4 + [LabelKind.GOOD] * 60, np.zeros((64, 8, 8), np.float32))
    on.samples.share[:4] = 1  # boxes that cover the whole tile
    logits = pool(on.predict(on.train(recipe_with(located=2, good=16))), TOP_CELLS)
    # Between the log-odds of the training tiles and of these with the tested ones, which count as tiles too.
    assert np.log(4 / 60) < np.median(logits[16:]) < np.log((4 + 16) / (60 + 16))


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
    labels = compose_shares(cut_windows(share, corners, WINDOWED))
    assert labels.shape == (2, WINDOWED, WINDOWED)
    for mosaic, y, x in np.ndindex(*labels.shape):
        tile = WINDOWS * mosaic + 2 * (y // half) + x // half
        source = corners[tile][0] + y % half, corners[tile][1] + x % half
        at_seam = y in (half - 1, half) or x in (half - 1, half)
        assert labels[mosaic, y, x] == (np.float16(NOT_COUNTED) if at_seam else share[tile][source])


Array = NDArray[np.float64]


def softplus(z: Array) -> Array:
    return np.asarray(np.logaddexp(0, z))


def top_mean(maps: Array) -> Array:
    return np.sort(maps.reshape(len(maps), 25))[:, -4:].mean(axis=1)


def around_defects(maps: Array, share: Array, exact: NDArray[np.bool_]) -> float:
    """Half the mean over cells that are more than 12 % defective, half the mean over untouched cells."""
    hot, cold = softplus(-maps[(share > 0.12) & exact[:, None, None]]), softplus(maps[share == 0])
    return sum(0.5 * float(each.mean()) for each in (hot, cold) if len(each))


def formula(parts: dict[str, Array], sizes: list[int], exact: NDArray[np.bool_], shift: float) -> float:
    """That of RECIPE: tiles, cells of good tiles, cells around known defects."""
    good, located = parts["good"] + shift, parts["located"] + shift
    bags = np.split(top_mean(parts["bagged"]), np.cumsum(sizes)[:-1]) if sizes else []
    positives = np.append(top_mean(located), [np.log(np.exp(bag).sum()) + shift for bag in bags])
    loss = 0.75 * softplus(top_mean(good)).mean() + softplus(good).mean()
    loss += 0.25 * softplus(-positives).mean() if len(positives) else 0.0
    loss += around_defects(located, parts["located_share"], exact)
    synthetic = parts["synthetic"] + shift
    return float(loss + around_defects(synthetic, parts["synthetic_share"], np.ones(len(synthetic), np.bool_)))


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
    rng, counts = np.random.default_rng(seed), {"located": located, "good": good, "synthetic": synthetic}
    parts = {name: rng.normal(0, 3, (count, 5, 5)) for name, count in {**counts, "bagged": sum(sizes)}.items()}
    for name in ("located", "synthetic"):
        parts[f"{name}_share"] = rng.choice([0, 0, 0.05, 0.12, 0.13, 1], (counts[name], 5, 5))
    exact = rng.random(located) < 0.5
    tensors = {name: torch.from_numpy(part) for name, part in parts.items()}
    loss = step_loss(StepMaps(located_exact=torch.from_numpy(exact), sizes=sizes, **tensors), shift, 4)
    assert float(loss) == pytest.approx(formula(parts, sizes, exact, shift), rel=1e-6)


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
        convolutions = nn.Conv2d(3, early, 4, 4), nn.Conv2d(early, middle, 2, 2), nn.Conv2d(middle, late, 2, 2)
        self.blocks = nn.Sequential(*convolutions)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.blocks(images)  # type: ignore[no-any-return]


def untrained(seed: int = 0) -> DenseClassifier:
    head = new_head(seed)
    trunk = Trunk(Stages(), ["blocks.0", "blocks.1", "blocks.2"]).requires_grad_(False)
    return DenseClassifier(trunk, head, (8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def cross_validate(model: DenseClassifier, tiles: DenseTiles, *of: Any, bf16: bool = False) -> OutOfFold | None:
    validation, recipe = CrossValidation(model, tiles, *of, bf16=bf16), of[2]
    validation.train()
    if recipe.finetune_steps:
        validation.fine_tune(recipe.finetune_steps)
    found = validation.predict()
    validation.give()
    return found


def test_memorised_labels_do_not_help_out_of_fold(tmp_path: Path) -> None:
    """Features only identify the group of a tile, and half of the groups are defective."""
    groups, rng = 16, np.random.default_rng(0)
    number = np.repeat(np.arange(groups), 4)
    defective = number % 2 == 0
    share = np.broadcast_to(defective[:, None, None], (64, 8, 8)).astype(np.float32)
    tiles = tiles_of([LabelKind.MASKED if each else LabelKind.GOOD for each in defective], number.tolist())
    shapes = [
        (groups, 64 // stride, 64 // stride, channels) for stride, channels in zip(STRIDES, CHANNELS, strict=True)
    ]
    features = stored(tmp_path, [rng.normal(0, 1, shape).astype(np.float16)[number] for shape in shapes])
    recipe, model = recipe_with(steps=60, folds=4, located=16, good=16), untrained()
    found = cross_validate(model, tiles, samples_of(tiles, share), features, recipe, 0, bf16=False)
    memorised = pool(predict(model.head, features, np.arange(64), bf16=False)[0], TOP_CELLS)
    inside, outside = (auroc(logits.astype(float), defective, np.ones(64)) for logits in (memorised, found.logit))
    assert (inside or 0) > 0.95
    assert (outside or 1) < 0.75


def test_the_model_gets_the_fine_tuned_trunk_and_its_head_together(tmp_path: Path) -> None:
    """Of a masked and three good tiles in each of five groups."""
    known = [LabelKind.MASKED, LabelKind.GOOD, LabelKind.GOOD, LabelKind.GOOD] * 5
    share = np.zeros((20, 8, 8), np.float32)
    share[::4] = squares(5, 0)
    tiles = tiles_of(known, np.repeat(np.arange(5), 4).tolist())
    samples, features = samples_of(tiles, share), stored(tmp_path, features_of(share, 2))
    model, before, images = untrained(), untrained(), torch.rand(2, 3, 64, 64)
    recipe = recipe_with(steps=12, finetune_steps=3, synthetic=0)
    assert cross_validate(model, tiles, samples, features, recipe, 0, bf16=False) is not None
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


@pytest.mark.parametrize("at", [0, 200, 400, 600])
def test_a_damaged_file_is_an_error_and_never_gives_other_numbers(tmp_path: Path, at: int) -> None:
    """A byte is changed, and what follows is lost."""
    file = tmp_path / "out_of_fold.npz"
    OUT_OF_FOLD.write(file)
    whole, read = file.read_bytes(), OutOfFold.read(file)
    for name in ("frames", "fold", "logit", "map"):
        np.testing.assert_array_equal(getattr(read, name), getattr(OUT_OF_FOLD, name), strict=True)
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]))
    with pytest.raises(InputError, match=r"out_of_fold.npz cannot be read \(.*; train again$"):
        OutOfFold.read(file)


def test_without_defects_novelty_is_added_to_all_maps(tmp_path: Path) -> None:
    """Novelty finds cells whose late features differ from all good ones, unlike any synthetic defect."""
    tiles = tiles_of([LabelKind.GOOD] * 20, np.repeat(np.arange(5), 4).tolist())
    nothing, drawn = np.zeros((20, 8, 8), np.float32), squares(5, 1)
    samples = samples_of(tiles, nothing, [(4 * group, 4 * group, drawn[group]) for group in range(5)])
    stages = features_of(np.concatenate([nothing, drawn]), 2)
    features, (model, alone, tuned) = stored(tmp_path, stages), (untrained() for _ in range(3))
    found, not_validated, _ = (
        cross_validate(each, tiles, samples, features, recipe, 0, bf16=False)
        for each, recipe in (
            (model, recipe_with(steps=12)),
            (alone, recipe_with(steps=12, folds=1)),
            (tuned, recipe_with(steps=4, finetune_steps=2)),
        )
    )
    assert (not_validated, alone.head.novelty, tuned.head.novelty is None) == (None, None, False)
    assert model.head.novelty.gain > 0
    (maps,) = predict(model.head, features, np.arange(20), bf16=False)
    odd = [torch.from_numpy(np.moveaxis(stage[:1].astype(np.float32), 3, 1)) for stage in stages]
    odd[2][:, :, 1, 2] += 3
    with torch.no_grad():
        assert model.head(odd)[0].numpy()[2:4, 4:6].min() > maps.max()
    np.testing.assert_allclose(found.logit, pool(found.map.astype(np.float32), TOP_CELLS), rtol=1e-6)


@pytest.mark.parametrize(("defect_cells", "chosen"), [(4, 8), (40, 16), (0, 16)])
def test_fewer_cells_score_a_tile_only_where_they_tell_pictures_apart_better(defect_cells: int, chosen: int) -> None:
    """Good tiles have eight cells of some evidence, which outweigh a small defect in the mean of sixteen cells."""
    count = 40
    defective, maps = np.arange(count) % 2 == 0, np.zeros((count, 64), np.float16)
    maps[:, :20] = np.linspace(0, 3, count)[:, None]
    maps[defective, :defect_cells] = 6
    tiles = tiles_of([LabelKind.MASKED if each else LabelKind.GOOD for each in defective], [*range(count)])
    cells, logit = choose_pooling(tiles, maps.reshape(count, 8, 8))
    assert cells == chosen
    np.testing.assert_array_equal(logit, pool(maps.astype(np.float32), chosen))


@given(seeds, st.integers(1, 40), st.integers(1, 4), st.integers(2, 8))
def test_every_group_is_in_one_fold_and_no_fold_stays_empty(seed: int, groups: int, kinds: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    group = np.concatenate([np.arange(groups), rng.integers(0, groups, 200)])
    chances = 0.1 ** np.arange(kinds)[::-1]  # each sample is of one kind; the last is the most common
    weight = np.eye(kinds)[rng.choice(kinds, len(group), p=chances / chances.sum())]
    fold_of = assign_folds(group, weight, folds, seed)
    assert (fold_of.shape, set(fold_of.tolist())) == ((groups,), set(range(min(groups, folds))))
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


# The features of the trunk: extraction, and the cache that keeps them through kills and full disks.


FORKS = multiprocessing.get_context("fork")


SHAPES = ((4, 4, 3), (2, 2, 5))
TILE_BYTES = 2 * (4 * 4 * 3 + 2 * 2 * 5) + 16
"""Of one tile's features."""


def numbers_of(keys: Sequence[bytes], shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[NDArray[np.float16]]:
    """Different numbers for each key, always the same ones."""
    return [
        np.stack([np.random.default_rng(list(key)).standard_normal(shape).astype(np.float16) for key in keys])
        for shape in shapes
    ]


def keys_of(*numbers: int) -> list[bytes]:
    return [key_of("picture", number, 0) for number in numbers]


def cache_in(folder: Path, *, tiles: int = 1000, identity: str = "trunk") -> FeatureCache:
    return FeatureCache(folder, identity, SHAPES, limit_bytes=tiles * TILE_BYTES)


def fill(cache: FeatureCache, keys: Sequence[bytes]) -> None:
    if missing := cache.missing(keys):
        cache.write(missing, numbers_of(missing))


def assert_holds(cache: FeatureCache, keys: Sequence[bytes]) -> None:
    for found, expected in zip(cache.read(keys).take(np.arange(len(keys))), numbers_of(keys), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_next_training_reads_written_features_in_the_order_of_its_keys(tmp_path: Path) -> None:
    keys = keys_of(*range(20))
    first = cache_in(tmp_path)
    assert first.missing([*keys, keys[3]]) == keys
    first.write(keys[:12], numbers_of(keys[:12]))
    second = cache_in(tmp_path)
    assert second.missing(keys) == keys[12:]
    asked = [keys[i] for i in (7, 0, 11, 7)]
    assert_holds(second, asked)
    second.write(keys[12:], numbers_of(keys[12:]))
    assert_holds(cache_in(tmp_path), keys[::-1])
    for others in (("another trunk", SHAPES), ("trunk", ((2, 2, 5), (4, 4, 3)))):
        assert FeatureCache(tmp_path, *others).missing(keys) == keys
    read = second.read(asked)
    for stage, expected in zip(read.take(np.arange(4), bf16=True), read.take(np.arange(4)), strict=True):
        rounded = torch.from_numpy(stage).view(torch.bfloat16)
        assert torch.equal(rounded, torch.from_numpy(expected).float().bfloat16()), "as torch rounds"

    # A key depends on every part, and not on how a number is stored.
    assert key_of("a", 1, 23) == key_of("a", np.int64(1), np.int32(23))
    others = [key_of("a", 1, 23), key_of("a", 12, 3), key_of("a", "1", 23), key_of(b"a", 1, 23), key_of("a", 1)]
    assert len(set(others)) == len(others)


@given(st.lists(st.sets(st.integers(0, 15), min_size=1, max_size=8), min_size=1, max_size=8))
def test_the_files_of_the_least_recent_trainings_are_deleted_at_the_limit(
    tmp_path_factory: pytest.TempPathFactory, trainings: list[set[int]]
) -> None:
    """The limit is 10 tiles, a training needs up to 8; trunks share it. What the last training used stays."""
    folder = tmp_path_factory.mktemp("features")
    for clock, numbers in enumerate(trainings):
        keys = keys_of(*sorted(numbers))
        fill(cache_in(folder, tiles=10, identity=f"trunk {clock % 2}"), keys)
        cache = cache_in(folder, tiles=10, identity=f"trunk {clock % 2}")
        assert not cache.missing(keys)
        assert_holds(cache, keys)
        assert sum(path.stat().st_size for path in folder.glob("*.features")) <= 10 * TILE_BYTES
    with pytest.raises(TrainingError, match=r"features of 11 tiles take .* allows .*; raise features\.limit_gb"):
        cache_in(folder, tiles=10).missing(keys_of(*range(20, 31)))
    assert not cache.missing(keys), "nothing is deleted for what is refused"
    features = cache.read(keys)
    for path in folder.glob("*.features"):
        path.unlink()  # by another training; features that are read stay readable
    for found, expected in zip(features.take(np.array([0])), numbers_of(keys), strict=True):
        np.testing.assert_array_equal(found, expected[:1])
    with pytest.raises(TrainingError, match=r"deleted during the training; raise .* give the same command"):
        cache.read(keys)


def write_and_read(folder: Path) -> None:
    cache, keys = cache_in(folder), keys_of(*range(300))
    cache.missing(keys)
    cache.write(keys, numbers_of(keys))
    assert_holds(cache, keys)


def test_two_trainings_that_write_the_same_features_both_read_them(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, FORKS) as pool:
        assert [*pool.map(write_and_read, [tmp_path] * 2)] == [None] * 2


def test_a_training_killed_during_a_write_leaves_only_intact_features(tmp_path: Path) -> None:
    keys, (ours, theirs) = keys_of(*range(10**4)), FORKS.Pipe(duplex=False)

    def write() -> None:
        cache = cache_in(tmp_path, tiles=10**6)
        cache.missing(keys)
        for key in keys:
            cache.write([key], numbers_of([key]))
            theirs.send(key)

    writer = FORKS.Process(target=write)
    writer.start()
    while ours.recv() != keys[50]:
        pass
    writer.kill()
    writer.join()
    cache = cache_in(tmp_path, tiles=10**6)
    missing = {*cache.missing(keys)}
    written = [key for key in keys if key not in missing]
    assert (written[:51], len(written) < len(keys)) == (keys[:51], True)
    assert_holds(cache, written)


def test_a_full_disk_is_reported_and_keeps_the_cached_features(tmp_path: Path) -> None:
    keys = keys_of(*range(100))
    with small_disk(tmp_path / "disk") as disk:
        cache = FeatureCache(disk, "trunk", [(64, 64, 3)])
        assert cache.missing(keys) == keys
        with pytest.raises(TrainingError, match=r"\(No space left on device\); make room .* features\.folder"):
            cache.write(keys, numbers_of(keys, [(64, 64, 3)]))  # 24 KB a tile
        present = len(keys) - len(cache.missing(keys))
        assert 0 < present < len(keys)
        [found] = cache.read(keys[:present]).take(np.arange(present))
        np.testing.assert_array_equal(found, numbers_of(keys[:present], [(64, 64, 3)])[0])


# Extraction.


TILE_PX = 32


class TinyTrunk(nn.Module):
    """Features of strides 8 and 16, random weights from a seed."""

    identity = "tiny"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.early, self.late = nn.Conv2d(3, 3, 9, stride=8, padding=4), nn.Conv2d(3, 5, 3, stride=2, padding=1)

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        early = self.early(tiles.permute(0, 3, 1, 2).float() / 255 - 0.5)
        return early, self.late(torch.relu(early))


class Extraction:
    """Tiles by number, a cache for their features, and how many of them are extracted."""

    def __init__(self, folder: Path) -> None:
        self.trunk, self.reports = TinyTrunk(), list[tuple[int, int]]()
        self.cache = FeatureCache(folder, self.trunk.identity, [(4, 4, 3), (2, 2, 5)])

    @staticmethod
    def tile(number: int) -> NDArray[np.uint8]:
        return np.random.default_rng(number).integers(0, 256, (TILE_PX, TILE_PX, 3), np.uint8)

    def run(self, numbers: Iterable[int], on_report: Callable[[int], object] = bool, **options: Any) -> int:
        """Extract the features of tiles; a negative number is a tile that cannot be prepared."""

        def fill(out: NDArray[np.uint8], number: int) -> None:
            if number < 0:
                raise InputError("a picture that cannot be read")
            out[:] = self.tile(number)

        def progress(done: int, total: int) -> None:
            self.reports.append((done, total))
            on_report(done)

        tiles = [(key_of(number), partial(fill, number=number)) for number in numbers]
        return extract(self.trunk, tiles, self.cache, tile_px=TILE_PX, progress=progress, **options)

    def there(self, numbers: Iterable[int]) -> list[int]:
        """Return those whose features are in the cache."""
        every = dict.fromkeys(numbers)
        missing = set(self.cache.missing([key_of(number) for number in every]))
        return [number for number in every if key_of(number) not in missing]

    def check(self, numbers: list[int], rtol: float = 2e-3) -> None:
        """Compare with torch, by default by the precision of float16, which has 11 bits."""
        if not numbers:
            return
        found = self.cache.read([key_of(number) for number in numbers]).take(np.arange(len(numbers)))
        with torch.inference_mode():
            expected = self.trunk(torch.from_numpy(np.stack([self.tile(number) for number in numbers])))
        for stage, reference in zip(found, expected, strict=True):
            np.testing.assert_allclose(stage, reference.permute(0, 2, 3, 1).numpy(), rtol=rtol, atol=rtol / 2)


@settings(max_examples=settings().max_examples // 2)
@given(numbers=st.lists(st.integers(0, 60), min_size=1, max_size=5 * BATCH), short=st.integers(0, 5))
def test_each_missing_tile_gets_its_own_features_however_they_fall_into_batches(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], short: int
) -> None:
    """The features of the first few numbers are computed in bf16."""
    extraction = Extraction(tmp_path_factory.mktemp("features"))
    count = extraction.run(numbers, in_bf16={key_of(number) for number in range(short)})
    assert count == len(set(numbers))
    assert (extraction.reports, extraction.reports[-1]) == (sorted(extraction.reports), (count, count))
    extraction.check([number for number in numbers if number >= short])
    extraction.check([number for number in numbers if number < short], rtol=2**-6)
    assert extraction.run([*numbers, 100, 101]) == 2
    extraction.check([100, 101])


def test_a_tile_that_cannot_be_prepared_ends_the_extraction_but_keeps_the_others(tmp_path: Path) -> None:
    extraction, numbers = Extraction(tmp_path), range(10 * BATCH)
    with pytest.raises(InputError, match="cannot be read"):
        extraction.run([*numbers, *range(-10 * BATCH, 0)])
    assert extraction.there(numbers)
    extraction.check(extraction.there(numbers))


@pytest.mark.parametrize("count", [3_000, pytest.param(30_000, marks=pytest.mark.long)])
def test_ctrl_c_ends_the_extraction_and_keeps_the_extracted_features(tmp_path: Path, count: int) -> None:
    extraction = Extraction(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        extraction.run(range(count), lambda done: signal.raise_signal(signal.SIGINT))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("extract")]
    ((done, _),), there = extraction.reports, extraction.there(range(count))
    assert done <= len(there) < count
    extraction.check(there[:BATCH] + there[-BATCH:])
