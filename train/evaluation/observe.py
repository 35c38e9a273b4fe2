"""Inspect each labelled picture once, as the line does, and compare the result with every truth."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import TileGrid
from heatline.edge.geometry.regions import found_cells
from heatline.edge.inspection.inspector import PendingFrame
from heatline.edge.inspection.verdict import Judgement, Thresholds
from heatline.train.evaluation.evaluated import EvaluatedModel
from heatline.train.evaluation.figures import FRAME, TILE, Columns
from heatline.train.evaluation.gallery import FrameGallery, FrameView
from heatline.train.evaluation.result import DefectKind
from heatline.train.evaluation.scoring import (
    PixelCounts,
    divide_by_size,
    peak_distance_px,
    score_frame,
    share_on_truth,
    study_mask,
)
from heatline.train.evaluation.sweep import Sweep
from heatline.train.frames import DEFECTIVE_SHARE
from heatline.train.progress import Track
from heatline.train.readers import LabelledImage
from heatline.train.references import References


@dataclass(frozen=True)
class Picture:
    """One picture with its annotation by each truth."""

    by_truth: Mapping[str, LabelledImage]
    group: int
    """Number of its group."""

    @property
    def image(self) -> LabelledImage:
        """The picture with its first truth."""
        return next(iter(self.by_truth.values()))


@dataclass(frozen=True)
class Observed:
    """What was observed of all pictures."""

    by_truth: dict[str, tuple[Columns, Columns]]
    """Rows of tiles and of frames, see `figures`."""
    thresholds: list[float]
    """Score threshold of each frame with a verdict, logits."""
    kinds: list[list[DefectKind]]
    """Of each frame with a verdict; empty for good frames."""
    rejected: dict[int, str]
    """Why pictures have no verdict, by their index."""


def observe(
    model: EvaluatedModel,
    pictures: Sequence[Picture],
    truths: Sequence[str],
    sweep: Sweep | None,
    track: Track,
    frame_gallery: FrameGallery | None = None,
    references: References | None = None,
) -> Observed:
    """Inspect all pictures, and collect the columns that figures are computed from.

    Pictures that do not show the product, or not where its reference shows it, get no verdict from the line. They are
    in no row and not in the gallery.

    Args:
        sweep: counts all variants of the map of a ViT's run.
        frame_gallery: picks the frames to show, with their truth by the first of `truths`.
        references: what a run compares the pictures with; None: nothing, or what a bundle holds.
    Raises:
        InputError: a picture or its truth cannot be used.
        EngineError: the engine gives no usable answer.
    """
    inspector, calibration = model.inspector(), model.settings.calibration
    tiles, frames = ({truth: list[tuple[Any, ...]]() for truth in truths} for _ in range(2))
    found = Observed({}, [], [], {})
    tracked = track([picture.image for picture in pictures])
    for number, (picture, image) in enumerate(zip(pictures, tracked, strict=True)):
        rgb = image.pixels()
        thresholds = inspector.thresholds = Thresholds.of(model.held_out.get(image.path, calibration))
        reference = None if references is None else references.of(image)
        frame = Frame(Stamp("evaluate", number + 1, image.path.name), rgb, "RGB8")
        pending = inspector.start(frame, reference=reference)
        judgement = inspector.finish(pending)
        if judgement.reject_reason is not None:
            found.rejected[number] = judgement.reject_reason
            continue
        grid = pending.stitcher.grid
        masks = {truth: of_truth.mask(grid.frame_hw) for truth, of_truth in picture.by_truth.items()}
        placed = {
            truth: mask
            for truth, mask in masks.items()
            if mask is not None and (mask.any() or not picture.by_truth[truth].defective)
        }
        tile_masks = {truth: cut_mask(mask, grid) for truth, mask in placed.items()}
        found.thresholds.append(thresholds.score)
        found.kinds.append(_score_kinds(picture, placed, pending, judgement, model.cell_px) if image.defective else [])
        for truth, rows in frames.items():
            defective, mask = picture.by_truth[truth].defective, placed.get(truth)
            counts, pixels = (0, 0, 0), PixelCounts()
            if mask is not None:
                counts = astuple(score_frame(judgement.regions, mask, model.cell_px))
                pixels = PixelCounts.of(line_mask(pending, judgement, thresholds), mask)
            is_defect, is_placed = judgement.verdict == "DEFECT", mask is not None
            rows.append((picture.group, judgement.score, defective, is_defect, is_placed, *counts, astuple(pixels)))
        if frame_gallery is not None:
            mask, cell_px = placed.get(truths[0]), pending.stitcher.cell_px
            pose = judgement.pose
            shown = None if reference is None or pose is None else reference.moved_to(pose)
            frame_gallery.add(FrameView(image.path, rgb, mask, image.defective, judgement, cell_px, shown))
        if not placed:
            continue
        inside_hw = min(grid.tile_px, grid.frame_hw[0]), min(grid.tile_px, grid.frame_hw[1])
        for tile, (logit, tile_map) in enumerate(zip(pending.logits.tolist(), pending.maps, strict=True)):
            called = study_mask(tile_map, logit, grid.tile_px)
            for truth, of_tiles in tile_masks.items():
                row = tile_row(model.family, logit, tile_map, of_tiles[tile], called, inside_hw, thresholds.score)
                tiles[truth].append((picture.group, *row))
        if sweep is not None:
            sweep.add(grid.tiles(rgb), pending.logits, tile_masks, inside_hw)
    for truth in truths:
        found.by_truth[truth] = np.array(tiles[truth], TILE), np.array(frames[truth], FRAME)
    return found


def tile_row(
    family: str,
    logit: float,
    tile_map: NDArray[np.float32],
    mask: NDArray[np.bool_],
    called: NDArray[np.bool_],
    inside_hw: tuple[int, int],
    threshold: float,
) -> tuple[Any, ...]:
    """Return the fields of `TILE` after the group.

    Args:
        family: of the model: "cnn" or "vit".
        mask: true pixels [tile, tile].
        called: pixels that the study's rule calls defective.
        inside_hw: part of the tile that is in the frame.
        threshold: the score threshold, logits.
    """
    # A rollout's map is relevance times logit: with a negative logit, its lowest value is the most relevant.
    relevance = tile_map * np.sign(np.float32(logit)) if family == "vit" else tile_map
    defective = bool(mask.mean() > DEFECTIVE_SHARE)
    ambiguous = bool(mask.any()) and not defective
    distance_px = peak_distance_px(relevance, mask, inside_hw) if defective else float("nan")
    on_truth = share_on_truth(relevance, mask, inside_hw) if defective else float("nan")
    inside = np.s_[: inside_hw[0], : inside_hw[1]]
    pixels = astuple(PixelCounts.of(called[inside], mask[inside]))
    return logit, defective, ambiguous, threshold, distance_px, on_truth, pixels


def _score_kinds(
    picture: Picture,
    placed: Mapping[str, NDArray[np.bool_]],
    pending: PendingFrame,
    judgement: Judgement,
    cell_px: float,
) -> list[DefectKind]:
    """Return the classes and sizes of a picture's defects, by the first truth that knows them.

    The only class, or size, has the score of the frame. One of several has the highest logit of the tiles that show it.
    """
    by_class = next((found for truth in placed if (found := picture.by_truth[truth].masks_by_class(placed[truth]))), {})
    named = None if by_class or not picture.image.defective else picture.image.class_name
    kinds = [] if named is None else [DefectKind("class", named, judgement.score)]
    by_size = divide_by_size(next(iter(placed.values())), cell_px) if placed else {}

    def score(by: Literal["class", "size"], masks: dict[str, NDArray[np.bool_]]) -> Iterator[DefectKind]:
        masks = {name: mask for name, mask in masks.items() if mask.any()}
        for name, mask in masks.items():
            shows = cut_mask(mask, pending.stitcher.grid).any(axis=(1, 2))
            of_tiles = float(pending.logits[shows].max()) if len(masks) > 1 and shows.any() else judgement.score
            yield DefectKind(by, name, of_tiles, int(mask.sum()))

    return [*kinds, *score("class", by_class), *score("size", by_size)]


def cut_mask(mask: NDArray[np.bool_], grid: TileGrid) -> NDArray[np.bool_]:
    """Cut a mask into tiles, bool [tiles, tile, tile]; pixels beyond the frame are not defective."""
    tiles = np.zeros((len(grid), grid.tile_px, grid.tile_px), np.bool_)
    for tile, (y, x) in zip(tiles, grid.origins_yx, strict=True):
        part = mask[y : y + grid.tile_px, x : x + grid.tile_px]
        tile[: part.shape[0], : part.shape[1]] = part
    return tiles


def line_mask(pending: PendingFrame, judgement: Judgement, thresholds: Thresholds) -> NDArray[np.bool_]:
    """Return the pixels of a frame that lie in its regions, bool [H, W]."""
    stitcher = pending.stitcher
    defective = pending.logits.astype(np.float64) >= thresholds.score
    if not defective.any():
        return np.zeros(stitcher.grid.frame_hw, np.bool_)
    cells = found_cells(judgement.heatmap, stitcher, defective, thresholds.evidence, thresholds.strong)
    height, width = stitcher.grid.frame_hw
    return np.kron(cells, np.ones((stitcher.cell_px, stitcher.cell_px), np.bool_))[:height, :width]
