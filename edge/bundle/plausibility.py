"""Whether a frame shows the product, in focus and in the usual light.

A classifier only knows good and defective; its answer to a black picture, or to another product, means nothing. So
calibration records the appearance of frames of the product. A whole frame with another appearance gets no verdict:

- size in px, brightness, contrast, sharpness and detail;
- if the graph gives features of tiles, their Mahalanobis distance from the features of the product's tiles. A frame's
  distance is the median over its tiles, so that a defect, which covers few of them, does not count.

A frame with an area that the product cannot show gets no verdict either: a lost or torn transfer, a hand, a label,
another product's part. A cell is foreign if it is farther than any usual good cell from the prototypes of good cells,
see PatchCore (Roth et al. 2022, https://arxiv.org/abs/2106.08265). Distances are measured after subtracting the frame's
own median cell: other light, focus or noise moves all cells alike, and is the whole frame's affair, not an area's.

Distances are measured on frames whose own group was left out, as frames on the line are new. With few groups the
largest plausible one gets a wider margin, as new frames may lie beyond all known ones.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.appearance import FAR_PX, STATISTICS, Appearance, Cells, Floats, fit_lines
from heatline.edge.bundle.golden import read_arrays
from heatline.edge.bundle.manifest import Areas, Plausible
from heatline.edge.geometry import Stitcher, TileGrid
from heatline.edge.util.sampling import divide, k_means
from heatline.edge.util.text import describe_range
from heatline.edge.wire.events import ForeignArea

FEWEST_TO_STAND_OUT = 5
"""Among fewer frames, an outlier cannot be found."""
RIDGE, CELL_RIDGE = 0.05, 0.02
"""Shares of the correlation matrices of tiles' and cells' features that are replaced by the identity."""
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
PROTOTYPES = 128
PROJECTED = 32
"""Features of a cell after the projection: enough to keep distances, few enough to cost under 1 % of a frame."""
MOST_CELLS = 20_000
"""At most about this many cells of all frames together give projection and prototypes."""
MEDIAN_OF = 512
"""At most about this many cells give the frame's median cell."""
FEWEST_GROUPS = 3
"""With fewer groups of frames, features are not used."""
FEWEST_CELLS = 10 * PROTOTYPES
"""With fewer cells of all frames, prototypes would be single cells."""
FEWEST_FOREIGN = 4
"""An area has at least so many cells: in a small region of interest, a single unusual cell is a large share."""
CELL_QUANTILE, CELL_MARGIN = 0.99, 1.1
"""A cell is foreign beyond this quantile of good cells, times the margin."""
AREA_QUANTILE, AREA_MARGIN, SMALLEST_AREA = 0.99, 1.5, 0.02
"""The largest plausible area is this quantile of the groups' largest areas, times the margin; at least this share of
what is inspected."""


@dataclass(frozen=True, eq=False)
class ProductCells:
    """What the cells of good frames look like."""

    projection: Floats
    """[c, d]: whitens the features of good cells, and projects them at random, which keeps distances (Johnson and
    Lindenstrauss 1984)."""
    prototypes: Floats
    """[k, d], of centred cells."""

    @classmethod
    def of(cls, frames: Sequence[Cells]) -> "ProductCells":
        """Fit to frames of tiles [tiles, h, w, c]. Cells that are not finite are left out; some must be finite."""
        rng = np.random.default_rng(0)
        each = math.ceil(MOST_CELLS / len(frames))

        def some(frame: Cells, projection: Floats | None) -> Floats:
            cells = frame.reshape(-1, frame.shape[-1]).astype(np.float32)
            if projection is not None:
                cells = _centred(cells @ projection)
            return rng.permutation(cells[np.isfinite(cells[:, 0])])[:each]

        cells = np.concatenate([some(frame, None) for frame in frames])
        channels = cells.shape[1]
        random = rng.normal(size=(channels, min(PROJECTED, channels))) / np.sqrt(min(PROJECTED, channels) * channels)
        projection = np.asarray(_whitening(cells, CELL_RIDGE, 1e-3) @ random, np.float32)
        return cls(projection, k_means(np.concatenate([some(frame, projection) for frame in frames]), PROTOTYPES, 0))

    def distances(self, frame: Cells) -> Floats:
        """Return the distance of each cell of a frame's tiles [tiles, h, w, c] to the nearest prototype, [tiles, h, w];
        about 1 for a good cell, NaN where a cell is not finite.
        """
        centred = _centred(frame.reshape(-1, frame.shape[-1]) @ self.projection)
        # One array for the millions of pairs of a large frame.
        to_each = centred @ (-2 * self.prototypes.T)
        to_each += (self.prototypes**2).sum(axis=1)
        nearest = to_each.min(axis=1) + (centred**2).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(nearest, 0)), np.float32).reshape(frame.shape[:3])


def cell_map(distances: Floats, grid: TileGrid) -> Floats:
    """Stitch the distances of a frame's tiles [tiles, h, w] to one map [H, W] with cells of the same size; NaN outside
    the region of interest.
    """
    stitcher, outside = _stitcher(grid, distances.shape[1:])
    stitched = stitcher.stitch(np.nan_to_num(distances))
    stitched[outside] = np.nan
    return stitched


def largest_area(cells: Floats, limit: float, fewest: int = 1) -> tuple[float, tuple[int, int, int, int]]:
    """Return the largest connected area of a map [H, W] above a limit, as a share of the cells that are not NaN, and
    its box (x0, y0, x1, y1) in cells; (0, ...) if none has `fewest` cells.
    """
    foreign = np.nan_to_num(cells, nan=-1.0) > limit
    _, _, stats, _ = cv2.connectedComponentsWithStats(foreign.astype(np.uint8), connectivity=8)
    stats[0] = 0  # all other cells
    x, y, width, height, size = stats[int(stats[:, cv2.CC_STAT_AREA].argmax())].tolist()
    if size < fewest:
        return 0.0, (0, 0, 0, 0)
    return size / int(np.isfinite(cells).sum()), (x, y, x + width, y + height)


@lru_cache(maxsize=32)
def _stitcher(grid: TileGrid, cells_hw: tuple[int, int]) -> tuple[Stitcher, NDArray[np.bool_]]:
    """Return the stitcher of maps of this size, and the cells outside the region of interest."""
    stitcher = Stitcher(grid, cells_hw, grid.tile_px // cells_hw[0])
    mask = grid.region_of_interest.mask(grid.frame_hw)
    return stitcher, ~mask[np.ix_(stitcher.centres_y.astype(int), stitcher.centres_x.astype(int))]


def _centred(cells: Cells) -> Floats:
    """Subtract the median of a frame's cells [n, d]."""
    known = cells[np.isfinite(cells[:, 0])]
    return np.asarray(cells - np.median(known[:: max(1, len(known) // MEDIAN_OF)], axis=0), np.float32)


def _whitening(features: Floats, ridge: float, floor: float) -> NDArray[np.float64]:
    """Return the matrix [c, c] that whitens features [n, c]: a distance of 1 is one standard deviation in each.

    Args:
        ridge: share of the correlation matrix that is replaced by the identity, as few features cannot show all of it.
        floor: added to each standard deviation, which may be 0.
    """
    deviation = features.std(axis=0) + floor
    scaled = (features - features.mean(axis=0)) / deviation
    correlation = (1 - ridge) * scaled.T @ scaled / max(len(scaled) - 1, 1) + ridge * np.eye(len(deviation))
    variance, axes = np.linalg.eigh(correlation)
    return np.asarray(axes / np.sqrt(np.maximum(variance, ridge)) / deviation[:, None])


def find_areas(appearance: Appearance, limits: Areas, cells: ProductCells | None) -> list[ForeignArea]:
    """Return the areas of a frame beyond the limits, each with its place; without cells, only lines are compared."""
    height, width = appearance.frame_hw
    left, top, right, bottom = appearance.measured_xyxy or (0, 0, width, height)
    areas = []
    for name, stretch in appearance.lines.items():
        limit = limits.lines.get(name)
        if limit is None or stretch.value <= limit:
            continue
        kind, lines = name.split("_")
        across = lines == "rows"
        first, end = (side + (top if across else left) for side in (stretch.first_px, stretch.end_px))
        if kind == "torn":
            at = f"{lines.removesuffix('s')} {end - 1}: a step {stretch.value:.1f} times the usual"
            why = f"the picture has a seam at {at}, expected up to {limit:.1f}"
        else:
            why = (
                f"{lines} {first} to {end - 1} repeat the one before: {_percent(stretch.value)} of the "
                f"{'height' if across else 'width'}, expected up to {_percent(limit)}"
            )
        areas.append(ForeignArea((left, first, right, end) if across else (first, top, end, bottom), why))
    if cells is None or limits.cell is None or limits.share is None or appearance.cells is None or not appearance.grid:
        return areas
    share, box = largest_area(cell_map(cells.distances(appearance.cells), appearance.grid), limits.cell, FEWEST_FOREIGN)
    if share > limits.share:
        px = appearance.grid.tile_px // appearance.cells.shape[1]
        x0, y0, x1, y1 = (min(side * px, end) for side, end in zip(box, (width, height) * 2, strict=True))
        why = (
            f"x {x0} to {x1}, y {y0} to {y1} px does not look like the product: {_percent(share)} of the inspected "
            f"area, expected up to {_percent(limits.share)}"
        )
        areas.insert(0, ForeignArea((x0, y0, x1, y1), why))  # it says more than the seams at its sides
    return areas


def fit_areas(appearances: Sequence[Appearance], groups: NDArray[np.str_]) -> tuple[Areas, ProductCells | None]:
    """Return the limits of areas, and the cells of the product, from the frames that have cells, or from all."""
    known = [index for index, each in enumerate(appearances) if each.cells is not None]
    used = [appearances[index] for index in known] or appearances
    areas = Areas(lines=fit_lines([each.lines for each in used]), frames=len(used))
    fold, number = np.array(divide(groups[known].tolist())), len(set(groups[known].tolist()))
    frames = [(each.cells, each.grid) for each in used if each.cells is not None and each.grid is not None]
    if number < FEWEST_GROUPS or sum(np.isfinite(cells[..., 0]).sum() for cells, _ in frames) < FEWEST_CELLS:
        return areas, None
    maps: dict[int, Floats] = {}
    for left_out in np.unique(fold).tolist():
        others = ProductCells.of([cells for (cells, _), of in zip(frames, fold, strict=True) if of != left_out])
        for index in np.flatnonzero(fold == left_out).tolist():
            cells, grid = frames[index]
            maps[index] = cell_map(others.distances(cells), grid)
    limit = CELL_MARGIN * float(np.nanquantile(np.concatenate([each.ravel() for each in maps.values()]), CELL_QUANTILE))
    largest: dict[str, float] = {}
    for index, name in enumerate(groups[known].tolist()):
        largest[name] = max(largest.get(name, 0.0), largest_area(maps[index], limit, FEWEST_FOREIGN)[0])
    share = min(1.0, max(SMALLEST_AREA, AREA_MARGIN * float(np.quantile(list(largest.values()), AREA_QUANTILE))))
    refused = sum(each > share for each in largest.values())
    areas = msgspec.structs.replace(areas, cell=limit, share=share, groups=number, refused=refused)
    return areas, ProductCells.of([cells for cells, _ in frames])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


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
        whitening = _whitening(features, RIDGE, 1e-3 * float(features.std(axis=0).mean()) + 1e-12)
        return cls(features.mean(axis=0).astype(np.float32), whitening.astype(np.float32))

    @classmethod
    def load(cls, path: Path, channels: int) -> "ProductTiles":
        """Read the features in a file; raise a BundleError if it has none of this number of channels."""
        arrays = read_arrays(path, "features of tiles", {"mean": (channels,), "whitening": (channels, channels)})
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
        height, width = appearance.frame_hw
        measured: list[tuple[str, str, float, tuple[float, float | None]]] = [
            ("height", " px", height, plausible.height_px),
            ("width", " px", width, plausible.width_px),
        ]
        measured += [(name, "", getattr(statistics, name), found) for name, found in ranges(plausible).items()]
        deviations = [
            f"{name} {describe_range(value, value)}{unit}, expected {describe_range(low, high)}{unit}"
            for name, unit, value, (low, high) in measured
            if not low <= value <= (math.inf if high is None else high)
        ]
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
    """Derive the plausible ranges from frames of the product, at least one, which may include defective ones. Frames of
    one group show the same thing; without groups, each is one, and neighbouring frames are left out together.
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
    measures = [[getattr(each.statistics, name) for each in appearances] for name in STATISTICS]
    measures += [[float(each.frame_hw[axis]) for each in appearances] for axis in (0, 1)]
    features = [each.features for each in map(Appearance.thinned, appearances) if each.features is not None]
    if len(features) == len(appearances):
        tiles = ProductTiles.of(np.concatenate(features))
        measures.append([tiles.distance(each) for each in features])
    ends = {  # only a frame with the lowest or highest value of some measure is likely to be an outlier
        end(range(len(appearances)), key=values.__getitem__)
        for values in measures
        if min(values) < max(values)
        for end in (min, max)
    }
    outliers = {}
    for index in sorted(ends):
        others = fit_plausibility([*appearances[:index], *appearances[index + 1 :]])
        if deviations := others.deviations(appearances[index]):
            outliers[index] = "; ".join(deviations)
    return outliers


def _fit_tiles(appearances: Sequence[Appearance], groups: NDArray[np.str_]) -> tuple[ProductTiles | None, float | None]:
    """Return the features of the product's tiles, and the largest plausible distance of a frame from them."""
    features = [each.features for each in map(Appearance.thinned, appearances) if each.features is not None]
    fold, number = np.array(divide(groups.tolist())), len(set(groups.tolist()))
    if len(features) < len(groups) or number < FEWEST_GROUPS:
        return None, None
    farthest = 0.0
    for left_out in np.unique(fold).tolist():
        tiles = ProductTiles.of(np.concatenate([features[index] for index in np.flatnonzero(fold != left_out)]))
        for index in np.flatnonzero(fold == left_out).tolist():
            farthest = max(farthest, tiles.distance(features[index]))
    margin = 1 + min(1.5, 6 / math.sqrt(number))  # docs/bundle.md
    return ProductTiles.of(np.concatenate(features)), min(farthest * margin, FARTHEST)


def _sides(px: NDArray[np.int64]) -> tuple[int, int]:
    low, high = int(px.min()), int(px.max())
    if low == high:
        return low, high
    return max(1, math.floor(low * (1 - SIZE_SLACK))), math.ceil(high * (1 + SIZE_SLACK))
