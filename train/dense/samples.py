"""All that a dense head may be trained on, tiles and copies, as columns; and what one step draws of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge.errors import TrainingError
from train.config import DenseRecipeConfig
from train.dense.copies import Kind, Painter, Sample
from train.dense.tiles import DenseTiles, Known

MARKED = (Known.MASKED, Known.BOXED)


@dataclass(frozen=True)
class Samples:
    """Columns of equal length; the grid tiles come first, in their order."""

    kind: NDArray[np.int8]
    """[N], of `Kind`."""
    known: NDArray[np.int8]
    """[N], of `Known`; of a synthetic or transplanted defect, every pixel is known."""
    groups: NDArray[np.int64]
    """[N, 2], of the tile and of the donor: a sample is of both."""
    frame: NDArray[np.int64]
    """[N]"""
    share: NDArray[np.float16]
    """[N, cells, cells], how much of each cell is defective."""

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def tiles(self) -> int:
        """How many grid tiles there are."""
        return int((self.kind == Kind.TILE).sum())

    @cached_property
    def log_odds(self) -> float | None:
        """Of a tile to be defective, a picture that is labelled as a whole counting as one; None: none is."""
        known = self.known[self.kind == Kind.TILE]
        bags = len(np.unique(self.frame[self.known == Known.BAGGED]))
        positives, good = int(np.isin(known, MARKED).sum()) + bags, int((known == Known.GOOD).sum())
        return float(np.log(positives / good)) if positives and good else None


def gather_samples(tiles: DenseTiles, samples: Sequence[Sample], painter: Painter) -> Samples:
    """The columns of these samples."""
    row = np.array([sample.row for sample in samples])
    donor = np.array([sample.donor if sample.donor >= 0 else sample.row for sample in samples])
    kind = np.array([sample.kind for sample in samples], np.int8)
    pasted = np.isin(kind, (Kind.SYNTHETIC, Kind.TRANSPLANT))
    return Samples(
        kind=kind,
        known=np.where(pasted, Known.MASKED, tiles.known[row]).astype(np.int8),
        groups=np.stack([tiles.group[row], tiles.group[donor]], axis=1),
        frame=tiles.table.frame[row],
        share=np.stack([painter.defective_share(sample) for sample in samples]).astype(np.float16),
    )


@dataclass(frozen=True)
class Draw:
    """What one step trains on: indices of samples."""

    located: NDArray[np.int64]
    good: NDArray[np.int64]
    synthetic: NDArray[np.int64]
    bags: list[NDArray[np.int64]]
    """Of each bag, all of its tiles."""


class Sampler:
    """Draws what each step trains on, by seed and step.

    Args:
        samples: of which those of the `trained` groups are drawn.
        trained: [groups], whether a group is trained on.
    Raises:
        TrainingError: there is no good tile, or nothing but good tiles and no synthetic defect.
    """

    def __init__(self, samples: Samples, trained: NDArray[np.bool_], recipe: DenseRecipeConfig, seed: int) -> None:
        self._recipe, self._seed = recipe, seed
        usable = trained[samples.groups].all(axis=1)

        def pool(known: tuple[Known, ...], *kinds: Kind) -> NDArray[np.int64]:
            return np.flatnonzero(usable & np.isin(samples.known, known) & np.isin(samples.kind, kinds))

        self._located = [pool(MARKED, Kind.TILE), pool(MARKED, Kind.COPY)]
        self._good = [pool((Known.GOOD,), Kind.TILE), pool((Known.GOOD,), Kind.COPY)]
        self._synthetic = [pool(MARKED, Kind.SYNTHETIC), pool(MARKED, Kind.TRANSPLANT)]
        bagged = pool((Known.BAGGED,), Kind.TILE)
        self._bags = [bagged[samples.frame[bagged] == frame] for frame in np.unique(samples.frame[bagged])]
        if not len(self._good[0]):
            raise TrainingError(
                "no tile of the training is known to be good, and a map is trained on what is good; add good pictures, "
                "or annotations that say which part of the defective ones is"
            )
        if not len(self._located[0]) + len(self._bags) and not recipe.synthetic:
            raise TrainingError(
                "there is no defective picture, and recipe.synthetic is 0; add defective pictures, or let the recipe "
                "draw synthetic defects"
            )
        self._bag_share = min(1.0, len(self._bags) / max(1, len(self._located[0])))
        """How much of a step's room bags take: a few of them beside many marked tiles are not drawn over and over."""
        self._located_share = min(1.0, math.sqrt(len(self._located[0]) / len(self._bags))) if self._bags else 1.0
        """The same of marked tiles, which say more each: few of them beside many bags would be learnt by heart."""

    def draw(self, step: int) -> Draw:
        """What step number `step` trains on, always the same."""
        rng = np.random.default_rng((self._seed, step))
        recipe = self._recipe
        located = recipe.located if self._located_share == 1 else rng.binomial(recipe.located, self._located_share)
        bags = rng.choice(len(self._bags), rng.binomial(recipe.bags, self._bag_share)).tolist() if self._bags else []
        return Draw(
            located=_half_each(self._located, located, rng),
            good=_half_each(self._good, recipe.good, rng),
            synthetic=_half_each(self._synthetic, recipe.synthetic, rng),
            bags=[self._bags[bag] for bag in bags],
        )

    def choose_tiles(self, count: int) -> NDArray[np.int64]:
        """Grid tiles that may be drawn, at most so many."""
        tiles = np.concatenate([self._located[0], self._good[0], *self._bags])
        return np.sort(np.random.default_rng(self._seed).permutation(tiles)[:count])


def _half_each(pools: list[NDArray[np.int64]], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """So many samples, evenly of the pools that hold any."""
    full = [pool for pool in pools if len(pool)]
    if not full or not count:
        return np.empty(0, np.int64)
    parts = [count * (place + 1) // len(full) - count * place // len(full) for place in range(len(full))]
    return np.concatenate([rng.choice(pool, part) for pool, part in zip(full, parts, strict=True)])
