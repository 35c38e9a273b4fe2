"""How well a bundle finds what is known to be there, through the edge engine: what is judged is what will run."""

from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle
from edge.errors import InputError
from edge.frames import Frame, Stamp
from edge.geometry import TileGrid
from edge.inference import EngineKind, open_engine
from edge.inspection.inspector import Inspector
from edge.inspection.verdict import Judgement
from train.readers import LabelledImage
from train.scoring import FrameScore, peak_distance_px, score_frame

DEFECTIVE_SHARE = 0.01
"""A tile is defective if more than this share of it is (the study's rule)."""


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
    defects: int
    defects_hit: int
    false_regions: int
    defective_frames: int
    escaped_frames: int
    """Defective frames judged GOOD."""
    good_frames: int
    rejected_frames: int
    """Good frames judged DEFECT."""


class Evaluation(msgspec.Struct, frozen=True):
    """A bundle against one truth."""

    truth: str
    tile: TileFigures
    frame: FrameFigures


Track = Callable[[Sequence[LabelledImage]], Iterable[LabelledImage]]


def evaluate_bundle(
    bundle: Bundle, truth: str, images: Sequence[LabelledImage], *, engine: EngineKind = "openvino", track: Track = iter
) -> Evaluation:
    """Inspect images as the line would and hold the outcome against their masks.

    Args:
        truth: the masks' name, for the report.
        images: with masks; of any sizes.
        track: wraps the images, to show how far it is.
    Raises:
        InputError: an image has no mask, or one class is missing among the tiles.
    """
    manifest = bundle.manifest
    inspector = Inspector(manifest, open_engine(engine, bundle.path, manifest.grid.tile_px))
    cell_px = manifest.grid.tile_px / min(manifest.map.hw)
    logits, labels, distances, judged = [], [], [], []
    for number, image in enumerate(track(images), start=1):
        frame = Frame(Stamp("evaluate", number, image.path.name), image.pixels(), "RGB8")
        pending = inspector.start(frame)
        judgement = inspector.finish(pending)
        mask = image.mask(pending.stitcher.grid.frame_hw)
        if mask is None:
            raise InputError(f"{image.path} has no mask, and where defects are cannot be evaluated without one")
        tile_masks = _tile_masks(mask, pending.stitcher.grid)
        defective = tile_masks.mean(axis=(1, 2)) > DEFECTIVE_SHARE
        logits.append(pending.logits)
        labels.append(defective)
        distances += [
            (float(pending.logits[tile]), peak_distance_px(pending.maps[tile], tile_masks[tile]))
            for tile in np.flatnonzero(defective)
        ]
        judged.append((judgement, bool(mask.any()), score_frame(judgement.regions, mask, cell_px)))
    return Evaluation(
        truth,
        _tile_figures(
            np.concatenate(logits), np.concatenate(labels), np.array(distances), inspector.thresholds.score, cell_px
        ),
        _frame_figures(judged),
    )


def _tile_masks(mask: NDArray[np.bool_], grid: TileGrid) -> NDArray[np.bool_]:
    """The mask in each tile, bool [tiles, tile, tile]; what sticks out of the frame is not defective."""
    tiles = np.zeros((len(grid), grid.tile_px, grid.tile_px), np.bool_)
    for tile, (y, x) in zip(tiles, grid.origins_yx, strict=True):
        part = mask[y : y + grid.tile_px, x : x + grid.tile_px]
        tile[: part.shape[0], : part.shape[1]] = part
    return tiles


def _tile_figures(
    logits: NDArray[np.float32],
    labels: NDArray[np.bool_],
    distances: NDArray[np.float64],
    threshold: float,
    cell_px: float,
) -> TileFigures:
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    if labels.all() or not labels.any():
        raise InputError(
            f"{int(labels.sum())} of {len(labels)} tiles are defective; figures need tiles of both classes, add images"
        )
    scores, truth = torch.from_numpy(logits.astype(np.float64)).sigmoid(), torch.from_numpy(labels.astype(np.int64))
    logit, distance = distances[:, 0], distances[:, 1]
    return TileFigures(
        tiles=len(labels),
        defective=int(labels.sum()),
        majority_share=float(max(labels.mean(), 1 - labels.mean())),
        average_precision=float(binary_average_precision(scores, truth)),
        auroc=float(binary_auroc(scores, truth)),
        accuracy=float(((logits >= threshold) == labels).mean()),
        accuracy_at_half=float(((logits > 0) == labels).mean()),
        pointing=float((distance == 0).mean()),
        pointing_gated=float(((distance == 0) & (logit >= threshold)).mean()),
        pointing_within_cell=float((distance <= cell_px).mean()),
    )


def _frame_figures(judged: Sequence[tuple[Judgement, bool, FrameScore]]) -> FrameFigures:
    return FrameFigures(
        frames=len(judged),
        defects=sum(score.defects for _, _, score in judged),
        defects_hit=sum(score.hit for _, _, score in judged),
        false_regions=sum(score.false_regions for _, _, score in judged),
        defective_frames=sum(defective for _, defective, _ in judged),
        escaped_frames=sum(defective and judgement.verdict == "GOOD" for judgement, defective, _ in judged),
        good_frames=sum(not defective for _, defective, _ in judged),
        rejected_frames=sum(not defective and judgement.verdict == "DEFECT" for judgement, defective, _ in judged),
    )
