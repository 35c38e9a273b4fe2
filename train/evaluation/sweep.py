"""Figures of a ViT's map for every fusion of heads and discard ratio, from one forward pass per tile.

The classifier is the same for all variants; choose the best variant on validation tiles. Pixels and peaks count as
elsewhere (`study_rule`, `scoring`). The weighting game (Raatikainen & Rahtu 2022) measures the whole map, where the
pointing game measures its peak.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatline.train.evaluation.scoring import GATE_LOGIT, PixelCounts, enlarged, study_mask
from heatline.train.frames import DEFECTIVE_SHARE
from heatline.train.models.vit import Fusion

FUSIONS: tuple[Fusion, ...] = ("min", "mean", "max")
RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
OF_PIXELS = ("f1", "precision", "recall", "jaccard", "accuracy")
SHARES = (*OF_PIXELS, "pointing", "pointing_gated", "weighting")
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
        self._tallies: dict[str, _Tally] = {}

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
        inside = {truth: mask[:, : inside_hw[0], : inside_hw[1]] for truth, mask in masks.items()}
        variants = len(self._fusions) * len(self._ratios)
        for truth, mask in inside.items():
            tally = self._tallies.setdefault(truth, _Tally(variants))
            tally.pixels += mask.size
            tally.true += int(np.count_nonzero(mask))
        needed = np.flatnonzero(np.logical_or.reduce([called, *defective.values()]))
        for tile, maps in self._relevance_maps(tiles, needed):
            found = [study_mask(one, float(logits[tile]), tiles.shape[1]) for one in maps] if called[tile] else []
            # The maps are not negative, and bilinear enlargement keeps them so: nothing must be clipped.
            large = np.stack([enlarged(one, tiles.shape[1], inside_hw).ravel() for one in maps])
            for truth, mask in inside.items():
                tally, true = self._tallies[truth], mask[tile]
                if found:
                    parts = [one[: inside_hw[0], : inside_hw[1]] for one in found]
                    tally.found += [np.count_nonzero(one) for one in parts]
                    tally.hit += [np.count_nonzero(one & true) for one in parts]
                if defective[truth][tile]:
                    mass = large.sum(axis=1, dtype=np.float64)
                    on_truth = large[:, true.ravel()].sum(axis=1, dtype=np.float64)
                    tally.peaks.append(true.ravel()[large.argmax(axis=1)])
                    tally.shares.append(np.divide(on_truth, mass, out=np.zeros_like(mass), where=mass > 0))
                    tally.called.append(bool(called[tile]))

    def figures(self, truth: str) -> SweepFigures:
        """Return the figures by one truth.

        Raises:
            KeyError: no tile was added with it.
        """
        tally, shape = self._tallies[truth], (len(self._fusions), len(self._ratios))
        pixels = [
            PixelCounts(hit, found - hit, tally.true - hit, tally.pixels - tally.true - found + hit)
            for hit, found in zip(tally.hit.tolist(), tally.found.tolist(), strict=True)
        ]
        of_pixels = {name: [getattr(one, name) for one in pixels] for name in OF_PIXELS}
        peaks = np.array(tally.peaks, np.bool_).reshape(-1, len(pixels))
        gated = peaks & np.array(tally.called, np.bool_)[:, None]
        of_tiles = {"pointing": peaks, "pointing_gated": gated, "weighting": np.array(tally.shares)}
        unknown = [None] * len(pixels)
        means = {name: values.mean(axis=0) if len(peaks) else unknown for name, values in of_tiles.items()}
        tables = {name: np.array(values).reshape(shape).tolist() for name, values in (of_pixels | means).items()}
        return SweepFigures(list(self._fusions), list(self._ratios), **tables)

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
    """Counts over all tiles by one truth; of pixels that the variants found, and of defective tiles, per variant."""

    def __init__(self, variants: int) -> None:
        self.pixels = self.true = 0
        self.found, self.hit = np.zeros(variants, np.int64), np.zeros(variants, np.int64)
        self.peaks: list[NDArray[np.bool_]] = []
        self.shares: list[NDArray[np.float64]] = []
        self.called: list[bool] = []
