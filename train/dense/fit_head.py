"""Trains a dense head on cached features."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, one_hot, softplus
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from heatline.edge.bundle.pooling import pool as pool_maps
from heatline.edge.errors import DivergedError
from heatline.train.batches import cosine, log_sum_exp
from heatline.train.config import DenseRecipeConfig
from heatline.train.dense.cache import Features
from heatline.train.dense.samples import Draw, Sampler, Samples
from heatline.train.dense.tiles import DEFECTIVE_CELL, NOT_COUNTED, LabelKind
from heatline.train.models.dense import TOP_CELLS, DenseHead, FineTuned
from heatline.train.models.explained import MOST_CELLS, Novelty, concatenate_cells, pool

POSITIVE_WEIGHT = 0.25
"""Weight of positives in the cross-entropy of tiles and bags; good tiles have the rest."""


class StepMaps(NamedTuple):
    """Maps [N, h, w] of one step, in logits, and their labels."""

    located: Tensor
    """Tiles with marked defects."""
    located_share: Tensor
    """[N, h, w], share of each cell that is defective, or inside a box: 0..1."""
    located_exact: Tensor
    """bool [N], False if the marks are boxes."""
    good: Tensor
    synthetic: Tensor
    """Good tiles with a synthetic defect."""
    synthetic_share: Tensor
    bagged: Tensor
    """Tiles of bags, one bag after the other."""
    sizes: Sequence[int]
    """Of the bags."""


def step_loss(maps: StepMaps, shift: float, top_cells: int | None) -> Tensor:
    """Return the loss of a step, a scalar: the sum of

    - (1 - w) * mean of softplus(z) over good tiles' logits z + w * mean of softplus(-z) over positives, where
      w = `POSITIVE_WEIGHT`, and positives are tiles with marked defects and bags (log-sum-exp of their tiles' logits);
    - the mean of softplus(c) over all cells c of good tiles;
    - for marked and for synthetic defects, half the mean of softplus(-c) over defective cells and half that of
      softplus(c) over untouched cells. Cells inside boxes do not count.

    softplus(-z) and softplus(z) are the cross-entropy of a positive and of a negative with logit z.

    Args:
        shift: added to each logit z and cell c, in logits; see `HeadTraining`.
        top_cells: number of highest cells whose mean is a tile's logit; None: all.
    """
    good, located = maps.good + shift, maps.located + shift
    loss = (1 - POSITIVE_WEIGHT) * softplus(pool(good, top_cells)).mean() + softplus(good).mean()
    positives = [softplus(-pool(located, top_cells))] if len(located) else []
    if maps.sizes:
        bag = torch.repeat_interleave(torch.arange(len(maps.sizes)), torch.tensor(list(maps.sizes)))
        bags = log_sum_exp(pool(maps.bagged, top_cells), bag, len(maps.sizes))
        positives.append(softplus(-(bags + shift)))
    if positives:
        loss = loss + POSITIVE_WEIGHT * torch.cat(positives).mean()
    if len(located):
        loss = loss + _cell_loss(located, maps.located_share, maps.located_exact)
    if len(maps.synthetic):
        exact = torch.ones(len(maps.synthetic), dtype=torch.bool)
        loss = loss + _cell_loss(maps.synthetic + shift, maps.synthetic_share, exact)
    return loss


def _cell_loss(maps: Tensor, share: Tensor, exact: Tensor) -> Tensor:
    """Return the loss of cells: defective and untouched cells count half each; cells in a box do not count."""
    defective = (share > DEFECTIVE_CELL) & exact[:, None, None]
    untouched = share == 0
    return 0.5 * _mean(softplus(-maps), defective) + 0.5 * _mean(softplus(maps), untouched)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum() / chosen.sum().clamp_min(1)


# Windows: a quarter of a tile around its defect has what matters, and costs a quarter. Fine-tuning takes windows of all
# tiles, of good ones around the strongest evidence (at random places, magnetic tile's tile AP is 0.02 lower). A head
# takes whole tiles, as their features are computed already, and windows of tiles with a synthetic defect alone, of
# which single cells enter the loss: mosaics of four windows.

PER_SIDE = 2
"""Windows along each side of a tile."""
WINDOWS = PER_SIDE**2
FEWEST_CELLS = 16
"""Side of the smallest map whose tiles are divided, cells: smaller windows show little but the defect."""
Corners = Sequence[tuple[int, int]]


def choose_windows(share: NDArray[np.float16], multiple: int, rng: np.random.Generator) -> Corners:
    """Choose a window of each tile that contains a defective cell, any if there is none; return its top left cell.

    Args:
        share: [n, cells, cells], defective share of each cell.
        multiple: corners are multiples of so many cells, so that they lie between the cells of all stages.
    """
    side = share.shape[1] // PER_SIDE
    corners = []
    for tile in share:
        cells = np.argwhere(tile >= min(DEFECTIVE_CELL, tile.max()))
        cell = cells[rng.integers(len(cells))]
        low, high = np.maximum(cell - side + 1, 0), np.minimum(cell, share.shape[1] - side)
        y, x = (rng.integers(-(-low // multiple), high // multiple + 1) * multiple).tolist()
        corners.append((y, x))
    return corners


def cut_windows(tiles: NDArray[Any], corners: Corners, cells: int) -> NDArray[Any]:
    """Return the windows [n, h / 2, w / 2, ...] of tiles or their features [n, h, w, ...].

    Args:
        corners: top left of each window, in cells of the map.
        cells: side of the map, cells.
    """
    size = tiles.shape[1]
    side = size // PER_SIDE
    corners_px = [(y * size // cells, x * size // cells) for y, x in corners]
    return np.stack([tile[y : y + side, x : x + side] for tile, (y, x) in zip(tiles, corners_px, strict=True)])


def compose_mosaics(windows: NDArray[Any]) -> NDArray[Any]:
    """Return mosaics [n / 4, 2 h, 2 w, ...] of windows [n, h, w, ...]; n is a multiple of 4."""
    height, width = windows.shape[1:3]
    rows = windows.reshape(-1, PER_SIDE, PER_SIDE, *windows.shape[1:]).swapaxes(2, 3)
    return rows.reshape(-1, PER_SIDE * height, PER_SIDE * width, *windows.shape[3:])


def compose_shares(windows: NDArray[np.float16]) -> NDArray[np.float16]:
    """Return the defective share of the cells of mosaics; those at seams do not count, as their neighbours differ."""
    mosaics = compose_mosaics(windows)
    seam = slice(windows.shape[1] - 1, windows.shape[1] + 1)
    mosaics[:, seam] = mosaics[:, :, seam] = NOT_COUNTED
    return mosaics


USED_FOR = 0.05
"""Share of the training's steps for which an evaluation of a bag is used."""


class BagTiles:
    """Chooses which tiles of a bag get a gradient: one half its highest-scoring, the other half at random.

    Which tiles of a picture score highest changes slowly. So an evaluation of all its tiles is used for some steps, as
    it takes longer than the gradient of a few tiles.

    Args:
        most: number of tiles of a bag that get a gradient.
        steps: of the training.
    """

    def __init__(self, most: int, steps: int) -> None:
        self._most, self._used_for = most, USED_FOR * steps
        self._evaluated: dict[int, tuple[float, NDArray[np.int64]]] = {}

    def choose(
        self,
        bag: NDArray[np.int64],
        step: int,
        evaluate: Callable[[NDArray[np.int64]], NDArray[np.float32]],
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Choose the tiles of a bag, which its first tile identifies; `evaluate` returns the logits of tiles."""
        if len(bag) <= self._most:
            return bag
        key, others = int(bag[0]), self._most // 2
        evaluated_at, order = self._evaluated.get(key, (-math.inf, bag))
        if step - evaluated_at >= self._used_for:
            order = bag[np.argsort(-evaluate(bag), kind="stable")]
            self._evaluated[key] = step, order
        high, low = np.split(order, [self._most - others])
        return np.concatenate([high, rng.choice(low, others, replace=False)])


BATCH = 64
"""Tiles per batch without gradient."""
TILES_AT_ONCE = 4
"""The same for later stages, which take twice as long for each of 64 tiles: they leave the cache of a core."""
STANDARDISE_BY = 128
"""Number of tiles that give the mean and standard deviation of features."""
PROTOTYPES_BY_TILES = 2_000
"""Number of good tiles that give the prototypes."""
START, FLOOR = -2.0, -3.0
"""Initial value and floor of the map's cells, in shifted logits, at the odds of a step (see `HeadTraining`)."""
HEAD_RATE = 3.0
"""Ratio of the head's learning rate to that of the stages that are fine-tuned with it."""
FINETUNE_DECAY = 0.01
OnStep = Callable[[], object]


Network = DenseHead | FineTuned
"""A module that computes the map from features."""
Stages = Sequence[NDArray[Any]]
"""Each stage's features [N, h, w, channels], see `Features`."""


class HeadTraining:
    """The training of a head on some of the groups.

    Positives have a fixed weight in every step (`POSITIVE_WEIGHT`), so the loss adds a shift to the logits:

        shift = log-odds(POSITIVE_WEIGHT) - log-odds(positives among all tiles)

    This is the prior correction of King & Zeng (2001): the map keeps the odds of the tiles as they come. The log-odds
    are those of all groups, so that the predictions of all folds have the same scale.

    Args:
        trained: bool [groups], whether a group is trained on.
        bf16: whether the processor has bf16 multiplication.
    Raises:
        TrainingError: as `Sampler`.
    """

    def __init__(
        self,
        samples: Samples,
        features: Features,
        trained: NDArray[np.bool_],
        recipe: DenseRecipeConfig,
        seed: int,
        *,
        bf16: bool,
    ) -> None:
        self._samples, self._features, self._recipe, self._bf16 = samples, features, recipe, bf16
        self._steps = recipe.steps_for(samples.tiles)
        self._sampler = Sampler(samples, trained, recipe, seed)
        self._shift = 0.0
        if samples.log_odds is not None:
            self._shift = math.log(POSITIVE_WEIGHT / (1 - POSITIVE_WEIGHT)) - samples.log_odds
        self._bag_tiles = BagTiles(recipe.tiles_per_bag, self._steps)
        self._seed = seed

    def train(self, head: DenseHead, on_step: OnStep = lambda: None) -> None:
        """Train a new head and leave it in evaluation mode; a DivergedError if the loss is not finite."""
        recipe = self._recipe
        torch.nn.init.constant_(head.out.bias, START - self._shift)  # type: ignore[arg-type]
        head.floor.fill_(FLOOR - self._shift)
        head.standardise(as_tensors(self._features.take(self._sampler.choose_tiles(STANDARDISE_BY))))
        head.dropout.generator = torch.Generator().manual_seed(self._seed)
        optimiser = AdamW(head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
        self._run(head, optimiser, range(self._steps), on_step, "recipe.lr")

    def fine_tune(self, network: FineTuned, steps: int, done: int = 0, on_step: OnStep = lambda: None) -> None:
        """Continue with a trained head and the later stages of its trunk; errors as `train`.

        The learning rate rises and falls again in each call (warm restarts; Loshchilov & Hutter 2017), so that each one
        ends with a usable network.

        Args:
            done: steps of earlier calls.
        """
        recipe = self._recipe
        rates = [(network.head, recipe.finetune_lr * HEAD_RATE), (network.stages, recipe.finetune_lr)]
        parameters = [{"params": part.parameters(), "lr": lr} for part, lr in rates]
        optimiser = AdamW(parameters, weight_decay=FINETUNE_DECAY, fused=True)
        first = self._steps + done
        self._run(network, optimiser, range(first, first + steps), on_step, "recipe.finetune_lr")

    @torch.no_grad()
    def fit_prototypes(self, network: Network) -> None:
        """Give the head prototypes of good cells from its training tiles; they do not change its map yet."""
        rows = self._sampler.choose_tiles(PROTOTYPES_BY_TILES)
        rng = np.random.default_rng(self._seed)
        cells: list[NDArray[np.float32]] = []
        for stages in batches(self._features, rows):
            cell_features = concatenate_cells(network.taps(stages), network.strides)
            flat = cell_features.permute(0, 2, 3, 1).flatten(1, 2).numpy()  # (N, h * w, channels)
            each = min(flat.shape[1], -(-MOST_CELLS // len(rows)))
            cells += [tile[rng.permutation(len(tile))[:each]] for tile in flat]
        good = np.concatenate(cells)
        good = good[rng.permutation(len(good))[:MOST_CELLS]]
        head = network.head if isinstance(network, FineTuned) else network
        head.novelty = Novelty.of(good)

    def _run(self, network: Network, optimiser: Optimizer, steps: range, on_step: OnStep, rate: str) -> None:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        schedule = LambdaLR(optimiser, lambda step: cosine(step, len(steps), self._recipe.warmup))
        network.train()
        for step in steps:
            loss = step_loss(self._maps(network, self._sampler.draw(step), step), self._shift, TOP_CELLS)
            if not torch.isfinite(loss):
                raise DivergedError(f"the loss became {loss.item()} at step {step}; lower the learning rate: {rate}")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            on_step()
        network.eval()

    def _maps(self, network: Network, draw: Draw, step: int) -> StepMaps:
        bags = [self._choose_of_bag(network, bag, step) for bag in draw.bags]
        tiles, of_bags = np.concatenate([draw.located, draw.good]), np.concatenate([np.empty(0, np.int64), *bags])
        counts = [len(draw.located), len(draw.good)]
        if isinstance(network, FineTuned):
            stages, all_shares = self._whole(np.concatenate([tiles, draw.synthetic]))
            if _is_divided(stages, all_shares):
                good_tiles = slice(*np.cumsum(counts))
                shown = all_shares.copy()
                shown[good_tiles] = self._highest(network, [stage[good_tiles] for stage in stages])
                stages, all_shares = self._windows(stages, all_shares, shown, step)
            maps = self._forward(network, stages)
            bagged = self._forward(network, self._whole(of_bags)[0]) if len(of_bags) else maps[:0]
            located_share, _, share = np.split(all_shares, np.cumsum(counts))
            located, good, synthetic = torch.split(maps, [*counts, len(share)])
        else:
            whole, shares = self._whole(np.concatenate([tiles, of_bags]))
            located_share = shares[: len(draw.located)]
            mosaics, share = self._whole(draw.synthetic)
            if _is_divided(mosaics, share):
                rows = np.resize(draw.synthetic, -(-len(draw.synthetic) // WINDOWS) * WINDOWS)
                windows, window_share = self._windows(*self._whole(rows), self._samples.share[rows], step)
                mosaics, share = [compose_mosaics(stage) for stage in windows], compose_shares(window_share)
            stages = [np.concatenate(parts) for parts in zip(whole, mosaics, strict=True)]
            maps = self._forward(network, stages)
            located, good, bagged, synthetic = torch.split(maps, [*counts, len(of_bags), len(share)])
        exact = self._samples.known[draw.located] != LabelKind.BOXED
        return StepMaps(
            located,
            torch.from_numpy(located_share.astype(np.float32)),
            torch.from_numpy(exact),
            good,
            synthetic,
            torch.from_numpy(share.astype(np.float32)),
            bagged,
            [len(bag) for bag in bags],
        )

    def _forward(self, network: Network, stages: Stages) -> Tensor:
        return forward(network, as_tensors(stages, self._bf16), self._bf16)

    def _whole(self, rows: NDArray[np.int64]) -> tuple[Stages, NDArray[np.float16]]:
        """Return whole tiles: their features, and the defective share of their cells."""
        return self._features.take(rows, bf16=self._bf16), self._samples.share[rows]

    def _windows(
        self, stages: Stages, share: NDArray[np.float16], shown: NDArray[np.float16], step: int
    ) -> tuple[Stages, NDArray[np.float16]]:
        """Return windows of tiles likewise.

        Args:
            shown: [n, cells, cells], the windows show a cell of each where it is high.
        """
        cells = share.shape[1]
        multiple = cells // min(stage.shape[1] for stage in stages)
        corners = choose_windows(shown, multiple, np.random.default_rng((self._seed, step, WINDOWS)))
        return [cut_windows(stage, corners, cells) for stage in stages], cut_windows(share, corners, cells)

    @torch.no_grad()
    def _highest(self, network: FineTuned, stages: Stages) -> NDArray[np.float16]:
        """Return maps [n, h, w] that are 1 in the cell of the strongest evidence, smoothed over 3x3 cells, else 0."""
        network.eval()
        parts = [
            self._forward(network, [stage[start : start + TILES_AT_ONCE] for stage in stages])
            for start in range(0, len(stages[0]), TILES_AT_ONCE)
        ]
        network.train()
        maps = avg_pool2d(torch.cat(parts), 3, stride=1, padding=1)
        return one_hot(maps.flatten(1).argmax(dim=1), maps[0].numel()).reshape(maps.shape).numpy().astype(np.float16)

    def _choose_of_bag(self, network: Network, bag: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        def evaluate(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            network.eval()
            maps = np.concatenate(predict(network, self._features, rows, self._bf16))
            network.train()
            return pool_maps(maps, TOP_CELLS)

        return self._bag_tiles.choose(bag, step, evaluate, np.random.default_rng((self._seed, step, int(bag[0]))))


def _is_divided(stages: Stages, share: NDArray[np.float16]) -> bool:
    """Return whether tiles can be divided: their maps are not small, and each stage has an even number of cells."""
    return share.shape[1] >= FEWEST_CELLS and len(share) > 0 and not any(stage.shape[1] % PER_SIDE for stage in stages)


def forward(network: Network, stages: list[Tensor], bf16: bool) -> Tensor:
    """Return maps float32 [N, h, w] of each stage's features."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return network(stages)  # type: ignore[no-any-return]


def batches(features: Features, rows: NDArray[np.int64], bf16: bool = False) -> Iterator[list[Tensor]]:
    """Yield each stage's features [n, channels, h, w] of at most `BATCH` samples at a time."""
    for start in range(0, len(rows), BATCH):
        yield as_tensors(features.take(rows[start : start + BATCH], bf16=bf16), bf16)


def as_tensors(stages: Stages, bf16: bool = False) -> list[Tensor]:
    """Return each stage [N, h, w, channels] as a tensor [N, channels, h, w], channels last in memory."""
    tensors = [torch.from_numpy(stage) for stage in stages]
    floats = [each.view(torch.bfloat16) if each.dtype == torch.int16 else each.float() for each in tensors]
    return [(each.bfloat16() if bf16 else each).permute(0, 3, 1, 2) for each in floats]


@torch.no_grad()
def prototype_distances(network: Network, features: Features, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return each cell's distance [n, h, w] to the head's prototypes of good cells, of samples by index."""
    head = network.head if isinstance(network, FineTuned) else network
    assert head.novelty is not None, "the caller fitted prototypes"
    distance = head.novelty.distance
    return np.concatenate([distance(network.taps(stages), head.strides).numpy() for stages in batches(features, rows)])


@torch.no_grad()
def predict(network: Network, features: Features, rows: NDArray[np.int64], bf16: bool) -> list[NDArray[np.float32]]:
    """Return maps [n, h, w] of samples by index, one array per batch, without gradient."""
    return [forward(network, stages, bf16).numpy() for stages in batches(features, rows, bf16)]
