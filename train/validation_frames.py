"""One pass over a run's validation frames with the exported graph: what calibration needs, and tiles to keep as
golden.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import Grid
from edge.calibration import GoodFrame
from edge.errors import InputError
from edge.geometry import Stitcher, TileGrid
from edge.inference import Engine, infer
from train.readers import LabelledImage

GOLDEN_TILES = 16
SMOOTHING_CELLS = 1.5
"""On the validation boards of the demo's bundle, 0, 1, 1.5 and 2 cells hit 0.76, 0.87, 0.88 and 0.87 of the defects."""


@dataclass(frozen=True)
class ValidationPass:
    """What the pass found."""

    good_frames: list[GoodFrame]
    frames_are: str
    """Which frames the thresholds rest on, in words."""
    tiles: NDArray[np.uint8]
    """[N, tile, tile, 3]: half with the most evidence of a defect, half with the least."""


def run_over(images: Iterable[LabelledImage], engine: Engine, *, grid: Grid, map_hw: tuple[int, int]) -> ValidationPass:
    """Run all tiles of the images through the engine.

    The good frames are what thresholds come from. Where there is none, frames without their defective tiles stand in:
    without every tile that holds any defective pixel, as one below the labelling rule is no good tile either.

    Raises:
        InputError: no image, or no tile without a defect among them.
    """
    good: list[GoodFrame] = []
    stand_ins: list[GoodFrame] = []
    extremes: list[tuple[float, NDArray[np.uint8]]] = []
    for image in images:
        rgb = image.pixels()
        frame_hw = (rgb.shape[0], rgb.shape[1])
        places = TileGrid(frame_hw, grid.tile_px, grid.overlap_px)
        tiles = np.empty((len(places), grid.tile_px, grid.tile_px, 3), np.uint8)
        places.cut(rgb, tiles)
        logits, maps = infer(engine, tiles)
        extremes = _extremes([*extremes, *zip(logits.tolist(), tiles, strict=True)])
        mask = image.mask(frame_hw) if image.defective else np.zeros(frame_hw, np.bool_)
        clean = np.array([_is_clean(mask, y, x, grid.tile_px) for y, x in places.origins_yx])
        if clean.any():
            stitcher = Stitcher(places, map_hw, grid.heatmap_cell_px, grid.smoothing_px)
            heatmap = stitcher.stitch(maps, clean)
            (stand_ins if image.defective else good).append(GoodFrame.of(logits[clean], heatmap))
    if not good and not stand_ins:
        raise InputError(
            "the validation groups hold no tile without a defect, so no threshold can be set; choose others "
            "with split.val"
        )
    return ValidationPass(
        good or stand_ins,
        "good frames of the validation groups"
        if good
        else "frames of the validation groups without their defective tiles",
        np.stack([tile for _, tile in extremes]),
    )


def _extremes(answered: list[tuple[float, NDArray[np.uint8]]]) -> list[tuple[float, NDArray[np.uint8]]]:
    """The tiles to keep of those seen so far, each with its logit: copies, so that their frames can be forgotten."""
    ordered = sorted(answered, key=lambda extreme: extreme[0])
    half = GOLDEN_TILES // 2
    kept = ordered if len(ordered) <= GOLDEN_TILES else ordered[:half] + ordered[-half:]
    return [(logit, tile.copy()) for logit, tile in kept]


def _is_clean(mask: NDArray[np.bool_] | None, y: int, x: int, tile_px: int) -> bool:
    """Whether a tile holds no defective pixel; without a mask, nobody knows where a defective frame is clean."""
    return mask is not None and not mask[y : y + tile_px, x : x + tile_px].any()
