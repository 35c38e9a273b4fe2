"""The study's rule that turns a map into a mask (its section 2.5), for comparison with its tables. Needs no torch.

Each tile's map becomes a mask by itself: enlarged to the tile, stretched to 0..255 and thresholded at 127. The mask is
empty if the classifier calls the tile good. So a mask shows *where* a tile is hottest and not how hot it is; the line
judges by evidence in logits instead.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

GATE_LOGIT = 0.0
"""Probability 0.5: a tile whose logit is not above it has an empty mask."""
LEVEL = 127
"""Of 0..255; pixels above it are defective."""


def study_mask(tile_map: NDArray[np.float32], logit: float, tile_px: int) -> NDArray[np.bool_]:
    """Return the pixels of one tile that the rule calls defective, bool [tile, tile].

    The enlargement is bilinear and half-pixel correct: the value of a cell lies at its centre. Levels are not rounded
    to integers. A map with the same value everywhere has an empty mask.

    Args:
        tile_map: [h, w], finite; in any unit.
        logit: of the tile; at most 0: the mask is empty.
        tile_px: side of the tile, px.
    """
    if logit <= GATE_LOGIT or tile_map.min() == tile_map.max():
        return np.zeros((tile_px, tile_px), np.bool_)
    enlarged = cv2.resize(tile_map.astype(np.float64), (tile_px, tile_px), interpolation=cv2.INTER_LINEAR)
    low, high = enlarged.min(), enlarged.max()
    return np.asarray((enlarged - low) * 255 > LEVEL * (high - low))
