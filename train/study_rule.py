"""The study's map rule, as it stands in its tables (section 2.5). Needs no torch.

A tile's map becomes a mask by itself: enlarged to the tile, stretched to 0..255, cut off at 127, and empty where the
classifier calls the tile good. So it shows *where* a tile is hottest and not how hot it is; the line judges by evidence
in logits instead. It is here to be held beside the study's figures.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

GATE_LOGIT = 0.0
"""A tile whose logit is not above it has no mask: probability 0.5."""
LEVEL = 127
"""Of 0..255; what is above it is defective."""


def study_mask(tile_map: NDArray[np.float32], logit: float, tile_px: int) -> NDArray[np.bool_]:
    """What the rule takes for defective in one tile, bool [tile, tile].

    The enlargement is bilinear and half-pixel correct: the value of a cell is met at its centre. Levels are not rounded
    to whole ones. A map that is the same everywhere has nothing to stretch, and no mask.

    Args:
        tile_map: [h, w], finite; in any unit.
        logit: of the tile.
        tile_px: side of the tile, px.
    """
    if logit <= GATE_LOGIT or tile_map.min() == tile_map.max():
        return np.zeros((tile_px, tile_px), np.bool_)
    enlarged = cv2.resize(tile_map.astype(np.float64), (tile_px, tile_px), interpolation=cv2.INTER_LINEAR)
    low, high = enlarged.min(), enlarged.max()
    return np.asarray((enlarged - low) * 255 > LEVEL * (high - low))


@dataclass(frozen=True)
class PixelCounts:
    """Pixels by what was found (positive) and what is true, over any number of tiles."""

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    @classmethod
    def of(cls, found: NDArray[np.bool_], true: NDArray[np.bool_]) -> "PixelCounts":
        """Of two masks of one shape."""
        hit, positive, defective = (int(np.count_nonzero(mask)) for mask in (found & true, found, true))
        return cls(hit, positive - hit, defective - hit, true.size - positive - defective + hit)

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        return PixelCounts(*(mine + others for mine, others in zip(astuple(self), astuple(other), strict=True)))


def count_pixels(
    maps: NDArray[np.float32], logits: NDArray[np.float32], masks: NDArray[np.bool_], inside_hw: tuple[int, int]
) -> PixelCounts:
    """The pixels of some tiles of one frame. Where tiles overlap, a pixel counts in each, as in the study.

    Args:
        maps: [tiles, h, w].
        logits: [tiles].
        masks: true defective pixels [tiles, tile, tile].
        inside_hw: how much of each tile lies in the frame; the padding beyond does not count.
    """
    inside = np.s_[: inside_hw[0], : inside_hw[1]]
    per_tile: Iterable[PixelCounts] = (
        PixelCounts.of(study_mask(tile_map, float(logit), mask.shape[0])[inside], mask[inside])
        for tile_map, logit, mask in zip(maps, logits, masks, strict=True)
    )
    return sum(per_tile, PixelCounts())


class StudyFigures(msgspec.Struct, frozen=True):
    """By the study's rule. Pixels are pooled over all tiles, good ones too; a ratio of nothing to nothing is 0."""

    true_positive_px: int
    false_positive_px: int
    false_negative_px: int
    true_negative_px: int
    precision: float
    recall: float
    f1: float
    jaccard: float
    accuracy: float
    """Of pixels; that of tiles is `accuracy_at_half` of the tile figures."""
    pointing: float
    """Share of defective tiles whose map has its peak on the mask."""
    pointing_gated_at_half: float
    """The same, where tiles of a probability of at most 0.5 count as missed."""


def study_figures(pixels: PixelCounts, peak_on_defect: NDArray[np.bool_], logits: NDArray[np.floating]) -> StudyFigures:
    """The figures from what was counted.

    Args:
        peak_on_defect: whether the map's peak lies on the mask, per defective tile.
        logits: of the same tiles.
    """
    hit, false, missed, rest = astuple(pixels)
    return StudyFigures(
        true_positive_px=hit,
        false_positive_px=false,
        false_negative_px=missed,
        true_negative_px=rest,
        precision=_ratio(hit, hit + false),
        recall=_ratio(hit, hit + missed),
        f1=_ratio(2 * hit, 2 * hit + false + missed),
        jaccard=_ratio(hit, hit + false + missed),
        accuracy=_ratio(hit + rest, hit + false + missed + rest),
        pointing=_share(peak_on_defect),
        pointing_gated_at_half=_share(peak_on_defect & (logits > GATE_LOGIT)),
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _share(which: NDArray[np.bool_]) -> float:
    return _ratio(int(np.count_nonzero(which)), which.size)
