"""Derives what frames of the product look like, for a bundle's plausibility."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.appearance import Appearance
from heatline.edge.bundle.manifest import Grid, Measure
from heatline.edge.bundle.plausibility import FEWEST_GROUPS, Plausibility, fit_plausibility
from heatline.edge.drift import measure_picture
from heatline.edge.geometry import TileGrid
from heatline.edge.inference import Engine
from heatline.edge.inference.engine import infer_features
from heatline.edge.reference.reference import Reference
from heatline.edge.util.sampling import evenly
from heatline.train.readers import LabelledImage

MOST_FRAMES = 150
"""How many evenly spread frames are used."""


def fit_product(
    images: Sequence[LabelledImage], grid: Grid, engine: Engine, reference: Reference | None
) -> tuple[Plausibility, list[dict[Measure, float]]]:
    """Derive the plausible ranges from good and defective frames, as a defect covers only few tiles.

    What areas look like comes from good frames; where there are too few, from defective ones without their defects.

    Args:
        reference: that the bundle compares frames with, by which drift watches their poses; None: it has none.
    Returns: the ranges, and of these frames what drift is measured against.
    """
    chosen = [images[index] for index in evenly(len(images), MOST_FRAMES)]
    groups = [image.group or image.name_in_folder for image in chosen]
    good_groups = {group for image, group in zip(chosen, groups, strict=True) if not image.defective}
    appearances, samples = [], []
    for image in chosen:
        rgb = image.pixels()
        tiles = TileGrid((rgb.shape[0], rgb.shape[1]), grid.tile_px, grid.overlap_px)
        appearance = Appearance.of(rgb, tiles, infer_features(engine, tiles.tiles(rgb)))
        if image.defective:
            mask = image.mask((rgb.shape[0], rgb.shape[1])) if len(good_groups) < FEWEST_GROUPS else None
            appearance = replace(appearance, cells=None) if mask is None else without(appearance, mask)
        appearances.append(appearance.thinned(keep_cells=True))
        pose, misaligned = (None, None) if reference is None else reference.pose_of(rgb)
        samples.append(measure_picture(rgb, None if misaligned else pose))
    return fit_plausibility(appearances, groups), samples


def without(appearance: Appearance, mask: NDArray[np.bool_]) -> Appearance:
    """Return a copy without (NaN) the cells at and beside defects, whose pixels are `mask`, bool [H, W]."""
    if appearance.cells is None or appearance.grid is None:
        return appearance
    rows, columns = appearance.cells.shape[1:3]
    marked = appearance.grid.tiles(mask.astype(np.uint8)[..., None])[..., 0]  # [tiles, tile_px, tile_px]
    cells = appearance.cells.copy()
    for of_tile, tile in zip(cells, marked, strict=True):
        share = cv2.resize(tile.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        of_tile[cv2.dilate(share, np.ones((3, 3))) > 0] = np.nan
    return replace(appearance, cells=cells if np.isfinite(cells).any() else None)
