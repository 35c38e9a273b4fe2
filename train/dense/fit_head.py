"""Training a dense head on cached features."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from edge.errors import DivergedError
from train.classifier import cosine
from train.config import DenseRecipeConfig
from train.dense.objective import POSITIVE_WEIGHT, StepMaps, bag_numbers, loss_of
from train.dense.samples import Draw, Sampler, Samples
from train.dense.tiles import Known
from train.features.view import Features
from train.models.dense import TOP_CELLS, DenseHead
from train.models.explained import pool

BATCH = 64
"""Tiles at a time where there is no gradient."""


class HeadTraining:
    """One head and what it is trained on.

    Args:
        head: trained in place.
        features: of all samples, by index.
        trained: [groups], whether a group is trained on.
        bf16: whether the processor multiplies bf16 itself.
    Raises:
        TrainingError: as `Sampler`.
    """

    def __init__(
        self,
        head: DenseHead,
        samples: Samples,
        features: Features,
        trained: NDArray[np.bool_],
        recipe: DenseRecipeConfig,
        seed: int,
        *,
        bf16: bool,
    ) -> None:
        self._head, self._samples, self._features, self._recipe, self._bf16 = head, samples, features, recipe, bf16
        self._sampler = Sampler(samples, trained, recipe, seed)
        self._shift = 0.0
        if self._sampler.positives:
            self._shift = math.log(POSITIVE_WEIGHT / (1 - POSITIVE_WEIGHT)) - self._sampler.log_odds
        self._seed = seed

    def run(self, on_step: Callable[[], object] = lambda: None) -> None:
        """Train, and leave the head in evaluation mode.

        Args:
            on_step: called after each step.
        Raises:
            DivergedError: the loss became no number.
        """
        head, recipe = self._head, self._recipe
        torch.nn.init.constant_(head.out.bias, -2.0 - self._shift)  # type: ignore[arg-type]
        head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        head.dropout.generator = torch.Generator().manual_seed(self._seed)
        optimiser = AdamW(head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        schedule = LambdaLR(optimiser, lambda step: cosine(step, recipe.steps, recipe.warmup))
        head.train()
        for step in range(recipe.steps):
            loss = loss_of(self._maps(self._sampler.draw(step), step), self._shift, TOP_CELLS)
            if not torch.isfinite(loss):
                raise DivergedError(f"the loss became {loss.item()} at step {step}; lower the learning rate: recipe.lr")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            on_step()
        head.eval()

    def _maps(self, draw: Draw, step: int) -> StepMaps:
        bags = [self._hottest(bag, step) for bag in draw.bags]
        parts = [draw.located, draw.good, draw.synthetic, *bags]
        maps = self._forward(np.concatenate(parts))
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

    def _hottest(self, bag: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        """Of a bag, the tiles that get a gradient: half of them its hottest, the others drawn."""
        most = self._recipe.tiles_per_bag
        if len(bag) <= most:
            return bag
        self._head.eval()
        logits = np.concatenate([logit for logit, _ in answers(self._head, self._features, bag, self._bf16)])
        self._head.train()
        order = bag[np.argsort(-logits, kind="stable")]
        hot = order[: most - most // 2]
        rng = np.random.default_rng((self._seed, step, int(bag[0])))
        return np.concatenate([hot, rng.choice(order[len(hot) :], most // 2, replace=False)])

    def _forward(self, rows: NDArray[np.int64]) -> Tensor:
        return forward(self._head, self._features, rows, self._bf16)

    def _share(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._samples.share[rows].astype(np.float32))


def forward(head: DenseHead, features: Features, rows: NDArray[np.int64], bf16: bool) -> Tensor:
    """Maps float32 [N, h, w] of samples by index."""
    stages = [torch.from_numpy(stage).float().permute(0, 3, 1, 2) for stage in features[rows]]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return head(stages)  # type: ignore[no-any-return]


def answers(
    head: DenseHead, features: Features, rows: NDArray[np.int64], bf16: bool
) -> Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Logits [n] and maps [n, h, w] of samples by index, batch by batch, without a gradient."""
    found = []
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            maps = forward(head, features, rows[start : start + BATCH], bf16)
            found.append((pool(maps, TOP_CELLS).numpy(), maps.numpy()))
    return found
