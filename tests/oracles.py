"""The slow, obvious versions of the numerical kernels, in plain loops, to hold the fast ones to."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def tiles_of(image: NDArray[np.uint8], tile_px: int, overlap_px: int) -> list[tuple[int, int, NDArray[np.uint8]]]:
    """(y, x, tile) of every tile, row by row; px outside the frame repeat the nearest px inside."""
    height, width = image.shape[:2]
    tiles = []
    for y in starts(height, tile_px, overlap_px):
        for x in starts(width, tile_px, overlap_px):
            tile = np.zeros((tile_px, tile_px, image.shape[2]), np.uint8)
            for row in range(tile_px):
                for column in range(tile_px):
                    tile[row, column] = image[min(y + row, height - 1), min(x + column, width - 1)]
            tiles.append((y, x, tile))
    return tiles


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Walk along an axis until a tile reaches its end; that tile is moved back to end there."""
    found, start = [], 0
    while start + tile < length:
        found.append(start)
        start += tile - overlap
    found.append(max(length - tile, 0))
    return found


def bilinear(grid: NDArray[np.float64], y: float, x: float) -> float:
    """Value of a map at (y, x), in cells from its top left corner; cell (i, j) has its centre at (i + 0.5, j + 0.5)."""
    h, w = grid.shape
    y, x = min(max(y - 0.5, 0), h - 1), min(max(x - 0.5, 0), w - 1)
    top, left = int(y), int(x)
    below, right = min(top + 1, h - 1), min(left + 1, w - 1)
    down, across = y - top, x - left
    upper = grid[top, left] * (1 - across) + grid[top, right] * across
    lower = grid[below, left] * (1 - across) + grid[below, right] * across
    return float(upper * (1 - down) + lower * down)


def stitched(
    origins_yx: list[tuple[int, int]], maps: NDArray[np.float64], tile_px: int, frame_hw: tuple[int, int], cell_px: int
) -> NDArray[np.float64]:
    """Every heatmap cell: mean over the tiles that cover its centre, weighted by the distance to the tile's borders."""
    rows, columns = -(-frame_hw[0] // cell_px), -(-frame_hw[1] // cell_px)
    heatmap = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            y, x = min((i + 0.5) * cell_px, frame_hw[0] - 0.5), min((j + 0.5) * cell_px, frame_hw[1] - 0.5)
            total = weights = 0.0
            for (top, left), grid in zip(origins_yx, maps, strict=True):
                dy, dx = y - top, x - left
                if not (0 < dy < tile_px and 0 < dx < tile_px):
                    continue
                weight = min(dy, tile_px - dy) * min(dx, tile_px - dx)
                total += weight * bilinear(grid, dy * grid.shape[0] / tile_px, dx * grid.shape[1] / tile_px)
                weights += weight
            heatmap[i, j] = total / weights
    return heatmap


def components(inside: NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    """Connected areas, 8 neighbours, by flooding."""
    left = {(int(i), int(j)) for i, j in np.argwhere(inside)}
    found = []
    while left:
        area, edge = set(), [left.pop()]
        while edge:
            i, j = edge.pop()
            area.add((i, j))
            near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            edge += near
        found.append(area)
    return found


def smoothed(
    heatmap: NDArray[np.float64], centres_yx: tuple[list[float], list[float]], deviation: float
) -> NDArray[np.float64]:
    """Every cell: Gaussian mean over all cells at most three deviations away on each axis."""
    result = np.zeros_like(heatmap)
    for i, y in enumerate(centres_yx[0]):
        for j, x in enumerate(centres_yx[1]):
            total = weights = 0.0
            for k, other_y in enumerate(centres_yx[0]):
                for m, other_x in enumerate(centres_yx[1]):
                    if abs(y - other_y) > 3 * deviation or abs(x - other_x) > 3 * deviation:
                        continue
                    weight = math.exp(-((y - other_y) ** 2 + (x - other_x) ** 2) / (2 * deviation**2))
                    total += weight * heatmap[k, m]
                    weights += weight
            result[i, j] = total / weights
    return result


def distance_to_strokes(
    strokes: Sequence[tuple[Sequence[tuple[int, int]], float]], frame_hw: tuple[int, int]
) -> NDArray[np.float64]:
    """The distance of each px [H, W] from the nearest round brush, of a way (x, y) and a radius; negative: under it."""
    found, (ys, xs) = np.full(frame_hw, np.inf), np.mgrid[: frame_hw[0], : frame_hw[1]]
    for way, radius in strokes:
        for (ax, ay), (bx, by) in zip(way, [*way[1:], way[-1]], strict=True):
            along = ((xs - ax) * (bx - ax) + (ys - ay) * (by - ay)) / max((bx - ax) ** 2 + (by - ay) ** 2, 1)
            along = np.clip(along, 0, 1)
            found = np.minimum(found, np.hypot(xs - ax - along * (bx - ax), ys - ay - along * (by - ay)) - radius)
    return found
