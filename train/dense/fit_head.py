"""Training a dense head on cached features."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from edge.errors import DivergedError
from train.config import DenseRecipeConfig
from train.dense.objective import POSITIVE_WEIGHT, StepMaps, bag_numbers, step_loss
from train.dense.samples import Draw, Sampler, Samples
from train.dense.tiles import Known
from train.features.cache import Features
from train.models.dense import TOP_CELLS, DenseHead, FineTuned
from train.models.explained import pool
from train.models.novelty import Novelty, concatenate_cells
from train.models.prototypes import MOST_CELLS, Prototypes
from train.schedule import cosine

BATCH = 64
"""Tiles at a time where there is no gradient."""
STANDARDISE_BY = 128
"""Tiles that the mean and deviation of features are taken from."""
PROTOTYPES_BY_TILES = 2_000
"""Good tiles that prototypes are taken from."""
START, FLOOR = -2.0, -3.0
"""Of a map, in logits of a step, in which good and defective tiles are balanced: where cells start, and their floor."""
HEAD_RATE = 3.0
"""The head's learning rate over that of the stages that are fine-tuned with it."""
FINETUNE_DECAY = 0.01
OnStep = Callable[[], object]


Network = DenseHead | FineTuned
"""From features to the map."""


class HeadTraining:
    """What heads are trained on, by one division of the groups.

    Positives and good tiles make up a fixed part of every step, so the loss shifts the logits by how much likelier a
    positive is there than among all samples (King & Zeng 2001): the map keeps the odds of the tiles as they come. These
    odds are of all groups, so that the answers of all folds are on one scale.

    Args:
        features: of all samples, by index.
        trained: [groups], whether a group is trained on.
        bf16: whether the processor multiplies bf16 itself.
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
        self._seed = seed

    def train(self, head: DenseHead, on_step: OnStep = lambda: None) -> None:
        """Train a head from its start, and leave it in evaluation mode; the trunk stays as it is.

        Args:
            on_step: called after each step.
        Raises:
            DivergedError: the loss became no number.
        """
        recipe = self._recipe
        torch.nn.init.constant_(head.out.bias, START - self._shift)  # type: ignore[arg-type]
        head.floor.fill_(FLOOR - self._shift)
        head.standardise(load_stages(self._features, self._sampler.choose_tiles(STANDARDISE_BY)))
        head.dropout.generator = torch.Generator().manual_seed(self._seed)
        optimiser = AdamW(head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self._run(head, optimiser, range(self._steps), on_step, "recipe.lr")

    def fine_tune(self, network: FineTuned, on_step: OnStep = lambda: None) -> None:
        """Go on with a trained head and the later stages of its trunk; as `train`."""
        recipe = self._recipe
        rates = [(network.head, recipe.finetune_lr * HEAD_RATE), (network.stages, recipe.finetune_lr)]
        parameters = [{"params": part.parameters(), "lr": lr} for part, lr in rates]
        optimiser = AdamW(parameters, weight_decay=FINETUNE_DECAY)
        steps = range(self._steps, self._steps + recipe.finetune_steps)
        self._run(network, optimiser, steps, on_step, "recipe.finetune_lr")

    def fit_prototypes(self, network: Network) -> None:
        """Give the head prototypes of good cells that it was trained on; they add nothing to its map yet."""
        rows = self._sampler.choose_tiles(PROTOTYPES_BY_TILES)
        rng = np.random.default_rng(self._seed)
        cells: list[NDArray[np.float32]] = []
        with torch.no_grad():
            for start in range(0, len(rows), BATCH):
                found = concatenate_cells(
                    network.taps(load_stages(self._features, rows[start : start + BATCH])), network.strides
                )
                flat = found.permute(0, 2, 3, 1).flatten(1, 2).numpy()
                each = min(flat.shape[1], -(-MOST_CELLS // len(rows)))
                cells += [tile[rng.permutation(len(tile))[:each]] for tile in flat]
        good = np.concatenate(cells)
        good = good[rng.permutation(len(good))[:MOST_CELLS]]
        head = network.head if isinstance(network, FineTuned) else network
        head.novelty = Novelty.of(Prototypes.of(good, self._seed))

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
        bags = [self._hottest(network, bag, step) for bag in draw.bags]
        parts = [draw.located, draw.good, draw.synthetic, *bags]
        maps = forward(network, self._features, np.concatenate(parts), self._bf16)
        sizes = [len(draw.located), len(draw.good), len(draw.synthetic), sum(map(len, bags))]
        located, good, synthetic, bagged = torch.split(maps, sizes)
        exact = self._samples.known[draw.located] == Known.MASKED
        return StepMaps(
            located,
            self._share(draw.located),
            torch.from_numpy(exact),
            good,
            synthetic,
            self._share(draw.synthetic),
            bagged,
            bag_numbers([len(bag) for bag in bags]),
            len(bags),
        )

    def _hottest(self, network: Network, bag: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        """Of a bag, the tiles that get a gradient: half of them its hottest, the others drawn."""
        most = self._recipe.tiles_per_bag
        if len(bag) <= most:
            return bag
        network.eval()
        logits = np.concatenate([logit for logit, _ in predict(network, self._features, bag, self._bf16)])
        network.train()
        order = bag[np.argsort(-logits, kind="stable")]
        hot = order[: most - most // 2]
        rng = np.random.default_rng((self._seed, step, int(bag[0])))
        return np.concatenate([hot, rng.choice(order[len(hot) :], most // 2, replace=False)])

    def _share(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._samples.share[rows].astype(np.float32))


def forward(network: Network, features: Features, rows: NDArray[np.int64], bf16: bool) -> Tensor:
    """Maps float32 [N, h, w] of samples by index."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return network(load_stages(features, rows, bf16))  # type: ignore[no-any-return]


def load_stages(features: Features, rows: NDArray[np.int64], bf16: bool = False) -> list[Tensor]:
    """Features [N, channels, h, w] of samples by index, their channels last in memory."""
    numbers = torch.bfloat16 if bf16 else torch.float32  # by way of float32: half the time of float16 to bfloat16
    return [torch.from_numpy(stage).float().to(numbers).permute(0, 3, 1, 2) for stage in features[rows]]


def prototype_distances(network: Network, features: Features, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """[n, h, w] of samples by index, to the head's prototypes of good cells."""
    head = network.head if isinstance(network, FineTuned) else network
    assert head.novelty is not None, "the caller fitted prototypes"
    found = []
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            taps = network.taps(load_stages(features, rows[start : start + BATCH]))
            found.append(head.novelty.distance(taps, head.strides).numpy())
    return np.concatenate(found)


def predict(
    network: Network, features: Features, rows: NDArray[np.int64], bf16: bool
) -> Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Logits [n] and maps [n, h, w] of samples by index, batch by batch, without a gradient."""
    found = []
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            maps = forward(network, features, rows[start : start + BATCH], bf16)
            found.append((pool(maps, TOP_CELLS).numpy(), maps.numpy()))
    return found
