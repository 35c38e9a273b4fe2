"""Areas of a frame that the product's good frames never show, by the features of small cells.

A cell is foreign if it is farther than any usual good cell from the prototypes of good cells, see PatchCore (Roth et
al. 2022, https://arxiv.org/abs/2106.08265). Distances are measured after subtracting the frame's own median cell: other
light, focus or noise moves all cells alike, and is the whole frame's affair, not an area's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.geometry import WHOLE_FRAME, Stitcher, TileGrid
from heatline.edge.util.k_means import k_means

PROTOTYPES = 128
PROJECTED = 32
"""Features of a cell after the projection: enough to keep distances, few enough to cost under 1 % of a frame."""
RIDGE = 0.02
"""Share of the features' correlation matrix that is replaced by the identity, as few cells cannot show all of it."""
MOST_CELLS = 20_000
"""At most about this many cells of all frames together give projection and prototypes."""
MEDIAN_OF = 512
"""At most about this many cells give the frame's median cell."""
Floats = NDArray[np.float32]
Cells = NDArray[np.floating[Any]]


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
