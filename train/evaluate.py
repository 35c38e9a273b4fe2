"""How well a bundle finds what is known to be there, through the edge engine: what is judged is what will run."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle
from edge.errors import InputError
from edge.frames import Frame, Stamp
from edge.geometry import TileGrid
from edge.inference import EngineKind, open_engine
from edge.inspection.inspector import Inspector, PendingFrame
from edge.inspection.verdict import Verdict
from train.readers import LabelledImage
from train.scoring import FrameScore, peak_distance_px, score_frame
from train.study_rule import PixelCounts, StudyFigures, count_pixels, study_figures
from train.tiles import DEFECTIVE_SHARE


class TileFigures(msgspec.Struct, frozen=True):
    """Over all tiles, by the 1 % rule."""

    tiles: int
    defective: int
    majority_share: float
    """Accuracy of saying the same of every tile: what any accuracy must be read beside."""
    average_precision: float
    auroc: float
    accuracy: float
    """At the bundle's score threshold."""
    accuracy_at_half: float
    """At probability 0.5, the study's threshold."""
    pointing: float
    """Share of defective tiles whose map has its peak on the mask."""
    pointing_gated: float
    """The same, where tiles below the score threshold count as missed."""
    pointing_within_cell: float
    """Share of defective tiles whose map has its peak at most one map cell from the mask."""


class FrameFigures(msgspec.Struct, frozen=True):
    """Over whole frames, as the line judges them."""

    frames: int
    unplaced: int
    """Frames of which nothing says where they are defective: they count by their label alone, and not for tiles,
    pixels, defects and regions."""
    defects: int | None
    """None, as the next two, where all frames are unplaced."""
    defects_hit: int | None
    false_regions: int | None
    defective_frames: int
    escaped_frames: int
    """Defective frames judged GOOD."""
    good_frames: int
    rejected_frames: int
    """Good frames judged DEFECT."""
    average_precision: float | None
    """Of frames by their highest tile logit; None, as the next, where all are good or all are defective."""
    auroc: float | None


class Evaluation(msgspec.Struct, frozen=True):
    """A bundle against one truth."""

    truth: str
    tile: TileFigures | None
    """None, as the next, where all frames are unplaced."""
    study: StudyFigures | None
    frame: FrameFigures


Track = Callable[[Sequence[LabelledImage]], Iterable[LabelledImage]]


def evaluate_bundle(
    bundle: Bundle, truth: str, images: Sequence[LabelledImage], *, engine: EngineKind = "openvino", track: Track = iter
) -> Evaluation:
    """Inspect images as the line would and hold the outcome against their labels and masks.

    Args:
        truth: the masks' name, for the report.
        images: of any sizes.
        track: wraps the images, to show how far it is.
    Raises:
        InputError: an image or its mask cannot be used, or one class is missing among the tiles.
    """
    manifest = bundle.manifest
    inspector = Inspector(manifest, open_engine(engine, bundle.path, manifest.grid.tile_px))
    cell_px = manifest.grid.tile_px / min(manifest.map.hw)
    tiles, judged = _Tiles(manifest.map.method), []
    for number, image in enumerate(track(images), start=1):
        frame = Frame(Stamp("evaluate", number, image.path.name), image.pixels(), "RGB8")
        pending = inspector.start(frame)
        judgement = inspector.finish(pending)
        mask = image.mask(pending.stitcher.grid.frame_hw)
        found = None
        if mask is not None and (mask.any() or not image.defective):
            found = score_frame(judgement.regions, mask, cell_px)
            tiles.add(pending, mask)
        judged.append(_Judged(image.defective, judgement.verdict, judgement.score, found))
    if all(frame.found is None for frame in judged):
        return Evaluation(truth, None, None, _frame_figures(judged))
    return Evaluation(
        truth, tiles.figures(inspector.thresholds.score, cell_px), tiles.study_figures(), _frame_figures(judged)
    )


class _Tiles:
    """What is kept of the tiles of all frames: a few numbers each."""

    def __init__(self, map_method: str) -> None:
        self._is_rollout = map_method.startswith("rollout")
        self._logits: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.bool_]] = []
        self._distances_px: list[float] = []
        self._pixels = PixelCounts()

    def add(self, pending: PendingFrame, mask: NDArray[np.bool_]) -> None:
        """The tiles of a frame that was inspected, and its true mask [H, W]."""
        grid = pending.stitcher.grid
        masks = _tile_masks(mask, grid)
        defective = masks.mean(axis=(1, 2)) > DEFECTIVE_SHARE
        self._logits.append(pending.logits)
        self._labels.append(defective)
        inside_hw = min(grid.tile_px, grid.frame_hw[0]), min(grid.tile_px, grid.frame_hw[1])
        # A rollout times a negative logit is coldest where the class token looked most.
        peaks_of = pending.maps * np.sign(pending.logits)[:, None, None] if self._is_rollout else pending.maps
        self._distances_px += [
            peak_distance_px(peaks_of[tile], masks[tile], inside_hw) for tile in np.flatnonzero(defective)
        ]
        self._pixels += count_pixels(pending.maps, pending.logits, masks, inside_hw)

    def figures(self, threshold: float, cell_px: float) -> TileFigures:
        logits, labels, distances_px = self._columns()
        if labels.all() or not labels.any():
            raise InputError(
                f"{int(labels.sum())} of {len(labels)} tiles are defective; figures need tiles of both classes, add "
                "images"
            )
        average_precision, auroc = _ranking(logits, labels)
        return TileFigures(
            tiles=len(labels),
            defective=int(labels.sum()),
            majority_share=float(max(labels.mean(), 1 - labels.mean())),
            average_precision=average_precision,
            auroc=auroc,
            accuracy=float(((logits >= threshold) == labels).mean()),
            accuracy_at_half=float(((logits > 0) == labels).mean()),
            pointing=float((distances_px == 0).mean()),
            pointing_gated=float(((distances_px == 0) & (logits[labels] >= threshold)).mean()),
            pointing_within_cell=float((distances_px <= cell_px).mean()),
        )

    def study_figures(self) -> StudyFigures:
        logits, labels, distances_px = self._columns()
        return study_figures(self._pixels, distances_px == 0, logits[labels])

    def _columns(self) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
        """Logit and label per tile, and per defective tile how far its peak is from the mask."""
        logits = np.concatenate(self._logits).astype(np.float64)  # as the line compares them with thresholds
        return logits, np.concatenate(self._labels), np.array(self._distances_px)


def _tile_masks(mask: NDArray[np.bool_], grid: TileGrid) -> NDArray[np.bool_]:
    """The mask in each tile, bool [tiles, tile, tile]; what sticks out of the frame is not defective."""
    tiles = np.zeros((len(grid), grid.tile_px, grid.tile_px), np.bool_)
    for tile, (y, x) in zip(tiles, grid.origins_yx, strict=True):
        part = mask[y : y + grid.tile_px, x : x + grid.tile_px]
        tile[: part.shape[0], : part.shape[1]] = part
    return tiles


def _ranking(scores: NDArray[np.float64], defective: NDArray[np.bool_]) -> tuple[float, float]:
    """Average precision and AUROC of scores, where both classes are there."""
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    # Both rest on the order alone. Torchmetrics wants probabilities, and as such what is nearly certain becomes a tie.
    _, ranks = np.unique(scores, return_inverse=True)
    order, truth = torch.from_numpy(ranks / len(ranks)), torch.from_numpy(defective.astype(np.int64))
    return float(binary_average_precision(order, truth)), float(binary_auroc(order, truth))


class _Judged(NamedTuple):
    """What is kept of a frame."""

    defective: bool
    verdict: Verdict
    logit: float
    """The highest of its tiles."""
    found: FrameScore | None
    """None where it is unplaced."""


def _frame_figures(judged: Sequence[_Judged]) -> FrameFigures:
    scores = [frame.found for frame in judged if frame.found is not None]
    defective = np.array([frame.defective for frame in judged])
    average_precision, auroc = None, None
    if defective.any() and not defective.all():
        average_precision, auroc = _ranking(np.array([frame.logit for frame in judged]), defective)
    return FrameFigures(
        frames=len(judged),
        unplaced=len(judged) - len(scores),
        defects=sum(score.defects for score in scores) if scores else None,
        defects_hit=sum(score.hit for score in scores) if scores else None,
        false_regions=sum(score.false_regions for score in scores) if scores else None,
        defective_frames=int(defective.sum()),
        escaped_frames=sum(frame.defective and frame.verdict == "GOOD" for frame in judged),
        good_frames=int((~defective).sum()),
        rejected_frames=sum(not frame.defective and frame.verdict == "DEFECT" for frame in judged),
        average_precision=average_precision,
        auroc=auroc,
    )
