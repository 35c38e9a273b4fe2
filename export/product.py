"""Derives the plausible appearance of the product from the frames of a run, by the exported graph."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import Grid
from edge.bundle.plausibility import Appearance, Plausibility, Vitals, fit_plausibility
from edge.drift.sample import PictureSample
from edge.geometry import TileGrid
from edge.inference import Engine
from edge.inference.engine import infer_features
from edge.util.evenly import evenly
from train.readers import LabelledImage

MOST_FRAMES = 150
"""How many evenly spread frames are used."""


def fit_product(
    images: Sequence[LabelledImage], grid: Grid, engine: Engine
) -> tuple[Plausibility, list[PictureSample]]:
    """Derive the plausible ranges from good and defective frames, as a defect covers only few tiles.

    Returns: the ranges, and of these frames what drift is measured against.

    Raises:
        InputError: a picture cannot be read.
        EngineError: the engine failed.
    """
    chosen = [images[index] for index in evenly(len(images), MOST_FRAMES)]
    groups = [image.group or image.name for image in chosen]
    appearances, samples = [], []
    for image in chosen:
        rgb = image.pixels()
        appearances.append(appearance_of(rgb, grid, engine))
        samples.append(PictureSample.of(rgb))
    return fit_plausibility(appearances, groups), samples


def appearance_of(rgb: NDArray[np.uint8], grid: Grid, engine: Engine) -> Appearance:
    """Measure the appearance of an RGB uint8 frame [H, W, 3]."""
    frame_hw = (rgb.shape[0], rgb.shape[1])
    places = TileGrid(frame_hw, grid.tile_px, grid.overlap_px)
    return Appearance(frame_hw, Vitals.of(rgb), infer_features(engine, places.tiles(rgb)))
