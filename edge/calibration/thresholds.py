"""Thresholds from good frames (the design's verdict rule). Needs no training library: it is done on the line too."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge.bundle.manifest import Calibration, ScoreBy
from edge.calibration.binomial import CONFIDENCE, frames_to_show, upper_bound
from edge.calibration.student import prediction_bound, prediction_bound_of_groups
from edge.errors import InputError
from edge.util.text import format_count

ENOUGH_BEYOND = 5
"""Frames that may reach the threshold, from which on their quantile is trusted."""
FEWEST_OF_TAIL = 8
"""Good frames, or groups of them: the tail of a distribution whose deviation fewer show lies so high that no defect
reaches it."""
UNSUPPORTED = 3
"""Times the wanted share: a larger bound is warned of."""
COLDEST_SHARE = 0.05
"""Of defective frames, which are let lie below a margin."""
EVIDENCE_QUANTILE = 0.999
"""Of all heatmap cells of the good frames together, the share that lies below the evidence threshold of a top-mean."""
HOTTEST_SHARE, HOTTEST_AT_LEAST = 0.02, 1000
"""How many of a frame's cells are stored: 6 kB of a frame of 5 MP, and all of a single tile's."""


@dataclass(frozen=True, eq=False)
class GoodFrame:
    """What calibration needs of one good frame, in logits."""

    highest_logit: float
    median_evidence: float
    cells: int
    """Of its heatmap, without those that no tile covers."""
    hottest: NDArray[np.float32]
    """The values of the highest of them, in any order, at least one."""
    group: str | None = None
    """Frames of one group show the same thing; None: nothing is known of that."""

    @classmethod
    def of(cls, logits: NDArray[np.float32], heatmap: NDArray[np.float32], group: str | None = None) -> "GoodFrame":
        """From the logits of its tiles [N] and its heatmap [H, W]; cells that no tile covers are NaN and are left
        out.
        """
        cells = heatmap[~np.isnan(heatmap)]
        if not len(cells):
            cells = np.full(1, np.nan, np.float32)  # no usable value: no threshold comes from it
        stored = min(len(cells), max(math.ceil(HOTTEST_SHARE * len(cells)), HOTTEST_AT_LEAST))
        cells.partition(len(cells) - stored)
        hottest = cells[len(cells) - stored :].copy()  # a view would hold all cells in memory
        return cls(float(logits.max()), float(np.median(cells)), len(cells), hottest, group)

    @property
    def highest_evidence(self) -> float:
        """The highest value of its heatmap."""
        return float(self.hottest.max())


def may_reach(frames: int, false_reject: float) -> int:
    """How many of so many good frames may reach a threshold, for a wanted share of them.

    >>> may_reach(100, 0.01), may_reach(99, 0.01)
    (1, 0)
    """
    return min(math.floor(false_reject * frames + 1e-9), frames - 1)


def threshold(highest: ArrayLike, share: float, out_of: int | None = None) -> float:
    """The lowest threshold that at most the wanted share of values reaches.

    Args:
        highest: of each good frame, its highest value; or the highest of a greater number of values.
        share: wanted share of them, 0 <= share < 1. Fewer than 1 / share values cannot show it: then the threshold lies
            just above the highest of all.
        out_of: the greater number; those that did not come count as lower. None: all came.
    Raises:
        InputError: no value came, or one that is not finite.

    >>> threshold([1.0, 2.0, 3.0, 4.0], 0.25) == math.nextafter(3.0, math.inf)
    True
    """
    values = _usable(highest)
    place = len(values) - 1 - may_reach(len(values) if out_of is None else out_of, share)
    return math.nextafter(float(np.partition(values, place)[place]), math.inf)


def pooled_threshold(frames: Sequence[GoodFrame]) -> float:
    """Just above the `EVIDENCE_QUANTILE` of all heatmap cells of the frames together.

    A frame counts with no more cells than it stored. So the threshold is exact unless in one frame more than
    `HOTTEST_SHARE` of its cells, and more than `HOTTEST_AT_LEAST`, reach the exact one; then it is lower.

    Raises:
        InputError: no frame came, or a value that is not finite.
    """
    hottest: ArrayLike = np.concatenate([frame.hottest for frame in frames]) if frames else []
    return threshold(hottest, 1 - EVIDENCE_QUANTILE, sum(frame.cells for frame in frames))


def score_threshold(
    good: Sequence[float], share: float, coldest: float | None = None, groups: Sequence[str] | None = None
) -> tuple[float, ScoreBy]:
    """Where the score threshold lies, and what set it.

    1. `quantile`: just above the highest good frames, of which `share` may reach it. Nothing ever lowers it, so a bound
       on the false rejects that holds for it holds for the others.
    2. `margin`: where defective frames are known and the coldest of them lies higher, halfway to it: what lies between
       good and defective belongs to neither.
    3. `tail`: where they are not known, of at least 8 frames of which so few may reach the quantile that it is one of
       the highest: the value that a next one exceeds with a chance of `share`, by a normal distribution
       (`student`), if it is higher. Frames of one group are alike, so of at least 8 groups it is the value of a
       frame of a new group, if that is higher still.

    Args:
        good: highest tile logit of each good frame.
        share: wanted share of them that is rejected, 0 <= share < 1.
        coldest: of `coldest_of` defective frames; None: none is known.
        groups: of each good frame; None: they are not known.
    Raises:
        InputError: no good frame, or a value that is not finite.
    """
    quantile = threshold(good, share)
    if coldest is not None:
        return (quantile, "quantile") if coldest <= quantile else ((quantile + coldest) / 2, "margin")
    if may_reach(len(good), share) >= ENOUGH_BEYOND or len(good) < FEWEST_OF_TAIL or not 0 < share < 0.5:
        return quantile, "quantile"
    tail = prediction_bound([float(value) for value in good], share)
    by_group: dict[str, list[float]] = {}
    for group, value in zip(groups or (), good, strict=groups is not None):
        by_group.setdefault(group, []).append(float(value))
    if FEWEST_OF_TAIL <= len(by_group) < len(good):
        tail = max(tail, prediction_bound_of_groups(by_group, share))
    return (tail, "tail") if tail > quantile else (quantile, "quantile")


def coldest_of(defective: Sequence[float]) -> float | None:
    """The logit that at most `COLDEST_SHARE` of defective frames stay below; None: there is none.

    Args:
        defective: highest tile logits of frames that did not teach the model that answers.
    Raises:
        InputError: a value that is not finite.

    >>> coldest_of([3.0, 1.0, 2.0])
    1.0
    """
    return float(np.quantile(_usable(defective), COLDEST_SHARE, method="lower")) if len(defective) else None


def describe_support(calibration: Calibration) -> str | None:
    """What so few good frames do not show, in a sentence; None where they show nearly what was asked for."""
    share, bound = calibration.false_reject_per_frame, calibration.false_reject_at_most
    if not share or bound is None or bound <= UNSUPPORTED * share:
        return None
    needed = frames_to_show(share, 0)
    of_groups = (
        "" if calibration.groups in (None, calibration.frames) else f" of {format_count(calibration.groups, 'group')}"
    )
    frames = f"{format_count(calibration.frames, 'good frame')}{of_groups}"
    return (
        f"{frames} cannot show a false-reject rate of {100 * share:.3g} %: with {CONFIDENCE:.0%} confidence it is at "
        f"most {100 * bound:.3g} %; {format_count(needed, 'good frame')} of the line of which none reaches the "
        "threshold would show it "
        "(heatline calibrate)"
    )


def rejected(frames: Iterable[GoodFrame], score_threshold: float) -> int:
    """How many frames a score threshold, in logits, calls defective."""
    return sum(frame.highest_logit >= score_threshold for frame in frames)


def calibrate(
    frames: Sequence[GoodFrame],
    false_reject: float,
    frames_are: str,
    *,
    top_cells: int | None = None,
    coldest_defect: float | None = None,
) -> Calibration:
    """The score threshold comes from each frame's highest tile logit, see `score_threshold`.

    Where the logit is the mean of the whole map, the evidence threshold is the same quantile over each frame's highest
    heatmap value. Where it is the mean of the few highest cells, the cells of all frames together set the evidence
    threshold (see `pooled_threshold`). Then map and logit share one scale, and it is never above the score threshold:
    a tile that reaches the score threshold must have a cell that reaches the evidence threshold.

    The bound is that of as many frames as may reach the quantile, also where ties keep some of them below it: how many
    may was settled before any frame was seen, how many do was not. Frames of one group are alike, so where groups are
    known, it is that of as many groups: of each counts one frame.

    Args:
        top_cells: of the map's identity: how many of its highest cells the logit is the mean of; None: all.
        coldest_defect: of `coldest_of`; None: no defective frame is known.
    Raises:
        InputError: no frame, a share outside 0..1, or a value that is not finite.
    """
    if not 0 <= false_reject < 1:
        raise InputError(f"a false-reject rate of {false_reject} makes no sense; expected 0 <= rate < 1")
    named = [frame.group for frame in frames if frame.group is not None]
    groups = len(set(named)) if len(named) == len(frames) else None
    score, score_by = score_threshold(
        [frame.highest_logit for frame in frames], false_reject, coldest_defect, None if groups is None else named
    )
    reach, independent = may_reach(len(frames), false_reject), groups or len(frames)
    if top_cells is None:
        evidence = threshold([frame.highest_evidence for frame in frames], false_reject)
    else:
        evidence = min(pooled_threshold(frames), score)
    return Calibration(
        score_threshold=score,
        evidence_threshold=evidence,
        background=_background(frames),
        false_reject_per_frame=false_reject,
        frames=len(frames),
        frames_are=frames_are,
        rejected=rejected(frames, score),
        false_reject_at_most=upper_bound(math.ceil(reach * independent / len(frames)), independent),
        groups=groups,
        evidence_quantile=None if top_cells is None else EVIDENCE_QUANTILE,
        score_by=score_by,
        coldest_defect=coldest_defect,
    )


def _usable(highest: ArrayLike) -> NDArray[np.floating]:
    values = np.asarray(highest)
    if not len(values):
        raise InputError("thresholds need at least one good frame, none came")
    if not np.isfinite(values).all():
        raise InputError("thresholds need finite values, a good frame's highest is not a number; check the model")
    return values


def _background(frames: Sequence[GoodFrame]) -> float:
    return float(np.median([frame.median_evidence for frame in frames]))
