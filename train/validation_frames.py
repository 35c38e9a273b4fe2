"""One pass over the frames that a run was not trained on: what calibration needs, and tiles to keep as golden.

A run that was cross-validated was trained on all of its frames; of each, what a model said that was not trained on its
group is recorded.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import Calibration, Grid
from edge.calibration import GoodFrame, calibrate, coldest_of
from edge.errors import InputError
from edge.geometry import Stitcher, TileGrid
from edge.inference import Engine, infer
from train.dense.out_of_fold import OutOfFold
from train.evaluation.engines import RecordedEngine
from train.readers import LabelledImage
from train.run import RunFolder

if TYPE_CHECKING:
    from train.run import TrainedRun

GOLDEN_TILES = 16
SMOOTHING_CELLS = 1.5
"""Of maps of 14x14 cells and fewer: on the validation boards of the demo's bundle of then, 0, 1, 1.5 and 2 cells hit
0.76, 0.87, 0.88 and 0.87 of the defects. A map of 28x28 cells is not smoothed."""


def smoothing_px(map_hw: tuple[int, int], tile_px: int, cells: float | None) -> float:
    """Standard deviation of the heatmap's smoothing.

    Args:
        cells: in map cells; None: by the size of the map.
    """
    if cells is None:
        cells = SMOOTHING_CELLS if min(map_hw) <= 14 else 0.0
    return cells * tile_px / min(map_hw)


@dataclass(frozen=True)
class ValidationFrames:
    """Frames that thresholds come from, and by which a model is judged before it goes to the line."""

    images: list[LabelledImage]
    recorded: Engine | None
    """Gives the answers of the cross-validation, once, frame by frame; None: the model itself is to be asked."""
    are: str
    """Which frames they are, in words."""
    are_new: bool = True
    """Whether the answering model was not trained on them."""


def validation_frames(run: "TrainedRun") -> ValidationFrames:
    """The frames of a run that validate.

    Raises:
        InputError: the answers of the cross-validation are gone, or are of other pictures.
    """
    if run.split.val:
        return ValidationFrames(run.split.images(run.data, "val"), None, "of the validation groups")
    images = run.split.images(run.data, "train")
    if run.summary.folds is None:
        return ValidationFrames(images, None, "of groups that the model was trained on", are_new=False)
    answers = OutOfFold.read(RunFolder(run.folder).out_of_fold)
    if list(answers.frames) != [image.name_in_folder for image in images]:
        raise InputError(
            f"{run.data.folder} holds other pictures than when {run.folder} was trained, and thresholds come from "
            "there; put them back, or train again"
        )
    return ValidationFrames(
        images, RecordedEngine(answers.logit, answers.map), "of groups that the answering model was not trained on"
    )


def calibrate_on(
    found: "ValidationPass", frames: ValidationFrames, false_reject: float, top_cells: int | None
) -> Calibration:
    """Thresholds by what a pass over these frames found; errors as `calibrate`."""
    coldest = coldest_of(found.defective) if frames.are_new else None  # what taught the model is hotter than the next
    return calibrate(found.good_frames, false_reject, found.frames_are, top_cells=top_cells, coldest_defect=coldest)


@dataclass(frozen=True)
class ValidationPass:
    """What the pass found."""

    good_frames: list[GoodFrame]
    defective: list[float]
    """Highest tile logit of each defective frame."""
    frames_are: str
    """Which frames the thresholds rest on, in words."""
    tiles: NDArray[np.uint8]
    """[N, tile, tile, 3]: half with the most evidence of a defect, half with the least."""


def run_over(
    images: Iterable[LabelledImage],
    engine: Engine,
    *,
    grid: Grid,
    map_hw: tuple[int, int],
    are: str = "of the validation groups",
) -> ValidationPass:
    """Run all tiles of the images through the engine.

    Args:
        are: which images they are, in words.

    The good frames are what thresholds come from. Where there is none, frames without their defective tiles stand in:
    without every tile that holds any defective pixel, as one below the labelling rule is no good tile either.

    Raises:
        InputError: no image, or no tile without a defect among them.
    """
    good: list[GoodFrame] = []
    defective: list[float] = []
    stand_ins: list[GoodFrame] = []
    extremes: list[tuple[float, NDArray[np.uint8]]] = []
    for image in images:
        rgb = image.pixels()
        frame_hw = (rgb.shape[0], rgb.shape[1])
        places = TileGrid(frame_hw, grid.tile_px, grid.overlap_px)
        tiles = places.tiles(rgb)
        logits, maps = infer(engine, tiles)
        if image.defective:
            defective.append(float(logits.max()))
        extremes = _extremes([*extremes, *zip(logits.tolist(), tiles, strict=True)])
        mask = image.mask(frame_hw) if image.defective else np.zeros(frame_hw, np.bool_)
        clean = np.array([_is_clean(mask, y, x, grid.tile_px) for y, x in places.origins_yx])
        if clean.any():
            stitcher = Stitcher(places, map_hw, grid.heatmap_cell_px, grid.smoothing_px)
            heatmap = stitcher.stitch(maps, clean)
            kept = GoodFrame.of(logits[clean], heatmap, image.group or image.name)
            (stand_ins if image.defective else good).append(kept)
    if not good and not stand_ins:
        raise InputError(
            f"the frames {are} hold no tile without a defect, so no threshold can be set; add good pictures, or "
            "choose other groups with split.val"
        )
    return ValidationPass(
        good or stand_ins,
        defective,
        f"good frames {are}" if good else f"frames {are}, without their defective tiles",
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
