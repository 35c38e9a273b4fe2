"""What the page shows of one model on the line: the slider, and the frames on its wrong side."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from markupsafe import Markup

from edge.heatmap_picture import OUTLINE_RGB, ColourScale
from edge.inspection.verdict import Thresholds
from edge.util.text import format_count
from train.drawing import to_svg
from train.evaluation.explorer import Explorer, Interval, Scores, explore
from train.evaluation.gallery import TRUTH_RGB
from train.evaluation.report import charts
from train.evaluation.report.embedding import Picture
from train.evaluation.report.legend import Legend, Outline, make_legend
from train.evaluation.report.line_tables import percent
from train.evaluation.report.pictures import picture
from train.evaluation.report.rows import Read, Row
from train.evaluation.result import Kind

NAMES = 30
"""Of a list, at most; the rest is counted."""
NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Named:
    """A frame of a list."""

    name: str
    note: str
    at: int | None = None
    """The slider's first position that calls it GOOD; None where it does not follow the slider."""


@dataclass(frozen=True)
class LineView:
    """One model on the line."""

    label: str
    rests_on: list[str]
    warnings: list[str]
    scale: str
    """What thresholds are counted in."""
    explorer: Explorer
    positions: str
    """JSON: what the page's script says at each position of the slider."""
    missed: list[Named]
    """Defective frames, the lowest score first; which of them are missed follows the slider."""
    rejected: list[Named]
    """Good frames, the highest score first."""
    has_stand_ins: bool
    """Whether good frames are defective ones without their defects, which no list names."""
    partly_missed: list[Named]
    """Frames that are rejected while some of their defects are not found, the most missed first."""
    more_partly_missed: int
    no_verdict: list[Named]
    """Frames that do not show the product, with why."""
    more_no_verdict: int
    pictures: dict[Kind, list[Picture]]
    """Of whole frames by `escaped` and `rejected`, of tiles by `missed` and `false`; the worst first."""
    legend: Legend
    """Of the pictures."""
    scores: Markup
    curve: Markup | None
    """None unless there are defective and good frames."""

    @property
    def start(self) -> dict[str, str]:
        """What the page says at the calibrated threshold, by the names that its script uses."""
        of, at = self.explorer, self.explorer.start
        missed, rejected = int(of.missed[at]), int(of.rejected[at])
        return {
            "threshold": f"{of.thresholds[at]:.{of.digits}f}",
            "missed": f"{missed:,}",
            "rejected": f"{rejected:,}",
            "caught": f"{of.defective - missed:,}",
            "passed": f"{of.good - rejected:,}",
            "missedShare": share(missed, of.defective, of.missed_interval[at]),
            "rejectedShare": share(rejected, of.good, of.rejected_interval[at]),
        }


def line_view(row: Row, truth: str) -> LineView:
    """One model as the line sees it.

    Args:
        truth: which one's tiles are shown.
    """
    thresholds = {fold.evaluation.calibration.score_threshold for fold in row.folds}
    is_one = len(thresholds) == 1

    def shifted(fold: Read, score: float) -> float:
        """On one scale for all folds."""
        return score if is_one else score - fold.evaluation.calibration.score_threshold

    defective, good = _scores(row, True, shifted), _scores(row, False, shifted)
    explorer = explore(defective, good, thresholds.pop() if is_one else 0.0)
    partly_missed = _partly_missed(row)
    no_verdict = [
        Named(frame.image, f"{'defective' if frame.defective else 'good'}: {frame.why}")
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
        explorer=explorer,
        positions=_positions(explorer),
        missed=_listed(row, True, shifted, explorer),
        rejected=_listed(row, False, shifted, explorer),
        has_stand_ins=any(fold.evaluation.good_stand_ins for fold in row.folds),
        partly_missed=partly_missed[:NAMES],
        more_partly_missed=max(0, len(partly_missed) - NAMES),
        no_verdict=no_verdict[:NAMES],
        more_no_verdict=max(0, len(no_verdict) - NAMES),
        pictures={kind: _pictures(row, kind, truth, shifted, explorer) for kind in kinds},
        legend=_legend(row),
        scores=to_svg(charts.scores(defective.scores, good.scores, explorer), scored, is_stretched=True),
        curve=to_svg(charts.curve(explorer), calibrated) if len(defective) and len(good) else None,
    )


def _legend(row: Row) -> Legend:
    """The colour scale of the pictures. Each fold has its own, so with several the scale has no figures."""
    calibrations = [fold.evaluation.calibration for fold in row.folds]
    one = calibrations[0]
    thresholds = Thresholds(one.score_threshold, one.evidence_threshold)
    marks = {
        f"region from {thresholds.evidence:.2f} logits": thresholds.evidence,
        f"frame DEFECT from {thresholds.score:.2f} logits": thresholds.score,
    }
    if any(other != one for other in calibrations):
        marks = {"region from the evidence threshold of its fold": thresholds.evidence}
    return make_legend(
        ColourScale.from_calibration(one, thresholds),
        marks,
        ("cold: as in good frames", "hot: a defect"),
        [Outline(TRUTH_RGB, "true defect"), Outline(OUTLINE_RGB, "found: the heatmap reaches the evidence threshold")],
    )


Shift = Callable[[Read, float], float]


def _scores(row: Row, defective: bool, shifted: Shift) -> Scores:
    """Of the frames of one class; of good ones, of what stands in for them where there are none."""
    scores, groups = [], []
    for fold in row.folds:
        for frame in fold.evaluation.frames:
            if frame.defective == defective:
                scores.append(shifted(fold, frame.score))
                groups += [frame.group] if frame.group is not None else []
        if not defective:
            scores += [shifted(fold, score) for score in fold.evaluation.good_stand_ins]
    return Scores(np.array(scores, np.float64), tuple(groups))


def _positions(explorer: Explorer) -> str:
    missed = zip(explorer.missed.tolist(), explorer.missed_interval, strict=True)
    rejected = zip(explorer.rejected.tolist(), explorer.rejected_interval, strict=True)
    shown = {
        "threshold": [f"{threshold:.{explorer.digits}f}" for threshold in explorer.thresholds.tolist()],
        "missed": explorer.missed.tolist(),
        "rejected": explorer.rejected.tolist(),
        "missedShare": [share(some, explorer.defective, interval) for some, interval in missed],
        "rejectedShare": [share(some, explorer.good, interval) for some, interval in rejected],
        "defective": explorer.defective,
        "good": explorer.good,
        "start": explorer.start,
    }
    return msgspec.json.encode(shown).decode()


def share(some: int, total: int, interval: Interval) -> str:
    return percent(some / total, interval) if total else NOT_KNOWN


def _listed(row: Row, defective: bool, shifted: Shift, explorer: Explorer) -> list[Named]:
    """The frames of one class, the most wrong first, no more than a list shows."""
    found = sorted(
        (
            (shifted(fold, frame.score) * (1 if defective else -1), frame.image, fold, frame)
            for fold in row.folds
            for frame in fold.evaluation.frames
            if frame.defective == defective
        ),
        key=lambda one: one[:2],
    )
    return [
        Named(name, f"{frame.score:.{explorer.digits}f}", explorer.at(shifted(fold, frame.score)))
        for _, name, fold, frame in found[:NAMES]
    ]


def _partly_missed(row: Row) -> list[Named]:
    found = [
        (
            frame.hit - frame.defects,
            frame.image,
            f"{frame.defects - frame.hit} of {format_count(frame.defects, 'defect')} missed",
        )
        for fold in row.folds
        for frame in fold.evaluation.frames
        if frame.defects is not None and frame.hit is not None and frame.hit < frame.defects
        if frame.score >= fold.evaluation.calibration.score_threshold
    ]
    return [Named(name, note) for _, name, note in sorted(found)]


def _pictures(row: Row, kind: Kind, truth: str, shifted: Shift, explorer: Explorer) -> list[Picture]:
    """Exhibits of a kind, the worst first."""
    found = []
    for fold in row.folds:
        against = fold.against(truth)
        gallery = [*fold.evaluation.gallery, *(against.gallery if against else ())]
        found += [(shifted(fold, one.logit), fold, one) for one in gallery if one.kind == kind]
    is_missed = kind in ("escaped", "missed")
    ordered = sorted(found, key=lambda one: one[0] if is_missed else -one[0])
    return [picture(fold.folder, item, explorer.at(score), explorer.digits) for score, fold, item in ordered]
