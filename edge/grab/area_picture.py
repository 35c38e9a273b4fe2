"""A picture of where the line looks, for eyes."""

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.geometry import TileGrid

AREA_RGB, TILE_RGB = (255, 220, 0), (0, 200, 255)
SHADE = 3
"""What no tile looks at is drawn so many times darker."""


def area_picture(frame: NDArray[np.uint8], grid: TileGrid) -> NDArray[np.uint8]:
    """A frame with the area of interest outlined and the tiles that are inspected framed, the rest in shade.

    Args:
        frame: grey [H, W] or RGB [H, W, 3], of the grid's size.
    Returns: RGB [H, W, 3].
    """
    picture = np.array(cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB) if frame.ndim == 2 else frame, np.uint8)
    side, thick = grid.tile_px, max(2, round(max(grid.frame_hw) / 600))
    in_shade = np.ones(grid.frame_hw, np.bool_)
    for y, x in grid.origins_yx:
        in_shade[y : y + side, x : x + side] = False
    picture[in_shade] //= SHADE
    for y, x in grid.origins_yx:
        cv2.rectangle(picture, (x, y), (x + side - 1, y + side - 1), TILE_RGB, max(1, thick // 2))
    mask = grid.area.mask(grid.frame_hw).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, outlines, -1, AREA_RGB, thick)
    return picture
