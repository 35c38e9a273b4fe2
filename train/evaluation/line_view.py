"""The page's part on one model: the slider, the frames on its wrong side, and their pictures."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np

from heatline.edge.heatmap_picture import OUTLINE_RGB, ColourScale
from heatline.edge.inspection.verdict import Thresholds
from heatline.edge.util.page import Picture, jpeg_uri
from heatline.edge.util.text import format_count
from heatline.train.evaluation import charts
from heatline.train.evaluation.charts import Explorer, explore, to_svg
from heatline.train.evaluation.gallery import TRUTH_RGB
from heatline.train.evaluation.legend import make_legend
from heatline.train.evaluation.result import FrameAnswer, GalleryItem, Kind
from heatline.train.evaluation.rows import Row, StoredEvaluation, format_percent, kinds_table

NAMES = 30
"""Highest number of names in a list; the others are counted."""
RATES = "escape_rate", "false_reject_rate"
NOT_A_RATE = "not a rate: these frames set the threshold"
Shift = Callable[[StoredEvaluation, float, float | None], float]


class ListedFrame(NamedTuple):
    """A frame in a list."""

    name: str
    note: str
    at: int | None = None
    """First position of the slider that judges it GOOD; None if it does not follow the slider."""


def line_view(row: Row, truth: str) -> dict[str, Any]:
    """Return what `line.html.jinja` shows of one model.

    `positions` and `start` hold the texts at each position of the slider and at the calibrated threshold, by the names
    in the page's script. Lists begin with the worst: of missed frames the lowest score, of rejected ones the highest.

    Args:
        truth: the truth whose figures have the intervals at the calibrated threshold.
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

    of_class = {
        is_bad: [(fold, each) for fold in row.folds for each in fold.evaluation.frames if each.defective == is_bad]
        for is_bad in (True, False)
    }
    defective, good = (
        np.array([shift(fold, frame.score, frame.threshold) for fold, frame in of_class[is_bad]], np.float64)
        for is_bad in (True, False)
    )
    explorer = explore(defective, good, thresholds.pop() if is_one else 0.0)
    is_rate = not any(fold.evaluation.set_threshold for fold in row.folds)
    positions = _positions(explorer, is_rate, [row.interval(truth, f"frame.{name}") for name in RATES])
    at = explorer.start
    missed, rejected = int(explorer.missed[at]), int(explorer.rejected[at])
    no_verdict = [
        ListedFrame(frame.image, f"{'defective' if frame.defective else 'good'}: {frame.why}")
        for fold in row.folds
        for frame in fold.evaluation.implausible
    ]
    scored = (
        f"Scores of the frames: {format_count(len(good), 'good frame', ',')} above the axis, "
        f"{format_count(len(defective), 'defective frame', ',')} below it"
    )
    calibrated = (
        f"Misses against false rejects; at the calibrated {explorer.thresholds[at]:.2f}: {missed} of "
        f"{explorer.defective} missed, {rejected} of {explorer.good} rejected"
    )
    kinds: tuple[Kind, ...] = ("escaped", "rejected")
    return {
        "label": row.label,
        "rests_on": list(dict.fromkeys(fold.evaluation.rests_on for fold in row.folds)),
        "scale": "logits" if is_one else "logits above the threshold of each fold",
        "explorer": explorer,
        "positions": msgspec.json.encode(positions).decode(),
        "start": {
            "threshold": positions["threshold"][at],
            "missed": f"{missed:,}",
            "rejected": f"{rejected:,}",
            "caught": f"{explorer.defective - missed:,}",
            "passed": f"{explorer.good - rejected:,}",
            "missedShare": positions["missedShare"][at],
            "rejectedShare": positions["rejectedShare"][at],
        },
        "missed": _list_frames(of_class[True], 1, shift, explorer),
        "rejected": _list_frames(of_class[False], -1, shift, explorer),
        "no_verdict": no_verdict,
        "most": NAMES,
        "pictures": {kind: _pictures(row, kind, shift, explorer) for kind in kinds},
        "kinds": kinds_table(row),
        "legend": _legend(row),
        "scores": to_svg(charts.scores(defective, good, explorer), scored, is_stretched=True),
        "curve": to_svg(charts.curve(explorer), calibrated) if len(defective) and len(good) and is_rate else None,
    }


def _positions(explorer: Explorer, is_rate: bool, intervals: Sequence[tuple[float, float] | None]) -> dict[str, Any]:
    """Return the texts of each position.

    Args:
        intervals: of the shares that are missed and rejected at the calibrated threshold, if known.
    """
    of_missed, of_rejected = intervals

    def shares(counts: list[int], total: int, interval: tuple[float, float] | None) -> list[str]:
        return [
            format_percent(some / total, interval if at == explorer.start else None) if total else "not known"
            for at, some in enumerate(counts)
        ]

    rejected = explorer.rejected.tolist()
    return {
        "threshold": [f"{threshold:.{explorer.digits}f}" for threshold in explorer.thresholds.tolist()],
        "missed": explorer.missed.tolist(),
        "rejected": rejected,
        "missedShare": shares(explorer.missed.tolist(), explorer.defective, of_missed),
        "rejectedShare": shares(rejected, explorer.good, of_rejected) if is_rate else [NOT_A_RATE] * len(rejected),
        "defective": explorer.defective,
        "good": explorer.good,
        "start": explorer.start,
    }


def _list_frames(
    frames: Sequence[tuple[StoredEvaluation, FrameAnswer]], sign: int, shift: Shift, explorer: Explorer
) -> list[ListedFrame]:
    """Return the frames of one class, the lowest product of sign and score first, at most `NAMES` of them."""
    keyed = [(sign * shift(fold, frame.score, frame.threshold), frame.image, frame.score) for fold, frame in frames]
    return [
        ListedFrame(name, f"{score:.{explorer.digits}f}", explorer.at(sign * key))
        for key, name, score in sorted(keyed)[:NAMES]
    ]


def _pictures(row: Row, kind: Kind, shift: Shift, explorer: Explorer) -> list[Picture]:
    """Return the gallery's pictures of a kind, the worst first."""
    sign = 1 if kind == "escaped" else -1
    found = []
    for fold in row.folds:
        own = {frame.image: frame.threshold for frame in fold.evaluation.frames}
        for item in fold.evaluation.gallery:
            if item.kind == kind:
                found.append((sign * shift(fold, item.logit, own.get(item.image)), fold.folder, item))
    found.sort(key=lambda entry: entry[0])
    return [embed_item(folder, item, explorer.at(sign * key), explorer.digits) for key, folder, item in found]


def embed_item(folder: Path, item: GalleryItem, at: int, digits: int) -> Picture:
    """Embed an item of a gallery; without its picture if that is missing, is none, or lies outside the folder.

    Args:
        folder: of the evaluation.
        at: first position of the slider that judges it GOOD.
        digits: decimals of its score.
    """
    file = (folder / item.file).resolve()
    is_there = file.is_relative_to(folder.resolve()) and file.is_file() and file.stat().st_size
    bgr = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) if is_there else None
    uri = None if bgr is None else jpeg_uri(np.asarray(bgr, np.uint8))
    return Picture(uri, item.image, f"score {item.logit:.{digits}f}", item.caption, at)


# The legend of pictures with heatmaps.


def _legend(row: Row) -> dict[str, Any]:
    """Return the colour scale of the pictures. Folds have scales of their own, so with several it has no figures."""
    one, *others = (fold.evaluation.calibration for fold in row.folds)
    thresholds = Thresholds.of(one)
    marks = {
        f"region from {thresholds.evidence:.2f} logits": thresholds.evidence,
        f"frame DEFECT from {thresholds.score:.2f} logits": thresholds.score,
    }
    if any(other != one for other in others):
        marks = {"region from the evidence threshold of its fold": thresholds.evidence}
    found = (
        "found: the regions of a DEFECT frame. "
        "A bright place without it lies in a tile below the score threshold: alone, it rejects nothing"
    )
    return make_legend(
        ColourScale.around(thresholds.evidence, one.background),
        marks,
        ("cold: as in good frames", "hot: a defect"),
        {"true defect": TRUTH_RGB, found: OUTLINE_RGB},
    )
