"""All samples of a dense head's training (tiles and copies) as columns, and the sampler that draws each step's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import TrainingError
from heatline.train.config import DenseRecipeConfig
from heatline.train.dense.copies import Kind, Painter, Sample
from heatline.train.dense.tiles import DenseTiles, LabelKind

REVIEWED_AS_OFTEN, REVIEWED_AT_MOST = 4.0, 1 / 3
"""A reviewed tile is drawn so many times as often as another one, but at most this share of the draws are of reviewed
tiles: a few among thousands would otherwise be drawn once or twice."""
MARKED = (LabelKind.MASKED, LabelKind.BOXED, LabelKind.POINTED)


@dataclass(frozen=True)
class Samples:
    """Columns of equal length; the grid tiles come first, in their order."""

    kind: NDArray[np.int8]
    """[N], of `Kind`."""
    known: NDArray[np.int8]
    """[N], of `LabelKind`; synthetic and transplanted defects are MASKED."""
    groups: NDArray[np.int64]
    """[N, 2], group of the tile and of the donor: a sample belongs to both."""
    frame: NDArray[np.int64]
    """[N], index of the tile's frame."""
    share: NDArray[np.float16]
    """[N, cells, cells], defective share of each cell, 0..1."""
    reviewed: NDArray[np.bool_]
    """[N], whether the tile is of a reviewed frame."""

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def tiles(self) -> int:
        """Number of grid tiles."""
        return int((self.kind == Kind.TILE).sum())

    @cached_property
    def log_odds(self) -> float | None:
        """Natural log-odds that a grid tile is defective; a bag counts as one positive. None: one class is missing."""
        known = self.known[self.kind == Kind.TILE]
        bags = len(np.unique(self.frame[self.known == LabelKind.BAGGED]))
        positives, good = int(np.isin(known, MARKED).sum()) + bags, int((known == LabelKind.GOOD).sum())
        return float(np.log(positives / good)) if positives and good else None


def gather_samples(tiles: DenseTiles, samples: Sequence[Sample], painter: Painter) -> Samples:
    """Collect the columns of these samples."""
    row = np.array([sample.row for sample in samples])
    donor = np.array([sample.donor if sample.donor >= 0 else sample.row for sample in samples])
    kind = np.array([sample.kind for sample in samples], np.int8)
    pasted = np.isin(kind, (Kind.SYNTHETIC, Kind.TRANSPLANT))
    return Samples(
        kind=kind,
        known=np.where(pasted, LabelKind.MASKED, tiles.known[row]).astype(np.int8),
        groups=np.stack([tiles.group[row], tiles.group[donor]], axis=1),
        frame=tiles.table.frame[row],
        share=np.stack([painter.defective_share(sample) for sample in samples]).astype(np.float16),
        reviewed=tiles.reviewed[row],
    )


@dataclass(frozen=True)
class Draw:
    """The samples of one step, by index."""

    located: NDArray[np.int64]
    """Tiles with marked defects, and copies of them."""
    good: NDArray[np.int64]
    synthetic: NDArray[np.int64]
    """Good tiles with a synthetic or transplanted defect."""
    bags: list[NDArray[np.int64]]
    """All tiles of each bag."""


class Sampler:
    """Draws the samples of each step as a function of seed and step.

    Args:
        trained: bool [groups], whether the samples of a group are drawn.
    Raises:
        TrainingError: there is no good tile, or nothing but good tiles and no synthetic defect.
    """

    def __init__(self, samples: Samples, trained: NDArray[np.bool_], recipe: DenseRecipeConfig, seed: int) -> None:
        self._recipe, self._seed = recipe, seed
        usable = trained[samples.groups].all(axis=1)

        def pool(known: tuple[LabelKind, ...], *kinds: Kind) -> NDArray[np.int64]:
            return np.flatnonzero(usable & np.isin(samples.known, known) & np.isin(samples.kind, kinds))

        self._located = [pool(MARKED, Kind.TILE), pool(MARKED, Kind.COPY)]
        self._good = [pool((LabelKind.GOOD,), Kind.TILE), pool((LabelKind.GOOD,), Kind.COPY)]
        self._located_reviewed, self._good_reviewed = (
            [pool[samples.reviewed[pool]] for pool in pools] for pools in (self._located, self._good)
        )
        self._synthetic = [pool(MARKED, Kind.SYNTHETIC), pool(MARKED, Kind.TRANSPLANT)]
        bagged = pool((LabelKind.BAGGED,), Kind.TILE)
        self._bags = [bagged[samples.frame[bagged] == frame] for frame in np.unique(samples.frame[bagged])]
        if not len(self._good[0]):
            raise TrainingError(
                "no tile of the training is known to be good, and the map needs good tiles; add good pictures, "
                "or annotations that show which part of the defective ones is good"
            )
        if not len(self._located[0]) + len(self._bags) and not recipe.synthetic * sum(map(len, self._synthetic)):
            key = "copies.most" if recipe.synthetic else "synthetic"
            raise TrainingError(
                f"there is no defective picture, and recipe.{key} is 0; add defective pictures, or let the recipe "
                "draw synthetic defects"
            )
        self._bag_share = min(1.0, len(self._bags) / max(1, len(self._located[0])))
        """Share of `recipe.bags` that a step draws on average: a few bags among many marked tiles are not repeated."""
        self._located_share = min(1.0, math.sqrt(len(self._located[0]) / len(self._bags))) if self._bags else 1.0
        """Share of `recipe.located`, likewise: the head would overfit few marked tiles among many bags."""

    def draw(self, step: int) -> Draw:
        """Draw the samples of step number `step`; the same step always gives the same samples."""
        rng = np.random.default_rng((self._seed, step))
        recipe = self._recipe
        located = recipe.located if self._located_share == 1 else rng.binomial(recipe.located, self._located_share)
        bags = rng.choice(len(self._bags), rng.binomial(recipe.bags, self._bag_share)).tolist() if self._bags else []
        return Draw(
            located=_draw_with_reviewed(self._located, self._located_reviewed, located, rng),
            good=_draw_with_reviewed(self._good, self._good_reviewed, recipe.good, rng),
            synthetic=_draw_evenly(self._synthetic, recipe.synthetic, rng),
            bags=[self._bags[bag] for bag in bags],
        )

    def choose_tiles(self, count: int) -> NDArray[np.int64]:
        """Choose at most `count` of the grid tiles that may be drawn; return their indices, sorted."""
        tiles = np.concatenate([self._located[0], self._good[0], *self._bags])
        return np.sort(np.random.default_rng(self._seed).permutation(tiles)[:count])


def _draw_with_reviewed(
    pools: list[NDArray[np.int64]], reviewed: list[NDArray[np.int64]], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw `count` samples as `_draw_evenly`, reviewed ones more often than others."""
    weight = REVIEWED_AS_OFTEN * sum(map(len, reviewed))
    if not weight:
        return _draw_evenly(pools, count, rng)
    own = int(rng.binomial(count, min(REVIEWED_AT_MOST, weight / (weight + sum(map(len, pools))))))
    return np.concatenate([_draw_evenly(reviewed, own, rng), _draw_evenly(pools, count - own, rng)])


def _draw_evenly(pools: list[NDArray[np.int64]], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `count` samples with replacement, evenly from the pools that are not empty."""
    filled = [pool for pool in pools if len(pool)]
    if not filled or not count:
        return np.empty(0, np.int64)
    parts = [count * (number + 1) // len(filled) - count * number // len(filled) for number in range(len(filled))]
    return np.concatenate([rng.choice(pool, part) for pool, part in zip(filled, parts, strict=True)])
