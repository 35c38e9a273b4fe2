"""Inspect each labelled picture once, as the line does, and compare the result with every truth."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import TileGrid
from heatline.edge.geometry.regions import found_cells
from heatline.edge.inspection.inspector import PendingFrame
from heatline.edge.inspection.verdict import Judgement, Thresholds
from heatline.train.evaluation.evaluated import EvaluatedModel
from heatline.train.evaluation.figures import FrameColumns, TileColumns
from heatline.train.evaluation.gallery import FrameGallery, FrameView, Gallery, TileView
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
from heatline.train.progress import Track
from heatline.train.readers import LabelledImage
from heatline.train.references import References
from heatline.train.tiles import DEFECTIVE_SHARE


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
class TruthColumns:
    """Columns of all pictures by one truth."""

    tiles: TileColumns
    frames: FrameColumns
    scores_without_defects: NDArray[np.float64]
    """Per placed defective frame, the highest logit of its clean tiles (without a true pixel by any truth), shifted as
    the model's threshold is from that of the frame; frames without clean tiles are left out."""
    thresholds: list[float]
    """Score threshold of each frame, logits."""
    kinds: list[list[DefectKind]]
    """Of each frame; empty for good frames."""


def observe(
    model: EvaluatedModel,
    pictures: Sequence[Picture],
    galleries: Mapping[str, Gallery],
    sweep: Sweep | None,
    track: Track,
    frame_gallery: FrameGallery | None = None,
    references: References | None = None,
) -> tuple[dict[str, TruthColumns], dict[int, str]]:
    """Inspect all pictures, and collect the columns that figures are computed from.

    Pictures that do not show the product, or not where its reference shows it, get no verdict from the line. They are
    in no column and no gallery.

    Args:
        galleries: pick the tiles to show, by truth.
        sweep: counts all variants of the map of a ViT's run.
        frame_gallery: picks the frames to show, with their truth by the first of `galleries`.
        references: what a run compares the pictures with; None: nothing, or what a bundle holds.
    Returns:
        The columns by truth; and why pictures have no verdict, by their index in `pictures`.
    Raises:
        InputError: a picture or its truth cannot be used.
        EngineError: the engine gives no usable answer.
    """
    inspector, calibration = model.inspector(), model.settings.calibration
    columns = {truth: _ColumnBuilder(model) for truth in galleries}
    implausible: dict[int, str] = {}
    tracked = track([picture.image for picture in pictures])
    for number, (picture, image) in enumerate(zip(pictures, tracked, strict=True), start=1):
        rgb = image.pixels()
        thresholds = Thresholds.of(model.held_out.get(image.path, calibration))
        inspector.thresholds = thresholds
        reference = None if references is None else references.of(image)
        frame = Frame(Stamp("evaluate", number, image.path.name), rgb, "RGB8")
        pending = inspector.start(frame, reference=reference)
        judgement = inspector.finish(pending)
        if judgement.reject_reason is not None:
            implausible[number - 1] = judgement.reject_reason
            continue
        grid = pending.stitcher.grid
        placed: dict[str, NDArray[np.bool_]] = {}
        for truth, of_truth in picture.by_truth.items():
            mask = of_truth.mask(grid.frame_hw)
            if mask is not None and (mask.any() or not of_truth.defective):
                placed[truth] = mask
        tile_masks = {truth: cut_mask(mask, grid) for truth, mask in placed.items()}
        clean = clean_tiles(tile_masks.values(), len(grid))
        kinds = _score_kinds(picture, placed, pending, judgement, model.cell_px)
        for truth, found in columns.items():
            defective, mask = picture.by_truth[truth].defective, placed.get(truth)
            found.add_frame(picture, defective, pending, judgement, thresholds, mask, clean, kinds)
        if frame_gallery is not None:
            mask, cell_px = placed.get(next(iter(galleries))), pending.stitcher.cell_px
            pose = judgement.pose
            shown = None if reference is None or pose is None else reference.moved_to(pose)
            frame_gallery.add(FrameView(image.path, rgb, mask, image.defective, judgement, cell_px, shown))
        if not placed:
            continue
        inside_hw = min(grid.tile_px, grid.frame_hw[0]), min(grid.tile_px, grid.frame_hw[1])
        _add_tiles(
            {truth: columns[truth] for truth in placed}, picture, pending, tile_masks, inside_hw, thresholds.score
        )
        pixels = grid.tiles(rgb)
        for truth, masks in tile_masks.items():
            galleries[truth].add(_views(picture, grid, pixels, masks, pending))
        if sweep is not None:
            sweep.add(pixels, pending.logits, tile_masks, inside_hw)
    return {truth: found.build() for truth, found in columns.items()}, implausible


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


def clean_tiles(masks: Iterable[NDArray[np.bool_]], tiles: int) -> NDArray[np.bool_]:
    """Return which tiles have no true pixel by any truth, bool [tiles].

    So a tile in a box, beside the defect itself, is not clean.

    Args:
        masks: of each truth, [tiles, tile, tile].
        tiles: number of tiles.
    """
    clean = np.ones(tiles, np.bool_)
    for mask in masks:
        clean &= ~mask.any(axis=(1, 2))
    return clean


def _add_tiles(
    columns: "Mapping[str, _ColumnBuilder]",
    picture: Picture,
    pending: PendingFrame,
    tile_masks: Mapping[str, NDArray[np.bool_]],
    inside_hw: tuple[int, int],
    threshold: float,
) -> None:
    """Compute each tile's mask by the study's rule once, and add it for every truth."""
    inside = np.s_[: inside_hw[0], : inside_hw[1]]
    for tile, (logit, tile_map) in enumerate(zip(pending.logits, pending.maps, strict=True)):
        found = study_mask(tile_map, float(logit), pending.stitcher.grid.tile_px)[inside]
        for truth, masks in tile_masks.items():
            columns[truth].add_tile(picture.group, float(logit), tile_map, masks[tile], found, inside_hw, threshold)


def _views(
    picture: Picture,
    grid: TileGrid,
    pixels: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    pending: PendingFrame,
) -> Iterable[TileView]:
    for tile, yx in enumerate(grid.origins_yx):
        yield TileView(
            picture.group,
            picture.image.path.name,
            yx,
            pixels[tile],
            masks[tile],
            bool(masks[tile].mean() > DEFECTIVE_SHARE),
            float(pending.logits[tile]),
            pending.maps[tile],
        )


class _ColumnBuilder:
    """Collects the rows of the columns by one truth."""

    def __init__(self, model: EvaluatedModel) -> None:
        self._is_rollout = model.family == "vit"
        self._cell_px = model.cell_px
        self._score_threshold = model.settings.calibration.score_threshold
        self._tiles: list[tuple[int, float, bool, bool, float, float, float]] = []
        self._study_px: list[PixelCounts] = []
        self._frames: list[tuple[int, float, bool, bool, bool, int, int, int]] = []
        self._line_px: list[PixelCounts] = []
        self._scores_without_defects: list[float] = []
        self._thresholds: list[float] = []
        self._kinds: list[list[DefectKind]] = []

    def add_tile(
        self,
        group: int,
        logit: float,
        tile_map: NDArray[np.float32],
        mask: NDArray[np.bool_],
        found: NDArray[np.bool_],
        inside_hw: tuple[int, int],
        threshold: float,
    ) -> None:
        defective = bool(mask.mean() > DEFECTIVE_SHARE)
        distance_px = on_truth = float("nan")
        if defective:
            # A rollout's map is relevance times logit: with a negative logit, its lowest value is the most relevant.
            relevance = tile_map * np.sign(np.float32(logit)) if self._is_rollout else tile_map
            distance_px = peak_distance_px(relevance, mask, inside_hw)
            on_truth = share_on_truth(relevance, mask, inside_hw)
        ambiguous = bool(mask.any()) and not defective
        self._tiles.append((group, logit, defective, ambiguous, threshold, distance_px, on_truth))
        self._study_px.append(PixelCounts.of(found, mask[: inside_hw[0], : inside_hw[1]]))

    def add_frame(
        self,
        picture: Picture,
        defective: bool,
        pending: PendingFrame,
        judgement: Judgement,
        thresholds: Thresholds,
        mask: NDArray[np.bool_] | None,
        clean: NDArray[np.bool_],
        kinds: list[DefectKind],
    ) -> None:
        """Add a frame with its verdict; a frame without a mask is not placed."""
        counts, pixels = (0, 0, 0), PixelCounts()
        if mask is not None:
            score = score_frame(judgement.regions, mask, self._cell_px)
            counts = score.defects, score.hit, score.false_regions
            pixels = PixelCounts.of(line_mask(pending, judgement, thresholds), mask)
            if defective and clean.any():
                shift = self._score_threshold - thresholds.score
                self._scores_without_defects.append(float(pending.logits[clean].max()) + shift)
        self._frames.append(
            (picture.group, judgement.score, defective, judgement.verdict == "DEFECT", mask is not None, *counts)
        )
        self._line_px.append(pixels)
        self._thresholds.append(thresholds.score)
        self._kinds.append(kinds if defective else [])

    def build(self) -> TruthColumns:
        tile = list(zip(*self._tiles, strict=True)) or [()] * 7
        frame = list(zip(*self._frames, strict=True)) or [()] * 8
        return TruthColumns(
            TileColumns(
                group=np.array(tile[0], np.int64),
                logit=np.array(tile[1], np.float64),
                defective=np.array(tile[2], np.bool_),
                ambiguous=np.array(tile[3], np.bool_),
                score_threshold=np.array(tile[4], np.float64),
                distance_px=np.array(tile[5], np.float64),
                on_truth=np.array(tile[6], np.float64),
                study_px=_counts(self._study_px),
            ),
            FrameColumns(
                group=np.array(frame[0], np.int64),
                logit=np.array(frame[1], np.float64),
                defective=np.array(frame[2], np.bool_),
                rejected=np.array(frame[3], np.bool_),
                placed=np.array(frame[4], np.bool_),
                defects=np.array(frame[5], np.int64),
                hit=np.array(frame[6], np.int64),
                false_regions=np.array(frame[7], np.int64),
                line_px=_counts(self._line_px),
            ),
            np.array(self._scores_without_defects),
            self._thresholds,
            self._kinds,
        )


def line_mask(pending: PendingFrame, judgement: Judgement, thresholds: Thresholds) -> NDArray[np.bool_]:
    """Return the pixels of a frame that lie in its regions, bool [H, W]."""
    stitcher = pending.stitcher
    defective = pending.logits.astype(np.float64) >= thresholds.score
    if not defective.any():
        return np.zeros(stitcher.grid.frame_hw, np.bool_)
    cells = found_cells(judgement.heatmap, stitcher, defective, thresholds.evidence, thresholds.strong)
    height, width = stitcher.grid.frame_hw
    return np.kron(cells, np.ones((stitcher.cell_px, stitcher.cell_px), np.bool_))[:height, :width]


def _counts(pixels: Sequence[PixelCounts]) -> NDArray[np.int64]:
    rows = [(each.true_positive, each.false_positive, each.false_negative, each.true_negative) for each in pixels]
    return np.array(rows, np.int64).reshape(-1, 4)
