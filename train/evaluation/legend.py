"""The legend of pictures that share a colour scale. It needs no matplotlib, which the demo has not."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from heatline.edge.heatmap_picture import ColourScale, tint
from heatline.edge.util.page import jpeg_uri

GROUND = 112
"""Grey of the picture that the legend's scale tints, as cold places of a heatmap show the picture itself."""
STEPS, HEIGHT_PX = 512, 16


def make_legend(
    scale: ColourScale,
    thresholds: Mapping[str, float],
    ends: tuple[str, str],
    outlines: Mapping[str, tuple[int, int, int]],
) -> dict[str, Any]:
    """Return what the macro `legend_of` shows for pictures that share a colour scale.

    Args:
        thresholds: logits by the text that is printed beside them. The scale includes all of them.
        ends: texts at the ends of the scale.
        outlines: colours of outlines in the pictures, RGB, by their meaning.
    """
    low, high = min(scale.low, *thresholds.values()), max(scale.high, *thresholds.values())
    grey = scale.grey(np.linspace(low, high, STEPS, dtype=np.float32)[None])
    colours = tint(np.full((HEIGHT_PX, STEPS, 3), GROUND, np.uint8), np.repeat(grey, HEIGHT_PX, axis=0), 1)
    return {
        "uri": jpeg_uri(np.asarray(cv2.cvtColor(colours, cv2.COLOR_RGB2BGR), np.uint8)),
        "ends": ends,
        "percent": {text: round(100 * (value - low) / (high - low), 2) for text, value in thresholds.items()},
        "outlines": outlines,
    }
