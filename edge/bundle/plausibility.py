"""Whether a frame shows the product, in focus and in the usual light.

A classifier only knows good and defective; its answer to a black picture, or to another product, means nothing. So
calibration records the appearance of frames of the product. A whole frame with another appearance gets no verdict:

- size in px, brightness, contrast, sharpness and detail;
- if the graph gives features of tiles, their Mahalanobis distance from the features of the product's tiles. A frame's
  distance is the median over its tiles, so that a defect, which covers few of them, does not count.

A frame that shows the product only in part gets no verdict either, see `heatline.edge.bundle.areas`.

The largest plausible distance is measured on frames whose own group was left out, as frames on the line are new. With
few groups it gets a wider margin, as new frames may lie beyond all known ones.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.appearance import FAR_PX, STATISTICS, Appearance, Floats
from heatline.edge.bundle.areas import FEWEST_GROUPS, ProductCells, find_areas, fit_areas, folds
from heatline.edge.bundle.arrays import read_arrays
from heatline.edge.bundle.manifest import Plausible
from heatline.edge.wire.events import ForeignArea

FEWEST_TO_STAND_OUT = 5
"""Among fewer frames, an outlier cannot be found."""
RIDGE = 0.05
"""Share of the features' correlation matrix that is replaced by the identity, as few tiles cannot show all of it."""
SLACK = {"brightness": 0.4, "contrast": 0.5, "sharpness": 0.4}
"""How far below the lowest value is plausible, as a share of it; for brightness, also how far above the highest.
Contrast, sharpness and detail have no upper limit: a defect on an even surface adds to them."""
SMOOTH_DETAIL = 1 / FAR_PX**2
"""Detail of smooth surfaces."""
EDGE_DETAIL = 0.02
"""Lowest detail of a frame that shows edges. If a frame of the product has less, no detail is too low."""
REMAINING_DETAIL = 0.3
"""Share of the lowest frame's difference to smooth surfaces that a plausible frame has at least."""
SIZE_SLACK = 0.2
"""How far, as a share, a side may lie beyond the known ones if frames differ in size."""
FARTHEST = 1e6
"""The largest distance that a bundle states: frames that are identical except one would give any number."""


@dataclass(frozen=True, eq=False)
class ProductTiles:
    """The features of the product's tiles, as a normal distribution, and those of its cells."""

    mean: Floats
    """[c]"""
    whitening: Floats
    """[c, c]"""
    cells: ProductCells | None = None
    """None: not known."""

    @classmethod
    def of(cls, features: Floats) -> "ProductTiles":
        """Fit the distribution to features [n, c]."""
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        deviation = deviation + 1e-3 * float(deviation.mean()) + 1e-12
        scaled = (features - mean) / deviation
        correlation = (1 - RIDGE) * scaled.T @ scaled / max(len(scaled) - 1, 1) + RIDGE * np.eye(len(mean))
        variance, axes = np.linalg.eigh(correlation)
        whitening = axes / np.sqrt(np.maximum(variance, RIDGE)) / deviation[:, None]
        return cls(mean.astype(np.float32), whitening.astype(np.float32))

    @classmethod
    def load(cls, path: Path, channels: int) -> "ProductTiles":
        """Read the features in a file.

        Raises:
            BundleError: the file holds no features, or features with another number of channels.
        """
        shapes = {"mean": (channels,), "whitening": (channels, channels)}
        arrays = read_arrays(path, "features of tiles", shapes)
        cells = ProductCells(arrays["projection"], arrays["prototypes"]) if "projection" in arrays else None
        return cls(arrays["mean"], arrays["whitening"], cells)

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        buffer = io.BytesIO()
        cells = {} if self.cells is None else vars(self.cells)
        np.savez_compressed(buffer, mean=self.mean, whitening=self.whitening, **cells)
        return buffer.getvalue()

    def distance(self, features: Floats) -> float:
        """Return the median distance of tiles [n, c], in standard deviations of the product's tiles."""
        whitened = (features - self.mean) @ self.whitening
        return float(np.median(np.sqrt((whitened**2).mean(axis=1))))


@dataclass(frozen=True, eq=False)
class Plausibility:
    """Decides whether frames are plausible."""

    plausible: Plausible
    tiles: ProductTiles | None = None
    """None if `plausible.distance` is None."""

    def reject_reason(self, appearance: Appearance) -> str | None:
        """Describe why a frame is not plausible, with its numbers; None if it is plausible."""
        deviations = self.deviations(appearance)
        return f"it does not look like the product: {'; '.join(deviations)}" if deviations else None

    @property
    def knows_areas(self) -> bool:
        """Whether the cells of frames are compared, and not only their lines."""
        return self.plausible.areas is not None and self.plausible.areas.cell is not None

    def foreign_areas(self, appearance: Appearance) -> list[ForeignArea]:
        """Return the areas of a frame that the product cannot show, each with its place."""
        limits, tiles = self.plausible.areas, self.tiles
        return [] if limits is None else find_areas(appearance, limits, None if tiles is None else tiles.cells)

    def deviations(self, appearance: Appearance) -> list[str]:
        """Describe each measure of a frame that is not plausible, with its numbers."""
        plausible, statistics = self.plausible, appearance.statistics
        deviations = []
        for name, side_px, (lowest_px, highest_px) in (
            ("height", appearance.frame_hw[0], plausible.height_px),
            ("width", appearance.frame_hw[1], plausible.width_px),
        ):
            if not lowest_px <= side_px <= highest_px:
                deviations.append(f"{name} {side_px} px, expected {_range(lowest_px, highest_px)}")
        for name, (low, high) in ranges(plausible).items():
            value = getattr(statistics, name)
            if not low <= value <= (math.inf if high is None else high):
                upper = "or more" if high is None else f"to {high:.3g}"
                deviations.append(f"{name} {value:.3g}, expected {low:.3g} {upper}")
        if self.tiles is not None and plausible.distance is not None:
            features = appearance.features
            distance = math.nan if features is None else self.tiles.distance(features)
            if not distance <= plausible.distance:  # an unknown distance is not plausible either
                limit = plausible.distance
                deviations.append(
                    f"features {distance:.3g} standard deviations from those of the product, expected up to {limit:.3g}"
                )
        return deviations


def fit_plausibility(appearances: Sequence[Appearance], groups: Sequence[str] | None = None) -> Plausibility:
    """Derive the plausible ranges from frames of the product, which may include defective ones.

    Args:
        appearances: at least one.
        groups: the group of each frame; frames of one group show the same thing. None: each frame is a group, and
            neighbouring frames are left out together.
    """
    count = len(appearances)
    sizes = np.array([each.frame_hw for each in appearances])
    statistics = {name: [getattr(each.statistics, name) for each in appearances] for name in STATISTICS}
    lowest = {name: min(statistics[name]) * (1 - slack) for name, slack in SLACK.items()}
    detail = min(statistics["detail"])
    lowest_detail = SMOOTH_DETAIL + REMAINING_DETAIL * (detail - SMOOTH_DETAIL) if detail >= EDGE_DETAIL else 0.0
    brightest = min(max(statistics["brightness"]) * (1 + SLACK["brightness"]), 255.0)
    names = np.arange(count).astype(str) if groups is None else np.array(groups)
    tiles, farthest = _fit_tiles(appearances, names)
    areas, cells = fit_areas(appearances, names)
    return Plausibility(
        Plausible(
            frames=count,
            height_px=_sides(sizes[:, 0]),
            width_px=_sides(sizes[:, 1]),
            distance=farthest,
            brightness=(lowest["brightness"], brightest),
            contrast=(lowest["contrast"], None),
            sharpness=(lowest["sharpness"], None),
            detail=(lowest_detail, None),
            areas=areas,
        ),
        None if tiles is None else replace(tiles, cells=cells),
    )


def ranges(plausible: Plausible) -> dict[str, tuple[float, float | None]]:
    """Return the plausible range of each statistic that the bundle knows, by its name."""
    return {name: found for name in STATISTICS if (found := getattr(plausible, name)) is not None}


def find_outliers(appearances: Sequence[Appearance]) -> dict[int, str]:
    """Find frames that are implausible compared with all the others. Return a description by index; among fewer than 5
    frames there is no outlier.

    Two frames that look alike are not outliers: each shows that the other is not an accident.
    """
    if len(appearances) < FEWEST_TO_STAND_OUT:
        return {}
    appearances = [replace(each, cells=None) for each in appearances]  # whole frames are compared
    ends = {  # only a frame with the lowest or highest value of some measure is likely to be an outlier
        end(range(len(appearances)), key=values.__getitem__)
        for values in _measures(appearances)
        if min(values) < max(values)
        for end in (min, max)
    }
    outliers = {}
    for index in sorted(ends):
        others = fit_plausibility([*appearances[:index], *appearances[index + 1 :]])
        if deviations := others.deviations(appearances[index]):
            outliers[index] = "; ".join(deviations)
    return outliers


def _measures(appearances: Sequence[Appearance]) -> list[list[float]]:
    """Return the values of all frames, measure by measure."""
    measures = [[getattr(each.statistics, name) for each in appearances] for name in STATISTICS]
    measures += [[float(each.frame_hw[axis]) for each in appearances] for axis in (0, 1)]
    features = [each.features for each in map(Appearance.thinned, appearances) if each.features is not None]
    if len(features) == len(appearances):
        tiles = ProductTiles.of(np.concatenate(features))
        measures.append([tiles.distance(each) for each in features])
    return measures


def _fit_tiles(appearances: Sequence[Appearance], groups: NDArray[np.str_]) -> tuple[ProductTiles | None, float | None]:
    """Return the features of the product's tiles, and the largest plausible distance of a frame from them."""
    features = [each.features for each in map(Appearance.thinned, appearances) if each.features is not None]
    fold, number = folds(groups)
    if len(features) < len(groups) or number < FEWEST_GROUPS:
        return None, None
    farthest = 0.0
    for left_out in np.unique(fold).tolist():
        tiles = ProductTiles.of(np.concatenate([features[index] for index in np.flatnonzero(fold != left_out)]))
        for index in np.flatnonzero(fold == left_out).tolist():
            farthest = max(farthest, tiles.distance(features[index]))
    return ProductTiles.of(np.concatenate(features)), min(farthest * margin(number), FARTHEST)


def margin(groups: int) -> float:
    """Return the factor by which a new frame may exceed the largest distance of this many groups; docs/bundle.md gives
    its basis.
    """
    return 1 + min(1.5, 6 / math.sqrt(groups))


def _sides(px: NDArray[np.int64]) -> tuple[int, int]:
    low, high = int(px.min()), int(px.max())
    if low == high:
        return low, high
    return max(1, math.floor(low * (1 - SIZE_SLACK))), math.ceil(high * (1 + SIZE_SLACK))


def _range(low: int, high: int) -> str:
    return f"{low} px" if low == high else f"{low} to {high} px"
