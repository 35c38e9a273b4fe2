"""Multiple-instance training: pictures as bags of tiles."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from heatline.train.batches import Bags, EvaluationBags, TrainingBags, draw_tiles, log_sum_exp
from heatline.train.compose import compose
from heatline.train.config import TrainConfig
from heatline.train.fit import fit
from heatline.train.models.build import build_model
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.run import load_run
from heatline.train.whole_network import Prepared, assemble, prepare
from tests.train.blobs import draw_blobs
from tests.train.trained import NAMED_SPLIT, SMALL

pytestmark = pytest.mark.usefixtures("one_thread")


def configured(data: Path, out: Path, *overrides: str) -> TrainConfig:
    return compose([f"data={data}", f"out={out}", "truth=labels", *SMALL, *NAMED_SPLIT, "recipe.bags=4", *overrides])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 150x200 px, that is 3 x 4 tiles, whose masks the training may not read."""
    folder = draw_blobs(tmp_path_factory.mktemp("bags") / "blobs", per_group=3)
    for mask in (folder / "masks").iterdir():
        mask.write_bytes(b"not to be read")
    return folder


@pytest.fixture(scope="module")
def prepared(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    out = tmp_path_factory.mktemp("prepared")
    return prepare(configured(pictures, out), out / "cache", lambda line: None)


logits_in_bags = st.lists(st.lists(st.floats(-30, 30), min_size=1, max_size=9), min_size=1, max_size=6)


def flat(bags: list[list[float]]) -> tuple[Tensor, Tensor]:
    tiles = torch.tensor([logit for bag in bags for logit in bag], dtype=torch.float64)
    return tiles, torch.tensor([place for place, bag in enumerate(bags) for _ in bag])


@given(logits_in_bags)
def test_a_bags_odds_are_the_sum_of_its_tiles_odds(bags: list[list[float]]) -> None:
    pooled = log_sum_exp(*flat(bags), len(bags))
    for logit, bag in zip(pooled.tolist(), bags, strict=True):
        assert math.exp(logit) == pytest.approx(sum(math.exp(tile) for tile in bag))
        assert logit >= max(bag) - 1e-12
        assert len(bag) > 1 or logit == bag[0]


@given(logits_in_bags)
def test_each_tile_gets_its_share_of_the_gradient(bags: list[list[float]]) -> None:
    tiles, bag = flat(bags)
    tiles.requires_grad_()
    log_sum_exp(tiles, bag, len(bags)).sum().backward()
    expected = [math.exp(tile) / sum(math.exp(other) for other in each) for each in bags for tile in each]
    assert tiles.grad is not None
    np.testing.assert_allclose(tiles.grad.numpy(), expected, rtol=1e-6, atol=1e-12)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8), st.integers(8, 64), st.integers(0, 99))
def test_draws_stay_within_memory_and_take_as_many_tiles_of_each_bag(sizes: list[int], most: int, seed: int) -> None:
    torch.manual_seed(seed)
    bag = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))[torch.randperm(sum(sizes))]
    drawn = draw_tiles(torch.randn(len(bag)), bag, len(sizes), most)
    assert len(drawn) == len(drawn.unique()) <= most
    counts = torch.bincount(bag[drawn], minlength=len(sizes)).tolist()
    each = max(counts)
    assert counts == [min(size, each) for size in sizes]
    assert sum(min(size, each + 1) for size in sizes) > most or each == max(sizes)


def test_tiles_are_drawn_by_their_share_of_the_bag() -> None:
    torch.manual_seed(0)
    logits, bag = torch.tensor([0.0, 1.0, 2.0, -1.0]), torch.zeros(4, dtype=torch.long)
    draws = torch.cat([draw_tiles(logits, bag, 1, 1) for _ in range(4000)])
    shares = torch.bincount(draws, minlength=4) / 4000
    torch.testing.assert_close(shares, logits.softmax(0), rtol=0, atol=0.03)  # four standard deviations


def test_a_bag_is_a_whole_picture_and_every_pixel_is_in_a_tile(prepared: Prepared) -> None:
    bags = Bags.of(prepared.store, prepared.train)
    assert len(bags) == 8
    assert bags.defective.tolist() == [True, True, True, False] * 2
    assert set(bags.sizes.tolist()) == {12}
    rows, places = bags.rows([3, 0])
    assert places.tolist() == [0] * 12 + [1] * 12
    assert set(prepared.train.frame[rows[:12]].tolist()) == {3}
    covered = np.zeros((150, 200), bool)
    for row in rows[:12]:
        y, x = prepared.train.y[row], prepared.train.x[row]
        covered[y : y + 64, x : x + 64] = True
    assert covered.all()


def test_a_batch_of_one_number_is_always_the_same(prepared: Prepared, pictures: Path, tmp_path: Path) -> None:
    config = configured(pictures, tmp_path)
    model, _ = build_model(config.model, 64)
    assembly = assemble(config, prepared, model)
    made = [assembly.train_batches(lambda: [2, 3]), assembly.train_batches(lambda: [3])]
    assert all(isinstance(batches, TrainingBags) for batches in made)
    (_, later), (again,) = (list(batches) for batches in made)
    assert torch.equal(later.tiles, again.tiles)
    assert torch.equal(later.labels, again.labels)
    assert later.bag is not None
    assert len(later.labels) == 4
    assert later.labels.sum() == 1  # a quarter of four
    assert torch.bincount(later.bag).tolist() == [12] * 4


def test_evaluation_keeps_bags_whole_and_in_order(prepared: Prepared) -> None:
    bags = Bags.of(prepared.store, prepared.val)
    for size, counts in ((30, [2, 2]), (1, [1, 1, 1, 1]), (1000, [4])):
        batches = EvaluationBags(prepared.store, bags, 64, size)
        made = [batches[number] for number in range(len(batches))]
        assert [len(batch.labels) for batch in made] == counts
        assert torch.cat([batch.labels for batch in made]).tolist() == [1, 1, 1, 0]


class Brightness(ExplainedClassifier):
    """Mean grey level of a tile times one weight; records the tiles of each call, and whether they had a gradient."""

    method, map_hw = "cam", (1, 1)

    def __init__(self) -> None:
        super().__init__((0.0,) * 3, (1.0,) * 3)
        self.head = torch.nn.Conv2d(3, 1, 1)
        torch.nn.init.constant_(self.head.weight, 1.0)
        torch.nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.calls: list[tuple[int, bool, bool]] = []

    def evidence(self, images: Tensor) -> Tensor:
        self.calls.append((len(images), torch.is_grad_enabled(), self.training))
        evidence: Tensor = self.head(images.mean(dim=(2, 3), keepdim=True))[:, 0]
        return evidence


def test_only_some_tiles_of_a_large_bag_get_a_gradient_but_all_count(prepared: Prepared, pictures: Path) -> None:
    config = configured(pictures, Path("unused"))
    model = Brightness()
    assembly = assemble(config, prepared, model)
    torch.nn.init.constant_(model.head.weight, 1.0)
    batch = next(iter(assembly.train_batches(lambda: [0])))
    torch.manual_seed(0)
    training = assembly.training.train()
    pooled = training.logits(batch)
    assert model.calls == [(48, False, False), (8, True, True)]  # all without gradient, then a batch with gradient
    assert model.training
    assert batch.bag is not None
    with torch.no_grad():
        whole = log_sum_exp(model.logits(batch.tiles), batch.bag, 4)
    torch.testing.assert_close(pooled, whole)
    assert pooled.requires_grad
    model.calls.clear()
    with torch.no_grad():
        training.eval().logits(batch)
    assert model.calls == [(48, False, False)]


@pytest.mark.long
def test_pictures_without_annotation_train_a_map_that_shows_the_defects(pictures: Path, tmp_path: Path) -> None:
    """The masks of the pictures, which the training did not use, show whether the right tiles are hot."""
    overrides = ("model=efficientnet_lite0_d", "model.weights=imagenet", "recipe.steps=60", "recipe.validate_every=20")
    run = fit(configured(pictures, tmp_path / "run", *overrides, "recipe.lr=0.003", "recipe.batch=24"))
    assert run.read_summary().val["val_ap"] == 1
    annotated = draw_blobs(tmp_path / "annotated", per_group=3)
    config = compose([f"data={annotated}", f"out={tmp_path / 'x'}", *SMALL, *NAMED_SPLIT])
    truth = prepare(config, tmp_path / "cache", lambda line: None)
    table = truth.val
    cut = [
        truth.store.pixels(int(frame))[y : y + 64, x : x + 64].copy()
        for frame, y, x in zip(table.frame, table.y, table.x, strict=True)
    ]
    with torch.no_grad():
        logits = load_run(run.folder).model.logits(torch.from_numpy(np.stack(cut))).numpy()
    ranked = table.defective[np.argsort(-logits)]
    assert ranked[: int(ranked.sum())].mean() > 0.8


def test_a_resumed_multiple_instance_training_equals_an_uninterrupted_one(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    whole = fit(configured(pictures, tmp_path / "whole"), report_line=lines.append)
    assert (whole.read_summary().truth, whole.read_summary().labelled) == ("labels", "pictures")
    assert any("multiple-instance" in line for line in lines)
    assert "train: 8 pictures, 6 of them defective; 96 tiles" in lines
    batch = TrainingBags.batch

    def crash(self: TrainingBags, step: int) -> object:
        if step == 5:
            raise RuntimeError("crash")
        return batch(self, step)

    monkeypatch.setattr(TrainingBags, "batch", crash)
    with pytest.raises(RuntimeError, match="crash"):
        fit(configured(pictures, tmp_path / "run"))
    monkeypatch.undo()
    resumed = fit(compose([f"out={tmp_path / 'run'}", "resume=true"]))
    assert resumed.metrics.read_text() == whole.metrics.read_text()
