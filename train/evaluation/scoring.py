"""Compare regions and maps with the true defects, by the line's rule and by the study's; compute figures from columns
of tiles and frames, and their intervals, by other weights of groups. Needs no torch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.geometry import Region
from heatline.train.metrics import auroc, average_precision

SIDES_PX = (16, 32, 64)
"""Sizes of defects are divided at the areas of squares with these sides: 4, 16 and 64 cells of the default map."""
SIZES = (
    f"below {SIDES_PX[0]}x{SIDES_PX[0]} px",
    *(f"{low}x{low} to {high}x{high} px" for low, high in pairwise(SIDES_PX)),
    f"from {SIDES_PX[-1]}x{SIDES_PX[-1]} px",
)


class FrameScore(NamedTuple):
    """Numbers of one frame's defects, of those that are hit, and of regions that hit none."""

    defects: int
    hit: int
    false_regions: int


@dataclass(frozen=True)
class Matches:
    """Which defects of one frame were found: a region hits one if its peak is at most the tolerance away."""

    defects: NDArray[np.int32]
    """Number of the defect of each pixel, as by `label_defects`."""
    hit: frozenset[int]
    """Their numbers."""
    false: tuple[Region, ...]
    """Regions that hit none."""

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


Weights = NDArray[np.float64]
"""[groups], how often each group counts; all 1 for the figures themselves."""
Figures = dict[str, int | float | None]
"""By dotted name, as `frame.escape_rate`: counts are int, rates float, None is not known (docs/evaluation.md)."""
Columns = NDArray[np.void]
"""One row per tile of all placed frames, of `tile_type`, or per frame, of `FRAME`."""

FEWEST_GROUPS, RESAMPLES = 10, 1000

FRAME = np.dtype(
    [
        ("group", "i8"),  # its number
        ("logit", "f8"),  # the highest of its tiles
        ("defective", "?"),
        ("rejected", "?"),  # the verdict is DEFECT
        ("placed", "?"),  # the place of its defects is known; if not, what follows is 0
        ("defects", "i8"),
        ("hit", "i8"),
        ("false_regions", "i8"),
        ("line_px", "i8", (4,)),  # by the line's rule, as `count_pixels`
    ]
)
COUNTED_PX = "true_positive_px", "false_positive_px", "false_negative_px", "true_negative_px"


def tile_type(maps: int) -> np.dtype[np.void]:
    """Return the type of the columns of tiles with so many maps: the model's own, and by other fusions of its heads."""
    return np.dtype(
        [
            ("group", "i8"),
            ("logit", "f8"),
            ("defective", "?"),  # by the 1 % rule
            ("ambiguous", "?"),  # it has a defective pixel, and is good by the 1 % rule
            ("distance_px", "f8", (maps,)),  # from each map's peak to the nearest true pixel; NaN for a good tile
            ("px", "i8", (maps, 4)),  # by the study's rule for each map, as `count_pixels`
        ]
    )


def compute_figures(
    tiles: Columns, frames: Columns, maps: Sequence[str], weights: Weights, *, set_threshold: bool = False
) -> Figures:
    """Compute the figures with weights of groups; those of tiles and pixels are missing if no frame is placed.

    Args:
        maps: names of the maps of `tile_type`, the first parts of their figures' names.
        weights: [groups], whole numbers: the draws of a bootstrap, or all 1.
        set_threshold: whether good frames set the threshold that judges them, so that their rejects are not a rate.
    """
    figures = _of_frames(frames, weights)
    if set_threshold:
        figures["frame.false_reject_rate"] = None
    if figures["frame.frames"] == figures["frame.unplaced"]:
        return figures
    weight, bad, clear = weights[tiles["group"]], tiles["defective"], ~tiles["ambiguous"]
    called = tiles["logit"] > GATE_LOGIT
    ranked = tiles["logit"][clear], bad[clear], weight[clear]
    figures |= {
        "tile.tiles": round(float(weight.sum())),
        "tile.defective": round(float(weight[bad].sum())),
        "tile.average_precision": average_precision(*ranked),
        "tile.auroc": auroc(*ranked),
        "tile.accuracy": _mean(called == bad, weight) or 0.0,
        **_of_pixels("line", weights[frames["group"]] @ frames["line_px"]),
    }
    for at, name in enumerate(maps):
        on_truth = tiles["distance_px"][bad, at] == 0
        figures |= _of_pixels(name, weight @ tiles["px"][:, at])
        figures[f"{name}.pointing"] = _mean(on_truth, weight[bad])
        figures[f"{name}.pointing_gated"] = _mean(on_truth & called[bad], weight[bad])
    return figures


def _of_pixels(name: str, counts: NDArray[np.float64]) -> Figures:
    px = {f"{name}.{field}": round(float(count)) for field, count in zip(COUNTED_PX, counts, strict=True)}
    return {**px, **{f"{name}.{field}": rate for field, rate in pixel_rates(counts.tolist()).items()}}


def _of_frames(frames: Columns, weights: Weights) -> Figures:
    weight = weights[frames["group"]]
    bad, rejected, placed = (frames[name] for name in ("defective", "rejected", "placed"))

    def count(which: NDArray[np.generic]) -> int:
        return round(float(weight @ which.astype(np.float64)))

    of_placed: Figures = {
        "defects": count(frames["defects"]),
        "defects_hit": count(frames["hit"]),
        "hit_rate": _mean(frames["hit"], weight, frames["defects"]),
        "false_regions": count(frames["false_regions"]),
        "false_regions_per_frame": _mean(frames["false_regions"], weight, placed),
    }
    found: Figures = {
        "frames": count(np.ones(len(weight))),
        "unplaced": count(~placed),
        **(of_placed if count(placed) else dict.fromkeys(of_placed)),
        "defective_frames": count(bad),
        "escaped_frames": count(bad & ~rejected),
        "escape_rate": _mean(bad & ~rejected, weight, bad),
        "good_frames": count(~bad),
        "rejected_frames": count(~bad & rejected),
        "false_reject_rate": _mean(~bad & rejected, weight, ~bad),
        "average_precision": average_precision(frames["logit"], bad, weight),
        "auroc": auroc(frames["logit"], bad, weight),
    }
    return {f"frame.{name}": value for name, value in found.items()}


def _mean(values: NDArray[np.generic], weight: Weights, of: NDArray[np.generic] | None = None) -> float | None:
    """Return the weighted sum of values divided by that of `of` (default: ones); None if there are none."""
    total = float(weight.sum() if of is None else weight @ of.astype(np.float64))
    return float(weight @ values.astype(np.float64)) / total if total else None


def compute_intervals(figures: Callable[[Weights], Figures], groups: int) -> tuple[dict[str, tuple[float, float]], str]:
    """Return 95 % intervals of all rates, by name, and a description of their basis.

    The bootstrap draws whole groups, with replacement (Efron & Tibshirani 1993, percentile intervals), as pictures of
    one group show the same thing; with few groups an interval is not reliable, and none is given. A figure that is
    equal in all resamples gets none: with 0 of 4 frames rejected, the rate is not certain to be 0. Nor does one that
    many resamples lack, because they lack a class.

    Args:
        figures: returns the figures for weights [groups].
        groups: number of groups; 0 if the pictures have none.
    """
    if groups == 0:
        return {}, "no intervals: the pictures have no groups, and only whole groups are independent"
    if groups < FEWEST_GROUPS:
        return {}, f"no intervals: a bootstrap needs at least {FEWEST_GROUPS} groups, and there are {groups}"
    drawn: dict[str, list[float]] = {}
    # The seed is fixed, so that the same pictures have the same intervals.
    for weights in np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES):
        for name, value in figures(weights.astype(np.float64)).items():
            if isinstance(value, float):
                drawn.setdefault(name, []).append(value)
    ends = {
        name: tuple(np.quantile(values, (0.025, 0.975)).tolist())
        for name, values in drawn.items()
        if len(values) >= 0.95 * RESAMPLES
    }
    basis = f"95 % intervals by a bootstrap over {groups} groups, {RESAMPLES} resamples, percentiles"
    return {name: (low, high) for name, (low, high) in ends.items() if low < high}, basis
