"""The legend of pictures with heatmaps: the colour scale with its thresholds, and what each outline means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from heatline.edge.heatmap_picture import ColourScale, tint
from heatline.edge.util.page import jpeg_uri

GROUND = 112
"""Grey of the picture that the scale tints, as cold places of a heatmap show the picture itself."""
STEPS, HEIGHT_PX = 512, 16


class Mark(NamedTuple):
    """A labelled value on the scale."""

    text: str
    percent: float
    """Position from the left, % of the scale's width."""


class Outline(NamedTuple):
    """A kind of outline in the pictures."""

    rgb: tuple[int, int, int]
    text: str


@dataclass(frozen=True)
class Legend:
    """Colour scale and outlines of the pictures."""

    uri: str
    """Picture of the scale, in the colours of the pictures."""
    ends: tuple[str, str]
    marks: Sequence[Mark]
    outlines: Sequence[Outline]


def make_legend(
    scale: ColourScale, thresholds: Mapping[str, float], ends: tuple[str, str], outlines: Sequence[Outline]
) -> Legend:
    """Make the legend of pictures that share a colour scale.

    Args:
        thresholds: logits by the text that is printed beside them. The scale includes all of them.
        ends: texts at the ends of the scale.
    """
    low, high = min(scale.low, *thresholds.values()), max(scale.high, *thresholds.values())
    grey = scale.grey(np.linspace(low, high, STEPS, dtype=np.float32)[None])
    colours = tint(np.full((HEIGHT_PX, STEPS, 3), GROUND, np.uint8), np.repeat(grey, HEIGHT_PX, axis=0), 1)
    marks = [Mark(text, round(100 * (value - low) / (high - low), 2)) for text, value in thresholds.items()]
    uri = jpeg_uri(np.asarray(cv2.cvtColor(colours, cv2.COLOR_RGB2BGR), np.uint8))
    return Legend(uri, ends, marks, outlines)
