"""The tiles that all is timed on."""

import numpy as np
from numpy.typing import NDArray

from bench.pictures import draw_shapes
from edge.geometry import TileGrid


def drawn_tiles(count: int, tile_px: int) -> NDArray[np.uint8]:
    """[count, tile, tile, 3] of a drawn picture."""
    image = draw_shapes((1250, 1600), seed=0)
    grid = TileGrid((1250, 1600), tile_px, 2)
    cut = np.empty((len(grid), tile_px, tile_px, 3), np.uint8)
    grid.cut(image, cut)
    return np.ascontiguousarray(np.resize(cut, (count, tile_px, tile_px, 3)))
