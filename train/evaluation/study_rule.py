"""The study's map rule, as it stands in its tables (section 2.5). Needs no torch.

A tile's map becomes a mask by itself: enlarged to the tile, stretched to 0..255, cut off at 127, and empty where the
classifier calls the tile good. So it shows *where* a tile is hottest and not how hot it is; the line judges by evidence
in logits instead. It is here to be held beside the study's figures.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

GATE_LOGIT = 0.0
"""A tile whose logit is not above it has no mask: probability 0.5."""
LEVEL = 127
"""Of 0..255; what is above it is defective."""


def study_mask(tile_map: NDArray[np.float32], logit: float, tile_px: int) -> NDArray[np.bool_]:
    """What the rule takes for defective in one tile, bool [tile, tile].

    The enlargement is bilinear and half-pixel correct: the value of a cell is met at its centre. Levels are not rounded
    to whole ones. A map that is the same everywhere has nothing to stretch, and no mask.

    Args:
        tile_map: [h, w], finite; in any unit.
        logit: of the tile.
        tile_px: side of the tile, px.
    """
    if logit <= GATE_LOGIT or tile_map.min() == tile_map.max():
        return np.zeros((tile_px, tile_px), np.bool_)
    enlarged = cv2.resize(tile_map.astype(np.float64), (tile_px, tile_px), interpolation=cv2.INTER_LINEAR)
    low, high = enlarged.min(), enlarged.max()
    return np.asarray((enlarged - low) * 255 > LEVEL * (high - low))
