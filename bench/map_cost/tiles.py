"""The tiles that all is timed on."""

import numpy as np
from numpy.typing import NDArray

from edge.geometry import TileGrid
from train.boards import draw_board


def board_tiles(count: int, tile_px: int) -> NDArray[np.uint8]:
    """[count, tile, tile, 3] of drawn boards."""
    image = draw_board((0, 0), flawless=False).image
    grid = TileGrid((image.shape[0], image.shape[1]), tile_px, 2)
    cut = np.empty((len(grid), tile_px, tile_px, 3), np.uint8)
    grid.cut(image, cut)
    return np.ascontiguousarray(np.resize(cut, (count, tile_px, tile_px, 3)))
