"""Runs a model over validation frames: scores for calibration, and tiles for the bundle's golden tiles.

A cross-validated run is trained on all its frames; for these, the recorded held-out predictions are used.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.manifest import Calibration, Grid
from heatline.edge.calibration.thresholds import GoodFrame, calibrate, lowest_defect_of
from heatline.edge.errors import EngineError, InputError
from heatline.edge.geometry import Stitcher, TileGrid
from heatline.edge.inference import Engine, infer
from heatline.edge.inference.engine import Done, Failed, Fill
from heatline.edge.util.sampling import divide
from heatline.train.dense.tiles import OutOfFold
from heatline.train.progress import Track
from heatline.train.readers import LabelledImage
from heatline.train.references import References
from heatline.train.run import RunFolder, TrainedRun

Inputs = tuple[NDArray[np.uint8], ...]
"""What a graph takes: tiles [N, tile, tile, 3], and if it compares, their differences [N, cells, cells, channels]."""

GOLDEN_TILES = 16
SMOOTHING_CELLS = 1.5
"""Standard deviation of the smoothing of maps up to 14x14 cells: on the validation boards of an earlier demo bundle, 0,
1, 1.5 and 2 cells hit 0.76, 0.87, 0.88 and 0.87 of the defects. A map of 28x28 cells is not smoothed."""


def smoothing_px(map_hw: tuple[int, int], tile_px: int, cells: float | None) -> float:
    """Return the standard deviation of the heatmap's smoothing, px; `cells`: the same in map cells, None: by size."""
    if cells is None:
        cells = SMOOTHING_CELLS if min(map_hw) <= 14 else 0.0
    return cells * tile_px / min(map_hw)


class RecordedEngine(Engine):
    """Returns recorded answers, logits [N] and maps [N, h, w], in the order in which tiles are submitted."""

    name = "recorded answers"
    batch = 64

    def __init__(self, logits: NDArray[np.float32], maps: NDArray[np.floating], *, compares: bool = False) -> None:
        self._logits, self._maps, self._next, self.compares = logits, maps, 0, compares

    def skip(self, count: int) -> None:
        """Leave out the answers of the next `count` tiles."""
        self._next += count

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        start, self._next = self._next, self._next + count
        if self._next > len(self._logits):
            failed(EngineError(f"{self._next} tiles were submitted, and {len(self._logits)} answers are recorded"))
            return
        done(self._logits[start : self._next], self._maps[start : self._next].astype(np.float32))


@dataclass(frozen=True)
class ValidationFrames:
    """Frames for thresholds and for the evaluation of a model before it is used on the line."""

    images: list[LabelledImage]
    recorded: Engine | None
    """Returns the recorded held-out predictions, once, frame by frame; None: the model itself must be run."""
    are: str
    """Phrase for messages: which frames these are."""
    are_new: bool = True
    """Whether the predicting model was not trained on these frames."""
    folds: Mapping[Path, int] = field(default_factory=dict)
    """Fold of each picture, with recorded predictions."""


def validation_frames(run: TrainedRun) -> ValidationFrames:
    """Return the validation frames of a run; an InputError if its recorded predictions belong to other pictures.

    Reviewed frames are not among those of a cross-validated run: people mark what is wrong, so they would not set the
    thresholds that the line's frames need.
    """
    if run.split.val:
        return ValidationFrames(run.split.images(run.data, "val"), None, "of the validation groups")
    images = run.split.images(run.data, "train")
    if run.summary.folds is None:
        return ValidationFrames(images, None, "of groups that the model was trained on", are_new=False)
    out_of_fold = OutOfFold.read(RunFolder(run.folder).out_of_fold)
    if list(out_of_fold.frames) != [image.name_in_folder for image in images]:
        raise InputError(
            f"{run.data.folder} holds other pictures or groups than when {run.folder} was trained, and thresholds come "
            "from these; restore them, or train again"
        )
    recorded = RecordedEngine(out_of_fold.logit, out_of_fold.map, compares=run.references is not None)
    folds = {image.path: int(fold) for image, fold in zip(images, out_of_fold.fold, strict=True)}
    if run.config.reviewed is not None:  # these come last, so the recorded predictions of the others come first
        images = [image for image in images if not image.reviewed]
    return ValidationFrames(images, recorded, "of held-out groups", folds=folds)


@dataclass(frozen=True)
class HeldOut:
    """A calibration, and the thresholds for the frames that set it: each part of them is judged by the other parts."""

    calibration: Calibration
    of_parts: Mapping[Path, Calibration]
    """For each frame, by its picture; a part is a fold of the cross-validation. Empty: the frames cannot be divided,
    or the model was trained on them."""

    @classmethod
    def calibrate(
        cls, validation: "ValidationPass", frames: ValidationFrames, false_reject: float, top_cells: int | None
    ) -> "HeldOut":
        """Calibrate on the results of a pass over these frames; errors as `thresholds.calibrate`.

        Frames that the model was trained on score lower than new ones, so they show neither a count of rejects nor a
        bound.
        """
        groups = [image.group or image.name for image in frames.images]
        part_of = frames.folds or dict(zip([image.path for image in frames.images], divide(groups), strict=True))

        def without(part: int | None) -> Calibration:
            found = validation.only({path for path, mine in part_of.items() if mine != part})
            # Defects that the model was trained on score higher than new ones.
            lowest = lowest_defect_of([*found.defective.values()]) if frames.are_new else None
            good, of = [*found.frames.values()], found.frames_are
            return calibrate(good, false_reject, of, top_cells=top_cells, lowest_defect=lowest, held_out=False)

        calibration = without(None)
        if not frames.are_new:
            return cls(msgspec.structs.replace(calibration, false_reject_at_most=None), {})
        try:
            by_part = {part: without(part) for part in sorted(set(part_of.values()))}
        except InputError:  # all frames without defects are in one part
            return cls(calibration, {})
        of_parts = {path: by_part[part] for path, part in part_of.items()}
        rejected = sum(
            frame.highest_logit >= of_parts[path].score_threshold for path, frame in validation.frames.items()
        )
        return cls(msgspec.structs.replace(calibration, held_out_rejected=rejected), of_parts)


@dataclass(frozen=True)
class ValidationPass:
    """The results of a pass over validation frames, by their pictures."""

    good: Mapping[Path, GoodFrame]
    substitutes: Mapping[Path, GoodFrame]
    """Defective frames without their defective tiles."""
    defective: Mapping[Path, float]
    """Highest tile logit of each defective frame."""
    are: str
    tiles: NDArray[np.uint8]
    """RGB uint8 [N, tile, tile, 3]: half of them the tiles with the highest logits, half those with the lowest."""
    difference: NDArray[np.uint8] | None = None
    """Their differences to the references, [N, cells, cells, channels]; None: there are no references."""

    @property
    def frames(self) -> Mapping[Path, GoodFrame]:
        """The frames that thresholds come from."""
        return self.good or self.substitutes

    @property
    def frames_are(self) -> str:
        """Phrase for messages: which frames the thresholds come from."""
        return f"good frames {self.are}" if self.good else f"frames {self.are}, without their defective tiles"

    def only(self, paths: Container[Path]) -> "ValidationPass":
        """Return the results of some pictures."""
        good = {path: frame for path, frame in self.good.items() if path in paths}
        substitutes = {path: frame for path, frame in self.substitutes.items() if path in paths}
        defective = {path: logit for path, logit in self.defective.items() if path in paths}
        return replace(self, good=good, substitutes=substitutes, defective=defective)


def graph_inputs(
    image: LabelledImage, rgb: NDArray[np.uint8], grid: TileGrid, references: References | None
) -> Inputs | None:
    """Return what a graph takes for all tiles of a frame; None: the frame cannot be aligned with its reference."""
    if references is None:
        return (grid.tiles(rgb),)
    reference = references.of(image)
    difference = None if reference is None else reference.compare(rgb, grid)
    return None if difference is None else (grid.tiles(rgb), difference)


def run_validation(
    frames: ValidationFrames,
    engine: Engine,
    grid: Grid,
    map_hw: tuple[int, int],
    references: References | None = None,
    track: Track = iter,
) -> ValidationPass:
    """Run all tiles of the frames through the engine, or take their recorded predictions.

    Thresholds come from good frames. If there is none, defective frames without their defective tiles replace them:
    every tile with a defective pixel is left out, as an ambiguous tile is not good either. Frames that cannot be
    aligned with their reference are left out, as the line gives them no verdict.

    Raises:
        InputError: no frame that is aligned has a tile without a defect.
    """
    good: dict[Path, GoodFrame] = {}
    defective: dict[Path, float] = {}
    substitutes: dict[Path, GoodFrame] = {}
    extremes: list[tuple[float, Inputs]] = []
    side, engine = grid.tile_px, frames.recorded or engine
    for image in track(frames.images):
        rgb = image.pixels()
        frame_hw = (rgb.shape[0], rgb.shape[1])
        tile_grid = TileGrid(frame_hw, side, grid.overlap_px)
        inputs = graph_inputs(image, rgb, tile_grid, references)
        if inputs is None:
            if isinstance(engine, RecordedEngine):  # its answers come in the order of all frames
                engine.skip(len(tile_grid))
            continue
        logits, maps = infer(engine, *inputs)
        if image.defective:
            defective[image.path] = float(logits.max())
        extremes = _extremes([*extremes, *zip(logits.tolist(), zip(*inputs, strict=True), strict=True)])
        mask = image.mask(frame_hw) if image.defective else np.zeros(frame_hw, np.bool_)
        if mask is None:  # the place of its defects is unknown, so no tile is known to be good
            continue
        clean = np.array([not mask[y : y + side, x : x + side].any() for y, x in tile_grid.origins_yx])
        if clean.any():
            heatmap = Stitcher(tile_grid, map_hw, grid.heatmap_cell_px, grid.smoothing_px).stitch(maps, clean)
            frame = GoodFrame.of(logits[clean], heatmap, image.group or image.name_in_folder)
            (substitutes if image.defective else good)[image.path] = frame
    if not good and not substitutes:
        raise InputError(
            f"the frames {frames.are} hold no tile without a defect"
            f"{'' if references is None else ' in an aligned frame'}, so no threshold can be set; add good "
            "pictures, or choose other groups with split.val"
        )
    tiles, *difference = (np.stack(column) for column in zip(*(inputs for _, inputs in extremes), strict=True))
    return ValidationPass(good, substitutes, defective, frames.are, tiles, *difference)


def _extremes(candidates: list[tuple[float, Inputs]]) -> list[tuple[float, Inputs]]:
    """Return the tiles with the lowest and the highest logits, as copies, so that their frames can be released."""
    ordered = sorted(candidates, key=lambda candidate: candidate[0])
    half = GOLDEN_TILES // 2
    chosen = ordered if len(ordered) <= GOLDEN_TILES else ordered[:half] + ordered[-half:]
    return [(logit, tuple(each.copy() for each in inputs)) for logit, inputs in chosen]
