"""Compare regions and maps with the true defects, by the line's rule and by the study's. Needs no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.geometry import Region

SIDES_PX = (16, 32, 64)
"""Sizes of defects are divided at the areas of squares with these sides: 4, 16 and 64 cells of the default map."""
SIZES = (
    f"below {SIDES_PX[0]}x{SIDES_PX[0]} px",
    *(f"{low}x{low} to {high}x{high} px" for low, high in pairwise(SIDES_PX)),
    f"from {SIDES_PX[-1]}x{SIDES_PX[-1]} px",
)


class FrameScore(NamedTuple):
    """Counts of one frame: a region hits a defect if its peak is at most the tolerance away, and else is false."""

    defects: int
    hit: int
    false_regions: int


@dataclass(frozen=True)
class Matches:
    """Which defects of one frame were found, and which regions are false."""

    defects: NDArray[np.int32]
    """Number of the defect of each pixel, as by `label_defects`."""
    hit: frozenset[int]
    """Their numbers."""
    false: tuple[Region, ...]

    @property
    def score(self) -> FrameScore:
        return FrameScore(int(self.defects.max(initial=0)), len(self.hit), len(self.false))


def match_regions(regions: Sequence[Region], mask: NDArray[np.bool_], tolerance_px: float) -> Matches:
    """Compare the regions of a frame with its true defects; the tolerance is usually one map cell.

    Args:
        mask: true defective pixels [H, W].
    """
    defects = label_defects(mask, tolerance_px)
    near = [_defects_near(defects, region.peak_xy, tolerance_px) for region in regions]
    false = tuple(region for region, found in zip(regions, near, strict=True) if not found)
    return Matches(defects, frozenset().union(*near), false)


def label_defects(mask: NDArray[np.bool_], gap_px: float) -> NDArray[np.int32]:
    """Return the number of the defect of each pixel, from 1, else 0; parts closer than `gap_px` are one defect."""
    reach = 2 * (int(gap_px) // 2) + 1
    joined = cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8))
    _, labels = cv2.connectedComponents(joined, connectivity=8)
    return np.where(mask, labels, 0).astype(np.int32)


def divide_by_size(mask: NDArray[np.bool_], gap_px: float) -> dict[str, NDArray[np.bool_]]:
    """Return the defects of each size, smallest first, as masks of the same shape; arguments of `label_defects`."""
    labels = label_defects(mask, gap_px)
    size = np.searchsorted([side**2 for side in SIDES_PX], np.bincount(labels.ravel()), side="right")
    return {name: mask & (size[labels] == number) for number, name in enumerate(SIZES)}


def peak_distance_px(
    tile_map: NDArray[np.float32], mask: NDArray[np.bool_], inside_hw: tuple[int, int] | None = None
) -> float:
    """Return the distance from the peak of a tile's enlarged map [h, w] to the nearest true pixel, px.

    Args:
        mask: [tile, tile], with at least one true pixel.
        inside_hw: part of the tile, from its top left, that is in the frame; padding beyond it has no peak.
    """
    large = enlarged(tile_map, mask.shape[0], inside_hw)
    y, x = np.unravel_index(int(large.argmax()), large.shape)
    true_y, true_x = np.nonzero(mask)
    return float(np.sqrt(((true_y - y) ** 2 + (true_x - x) ** 2).min()))


def enlarged(
    tile_map: NDArray[np.float32], tile_px: int, inside_hw: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Enlarge a tile's map [h, w] to the tile, bilinear and half-pixel correct, without what is not `inside_hw`."""
    height, width = inside_hw or (tile_px, tile_px)
    large = cv2.resize(tile_map, (tile_px, tile_px), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large[:height, :width], np.float32)


def _defects_near(defects: NDArray[np.int32], point_xy: tuple[int, int], reach_px: float) -> set[int]:
    """Return the numbers of the defects with a pixel at most `reach_px` from a point."""
    x, y = point_xy
    reach = int(reach_px)
    top, left = max(y - reach, 0), max(x - reach, 0)
    part = defects[top : y + reach + 1, left : x + reach + 1]
    rows, columns = np.nonzero(part)
    near = (rows + top - y) ** 2 + (columns + left - x) ** 2 <= reach_px**2
    return set(part[rows[near], columns[near]].tolist())


def count_pixels(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Count the true positive, false positive, false negative and true negative pixels of two masks of one shape."""
    hit, positive, defective = (int(np.count_nonzero(mask)) for mask in (found & true, found, true))
    return hit, positive - hit, defective - hit, true.size - positive - defective + hit


def pixel_rates(counts: Iterable[float]) -> dict[str, float]:
    """Return the rates of pixels counted as by `count_pixels`, over any number of masks; 0/0 is 0."""
    hit, false, missed, passed = counts
    shares = {
        "precision": (hit, hit + false),
        "recall": (hit, hit + missed),
        "f1": (2 * hit, 2 * hit + false + missed),
        "jaccard": (hit, hit + false + missed),
        "accuracy": (hit + passed, hit + false + missed + passed),
    }
    return {name: float(part / whole) if whole else 0.0 for name, (part, whole) in shares.items()}


GATE_LOGIT = 0.0
"""Probability 0.5: a tile whose logit is not above it has an empty mask by the study's rule."""
LEVEL = 127
"""Of 0..255; pixels above it are defective by the study's rule."""


def study_mask(tile_map: NDArray[np.float32], logit: float, tile_px: int) -> NDArray[np.bool_]:
    """Return the pixels of one tile that the study's rule (its section 2.5) calls defective, bool [tile, tile].

    Each tile's map becomes a mask by itself: enlarged to the tile, bilinear and half-pixel correct, stretched to 0..255
    and thresholded at 127. Levels are not rounded. A map with the same value everywhere has an empty mask.

    Args:
        tile_map: [h, w], finite; in any unit.
        logit: of the tile; at most 0: the mask is empty.
    """
    if logit <= GATE_LOGIT or tile_map.min() == tile_map.max():
        return np.zeros((tile_px, tile_px), np.bool_)
    large = cv2.resize(tile_map.astype(np.float64), (tile_px, tile_px), interpolation=cv2.INTER_LINEAR)
    low, high = large.min(), large.max()
    return np.asarray((large - low) * 255 > LEVEL * (high - low))
