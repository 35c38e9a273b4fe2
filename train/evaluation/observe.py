"""Inspect each labelled picture once, as the line does, and compare the result with its truth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import TileGrid
from heatline.edge.geometry.regions import found_cells
from heatline.edge.heatmap_picture import ColourScale
from heatline.edge.inspection.inspector import Inspector, PendingFrame
from heatline.edge.inspection.verdict import Judgement, Thresholds
from heatline.edge.util.text import utf8_safe
from heatline.train.evaluation.evaluated import EvaluatedModel
from heatline.train.evaluation.figures import FRAME, Columns, tile_type
from heatline.train.evaluation.gallery import FrameGallery, draw_frame
from heatline.train.evaluation.result import DefectKind, FrameAnswer, ImplausibleFrame
from heatline.train.evaluation.scoring import (
    GATE_LOGIT,
    count_pixels,
    divide_by_size,
    match_regions,
    peak_distance_px,
    study_mask,
)
from heatline.train.frames import DEFECTIVE_SHARE
from heatline.train.models.vit import FUSIONS, RolloutClassifier
from heatline.train.progress import Track
from heatline.train.readers import LabelledImage
from heatline.train.references import References

BATCH = 16
"""Highest number of tiles per forward pass of a rollout with all fusions."""


@dataclass
class Observed:
    """What was observed of all pictures."""

    maps: tuple[str, ...]
    """Names of each tile's maps."""
    frames: list[FrameAnswer] = field(default_factory=list)
    implausible: list[ImplausibleFrame] = field(default_factory=list)
    tile_rows: list[tuple[Any, ...]] = field(default_factory=list)
    frame_rows: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def columns(self) -> tuple[Columns, Columns]:
        """Columns of the tiles and of the frames, see `figures`."""
        return np.array(self.tile_rows, tile_type(len(self.maps))), np.array(self.frame_rows, FRAME)


def observe(
    model: EvaluatedModel,
    images: Sequence[LabelledImage],
    groups: Sequence[int],
    track: Track = iter,
    gallery: FrameGallery | None = None,
    references: References | None = None,
) -> Observed:
    """Inspect all pictures; those without a verdict, as they do not show the product, are in no row and no gallery.

    Args:
        groups: number of each picture's group.
        references: what a run compares the pictures with; None: nothing, or what a bundle holds.
    """
    calibration = model.settings.calibration
    inspector = Inspector(model.settings, model.engine, plausibility=model.plausibility, references=model.references)
    scale = ColourScale.around(calibration.evidence_threshold, calibration.background)
    rollout = model.run.model if model.run and isinstance(model.run.model, RolloutClassifier) else None
    found = Observed(("study",) if rollout is None else ("study", *FUSIONS))
    for number, (group, image) in enumerate(zip(groups, track(images), strict=True)):
        rgb, held_out, loose = image.pixels(), model.held_out.get(image.path), model.loose_held_out.get(image.path)
        thresholds = inspector.thresholds = Thresholds.of(held_out or calibration)
        reference = None if references is None else references.of(image)
        frame = Frame(Stamp("evaluate", number + 1, image.path.name), rgb, "RGB8")
        pending = inspector.start(frame, reference=reference)
        judgement = inspector.finish(pending)
        labelled = image.name_in_folder, None if image.group is None else utf8_safe(image.group), image.defective
        if judgement.reject_reason is not None:
            found.implausible.append(ImplausibleFrame(*labelled, judgement.reject_reason))
            continue
        grid = pending.stitcher.grid
        mask = image.mask(grid.frame_hw)
        if mask is not None and image.defective and not mask.any():
            mask = None
        counts = (None, None, None) if mask is None else match_regions(judgement.regions, mask, model.cell_px).score
        defects, hit, false_regions = counts
        if gallery is not None:
            pose = judgement.pose
            shown = None if reference is None or pose is None else reference.moved_to(pose)
            draw = partial(draw_frame, rgb, mask, shown, judgement, pending.stitcher.cell_px, scale)
            gallery.add(len(found.frames), judgement.score, image.defective, draw)
        found.frames.append(
            FrameAnswer(
                *labelled,
                judgement.score,
                defects,
                hit,
                false_regions,
                threshold=None if held_out is None else held_out.score_threshold,
                loose_threshold=model.loose_threshold if loose is None else loose.score_threshold,
                kinds=list(_score_kinds(image, mask, pending, judgement, model.cell_px)) if image.defective else [],
            )
        )
        px = (0, 0, 0, 0) if mask is None else count_pixels(line_mask(pending, judgement, thresholds), mask)
        verdict = group, judgement.score, image.defective, judgement.verdict == "DEFECT", mask is not None
        found.frame_rows.append((*verdict, defects or 0, hit or 0, false_regions or 0, px))
        if mask is not None:
            masks = cut_mask(mask, grid)
            maps = pending.maps[:, None]
            if rollout is not None:
                maps = np.concatenate([maps, fusion_maps(rollout, grid.tiles(rgb), pending.logits, masks)], axis=1)
            inside_hw = min(grid.tile_px, grid.frame_hw[0]), min(grid.tile_px, grid.frame_hw[1])
            for logit, tile_maps, tile_mask in zip(pending.logits.tolist(), maps, masks, strict=True):
                found.tile_rows.append((group, *tile_row(model.family, logit, tile_maps, tile_mask, inside_hw)))
    return found


def fusion_maps(
    classifier: RolloutClassifier, tiles: NDArray[np.uint8], logits: NDArray[np.float32], masks: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return the maps of tiles by every fusion, [N, fusions, h, w]; 0 for tiles that are good and look good."""
    maps = np.zeros((len(tiles), len(FUSIONS), *classifier.map_hw), np.float32)
    needed = np.flatnonzero((logits > GATE_LOGIT) | masks.any(axis=(1, 2)))
    device = next(classifier.parameters()).device
    for start in range(0, len(needed), BATCH):
        batch = needed[start : start + BATCH]
        maps[batch] = classifier.all_fusions(torch.from_numpy(tiles[batch]).to(device)).cpu().numpy()
    return maps


def tile_row(
    family: str, logit: float, maps: NDArray[np.float32], mask: NDArray[np.bool_], inside_hw: tuple[int, int]
) -> tuple[Any, ...]:
    """Return the fields of `tile_type` after the group.

    Args:
        family: of the model: "cnn" or "vit".
        maps: [maps, h, w].
        mask: true pixels [tile, tile].
        inside_hw: part of the tile that is in the frame.
    """
    # A rollout's map is relevance times logit: with a negative logit, its lowest value is the most relevant.
    sign = np.sign(np.float32(logit)) if family == "vit" else np.float32(1)
    defective = bool(mask.mean() > DEFECTIVE_SHARE)
    inside = np.s_[: inside_hw[0], : inside_hw[1]]
    distances = [peak_distance_px(each * sign, mask, inside_hw) if defective else float("nan") for each in maps]
    px = [count_pixels(study_mask(each, logit, len(mask))[inside], mask[inside]) for each in maps]
    return logit, defective, bool(mask.any()) and not defective, distances, px


def _score_kinds(
    image: LabelledImage, mask: NDArray[np.bool_] | None, pending: PendingFrame, judgement: Judgement, cell_px: float
) -> Iterator[DefectKind]:
    """Yield the classes and sizes of a picture's defects; see `DefectKind`."""
    by_class = {} if mask is None else image.masks_by_class(mask)
    if not by_class and image.class_name is not None:
        yield DefectKind("class", image.class_name, judgement.score)
    divisions: dict[Literal["class", "size"], dict[str, NDArray[np.bool_]]] = {"class": by_class}
    if mask is not None:
        divisions["size"] = divide_by_size(mask, cell_px)
    for by, masks in divisions.items():
        shown = {name: of_kind for name, of_kind in masks.items() if of_kind.any()}
        for name, of_kind in shown.items():
            shows = cut_mask(of_kind, pending.stitcher.grid).any(axis=(1, 2))
            of_tiles = float(pending.logits[shows].max()) if len(shown) > 1 and shows.any() else judgement.score
            yield DefectKind(by, name, of_tiles, int(of_kind.sum()))


def cut_mask(mask: NDArray[np.bool_], grid: TileGrid) -> NDArray[np.bool_]:
    """Cut a mask into tiles, bool [tiles, tile, tile]; pixels beyond the frame are not defective."""
    padded = np.pad(mask, ((0, grid.tile_px), (0, grid.tile_px)))
    return np.stack([padded[y : y + grid.tile_px, x : x + grid.tile_px] for y, x in grid.origins_yx])


def line_mask(pending: PendingFrame, judgement: Judgement, thresholds: Thresholds) -> NDArray[np.bool_]:
    """Return the pixels of a frame that lie in its regions, bool [H, W]."""
    stitcher = pending.stitcher
    defective = pending.logits.astype(np.float64) >= thresholds.score
    cells = found_cells(judgement.heatmap, stitcher, defective, thresholds.evidence, thresholds.strong)
    height, width = stitcher.grid.frame_hw
    return np.kron(cells, np.ones((stitcher.cell_px, stitcher.cell_px), np.bool_))[:height, :width]
