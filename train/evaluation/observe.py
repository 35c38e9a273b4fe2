"""One pass over labelled pictures: each is inspected once, as the line would, and held against every truth."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.frames import Frame, Stamp
from edge.geometry import TileGrid
from edge.geometry.regions import found_cells
from edge.inspection.inspector import PendingFrame
from edge.inspection.verdict import Judgement, Thresholds
from train.evaluation.evaluated import EvaluatedModel
from train.evaluation.figures import FrameColumns, TileColumns
from train.evaluation.gallery import FrameGallery, FrameView, Gallery, TileView
from train.evaluation.pixels import PixelCounts
from train.evaluation.scoring import peak_distance_px, score_frame, share_on_truth
from train.evaluation.study_rule import study_mask
from train.evaluation.sweep import Sweep
from train.progress import Track
from train.readers import LabelledImage
from train.tiles import DEFECTIVE_SHARE


@dataclass(frozen=True)
class Picture:
    """One picture with what each truth says of it."""

    by_truth: Mapping[str, LabelledImage]
    group: int
    """Number of its group."""

    @property
    def any(self) -> LabelledImage:
        return next(iter(self.by_truth.values()))


@dataclass(frozen=True)
class Observed:
    """What the pass leaves of one truth."""

    tiles: TileColumns
    frames: FrameColumns
    without_defects: NDArray[np.float64]
    """Of each placed defective frame that has such tiles, the highest logit of its tiles without a true pixel by any
    truth."""


def observe(
    judged: EvaluatedModel,
    pictures: Sequence[Picture],
    galleries: Mapping[str, Gallery],
    sweep: Sweep | None,
    track: Track,
    frame_gallery: FrameGallery | None = None,
) -> tuple[dict[str, Observed], dict[int, str]]:
    """Inspect all pictures; per truth, what figures are made of.

    Pictures that the line would give no verdict, as they do not show the product, are in no figure and no gallery.

    Args:
        galleries: by truth, what picks tiles to be shown.
        sweep: of a ViT's run, all variants of its map.
        frame_gallery: picks frames to be shown, with their truth by the first of `galleries`.
    Returns: by truth; and by their places in `pictures`, why pictures do not show the product.
    Raises:
        InputError: a picture or its truth cannot be used.
        EngineError: the engine has no usable answer.
    """
    inspector = judged.inspector()
    columns = {truth: _Columns(judged, inspector.thresholds) for truth in galleries}
    implausible: dict[int, str] = {}
    tracked = track([picture.any for picture in pictures])
    for number, (picture, image) in enumerate(zip(pictures, tracked, strict=True), start=1):
        rgb = image.pixels()
        pending = inspector.start(Frame(Stamp("evaluate", number, image.path.name), rgb, "RGB8"))
        judgement = inspector.finish(pending)
        if judgement.implausible is not None:
            implausible[number - 1] = judgement.implausible
            continue
        grid = pending.stitcher.grid
        placed: dict[str, NDArray[np.bool_]] = {}
        for truth, of_truth in picture.by_truth.items():
            mask = of_truth.mask(grid.frame_hw)
            if mask is not None and (mask.any() or not of_truth.defective):
                placed[truth] = mask
        tile_masks = {truth: cut_mask(mask, grid) for truth, mask in placed.items()}
        clean = clean_tiles(tile_masks.values(), len(grid))
        for truth, found in columns.items():
            found.add_frame(picture, picture.by_truth[truth].defective, pending, judgement, placed.get(truth), clean)
        if frame_gallery is not None:
            mask, cell_px = placed.get(next(iter(galleries))), pending.stitcher.cell_px
            frame_gallery.see(FrameView(image.path, rgb, mask, image.defective, judgement, cell_px))
        if not placed:
            continue
        inside_hw = min(grid.tile_px, grid.frame_hw[0]), min(grid.tile_px, grid.frame_hw[1])
        _add_tiles({truth: columns[truth] for truth in placed}, picture, pending, tile_masks, inside_hw)
        pixels = grid.tiles(rgb)
        for truth, masks in tile_masks.items():
            galleries[truth].see(_views(picture, grid, pixels, masks, pending))
        if sweep is not None:
            sweep.add(pixels, pending.logits, tile_masks, inside_hw)
    return {truth: found.observed() for truth, found in columns.items()}, implausible


def cut_mask(mask: NDArray[np.bool_], grid: TileGrid) -> NDArray[np.bool_]:
    """The mask in each tile, bool [tiles, tile, tile]; what sticks out of the frame is not defective."""
    tiles = np.zeros((len(grid), grid.tile_px, grid.tile_px), np.bool_)
    for tile, (y, x) in zip(tiles, grid.origins_yx, strict=True):
        part = mask[y : y + grid.tile_px, x : x + grid.tile_px]
        tile[: part.shape[0], : part.shape[1]] = part
    return tiles


def clean_tiles(masks: Iterable[NDArray[np.bool_]], tiles: int) -> NDArray[np.bool_]:
    """The tiles without a true pixel by any truth, [tiles]: what lies in a box beside the defect is not clean.

    Args:
        masks: of each truth, [tiles, tile, tile].
        tiles: how many there are.
    """
    clean = np.ones(tiles, np.bool_)
    for mask in masks:
        clean &= ~mask.any(axis=(1, 2))
    return clean


def _add_tiles(
    columns: "Mapping[str, _Columns]",
    picture: Picture,
    pending: PendingFrame,
    tile_masks: Mapping[str, NDArray[np.bool_]],
    inside_hw: tuple[int, int],
) -> None:
    """Each tile's mask by the study's rule is made once and held against every truth."""
    inside = np.s_[: inside_hw[0], : inside_hw[1]]
    for tile, (logit, tile_map) in enumerate(zip(pending.logits, pending.maps, strict=True)):
        found = study_mask(tile_map, float(logit), pending.stitcher.grid.tile_px)[inside]
        for truth, masks in tile_masks.items():
            columns[truth].add_tile(picture.group, float(logit), tile_map, masks[tile], found, inside_hw)


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
            picture.any.path.name,
            yx,
            pixels[tile],
            masks[tile],
            bool(masks[tile].mean() > DEFECTIVE_SHARE),
            float(pending.logits[tile]),
            pending.maps[tile],
        )


class _Columns:
    """Columns while they grow."""

    def __init__(self, judged: EvaluatedModel, thresholds: Thresholds) -> None:
        self._is_rollout = judged.family == "vit"
        self._thresholds = thresholds
        self._cell_px = judged.cell_px
        self._tiles: list[tuple[int, float, bool, float, float]] = []
        self._study_px: list[PixelCounts] = []
        self._frames: list[tuple[int, float, bool, bool, bool, int, int, int]] = []
        self._line_px: list[PixelCounts] = []
        self._without_defects: list[float] = []

    def add_tile(
        self,
        group: int,
        logit: float,
        tile_map: NDArray[np.float32],
        mask: NDArray[np.bool_],
        found: NDArray[np.bool_],
        inside_hw: tuple[int, int],
    ) -> None:
        defective = bool(mask.mean() > DEFECTIVE_SHARE)
        distance_px = on_truth = float("nan")
        if defective:
            # A rollout times a negative logit is coldest where the class token looked most.
            looked = tile_map * np.sign(np.float32(logit)) if self._is_rollout else tile_map
            distance_px = peak_distance_px(looked, mask, inside_hw)
            on_truth = share_on_truth(looked, mask, inside_hw)
        self._tiles.append((group, logit, defective, distance_px, on_truth))
        self._study_px.append(PixelCounts.of(found, mask[: inside_hw[0], : inside_hw[1]]))

    def add_frame(
        self,
        picture: Picture,
        defective: bool,
        pending: PendingFrame,
        judgement: Judgement,
        mask: NDArray[np.bool_] | None,
        clean: NDArray[np.bool_],
    ) -> None:
        """A frame as the line judged it; without a mask it is not placed."""
        counts, pixels = (0, 0, 0), PixelCounts()
        if mask is not None:
            score = score_frame(judgement.regions, mask, self._cell_px)
            counts = score.defects, score.hit, score.false_regions
            pixels = PixelCounts.of(line_mask(pending, judgement, self._thresholds), mask)
            if defective and clean.any():
                self._without_defects.append(float(pending.logits[clean].max()))
        self._frames.append(
            (picture.group, judgement.score, defective, judgement.verdict == "DEFECT", mask is not None, *counts)
        )
        self._line_px.append(pixels)

    def observed(self) -> Observed:
        tile = list(zip(*self._tiles, strict=True)) or [()] * 5
        frame = list(zip(*self._frames, strict=True)) or [()] * 8
        return Observed(
            TileColumns(
                group=np.array(tile[0], np.int64),
                logit=np.array(tile[1], np.float64),
                defective=np.array(tile[2], np.bool_),
                distance_px=np.array(tile[3], np.float64),
                on_truth=np.array(tile[4], np.float64),
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
            np.array(self._without_defects),
        )


def line_mask(pending: PendingFrame, judgement: Judgement, thresholds: Thresholds) -> NDArray[np.bool_]:
    """The px of a frame that lie in its regions, bool [H, W]."""
    stitcher = pending.stitcher
    defective = pending.logits.astype(np.float64) >= thresholds.score
    if not defective.any():
        return np.zeros(stitcher.grid.frame_hw, np.bool_)
    cells = found_cells(judgement.heatmap, stitcher, defective, thresholds.evidence)
    height, width = stitcher.grid.frame_hw
    return np.kron(cells, np.ones((stitcher.cell_px, stitcher.cell_px), np.bool_))[:height, :width]


def _counts(pixels: Sequence[PixelCounts]) -> NDArray[np.int64]:
    rows = [(one.true_positive, one.false_positive, one.false_negative, one.true_negative) for one in pixels]
    return np.array(rows, np.int64).reshape(-1, 4)
