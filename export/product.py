"""What the product looks like, by the frames of a run, as the exported graph sees them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import Grid
from edge.bundle.plausibility import Appearance, Plausibility, Vitals, fit_plausibility
from edge.geometry import TileGrid
from edge.inference import Engine
from edge.inference.engine import infer_features
from train.readers import LabelledImage

MOST_FRAMES = 150
"""That are looked at, spread evenly."""


def know_product_of(images: Sequence[LabelledImage], grid: Grid, engine: Engine) -> Plausibility:
    """By good frames and defective ones, as a defect is in few tiles.

    Raises:
        InputError: a picture cannot be read.
        EngineError: the engine failed.
    """
    spread = np.linspace(0, len(images) - 1, min(len(images), MOST_FRAMES)).astype(int).tolist()
    chosen = [images[place] for place in spread]
    groups = [image.group or image.name for image in chosen]
    return fit_plausibility([appearance_of(image.pixels(), grid, engine) for image in chosen], groups)


def appearance_of(rgb: NDArray[np.uint8], grid: Grid, engine: Engine) -> Appearance:
    """Of RGB uint8 [H, W, 3]."""
    frame_hw = (rgb.shape[0], rgb.shape[1])
    places = TileGrid(frame_hw, grid.tile_px, grid.overlap_px)
    tiles = np.empty((len(places), grid.tile_px, grid.tile_px, 3), np.uint8)
    places.cut(rgb, tiles)
    return Appearance(frame_hw, Vitals.of(rgb), infer_features(engine, tiles))
