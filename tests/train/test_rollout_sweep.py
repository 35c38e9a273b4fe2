"""All fusions and discard ratios from one pass, compared with separate runs; their figures, with a slow reference."""

from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from heatline.train.evaluation.scoring import PixelCounts, peak_distance_px, study_mask
from heatline.train.evaluation.sweep import FUSIONS, RATIOS, Sweep, SweepFigures
from heatline.train.models.vit import class_token_row, class_token_rows, discard_lowest, smallest_kept
from tests.toy_vit import ToyViT
from tests.train import oracles_rollout as oracle

pytestmark = pytest.mark.usefixtures("one_thread")

TILE = 64
FIGURES = ("precision", "recall", "f1", "jaccard", "accuracy", "pointing", "pointing_gated", "weighting")


def toy(seed: int = 0, scale: float = 0.3) -> ToyViT:
    torch.manual_seed(seed)
    model = ToyViT(TILE, layers=3)
    for value in model.parameters():  # timm starts with tokens that hardly differ
        torch.nn.init.normal_(value, std=scale)
    return model.eval()


def random_tiles(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, TILE, TILE, 3), np.uint8)


@torch.no_grad()
def single_runs(model: ToyViT, tiles: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Logits [N] and maps [N, fusions, ratios, h, w], each variant from a classifier with its settings."""
    maps = []
    for model.fusion in FUSIONS:
        for model.discard_ratio in RATIOS:
            logits, of_variant = model(torch.from_numpy(tiles))
            maps.append(of_variant)
    return logits, torch.stack(maps, dim=1).reshape(len(tiles), len(FUSIONS), len(RATIOS), *model.map_hw)


# ---------------------------------------------------------------------------------------------------------- the rollout


@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(2, 9),
    ratios=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5),
    coarse=st.booleans(),
)
def test_one_sort_finds_what_every_ratio_keeps(seed: int, tokens: int, ratios: list[float], coarse: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.randn((2, tokens, tokens), generator=generator, dtype=torch.float64).softmax(-1) for _ in range(2)]
    if coarse:  # many entries are equal
        layers = [(layer * 8).round() / 8 for layer in layers]
    smallest, rows = smallest_kept(layers[0], ratios), class_token_rows(layers, ratios)
    assert (smallest.shape, rows.shape) == ((len(ratios), 2), (len(ratios), 2, tokens))
    for number, ratio in enumerate(ratios):
        expected = class_token_row([discard_lowest(layer, ratio) for layer in layers])
        torch.testing.assert_close(rows[number], expected, rtol=1e-12, atol=1e-15)
        for tile in range(2):
            kept = oracle.without_lowest(layers[0][tile].numpy(), ratio)
            assert torch.equal(discard_lowest(layers[0], ratio)[tile], torch.from_numpy(kept))
            whole = oracle.rollout([layer[tile, None].numpy() for layer in layers], "mean", ratio)
            np.testing.assert_allclose(rows[number, tile].numpy(), whole[0], rtol=0, atol=1e-12)
            lost = layers[0][tile] < smallest[number, tile]
            assert (layers[0][tile][lost].numel() == 0) or bool((torch.from_numpy(kept)[lost] == 0).all())
            assert bool((layers[0][tile] == smallest[number, tile]).any())


@pytest.mark.parametrize("scale", [0.3, 0.0], ids=["random", "constant"])
def test_every_map_of_a_sweep_is_that_of_a_classifier_set_to_its_variant(scale: float) -> None:
    """Weights of zero make attention that is the same everywhere: all entries tie, and none is discarded."""
    model = toy(scale=scale)
    if not scale:
        model.start_from(0.7)
    tiles = random_tiles(5)
    logits, maps = model.sweep(torch.from_numpy(tiles), FUSIONS, RATIOS)
    expected_logits, expected = single_runs(model, tiles)
    assert maps.shape == (5, 3, 10, 4, 4)
    assert maps.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected_logits, rtol=1e-6, atol=0)
    for one, other in zip(maps.flatten(0, 2), expected.flatten(0, 2), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))
    torch.testing.assert_close(maps.mean(dim=(3, 4)), logits[:, None, None].expand(5, 3, 10))
    if scale:
        assert len({tuple(one.flatten().tolist()) for one in maps[0].flatten(0, 1)}) == 30
    else:
        torch.testing.assert_close(maps, torch.full_like(maps, 0.7))


def test_a_sweep_asks_neither_for_the_classifiers_own_variant_nor_for_gradients_nor_for_bf16() -> None:
    model, tiles = toy(), torch.from_numpy(random_tiles(2))
    before = model.sweep(tiles, FUSIONS, RATIOS)
    model.fusion, model.discard_ratio = "min", 0.9
    for one, other in zip(before, model.sweep(tiles, FUSIONS, RATIOS), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        logits, maps = model.sweep(tiles, FUSIONS, RATIOS)
    assert logits.dtype == maps.dtype == torch.float32
    torch.testing.assert_close(maps.mean(dim=(3, 4)), logits[:, None, None].expand(2, 3, 10))


# ---------------------------------------------------------------------------------------------------------- the figures


def random_masks(count: int, seed: int) -> NDArray[np.bool_]:
    """Rectangles; none in every third tile, and only a few pixels in the one after it: it is good by the 1 % rule."""
    rng, masks = np.random.default_rng(seed), np.zeros((count, TILE, TILE), np.bool_)
    for number, mask in enumerate(masks):
        y, x = rng.integers(0, TILE // 2, 2)
        height, width = ((0, 0), (4, 5), tuple(rng.integers(10, 40, 2)))[number % 3]
        mask[y : y + height, x : x + width] = True
    return masks


def slow_figures(
    maps: NDArray[np.float32], logits: NDArray[np.float32], masks: NDArray[np.bool_], inside_hw: list[tuple[int, int]]
) -> dict[str, float]:
    """Of one variant, its maps [N, h, w], tile by tile; `inside_hw` of each tile."""
    pixels, on_truth, gated, shares = PixelCounts(), [], [], []
    for tile_map, logit, mask, (height, width) in zip(maps, logits, masks, inside_hw, strict=True):
        found = study_mask(tile_map, float(logit), TILE)
        pixels += PixelCounts.of(found[:height, :width], mask[:height, :width])
        if mask.mean() <= 0.01:
            continue
        looked = tile_map * np.sign(logit)
        on_truth.append(peak_distance_px(looked, mask, (height, width)) == 0)
        gated.append(on_truth[-1] and logit > 0)
        large = cv2.resize(looked.astype(np.float64), (TILE, TILE), interpolation=cv2.INTER_LINEAR)
        mass = mass_on_truth = 0.0
        for y in range(height):
            for x in range(width):
                value = max(float(large[y, x]), 0.0)
                mass += value
                mass_on_truth += value * bool(mask[y, x])
        shares.append(mass_on_truth / mass)
    return {
        **{name: getattr(pixels, name) for name in ("precision", "recall", "f1", "jaccard", "accuracy")},
        "pointing": sum(on_truth) / len(on_truth),
        "pointing_gated": sum(gated) / len(gated),
        "weighting": sum(shares) / len(shares),
    }


def assert_same(found: SweepFigures, expected: list[dict[str, float]]) -> None:
    assert (found.fusions, found.ratios) == (list(FUSIONS), list(RATIOS))
    for name in FIGURES:
        table = np.array(getattr(found, name))
        assert table.shape == (3, 10)
        wanted = [figures[name] for figures in expected]
        # A pixel on the very threshold may fall to either side of it: maps agree to rounding.
        np.testing.assert_allclose(table.ravel(), wanted, rtol=0, atol=1e-4 if name != "weighting" else 1e-6)


def test_figures_of_several_truths_are_those_of_single_runs_counted_slowly() -> None:
    """Two frames, one of which ends within its tiles; more tiles than a batch; logits of both signs."""
    model = toy(seed=3)
    inside_hw = [(TILE, TILE)] * 20 + [(48, 40)] * 6
    tiles = random_tiles(26, seed=1)
    biased, _ = model.sweep(torch.from_numpy(tiles), ("max",), (0.0,))
    model.load_state_dict(model.state_dict() | {"head.bias": model.state_dict()["head.bias"] - biased.median()})
    _, maps = (part.numpy() for part in single_runs(model, tiles))
    logits = maps[:, 0, 0].mean(axis=(1, 2))
    assert 5 < (logits > 0).sum() < 21

    truths = {"boxes": random_masks(26, 1), "changed": random_masks(26, 2)}
    sweep = Sweep(model.sweep)
    for part in (np.s_[:20], np.s_[20:]):
        sweep.add(tiles[part], logits[part], {t: masks[part] for t, masks in truths.items()}, inside_hw[part][0])
    for truth, masks in truths.items():
        expected = [
            slow_figures(maps[:, fusion, ratio], logits, masks, inside_hw) for fusion in range(3) for ratio in range(10)
        ]
        found = sweep.figures(truth)
        assert_same(found, expected)
        assert 0 < np.mean(found.pointing_gated) < np.mean(found.pointing) < 1
        assert len(np.unique(found.f1)) > 10
    assert sweep.figures("boxes") != sweep.figures("changed")


class Counting:
    """A sweep with fixed relevance that records its inputs."""

    def __init__(self, relevance: Any, logit: float = 1.0) -> None:
        self.relevance, self.logit = torch.tensor(relevance, dtype=torch.float32), logit
        self.asked: list[list[int]] = []

    def __call__(self, tiles: Tensor, fusions: Any, ratios: Any) -> tuple[Tensor, Tensor]:
        self.asked.append(tiles[:, 0, 0, 0].tolist())  # tiles are numbered by their first pixel
        maps = self.relevance.expand(len(tiles), len(fusions), len(ratios), -1, -1)
        return torch.full((len(tiles),), self.logit), maps * self.logit


def numbered_tiles(count: int) -> NDArray[np.uint8]:
    tiles = np.zeros((count, TILE, TILE, 3), np.uint8)
    tiles[:] = np.arange(count, dtype=np.uint8)[:, None, None, None]
    return tiles


def test_only_tiles_that_some_truth_or_the_classifier_calls_defective_are_run_and_those_once() -> None:
    masks = np.zeros((2, 5, TILE, TILE), np.bool_)
    masks[0, 1, :8, :8] = masks[1, 1, :8, :8] = masks[1, 3, :8, :8] = True  # 64 of 4096 px
    masks[0, 4, :6, :6] = True  # 36 px are less than 1 %
    logits = np.array([1.0, -1.0, -1.0, -1.0, -1.0], np.float32)
    run = Counting(np.eye(4))
    sweep = Sweep(run)
    sweep.add(numbered_tiles(5), logits, {"boxes": masks[0], "changed": masks[1]}, (TILE, TILE))
    assert run.asked == [[0, 1, 3]]
    sweep.add(numbered_tiles(5)[2:3], logits[2:3], {"boxes": masks[0][2:3]}, (TILE, TILE))
    sweep.add(numbered_tiles(5), logits, {}, (TILE, TILE))
    assert len(run.asked) == 1
    many = Counting(np.eye(4))  # in batches of sixteen at most
    Sweep(many).add(numbered_tiles(35), np.ones(35, np.float32), {"a": random_masks(35, 0)}, (TILE, TILE))
    assert many.asked == [list(range(16)), list(range(16, 32)), [32, 33, 34]]


def test_the_true_pixels_of_a_tile_that_is_not_run_are_missed() -> None:
    mask = np.zeros((1, TILE, TILE), np.bool_)
    mask[0, :6, :6] = True
    run = Counting(np.eye(4))
    sweep = Sweep(run, ("max",), (0.0,))
    sweep.add(numbered_tiles(1), np.array([-1.0]), {"a": mask}, (TILE, 32))
    found = sweep.figures("a")
    assert run.asked == []
    assert (found.recall, found.precision, found.f1) == ([[0]], [[0]], [[0]])
    assert found.accuracy == [[1 - 36 / (TILE * 32)]]


def test_where_no_tile_is_defective_nothing_is_known_of_what_only_defective_tiles_tell() -> None:
    few = np.zeros((1, TILE, TILE), np.bool_)
    few[0, :6, :6] = True  # less than 1 %
    for logit in (-1.0, 1.0):
        sweep = Sweep(Counting(np.eye(4)), ("mean", "max"), (0.0, 0.5, 0.9))
        sweep.add(numbered_tiles(1), np.array([logit]), {"a": few}, (TILE, TILE))
        found = sweep.figures("a")
        assert found.pointing == found.pointing_gated == found.weighting == [[None] * 3] * 2
        assert all(isinstance(value, float) for line in found.f1 + found.accuracy for value in line)
        assert msgspec.json.decode(msgspec.json.encode(found), type=SweepFigures) == found
