"""Figures of one model's answers to one fold, by thresholds that other frames set; docs/recipes-log.md defines them."""

import math
from collections.abc import Iterable, Iterator, Sequence

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.bench.recipes.folds import Answers, Truth
from heatline.edge.calibration.thresholds import (
    EVIDENCE_QUANTILE,
    STRONG_SHARE,
    GoodFrame,
    calibrate,
    lowest_defect_of,
    threshold,
)
from heatline.edge.geometry import Stitcher
from heatline.edge.geometry.regions import found_cells
from heatline.edge.geometry.stitching import HEATMAP_CELL_PX
from heatline.train.evaluation.scoring import (
    GATE_LOGIT,
    count_pixels,
    enlarged,
    peak_distance_px,
    pixel_rates,
    study_mask,
)
from heatline.train.metrics import auroc, average_precision
from heatline.train.validation_frames import smoothing_px

REJECTED = 0.05
"""Share of good frames that the score threshold rejects."""
WANTED = (0.01, 0.05)
"""Wanted shares of rejected good frames, for the line's own threshold."""
NEAR_PX = 16
FEWEST_GOOD_FRAMES = 8
"""With fewer, frames without their defective tiles stand in for good ones."""
LEAST_DEFECT_PX = 30
"""Smaller areas of a mask do not count as defects, as masks that are derived from pictures have noise."""
Floats = NDArray[np.float32]
Counts = NDArray[np.int64]


class Verdicts(msgspec.Struct, frozen=True, kw_only=True):
    """Verdicts by the line's own score threshold on a fold that did not set it."""

    wanted: float
    """Wanted share of rejected good frames."""
    good: int
    rejected: int
    defective: int
    escaped: int


class FoldFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one model on one fold that it was not trained on; None: the fold lacks the needed frames."""

    seed: int
    fold: int
    tile_ap_clear: float | None
    picture_auroc: float | None
    pixel_ap: float | None
    study_f1: float | None
    pointing_near: float | None
    hit: float | None
    false_regions: float | None
    """Regions far from all defects, per defective frame."""
    rejected: float | None
    frames: int
    good_frames: int
    """Good frames of the fold; if the set has too few, frames without their defective tiles."""
    score_threshold: float
    evidence_threshold: float
    verdicts: list[Verdicts]
    """For each share of `WANTED`."""


def judge_fold(truth: Truth, answers: Answers) -> FoldFigures:
    """Compute all figures of a fold."""
    frames = np.flatnonzero(answers.tested).tolist()
    rows = np.flatnonzero(answers.tested[truth.tiles.table.frame] & truth.is_placed)
    clear = rows[~truth.tiles.table.ambiguous[rows]]
    distances = [
        peak_distance_px(_map(answers, row), truth.mask(row), truth.inside_hw(row))
        for row in rows[truth.tiles.table.defective[rows]]
    ]
    line = _Line(truth, answers)
    found = [each for frame in frames if truth.defective[frame] and (each := line.found(frame)) is not None]
    hit, defects, false_regions = (sum(each) for each in zip(*found, strict=True)) if found else (0, 0, 0)
    good = line.stand_ins(frames)
    highest = np.array([_highest(truth, answers, frame) for frame in frames], np.float64)
    tiles_defective = truth.tiles.table.defective[clear]
    return FoldFigures(
        seed=answers.seed,
        fold=answers.fold,
        tile_ap_clear=average_precision(answers.logit[clear].astype(np.float64), tiles_defective, np.ones(len(clear))),
        picture_auroc=auroc(highest, truth.defective[frames], np.ones(len(frames))),
        pixel_ap=pixel_average_precision(_pixels(truth, answers, rows)),
        study_f1=_study_f1(truth, answers, rows) if answers.knows_defects else None,
        pointing_near=_ratio(sum(distance <= NEAR_PX for distance in distances), len(distances)),
        hit=_ratio(hit, defects),
        false_regions=_ratio(false_regions, len(found)),
        rejected=_ratio(sum(line.score_of(frame) >= line.score_threshold for frame in good), len(good)),
        frames=len(frames),
        good_frames=len(good),
        score_threshold=line.score_threshold,
        evidence_threshold=line.evidence_threshold,
        verdicts=[_verdicts(line, truth, answers, wanted) for wanted in WANTED],
    )


def _verdicts(line: "_Line", truth: Truth, answers: Answers, wanted: float) -> Verdicts:
    """Count verdicts by the score threshold that `heatline export` would set by the calibrating frames."""
    calibrating, tested = (np.flatnonzero(each).tolist() for each in (answers.calibrating, answers.tested))
    group_of = truth.tiles.group[[truth.rows(frame).start for frame in range(len(truth.store))]]
    good = [
        GoodFrame(line.score_of(frame), 0.0, 1, np.zeros(1, np.float32), truth.tiles.groups[group_of[frame]])
        for frame in line.stand_ins(calibrating)
    ]
    lowest = lowest_defect_of([_highest(truth, answers, frame) for frame in calibrating if truth.defective[frame]])
    found = calibrate(good, wanted, "held-out good frames", lowest_defect=lowest if answers.knows_defects else None)
    scores = np.array([line.score_of(frame) for frame in line.stand_ins(tested)])
    defective = np.array([_highest(truth, answers, frame) for frame in tested if truth.defective[frame]])
    return Verdicts(
        wanted=wanted,
        good=len(scores),
        rejected=int((scores >= found.score_threshold).sum()),
        defective=len(defective),
        escaped=int((defective < found.score_threshold).sum()),
    )


def _highest(truth: Truth, answers: Answers, frame: int) -> float:
    return float(answers.logit[truth.rows(frame)].max())


class _Line:
    """The verdict rule of the line, with thresholds from the calibrating frames."""

    def __init__(self, truth: Truth, answers: Answers) -> None:
        self._truth, self._answers = truth, answers
        map_hw = (answers.map.shape[1], answers.map.shape[2])
        self._map_hw, self._smoothing = map_hw, smoothing_px(map_hw, truth.rule.tile_px, None)
        calibrating = np.flatnonzero(answers.calibrating).tolist()
        self._by_good_frames = sum(~truth.defective[calibrating]) >= FEWEST_GOOD_FRAMES
        good = self.stand_ins(calibrating)
        self.score_threshold = threshold([self.score_of(frame) for frame in good], REJECTED)
        cells = [heatmap[np.isfinite(heatmap)] for heatmap in (self._clean_heatmap(frame) for frame in good)]
        evidence = math.nextafter(float(np.quantile(np.concatenate(cells), EVIDENCE_QUANTILE)), math.inf)
        self.evidence_threshold = min(evidence, self.score_threshold) if answers.knows_defects else evidence
        highest = threshold([each.max() for each in cells], max(REJECTED, STRONG_SHARE))
        self._strong = max(self.score_threshold, highest) if answers.top_mean else None

    def stand_ins(self, frames: Sequence[int]) -> list[int]:
        """Return the good frames of some; if the set has few good frames, those with a clean tile."""
        if self._by_good_frames:
            return [frame for frame in frames if not self._truth.defective[frame]]
        return [frame for frame in frames if self._truth.is_clean[self._truth.rows(frame)].any()]

    def score_of(self, frame: int) -> float:
        """Return the highest logit of its clean tiles."""
        rows = self._truth.rows(frame)
        return float(self._answers.logit[rows][self._truth.is_clean[rows]].max())

    def found(self, frame: int) -> tuple[int, int, int] | None:
        """Return the defects hit, all defects, and the false regions of a defective frame; None: it has no mask."""
        mask = self._truth.store.mask(frame)
        if mask is None:
            return None
        labels, count = label_defects(mask)
        stitcher, rows = self._stitcher(frame), self._truth.rows(frame)
        heatmap = stitcher.stitch(self._answers.map[rows].astype(np.float32))
        defective = self._answers.logit[rows].astype(np.float64) >= self.score_threshold
        cells = found_cells(heatmap, stitcher, defective, self.evidence_threshold, self._strong)
        cell_px = stitcher.cell_px
        return count_hit(labels, cells, cell_px), count, count_false(mask, cells, cell_px, near_px=NEAR_PX)

    def _clean_heatmap(self, frame: int) -> Floats:
        rows = self._truth.rows(frame)
        clean, maps = self._truth.is_clean[rows], self._answers.map[rows].astype(np.float32)
        return self._stitcher(frame).stitch(maps, None if clean.all() else clean)

    def _stitcher(self, frame: int) -> Stitcher:
        return Stitcher(self._truth.grid(frame), self._map_hw, smoothing_px=self._smoothing)


def _pixels(truth: Truth, answers: Answers, rows: NDArray[np.int64]) -> Iterator[tuple[Floats, Counts, Counts]]:
    """Yield the cells of tiles, of 4 px, with their evidence and the number of defective and of good pixels."""
    tile_px = truth.rule.tile_px
    for row in rows:
        height, width = truth.inside_hw(row)
        inside = np.zeros((tile_px, tile_px), np.bool_)
        inside[:height, :width] = True
        pixels = count_in_cells(inside, HEATMAP_CELL_PX)
        defective = pixels * 0 if truth.is_clean[row] else count_in_cells(truth.mask(row), HEATMAP_CELL_PX)
        yield enlarged(_map(answers, row), len(pixels)), defective, pixels - defective


def pixel_average_precision(cells: Iterable[tuple[Floats, Counts, Counts]]) -> float | None:
    """Return the average precision of pixels ranked by evidence, in steps of float16; None if there are no good or no
    defective ones.

    Args:
        cells: evidence, and the number of defective and of good pixels, arrays of one shape.
    """
    defective, good = np.zeros(2**16), np.zeros(2**16)
    for evidence, defective_px, good_px in cells:
        level = evidence.astype(np.float16).view(np.uint16).ravel()
        np.add.at(defective, level, defective_px.ravel())
        np.add.at(good, level, good_px.ravel())
    seen = np.flatnonzero(defective + good)
    value = seen.astype(np.uint16).view(np.float16).astype(np.float64)
    is_defective = np.repeat([True, False], len(seen))
    return average_precision(np.tile(value, 2), is_defective, np.concatenate([defective[seen], good[seen]]))


def _study_f1(truth: Truth, answers: Answers, rows: NDArray[np.int64]) -> float | None:
    counts = np.zeros(4, np.int64)
    for row in rows:
        if answers.logit[row] > GATE_LOGIT or not truth.is_clean[row]:
            inside = np.s_[: truth.inside_hw(row)[0], : truth.inside_hw(row)[1]]
            found = study_mask(_map(answers, row), float(answers.logit[row]), truth.rule.tile_px)
            counts += count_pixels(found[inside], truth.mask(row)[inside])
    hit, _, missed, _ = counts
    return pixel_rates(counts)["f1"] if hit + missed else None


def _map(answers: Answers, row: int) -> Floats:
    return np.asarray(answers.map[row], np.float32)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def count_in_cells(mask: NDArray[np.bool_], cell_px: int) -> NDArray[np.int64]:
    """Count the true pixels in each cell [h, w] of a mask [H, W]; the last cells may extend beyond it."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % cell_px), (0, -width % cell_px)))
    rows, columns = padded.shape[0] // cell_px, padded.shape[1] // cell_px
    return padded.reshape(rows, cell_px, columns, cell_px).sum(axis=(1, 3))  # type: ignore[no-any-return]


def label_defects(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Return the number of the defect at each pixel, from 1, 0 elsewhere, and the number of defects.

    A defect is a connected area (8 neighbours) of `LEAST_DEFECT_PX` or more.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    is_defect = stats[:, cv2.CC_STAT_AREA] >= LEAST_DEFECT_PX
    is_defect[0] = False
    number = np.where(is_defect, np.cumsum(is_defect), 0).astype(np.int32)
    return number[labels[: mask.shape[0]]] if count > 1 else np.zeros(mask.shape, np.int32), int(is_defect.sum())


def count_hit(labels: NDArray[np.int32], found: NDArray[np.bool_], cell_px: int) -> int:
    """Count the defects of `label_defects` [H, W] that have a pixel in a found cell [h, w]."""
    height, width = labels.shape
    pixels = found.repeat(cell_px, axis=0).repeat(cell_px, axis=1)[:height, :width]
    return len(set(np.unique(labels[pixels]).tolist()) - {0})


def count_false(mask: NDArray[np.bool_], found: NDArray[np.bool_], cell_px: int, near_px: int) -> int:
    """Count the connected areas of found cells [h, w] that have no cell near a defective pixel of a mask [H, W].

    Near is a distance of at most `near_px` along both axes, rounded up to whole cells.
    """
    defective = (count_in_cells(mask, cell_px) > 0).astype(np.uint8)
    near = cv2.dilate(defective, np.ones((2 * -(-near_px // cell_px) + 1,) * 2, np.uint8)) > 0
    count, areas = cv2.connectedComponents(found.astype(np.uint8), connectivity=8)
    return int(count - 1 - len(set(np.unique(areas[near]).tolist()) - {0}))
