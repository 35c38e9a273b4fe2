"""Stitches the maps of a frame's tiles into one heatmap.

Along each axis, a heatmap cell samples the map of every tile that covers its centre: linearly between the centres of
map cells (half-pixel correct, `align_corners=False`), held constant beyond the outermost ones. Overlapping tiles are
weighted by the distance of the cell from each tile's border, so that the tile with more context counts more and no
weight is zero. Then the heatmap may be smoothed, by a Gaussian cut off at three standard deviations and at the frame's
border. As grid, sampling, weights and smoothing separate into rows and columns, two small matrix products suffice:
heatmap = Y M X^T, where M holds all maps side by side. As a heatmap cell samples only the maps near it, Y and X are
zero outside a band along their diagonal, and only the band is multiplied.

If tiles are absent, the others share the weight: their maps are mixed as if the absent maps held zeros, and divided by
the same mix of maps of ones. Cells that no tile covers are NaN: they are not cold, they were not inspected. Rows and
columns without any tile are left out of M, Y and X, so that few tiles cost little.

Smoothing is needed because a network with a large receptive field spreads the evidence of one defect evenly over the
cells around it: the highest cell is anywhere in that spot, often on its rim. The smoothed spot is highest in its
centre.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heatline.edge.geometry.tiling import TileGrid

HEATMAP_CELL_PX = 4
BAND_CELLS = 32
"""Half a tile: few enough cells to sample few maps, and enough to make a matrix product worth its call."""


class Stitcher:
    """Stitches the maps of one grid. Immutable, so threads may share it.

    Args:
        map_hw: cells of one tile's map.
        cell_px: side of a heatmap cell, px.
        smoothing_px: standard deviation of the smoothing, px of the frame; 0: none.
    """

    def __init__(
        self, grid: TileGrid, map_hw: tuple[int, int], cell_px: int = HEATMAP_CELL_PX, smoothing_px: float = 0.0
    ) -> None:
        self.grid, self.map_hw, self.cell_px = grid, map_hw, cell_px
        self.centres_y = _cell_centres(grid.frame_hw[0], cell_px)
        self.centres_x = _cell_centres(grid.frame_hw[1], cell_px)
        tiles_y, tiles_x = zip(*grid.origins_yx, strict=True)
        self._rows = _Axis(self.centres_y, grid.rows_y, tiles_y, grid.tile_px, map_hw[0], smoothing_px)
        self._columns = _Axis(self.centres_x, grid.columns_x, tiles_x, grid.tile_px, map_hw[1], smoothing_px)
        self._weight = (
            None
            if len(grid) == len(grid.rows_y) * len(grid.columns_x)
            else self._weight_of(np.ones(len(grid), np.bool_))
        )

    @property
    def heatmap_hw(self) -> tuple[int, int]:
        """Height and width of the heatmap in cells: the frame's size divided by `cell_px`, rounded up."""
        return len(self.centres_y), len(self.centres_x)

    def stitch(self, maps: NDArray[np.float32], present: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Return the heatmap of a frame, float32 [*heatmap_hw], logits as the maps; NaN where no tile covers a cell.

        Args:
            maps: [len(grid), *map_hw].
            present: [len(grid)], tiles of the grid to use. Default: all.
        """
        weight = self._weight
        if present is not None:
            maps, weight = np.where(present[:, None, None], maps, np.float32(0)), self._weight_of(present)
        if weight is None:
            return self._mix(maps)
        heatmap = np.full(self.heatmap_hw, np.nan, np.float32)
        heatmap[self._rows.cells, self._columns.cells] = self._mix(maps) / weight
        return heatmap

    def tile_cells(self, tile: int) -> tuple[slice, slice]:
        """Return the heatmap cells whose centres lie in a tile."""
        y, x = self.grid.origins_yx[tile]
        return _inside(self.centres_y, y, self.grid.tile_px), _inside(self.centres_x, x, self.grid.tile_px)

    def _weight_of(self, present: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the `_mix` of ones in these tiles and zeros in the others; NaN where these tiles cover nothing."""
        covered = np.zeros(self.heatmap_hw, np.bool_)
        for tile in np.flatnonzero(present):
            covered[self.tile_cells(int(tile))] = True
        ones = np.broadcast_to(present[:, None, None].astype(np.float32), (len(present), *self.map_hw))
        return np.where(covered[self._rows.cells, self._columns.cells], self._mix(ones), np.float32(np.nan))

    def _mix(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return Y M X^T for the rows and columns that have tiles; tiles that are not in the grid hold zeros."""
        (h, w), rows, columns = self.map_hw, self._rows, self._columns
        side_by_side = np.zeros((rows.tiles, h, columns.tiles, w), np.float32)
        side_by_side[rows.of_tile, :, columns.of_tile] = maps
        matrix = side_by_side.reshape(rows.tiles * h, columns.tiles * w)
        mixed_x = np.empty((len(matrix), columns.cell_count), np.float32)
        for band in columns.bands:
            np.matmul(matrix[:, band.map_cells], band.matrix.T, out=mixed_x[:, band.cells])
        mixed = np.empty((rows.cell_count, columns.cell_count), np.float32)
        for band in rows.bands:
            np.matmul(band.matrix, mixed_x[band.map_cells], out=mixed[band.cells])
        return mixed


class _Band(NamedTuple):
    """Some heatmap cells of an axis, all map cells that they sample, and the weights between them."""

    cells: slice
    map_cells: slice
    matrix: NDArray[np.float32]
    """[cells, map cells]"""


class _Axis:
    """One axis: its rows (or columns) that have tiles, renumbered, and the weights of their map cells.

    Args:
        centres: centres of all heatmap cells, px.
        origins: starts of all rows of tiles in the frame, px.
        tiles: start of each tile of the grid, px.
    """

    def __init__(
        self,
        centres: NDArray[np.float64],
        origins: tuple[int, ...],
        tiles: tuple[int, ...],
        tile_px: int,
        map_cells: int,
        smoothing_px: float,
    ) -> None:
        used, self.of_tile = np.unique(tiles, return_inverse=True)
        self.tiles = len(used)
        self.cells = slice(*np.searchsorted(centres, [used[0], used[-1] + tile_px]).tolist())
        """The heatmap cells from the first to the last such row."""
        full_matrix = _axis_matrix(centres, origins, tile_px, map_cells, smoothing_px)
        matrix = full_matrix.reshape(len(centres), len(origins), map_cells)[self.cells, np.isin(origins, used)]
        self.cell_count = len(matrix)
        matrix = matrix.reshape(-1, self.tiles * map_cells)
        self.bands: list[_Band] = []
        """Bands of `BAND_CELLS` cells, which leave out most of the matrix's zeros."""
        for first in range(0, len(matrix), BAND_CELLS):
            cells = slice(first, min(first + BAND_CELLS, len(matrix)))
            sampled = np.flatnonzero(matrix[cells].any(axis=0))
            used_cells = slice(int(sampled[0]), int(sampled[-1]) + 1) if sampled.size else slice(0, 0)  # between areas
            self.bands.append(_Band(cells, used_cells, np.ascontiguousarray(matrix[cells, used_cells])))


def _cell_centres(length_px: int, cell_px: int) -> NDArray[np.float64]:
    """Return the centre of each heatmap cell, px; that of the last cell stays within the frame."""
    cells = -(-length_px // cell_px)
    return np.asarray(np.minimum((np.arange(cells) + 0.5) * cell_px, length_px - 0.5))


def _inside(centres: NDArray[np.float64], start_px: int, tile_px: int) -> slice:
    return slice(*np.searchsorted(centres, [start_px, start_px + tile_px]).tolist())


def _axis_matrix(
    centres: NDArray[np.float64], origins: tuple[int, ...], tile_px: int, map_cells: int, smoothing_px: float
) -> NDArray[np.float32]:
    """Return the weight of each map cell in each heatmap cell: [heatmap cells, tiles * map cells], rows sum to 1."""
    offset = centres[:, None] - np.asarray(origins)[None, :]  # (cells, tiles), px from each tile's start
    # A centre exactly on a tile's border gets a tiny weight, so that it is covered if no other tile covers it.
    weight = np.where((offset >= 0) & (offset < tile_px), np.maximum(np.minimum(offset, tile_px - offset), 1e-9), 0.0)
    weight /= weight.sum(axis=1, keepdims=True)
    position = np.clip(offset * map_cells / tile_px - 0.5, 0, map_cells - 1)  # in map cells, 0 = centre of the first
    lower = np.minimum(position.astype(int), max(map_cells - 2, 0))
    upper = np.minimum(lower + 1, map_cells - 1)
    matrix = np.zeros((*offset.shape, map_cells))
    cell, tile = np.indices(offset.shape)
    matrix[cell, tile, upper] += weight * (position - lower)
    matrix[cell, tile, lower] += weight * (1 - (position - lower))
    mixed = matrix.reshape(len(centres), -1)
    if smoothing_px:
        distance = (centres[:, None] - centres[None, :]) / smoothing_px
        weight = np.where(np.abs(distance) <= 3, np.exp(-(distance**2) / 2), 0.0)
        mixed = weight / weight.sum(axis=1, keepdims=True) @ mixed  # [cells, cells], whose rows sum to 1
    return mixed.astype(np.float32)
