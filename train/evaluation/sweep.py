"""Figures of a ViT's map for every fusion of heads and discard ratio, from one forward pass per tile.

The classifier is the same for all variants; choose the best variant on validation tiles. Pixels and peaks count as
elsewhere (`study_rule`, `scoring`). The weighting game (Raatikainen & Rahtu 2022) measures the whole map, where the
pointing game measures its peak.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatline.train.evaluation.scoring import GATE_LOGIT, PixelCounts, enlarged, study_mask
from heatline.train.models.rollout import Fusion
from heatline.train.tiles import DEFECTIVE_SHARE

FUSIONS: tuple[Fusion, ...] = ("min", "mean", "max")
RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SHARES = ("f1", "precision", "recall", "jaccard", "accuracy", "pointing", "pointing_gated", "weighting")
"""Names of the tables of `SweepFigures`."""
BATCH = 16
"""Highest number of tiles per forward pass: a sweep of a ViT-tiny needs 90 MB for them, and more with more tokens."""

SweepTiles = Callable[[Tensor, Sequence[Fusion], Sequence[float]], tuple[Tensor, Tensor]]
"""Logits [N] and maps [N, fusions, ratios, h, w] of RGB tiles uint8 [N, tile, tile, 3]: `RolloutClassifier.sweep`."""

Table = list[list[float]]
"""[fusions][ratios]"""
TableOfDefective = list[list[float | None]]
"""[fusions][ratios], over defective tiles; None if no tile is defective."""


class SweepFigures(msgspec.Struct, frozen=True):
    """One table [fusions][ratios] per figure; 0/0 counts as 0."""

    fusions: list[str]
    ratios: list[float]
    precision: Table
    """This table and the next four: of pixels by the study's rule, pooled over all tiles, including good ones."""
    recall: Table
    f1: Table
    jaccard: Table
    accuracy: Table
    pointing: TableOfDefective
    """Share of defective tiles whose map has its peak on the truth."""
    pointing_gated: TableOfDefective
    """The same share, if tiles of a probability of at most 0.5 count as missed."""
    weighting: TableOfDefective
    """Share of a map's mass that lies on the truth, mean over defective tiles."""


class Sweep:
    """Accumulates the figures over tiles, for several truths at once.

    Only tiles that a truth or the classifier calls defective are run: in other tiles, no variant finds a pixel, and
    their peaks do not count.

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
        """Add tiles that have the same part inside their frame.

        Args:
            tiles: RGB [N, tile, tile, 3].
            logits: [N], of the verdict. They gate, also if the logits of the sweep differ by rounding.
            masks: defective pixels [N, tile, tile] by truth. A truth that is missing does not count these tiles.
            inside_hw: part of each tile that is in the frame; the padding beyond it does not count.
        """
        if not masks:
            return
        called = logits > GATE_LOGIT
        defective = {truth: mask.mean(axis=(1, 2)) > DEFECTIVE_SHARE for truth, mask in masks.items()}
        inside = np.s_[: inside_hw[0], : inside_hw[1]]
        for truth, mask in masks.items():
            self._tallies[truth].add_truth(mask[:, *inside])
        needed = np.flatnonzero(np.logical_or.reduce([called, *defective.values()]))
        for tile, maps in self._relevance_maps(tiles, needed):
            if called[tile]:
                found = [study_mask(one, float(logits[tile]), tiles.shape[1])[inside] for one in maps]
                for truth, mask in masks.items():
                    self._tallies[truth].add_found(found, mask[tile][inside])
            truths_of_tile = [truth for truth in masks if defective[truth][tile]]
            if truths_of_tile:
                # The maps are not negative, and bilinear enlargement keeps them so: nothing must be clipped.
                large = np.stack([enlarged(one, tiles.shape[1], inside_hw).ravel() for one in maps])
                for truth in truths_of_tile:
                    self._tallies[truth].add_maps(large, masks[truth][tile][inside], float(logits[tile]))

    def figures(self, truth: str) -> SweepFigures:
        """Return the figures by one truth.

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

    def _relevance_maps(
        self, tiles: NDArray[np.uint8], needed: NDArray[np.intp]
    ) -> Iterable[tuple[int, NDArray[np.float32]]]:
        """Yield the number of each needed tile, with the relevance of its tokens [variants, h, w], not negative."""
        for start in range(0, len(needed), BATCH):
            batch = needed[start : start + BATCH]
            run = torch.from_numpy(tiles[batch])
            logits, maps = self._sweep_tiles(run, self._fusions, self._ratios)
            # A rollout's map is relevance times logit: with a negative logit, its lowest value is the most relevant.
            relevance = (maps * logits.sign()[:, None, None, None, None]).flatten(1, 2).cpu().numpy()
            yield from zip(batch.tolist(), relevance, strict=True)


class _Tally:
    """Counts over all tiles by one truth, per variant."""

    def __init__(self, variants: int) -> None:
        self._pixels, self._true = 0, 0
        self._found = np.zeros(variants, np.int64)
        self._hit = np.zeros(variants, np.int64)
        self._on_truth: list[NDArray[np.bool_]] = []
        self._mass_on_truth: list[NDArray[np.float64]] = []
        self._logits: list[float] = []

    def add_truth(self, true: NDArray[np.bool_]) -> None:
        """Add the true pixels of tiles: all are missed until `add_found` finds them."""
        self._pixels += true.size
        self._true += int(np.count_nonzero(true))

    def add_found(self, found: Sequence[NDArray[np.bool_]], true: NDArray[np.bool_]) -> None:
        """Add the pixels that the variants found in one of these tiles."""
        self._found += [np.count_nonzero(one) for one in found]
        if true.any():
            self._hit += [np.count_nonzero(one & true) for one in found]

    def add_maps(self, large: NDArray[np.float32], true: NDArray[np.bool_], logit: float) -> None:
        """Add the enlarged maps [variants, pixels] of a defective tile."""
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
        """Return the share of defective tiles with their peak on the truth; gated, in tiles called defective only."""
        called = np.array(self._logits) > GATE_LOGIT
        return self._mean([peaks & (called[tile] | (not gated)) for tile, peaks in enumerate(self._on_truth)])

    def weighting(self) -> NDArray[np.float64] | None:
        return self._mean(self._mass_on_truth)

    def _mean(self, of_tiles: Sequence[NDArray[np.generic]]) -> NDArray[np.float64] | None:
        """Return the mean per variant over defective tiles; None if no tile is defective."""
        return np.asarray(np.array(of_tiles, np.float64).mean(axis=0)) if of_tiles else None
