"""Areas of a frame that the product cannot show: a lost or torn transfer, a hand, a label, another product's part.

The limits come from good frames. Cells are compared with those of frames whose own group was left out, as frames on the
line are new. A cell is foreign if it is farther than any usual good cell from the prototypes of good cells, see
PatchCore (Roth et al. 2022, https://arxiv.org/abs/2106.08265). Distances are measured after subtracting the frame's own
median cell: other light, focus or noise moves all cells alike, and is the whole frame's affair, not an area's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.appearance import Appearance, Cells, Floats
from heatline.edge.bundle.lines import LineMeasure, fit_lines
from heatline.edge.bundle.manifest import Areas
from heatline.edge.geometry import WHOLE_FRAME, Stitcher, TileGrid
from heatline.edge.util.sampling import k_means
from heatline.edge.wire.events import ForeignArea

PROTOTYPES = 128
PROJECTED = 32
"""Features of a cell after the projection: enough to keep distances, few enough to cost under 1 % of a frame."""
RIDGE = 0.02
"""Share of the features' correlation matrix that is replaced by the identity, as few cells cannot show all of it."""
MOST_CELLS = 20_000
"""At most about this many cells of all frames together give projection and prototypes."""
MEDIAN_OF = 512
"""At most about this many cells give the frame's median cell."""


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

        projection = _projection(np.concatenate([some(frame, None) for frame in frames]), rng)
        return cls(projection, k_means(np.concatenate([some(frame, projection) for frame in frames]), PROTOTYPES, 0))

    def distances(self, frame: Cells) -> Floats:
        """Return the distance of each cell of a frame's tiles [tiles, h, w, c] to the nearest prototype, [tiles, h, w];
        about 1 for a good cell, NaN where a cell is not finite.
        """
        centred = _centred(frame.reshape(-1, frame.shape[-1]) @ self.projection)
        # As `squared_distances`, with one array for the millions of pairs of a large frame.
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
    if outside is not None:
        stitched[outside] = np.nan
    return stitched


def largest_area(cells: Floats, limit: float, fewest: int = 1) -> tuple[float, tuple[int, int, int, int]]:
    """Return the largest connected area of a map [H, W] above a limit, as a share of the cells that are not NaN, and
    its box (x0, y0, x1, y1) in cells; (0, ...) if none has `fewest` cells.
    """
    foreign = np.nan_to_num(cells, nan=-1.0) > limit
    count, _, stats, _ = cv2.connectedComponentsWithStats(foreign.astype(np.uint8), connectivity=8)
    if count < 2:
        return 0.0, (0, 0, 0, 0)
    x, y, width, height, size = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())].tolist()
    if size < fewest:
        return 0.0, (0, 0, 0, 0)
    return size / int(np.isfinite(cells).sum()), (x, y, x + width, y + height)


@lru_cache(maxsize=32)
def _stitcher(grid: TileGrid, cells_hw: tuple[int, int]) -> tuple[Stitcher, NDArray[np.bool_] | None]:
    stitcher = Stitcher(grid, cells_hw, grid.tile_px // cells_hw[0])
    if grid.region_of_interest == WHOLE_FRAME:
        return stitcher, None
    mask = grid.region_of_interest.mask(grid.frame_hw)
    return stitcher, ~mask[np.ix_(stitcher.centres_y.astype(int), stitcher.centres_x.astype(int))]


def _centred(cells: Cells) -> Floats:
    """Subtract the median of a frame's cells [n, d]."""
    known = cells[np.isfinite(cells[:, 0])]
    return np.asarray(cells - np.median(known[:: max(1, len(known) // MEDIAN_OF)], axis=0), np.float32)


def _projection(cells: Floats, rng: np.random.Generator) -> Floats:
    """Return the projection [c, d] of good cells [n, c]; a distance of 1 is one standard deviation in each feature."""
    channels = cells.shape[1]
    deviation = cells.std(axis=0) + 1e-3
    correlation = np.cov((cells - cells.mean(axis=0)) / deviation, rowvar=False).reshape(channels, channels)
    variance, axes = np.linalg.eigh((1 - RIDGE) * correlation + RIDGE * np.eye(channels))
    whitening = axes / np.sqrt(variance) / deviation[:, None]
    projected = min(PROJECTED, channels)
    random = rng.normal(size=(channels, projected)) / np.sqrt(projected * channels)
    return np.asarray(whitening @ random, np.float32)


FOLDS = 5
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


def find_areas(appearance: Appearance, limits: Areas, cells: ProductCells | None) -> list[ForeignArea]:
    """Return the areas of a frame beyond the limits, each with its place.

    Args:
        cells: None: only lines are compared.
    """
    height, width = appearance.frame_hw
    left, top, right, bottom = appearance.measured_xyxy or (0, 0, width, height)
    areas = []
    for name, stretch in (appearance.lines or {}).items():
        limit = limits.lines.get(name)
        if limit is None or stretch.value <= limit:
            continue
        first, end = (side + (top if name.endswith("rows") else left) for side in (stretch.first_px, stretch.end_px))
        why = _describe_lines(name, first, end - 1, stretch.value, limit)
        areas.append(
            ForeignArea((left, first, right, end) if name.endswith("rows") else (first, top, end, bottom), why)
        )
    if cells is None or limits.cell is None or limits.share is None:
        return areas
    if appearance.cells is None or appearance.grid is None:
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


def fit_areas(appearances: Sequence[Appearance], groups: NDArray[np.str_]) -> tuple[Areas | None, ProductCells | None]:
    """Return the limits of areas, and the cells of the product, from the frames that have cells, or from all.

    Args:
        groups: the group of each frame.
    """
    known = [index for index, each in enumerate(appearances) if each.cells is not None]
    used = [appearances[index] for index in known] or appearances
    lines = [each.lines for each in used if each.lines is not None]
    if not lines:
        return None, None
    areas = Areas(lines=fit_lines(lines), frames=len(lines))
    fold, number = folds(groups[known])
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


def _describe_lines(name: LineMeasure, first: int, last: int, value: float, limit: float) -> str:
    kind, lines = name.split("_")
    if kind == "torn":
        at = f"{lines.removesuffix('s')} {last}"
        return f"the picture has a seam at {at}: a step {value:.1f} times the usual, expected up to {limit:.1f}"
    side = "height" if lines == "rows" else "width"
    return (
        f"{lines} {first} to {last} repeat the one before: {_percent(value)} of the {side}, expected up to "
        f"{_percent(limit)}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def folds(groups: NDArray[np.str_]) -> tuple[NDArray[np.int64], int]:
    """Return the fold of each frame, which is the same for all of a group, and the number of groups."""
    number = {name: index for index, name in enumerate(dict.fromkeys(groups.tolist()))}
    return np.array([number[name] * FOLDS // len(number) for name in groups.tolist()], np.int64), len(number)
