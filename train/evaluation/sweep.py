"""The figures of a ViT's map for every fusion of heads and discard ratio, from one forward pass per tile.

Which of the variants is best is a question to the validation tiles: the classifier is the same for all of them. Pixels
and peaks count as everywhere (`study_rule`, `scoring`); to them comes the weighting game (Raatikainen & Rahtu 2022),
which asks of the whole map what the pointing game asks of its peak.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.evaluation.pixels import PixelCounts
from train.evaluation.scoring import enlarged
from train.evaluation.study_rule import GATE_LOGIT, study_mask
from train.models.rollout import Fusion
from train.tiles import DEFECTIVE_SHARE

FUSIONS: tuple[Fusion, ...] = ("min", "mean", "max")
RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BATCH = 16
"""Tiles per forward pass at most: what a sweep keeps of them is 90 MB for a ViT-tiny, and grows with the tokens."""

SweepTiles = Callable[[Tensor, Sequence[Fusion], Sequence[float]], tuple[Tensor, Tensor]]
"""Logits [N] and maps [N, fusions, ratios, h, w] of RGB tiles uint8 [N, tile, tile, 3]: `RolloutClassifier.sweep`."""

Table = list[list[float]]
"""[fusions][ratios]"""
TableOfDefective = list[list[float | None]]
"""The same, over defective tiles; None where no tile is defective."""


class SweepFigures(msgspec.Struct, frozen=True):
    """One table [fusions][ratios] per figure; a ratio of nothing to nothing is 0."""

    fusions: list[str]
    ratios: list[float]
    precision: Table
    """Of pixels by the study's rule, pooled over all tiles, good ones too; so are the next four."""
    recall: Table
    f1: Table
    jaccard: Table
    accuracy: Table
    pointing: TableOfDefective
    """Share of defective tiles whose map has its peak on the truth."""
    pointing_gated: TableOfDefective
    """The same, where tiles of a probability of at most 0.5 count as missed."""
    weighting: TableOfDefective
    """The share of a map's mass that lies on the truth, mean over defective tiles."""


class Sweep:
    """Adds up the figures over tiles, for several truths at once.

    Only tiles that are defective by some truth or called so are run: another tile finds nothing and has no peak to
    judge, whatever the variant.

    Args:
        sweep_tiles: usually the `sweep` of a `RolloutClassifier` in evaluation mode.
        fusions, ratios: the variants.
    """

    def __init__(
        self,
        sweep_tiles: SweepTiles,
        fusions: Sequence[Fusion] = FUSIONS,
        ratios: Sequence[float] = RATIOS,
    ) -> None:
        self._sweep_tiles = sweep_tiles
        self._fusions, self._ratios = tuple(fusions), tuple(ratios)
        variants = len(self._fusions) * len(self._ratios)
        self._tallies: defaultdict[str, _Tally] = defaultdict(lambda: _Tally(variants))

    def add(
        self,
        tiles: NDArray[np.uint8],
        logits: NDArray[np.floating],
        masks: Mapping[str, NDArray[np.bool_]],
        inside_hw: tuple[int, int],
    ) -> None:
        """Add tiles that lie alike in their frame.

        Args:
            tiles: RGB [N, tile, tile, 3].
            logits: [N], as judged; they gate, even if a sweep's own should differ by rounding.
            masks: by truth, its defective pixels [N, tile, tile]. A truth that is not named does not count these tiles.
            inside_hw: how much of each tile lies in the frame; the padding beyond does not count.
        """
        if not masks:
            return
        called = logits > GATE_LOGIT
        defective = {truth: mask.mean(axis=(1, 2)) > DEFECTIVE_SHARE for truth, mask in masks.items()}
        inside = np.s_[: inside_hw[0], : inside_hw[1]]
        for truth, mask in masks.items():
            self._tallies[truth].expect(mask[:, *inside])
        needed = np.flatnonzero(np.logical_or.reduce([called, *defective.values()]))
        for tile, maps in self._looked_at(tiles, needed):
            if called[tile]:
                found = [study_mask(one, float(logits[tile]), tiles.shape[1])[inside] for one in maps]
                for truth, mask in masks.items():
                    self._tallies[truth].find(found, mask[tile][inside])
            hit_by = [truth for truth in masks if defective[truth][tile]]
            if hit_by:
                # Bilinear enlargement keeps what is nowhere negative so: there is nothing to clip.
                large = np.stack([enlarged(one, tiles.shape[1], inside_hw).ravel() for one in maps])
                for truth in hit_by:
                    self._tallies[truth].point(large, masks[truth][tile][inside], float(logits[tile]))

    def figures(self, truth: str) -> SweepFigures:
        """By one truth.

        Raises:
            KeyError: no tile was added with it.
        """
        if truth not in self._tallies:
            raise KeyError(truth)
        tally = self._tallies[truth]
        pixels = tally.pixels()

        def table(values: Iterable[float]) -> Table:
            row = iter(values)
            return [[float(next(row)) for _ in self._ratios] for _ in self._fusions]

        def of_defective(values: NDArray[np.float64] | None) -> TableOfDefective:
            if values is None:
                return [[None for _ in self._ratios] for _ in self._fusions]
            return [list(line) for line in table(values.tolist())]

        return SweepFigures(
            fusions=list(self._fusions),
            ratios=list(self._ratios),
            precision=table(one.precision for one in pixels),
            recall=table(one.recall for one in pixels),
            f1=table(one.f1 for one in pixels),
            jaccard=table(one.jaccard for one in pixels),
            accuracy=table(one.accuracy for one in pixels),
            pointing=of_defective(tally.pointing()),
            pointing_gated=of_defective(tally.pointing(gated=True)),
            weighting=of_defective(tally.weighting()),
        )

    def _looked_at(
        self, tiles: NDArray[np.uint8], needed: NDArray[np.intp]
    ) -> Iterable[tuple[int, NDArray[np.float32]]]:
        """Needed tiles by number, each with where the class token looked: [variants, h, w], nowhere negative."""
        for start in range(0, len(needed), BATCH):
            batch = needed[start : start + BATCH]
            run = torch.from_numpy(tiles[batch])
            logits, maps = self._sweep_tiles(run, self._fusions, self._ratios)
            # A rollout times a negative logit is coldest where the class token looked most.
            looked = (maps * logits.sign()[:, None, None, None, None]).flatten(1, 2).cpu().numpy()
            yield from zip(batch.tolist(), looked, strict=True)


class _Tally:
    """What is kept of all tiles by one truth, per variant."""

    def __init__(self, variants: int) -> None:
        self._pixels, self._true = 0, 0
        self._found = np.zeros(variants, np.int64)
        self._hit = np.zeros(variants, np.int64)
        self._on_truth: list[NDArray[np.bool_]] = []
        self._mass_on_truth: list[NDArray[np.float64]] = []
        self._logits: list[float] = []

    def expect(self, true: NDArray[np.bool_]) -> None:
        """Tiles to be judged, by their true pixels: as long as nothing is found in them, all those are missed."""
        self._pixels += true.size
        self._true += int(np.count_nonzero(true))

    def find(self, found: Sequence[NDArray[np.bool_]], true: NDArray[np.bool_]) -> None:
        """What the variants found in one of these tiles."""
        self._found += [np.count_nonzero(one) for one in found]
        if true.any():
            self._hit += [np.count_nonzero(one & true) for one in found]

    def point(self, large: NDArray[np.float32], true: NDArray[np.bool_], logit: float) -> None:
        """The enlarged maps [variants, pixels] of a defective tile."""
        flat = true.ravel()
        mass, on_truth = large.sum(axis=1, dtype=np.float64), large[:, flat].sum(axis=1, dtype=np.float64)
        self._on_truth.append(flat[large.argmax(axis=1)])
        self._mass_on_truth.append(np.divide(on_truth, mass, out=np.zeros_like(mass), where=mass > 0))
        self._logits.append(logit)

    def pixels(self) -> list[PixelCounts]:
        return [
            PixelCounts(hit, found - hit, self._true - hit, self._pixels - self._true - found + hit)
            for hit, found in zip(self._hit.tolist(), self._found.tolist(), strict=True)
        ]

    def pointing(self, *, gated: bool = False) -> NDArray[np.float64] | None:
        """Share of defective tiles with their peak on the truth; gated, and called defective."""
        called = np.array(self._logits) > GATE_LOGIT
        return self._mean([peaks & (called[tile] | (not gated)) for tile, peaks in enumerate(self._on_truth)])

    def weighting(self) -> NDArray[np.float64] | None:
        return self._mean(self._mass_on_truth)

    def _mean(self, of_tiles: Sequence[NDArray[np.generic]]) -> NDArray[np.float64] | None:
        """Per variant, over defective tiles; None where there is none."""
        return np.asarray(np.array(of_tiles, np.float64).mean(axis=0)) if of_tiles else None
