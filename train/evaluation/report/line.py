"""The page's part on one model: the slider, and the frames on its wrong side."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from markupsafe import Markup

from heatline.edge.heatmap_picture import OUTLINE_RGB, ColourScale
from heatline.edge.inspection.verdict import Thresholds
from heatline.edge.util.page import Picture, Table
from heatline.edge.util.text import format_count
from heatline.train.drawing import to_svg
from heatline.train.evaluation.explorer import Explorer, Interval, Scores, explore
from heatline.train.evaluation.gallery import TRUTH_RGB
from heatline.train.evaluation.report import charts, line_tables
from heatline.train.evaluation.report.legend import Legend, Outline, make_legend
from heatline.train.evaluation.report.line_tables import format_percent
from heatline.train.evaluation.report.pictures import embed_item
from heatline.train.evaluation.report.rows import Row, StoredEvaluation
from heatline.train.evaluation.result import Kind

NAMES = 30
"""Highest number of names in a list; the others are counted."""
NOT_KNOWN = "not known"
NOT_A_RATE = "not a rate: these frames set the threshold"


@dataclass(frozen=True)
class ListedFrame:
    """A frame in a list."""

    name: str
    note: str
    at: int | None = None
    """First position of the slider that judges it GOOD; None if it does not follow the slider."""


@dataclass(frozen=True)
class LineView:
    """Content of the page's part on one model."""

    label: str
    rests_on: list[str]
    warnings: list[str]
    scale: str
    """Unit of the thresholds."""
    is_rate: bool
    """Whether other frames than the good ones set the threshold, so that the share of their rejects is a rate."""
    explorer: Explorer
    positions: str
    """JSON: the texts for each position of the slider, for the page's script."""
    missed: list[ListedFrame]
    """Defective frames, the lowest score first; the slider shows those that are missed."""
    rejected: list[ListedFrame]
    """Good frames, the highest score first; the slider shows those that are rejected."""
    has_stand_ins: bool
    """Whether defective frames, without their defects, stand in for good ones; they have no names."""
    partly_missed: list[ListedFrame]
    """Rejected frames with defects that are not found, the most missed defects first."""
    more_partly_missed: int
    no_verdict: list[ListedFrame]
    """Frames that do not show the product, with the reason."""
    more_no_verdict: int
    pictures: dict[Kind, list[Picture]]
    """Whole frames: `escaped` and `rejected`; tiles: `missed` and `false`; the worst first."""
    kinds: Table | None
    """What is missed by class and by size; None if neither is known."""
    legend: Legend
    scores: Markup
    curve: Markup | None
    """None unless there are both defective and good frames, and `is_rate`."""

    @property
    def start(self) -> dict[str, str]:
        """Return the texts at the calibrated threshold, by the names in the page's script."""
        of, at = self.explorer, self.explorer.start
        missed, rejected = int(of.missed[at]), int(of.rejected[at])
        return {
            "threshold": f"{of.thresholds[at]:.{of.digits}f}",
            "missed": f"{missed:,}",
            "rejected": f"{rejected:,}",
            "caught": f"{of.defective - missed:,}",
            "passed": f"{of.good - rejected:,}",
            "missedShare": format_share(missed, of.defective, of.missed_interval[at]),
            "rejectedShare": format_share(rejected, of.good, of.rejected_interval[at]) if self.is_rate else NOT_A_RATE,
        }


def make_line_view(row: Row, truth: str) -> LineView:
    """Return the page's part on one model.

    Args:
        truth: the truth whose tiles are shown.
    """
    thresholds = {fold.evaluation.calibration.score_threshold for fold in row.folds}
    is_one = len(thresholds) == 1

    def shift(fold: StoredEvaluation, score: float, own: float | None = None) -> float:
        """Return a score on a scale that all thresholds share: that of the threshold if there is one.

        Args:
            own: the threshold that judged it; None: that of the fold.
        """
        calibrated = fold.evaluation.calibration.score_threshold
        if is_one and own is None:
            return score
        above, zero = score - (calibrated if own is None else own), calibrated if is_one else 0.0
        return max(zero + above, zero) if above >= 0 else min(zero + above, math.nextafter(zero, -math.inf))

    defective, good = _scores(row, True, shift), _scores(row, False, shift)
    explorer = explore(defective, good, thresholds.pop() if is_one else 0.0)
    is_rate = not any(fold.evaluation.set_threshold for fold in row.folds)
    partly_missed = _list_partly_missed(row)
    no_verdict = [
        ListedFrame(frame.image, f"{'defective' if frame.defective else 'good'}: {frame.why}")
        for fold in row.folds
        for frame in fold.evaluation.implausible
    ]
    kinds: tuple[Kind, ...] = ("escaped", "rejected", "missed", "false")
    scored = (
        f"Scores of the frames: {format_count(len(good), 'good frame', ',')} above the axis, "
        f"{format_count(len(defective), 'defective frame', ',')} below it"
    )
    at = explorer.start
    calibrated = (
        f"Misses against false rejects; at the calibrated {explorer.thresholds[at]:.2f}: {explorer.missed[at]} of "
        f"{explorer.defective} missed, {explorer.rejected[at]} of {explorer.good} rejected"
    )
    return LineView(
        label=row.label,
        rests_on=list(dict.fromkeys(fold.evaluation.rests_on for fold in row.folds)),
        warnings=list(dict.fromkeys(warning for fold in row.folds for warning in fold.evaluation.warnings)),
        scale="logits" if is_one else "logits above the threshold of each fold",
        is_rate=is_rate,
        explorer=explorer,
        positions=_encode_positions(explorer, is_rate),
        missed=_list_frames(row, True, shift, explorer),
        rejected=_list_frames(row, False, shift, explorer),
        has_stand_ins=any(fold.evaluation.good_stand_ins for fold in row.folds),
        partly_missed=partly_missed[:NAMES],
        more_partly_missed=max(0, len(partly_missed) - NAMES),
        no_verdict=no_verdict[:NAMES],
        more_no_verdict=max(0, len(no_verdict) - NAMES),
        pictures={kind: _pictures(row, kind, truth, shift, explorer) for kind in kinds},
        kinds=line_tables.kinds(row),
        legend=_legend(row),
        scores=to_svg(charts.scores(defective.scores, good.scores, explorer), scored, is_stretched=True),
        curve=to_svg(charts.curve(explorer), calibrated) if len(defective) and len(good) and is_rate else None,
    )


def _legend(row: Row) -> Legend:
    """Return the colour scale of the pictures. Folds have scales of their own, so with several it has no figures."""
    calibrations = [fold.evaluation.calibration for fold in row.folds]
    one = calibrations[0]
    thresholds = Thresholds.of(one)
    marks = {
        f"region from {thresholds.evidence:.2f} logits": thresholds.evidence,
        f"frame DEFECT from {thresholds.score:.2f} logits": thresholds.score,
    }
    if any(other != one for other in calibrations):
        marks = {"region from the evidence threshold of its fold": thresholds.evidence}
    return make_legend(
        ColourScale.around(thresholds.evidence, one.background),
        marks,
        ("cold: as in good frames", "hot: a defect"),
        [
            Outline(TRUTH_RGB, "true defect"),
            Outline(
                OUTLINE_RGB,
                "found: the regions of a DEFECT frame; in a single tile, where its map reaches the evidence threshold. "
                "A bright place without it lies in a tile below the score threshold: alone, it rejects nothing",
            ),
        ],
    )


Shift = Callable[[StoredEvaluation, float, float | None], float]


def _scores(row: Row, defective: bool, shift: Shift) -> Scores:
    """Return the scores of the frames of one class, and those that stand in for missing good frames."""
    scores, groups = [], []
    for fold in row.folds:
        for frame in fold.evaluation.frames:
            if frame.defective == defective:
                scores.append(shift(fold, frame.score, frame.threshold))
                groups += [frame.group] if frame.group is not None else []
        if not defective:
            scores += [shift(fold, score, None) for score in fold.evaluation.good_stand_ins]
    return Scores(np.array(scores, np.float64), tuple(groups))


def _encode_positions(explorer: Explorer, is_rate: bool) -> str:
    missed = zip(explorer.missed.tolist(), explorer.missed_interval, strict=True)
    rejected = zip(explorer.rejected.tolist(), explorer.rejected_interval, strict=True)
    shown = {
        "threshold": [f"{threshold:.{explorer.digits}f}" for threshold in explorer.thresholds.tolist()],
        "missed": explorer.missed.tolist(),
        "rejected": explorer.rejected.tolist(),
        "missedShare": [format_share(some, explorer.defective, interval) for some, interval in missed],
        "rejectedShare": [
            format_share(some, explorer.good, interval) if is_rate else NOT_A_RATE for some, interval in rejected
        ],
        "defective": explorer.defective,
        "good": explorer.good,
        "start": explorer.start,
    }
    return msgspec.json.encode(shown).decode()


def format_share(some: int, total: int, interval: Interval) -> str:
    return format_percent(some / total, interval) if total else NOT_KNOWN


def _list_frames(row: Row, defective: bool, shift: Shift, explorer: Explorer) -> list[ListedFrame]:
    """Return the frames of one class, the worst first, at most `NAMES` of them."""
    found = sorted(
        (
            (shift(fold, frame.score, frame.threshold) * (1 if defective else -1), frame.image, frame)
            for fold in row.folds
            for frame in fold.evaluation.frames
            if frame.defective == defective
        ),
        key=lambda entry: entry[:2],
    )
    return [
        ListedFrame(name, f"{frame.score:.{explorer.digits}f}", explorer.at(key if defective else -key))
        for key, name, frame in found[:NAMES]
    ]


def _list_partly_missed(row: Row) -> list[ListedFrame]:
    found = [
        (
            frame.hit - frame.defects,
            frame.image,
            f"{frame.defects - frame.hit} of {format_count(frame.defects, 'defect')} missed",
        )
        for fold in row.folds
        for frame in fold.evaluation.frames
        if frame.defects is not None and frame.hit is not None and frame.hit < frame.defects
        if frame.score >= fold.evaluation.threshold_of(frame)
    ]
    return [ListedFrame(name, note) for _, name, note in sorted(found)]


def _pictures(row: Row, kind: Kind, truth: str, shift: Shift, explorer: Explorer) -> list[Picture]:
    """Return the gallery's pictures of a kind, the worst first."""
    found = []
    for fold in row.folds:
        result = fold.by_truth(truth)
        gallery = [*fold.evaluation.gallery, *(result.gallery if result else ())]
        own = {frame.image: frame.threshold for frame in fold.evaluation.frames}
        found += [(shift(fold, item.logit, own.get(item.image)), fold, item) for item in gallery if item.kind == kind]
    is_missed = kind in ("escaped", "missed")
    ordered = sorted(found, key=lambda entry: entry[0] if is_missed else -entry[0])
    return [embed_item(fold.folder, item, explorer.at(score), explorer.digits) for score, fold, item in ordered]
