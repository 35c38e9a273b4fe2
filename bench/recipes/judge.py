"""Figures of one model's answers to one fold, by thresholds that other frames set."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatline.bench.recipes.metrics import (
    PixelRanking,
    count_false,
    count_hit,
    count_in_cells,
    label_defects,
    most_beyond,
)
from heatline.bench.recipes.rows import FoldFigures, Verdicts
from heatline.bench.recipes.truth import Truth
from heatline.edge.calibration import (
    EVIDENCE_QUANTILE,
    STRONG_SHARE,
    GoodFrame,
    calibrate,
    cases_of_new_group,
    count_allowed_rejects,
    lowest_defect_of,
    threshold,
)
from heatline.edge.geometry import Stitcher
from heatline.edge.geometry.regions import found_cells
from heatline.edge.geometry.stitching import HEATMAP_CELL_PX
from heatline.train.evaluation.figures import auroc, average_precision
from heatline.train.evaluation.scoring import GATE_LOGIT, PixelCounts, enlarged, peak_distance_px, study_mask
from heatline.train.validation_frames import smoothing_px

REJECTED = 0.05
"""Share of good frames that the score threshold rejects."""
WANTED = (0.01, 0.05)
"""Wanted shares of rejected good frames, for the line's own threshold."""
NEAR_PX = 16
FEWEST_GOOD_FRAMES = 8
"""With fewer, frames without their defective tiles stand in for good ones."""
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """Answers of one model."""

    seed: int
    fold: int
    logit: Floats
    """[tiles]; any value for frames that are neither tested nor calibrating."""
    map: NDArray[np.float16]
    """[tiles, h, w]"""
    tested: NDArray[np.bool_]
    """[frames]"""
    calibrating: NDArray[np.bool_]
    """[frames] that set thresholds; the model was not trained on them either."""
    knows_defects: bool = True
    """Whether it was trained on defects. Otherwise a logit of 0 does not mean a probability of 0.5, which the study's
    rule assumes, and no defective frame sets a threshold."""
    one_scale: bool = True
    """Whether a tile's logit and the cells of its map are on one scale."""
    top_mean: bool = True
    """Whether a tile's logit is the mean of its map's highest cells."""
    fewest_good: int = FEWEST_GOOD_FRAMES
    """With fewer good frames among the calibrating ones, stand-ins set the thresholds; export needs only one."""


def judge_fold(truth: Truth, answers: Answers) -> FoldFigures:
    """Compute all figures of a fold."""
    frames = np.flatnonzero(answers.tested).tolist()
    rows = np.flatnonzero(answers.tested[truth.tiles.table.frame] & truth.is_placed)
    pointing = _distances(truth, answers, rows)
    line = _Line(truth, answers)
    found = [each for frame in frames if truth.defective[frame] and (each := line.found(frame)) is not None]
    by_class: dict[str, tuple[int, int]] = {}
    for each in found:
        if each.kind:
            so_far = by_class.get(each.kind, (0, 0))
            by_class[each.kind] = so_far[0] + each.hit, so_far[1] + each.defects
    good = line.stand_ins(frames)
    highest = np.array([answers.logit[truth.rows(frame)].max() for frame in frames], np.float64)
    return FoldFigures(
        seed=answers.seed,
        fold=answers.fold,
        tile_ap=_tile_ap(truth, answers, rows),
        tile_ap_clear=_tile_ap(truth, answers, rows[~truth.tiles.table.ambiguous[rows]]),
        picture_auroc=auroc(highest, truth.defective[frames], np.ones(len(frames))),
        pixel_ap=_pixel_ap(truth, answers, rows),
        study_f1=_study_f1(truth, answers, rows) if answers.knows_defects else None,
        pointing=_share([distance == 0 for distance in pointing]),
        pointing_near=_share([distance <= NEAR_PX for distance in pointing]),
        hit=_ratio(sum(each.hit for each in found), sum(each.defects for each in found)),
        false_regions=_ratio(sum(each.false_regions for each in found), len(found)),
        rejected=_share([line.score_of(frame) >= line.score_threshold for frame in good]),
        frames=len(frames),
        good_frames=len(good),
        score_threshold=line.score_threshold,
        evidence_threshold=line.evidence_threshold,
        hit_by_class=by_class,
        verdicts=[_verdicts(line, truth, answers, wanted) for wanted in WANTED],
    )


def _verdicts(line: "_Line", truth: Truth, answers: Answers, wanted: float) -> Verdicts:
    """Count verdicts by the score threshold that `heatline export` would set by the calibrating frames."""
    calibrating, tested = (np.flatnonzero(each).tolist() for each in (answers.calibrating, answers.tested))
    good = line.stand_ins(calibrating)
    found = calibrate(
        [GoodFrame(line.score_of(frame), 0.0, 1, np.zeros(1, np.float32), truth.group_of(frame)) for frame in good],
        wanted,
        "held-out good frames",
        lowest_defect=_lowest_defect(truth, answers, calibrating) if answers.knows_defects else None,
    )
    assert found.false_reject_at_most is not None, "a share was wanted"
    good_tested = line.stand_ins(tested)
    scores = [line.score_of(frame) for frame in good_tested]
    reached = [frame for frame, score in zip(good_tested, scores, strict=True) if score >= found.score_threshold]
    groups, reaching = _groups(truth, good_tested), _groups(truth, reached)
    cases, of_cases = cases_of_new_group(len(good), len(_groups(truth, good)), wanted)
    defective = np.array([_highest(truth, answers, frame) for frame in tested if truth.defective[frame]])
    return Verdicts(
        wanted=wanted,
        bound=found.false_reject_at_most,
        limit=most_rejected(truth, good, good_tested, wanted),
        good=len(scores),
        rejected=len(reached),
        defective=len(defective),
        escaped=int((defective < found.score_threshold).sum()),
        groups=len(groups),
        groups_reaching=len(reaching),
        groups_at_most=len(groups) * cases / of_cases,
        escaped_oracle=int((defective < threshold(scores, wanted)).sum()) if scores else None,
    )


def most_rejected(truth: Truth, calibrating: Sequence[int], tested: Sequence[int], wanted: float) -> int:
    """Return the most of some good frames that a threshold of other good frames rejects, with a confidence of 95 %.

    The groups' highest frames must be independent and alike. If `allowed` frames may reach the threshold, no more than
    as many groups have one that does; and if a new group has one, all its frames may reach it.
    """
    known = len(_groups(truth, calibrating))
    allowed = count_allowed_rejects(len(calibrating), wanted)
    sizes = [size for _, size in Counter(truth.group_of(frame) for frame in tested).most_common()]
    return sum(sizes[: most_beyond(allowed, known, len(sizes))] if allowed < known else sizes)


def _groups(truth: Truth, frames: Sequence[int]) -> set[str]:
    return {truth.group_of(frame) for frame in frames}


def _lowest_defect(truth: Truth, answers: Answers, frames: Sequence[int]) -> float | None:
    return lowest_defect_of([_highest(truth, answers, frame) for frame in frames if truth.defective[frame]])


def _highest(truth: Truth, answers: Answers, frame: int) -> float:
    return float(answers.logit[truth.rows(frame)].max())


@dataclass(frozen=True)
class _Found:
    """What the line finds in a defective frame."""

    kind: str
    """Class of its defects; "": the set has none."""
    hit: int
    defects: int
    false_regions: int


class _Line:
    """The verdict rule of the line, with thresholds from the calibrating frames."""

    def __init__(self, truth: Truth, answers: Answers) -> None:
        self._truth, self._answers = truth, answers
        map_hw = (answers.map.shape[1], answers.map.shape[2])
        self._map_hw, self._smoothing = map_hw, smoothing_px(map_hw, truth.rule.tile_px, None)
        calibrating = np.flatnonzero(answers.calibrating).tolist()
        self._by_good_frames = sum(~truth.defective[calibrating]) >= answers.fewest_good
        good = self.stand_ins(calibrating)
        self.score_threshold = threshold([self.score_of(frame) for frame in good], REJECTED)
        cells = [heatmap[np.isfinite(heatmap)] for heatmap in (self._clean_heatmap(frame) for frame in good)]
        evidence = math.nextafter(float(np.quantile(np.concatenate(cells), EVIDENCE_QUANTILE)), math.inf)
        self.evidence_threshold = min(evidence, self.score_threshold) if answers.one_scale else evidence
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

    def found(self, frame: int) -> _Found | None:
        """Compare the regions of a defective frame with its defects; None: it has no mask."""
        mask = self._truth.store.mask(frame)
        kind = self._truth.classes.get(self._truth.store.images[frame].name, "")
        if mask is None:
            return None
        labels, count = label_defects(mask)
        stitcher, rows = self._stitcher(frame), self._truth.rows(frame)
        heatmap = stitcher.stitch(self._answers.map[rows].astype(np.float32))
        defective = self._answers.logit[rows].astype(np.float64) >= self.score_threshold
        found = found_cells(heatmap, stitcher, defective, self.evidence_threshold, self._strong)
        cell_px = stitcher.cell_px
        return _Found(
            kind, count_hit(labels, found, cell_px), count, count_false(mask, found, cell_px, near_px=NEAR_PX)
        )

    def _clean_heatmap(self, frame: int) -> Floats:
        rows = self._truth.rows(frame)
        clean, maps = self._truth.is_clean[rows], self._answers.map[rows].astype(np.float32)
        return self._stitcher(frame).stitch(maps, None if clean.all() else clean)

    def _stitcher(self, frame: int) -> Stitcher:
        return Stitcher(self._truth.grid(frame), self._map_hw, smoothing_px=self._smoothing)


def _tile_ap(truth: Truth, answers: Answers, rows: NDArray[np.int64]) -> float | None:
    """Return the average precision of tiles; ambiguous tiles count as good."""
    logit, defective = answers.logit[rows].astype(np.float64), truth.tiles.table.defective[rows]
    return average_precision(logit, defective, np.ones(len(rows)))


def _pixel_ap(truth: Truth, answers: Answers, rows: NDArray[np.int64]) -> float | None:
    ranking, tile_px = PixelRanking(), truth.rule.tile_px
    for row in rows:
        height, width = truth.inside_hw(row)
        inside = np.zeros((tile_px, tile_px), np.bool_)
        inside[:height, :width] = True
        pixels = count_in_cells(inside, HEATMAP_CELL_PX)
        defective = pixels * 0 if truth.is_clean[row] else count_in_cells(truth.mask(row), HEATMAP_CELL_PX)
        ranking.add(enlarged(_map(answers, row), len(pixels)), defective, pixels - defective)
    return ranking.average_precision()


def _study_f1(truth: Truth, answers: Answers, rows: NDArray[np.int64]) -> float | None:
    counts = PixelCounts()
    for row in rows:
        if answers.logit[row] > GATE_LOGIT or not truth.is_clean[row]:
            inside = np.s_[: truth.inside_hw(row)[0], : truth.inside_hw(row)[1]]
            found = study_mask(_map(answers, row), float(answers.logit[row]), truth.rule.tile_px)
            counts += PixelCounts.of(found[inside], truth.mask(row)[inside])
    return counts.f1 if counts.true_positive + counts.false_negative else None


def _distances(truth: Truth, answers: Answers, rows: NDArray[np.int64]) -> list[float]:
    """Return the distance from the peak of each defective tile's map to its defects, px."""
    return [
        peak_distance_px(_map(answers, row), truth.mask(row), truth.inside_hw(row))
        for row in rows[truth.tiles.table.defective[rows]]
    ]


def _map(answers: Answers, row: int) -> Floats:
    return np.asarray(answers.map[row], np.float32)


def _share(flags: Sequence[bool]) -> float | None:
    return _ratio(sum(flags), len(flags))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
