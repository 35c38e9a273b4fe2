"""Sets thresholds by good frames. It needs no training library, as calibration also takes place on the line.

Its functions raise an InputError if there is no good frame, or a value is not finite.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heatline.edge.bundle.manifest import Calibration, ScoreBy
from heatline.edge.calibration.statistics import CONFIDENCE, frames_to_show, prediction_bound, upper_bound
from heatline.edge.errors import InputError
from heatline.edge.util.sampling import divide
from heatline.edge.util.text import format_count

ENOUGH_BEYOND = 5
"""If at least this many frames may reach the threshold, their quantile is reliable."""
FEWEST_OF_TAIL = 8
"""The fewest good frames, or groups, for the tail rule: with fewer, the tail lies so high that no defect reaches it."""
UNSUPPORTED = 3
"""A bound of more than this many times the wanted share causes a warning."""
LOWEST_SHARE = 0.05
"""The share of defective frames that may lie below the lowest-scoring defect."""
EVIDENCE_QUANTILE = 0.999
"""The share of all heatmap cells of the good frames together that lies below the evidence threshold of a top-mean."""
STRONG_SHARE = 0.1
"""The share of good frames whose highest cells may reach strong evidence, unless a larger share is to be rejected."""
STORED_SHARE, STORED_AT_LEAST = 0.02, 1000
"""How many of a frame's cells are stored: 6 kB for a frame of 5 MP, and all cells of a single tile."""


@dataclass(frozen=True, eq=False)
class GoodFrame:
    """The values of one good frame that calibration needs, in logits."""

    highest_logit: float
    median_evidence: float
    cells: int
    """The number of heatmap cells, without those that no tile covers."""
    highest_cells: NDArray[np.float32]
    """The values of its highest cells, in any order, at least one."""
    group: str | None = None
    """Frames of one group show the same thing; None: unknown."""

    @classmethod
    def of(cls, logits: NDArray[np.float32], heatmap: NDArray[np.float32], group: str | None = None) -> "GoodFrame":
        """Create it from the tiles' logits [N] and the heatmap [H, W], without its NaN cells, which no tile covers."""
        cells = heatmap[~np.isnan(heatmap)]
        if not len(cells):
            cells = np.full(1, np.nan, np.float32)  # without a usable value, no threshold can be set
        stored = min(len(cells), max(math.ceil(STORED_SHARE * len(cells)), STORED_AT_LEAST))
        cells.partition(len(cells) - stored)
        highest = cells[len(cells) - stored :].copy()  # a view would hold all cells in memory
        return cls(float(logits.max()), float(np.median(cells)), len(cells), highest, group)


def count_allowed_rejects(frames: int, false_reject: float) -> int:
    """Return how many of this many good frames may reach a threshold, for a wanted share.

    >>> count_allowed_rejects(100, 0.01), count_allowed_rejects(99, 0.01)
    (1, 0)
    """
    return min(math.floor(false_reject * frames + 1e-9), frames - 1)


def threshold(highest: ArrayLike, share: float, out_of: int | None = None) -> float:
    """Return the lowest threshold that at most the wanted share of values reaches.

    Args:
        highest: the highest value of each good frame; or the highest of a larger number of values.
        share: wanted share of the values, 0 <= share < 1. Fewer than 1 / share values cannot show it; the threshold
            then lies just above the highest value.
        out_of: the larger number; the missing values count as lower. None: no value is missing.

    >>> threshold([1.0, 2.0, 3.0, 4.0], 0.25) == math.nextafter(3.0, math.inf)
    True
    """
    values = _usable(highest)
    index = len(values) - 1 - count_allowed_rejects(len(values) if out_of is None else out_of, share)
    return math.nextafter(float(np.partition(values, index)[index]), math.inf)


def pooled_threshold(frames: Sequence[GoodFrame]) -> float:
    """Return the value just above the `EVIDENCE_QUANTILE` of all heatmap cells of the frames together.

    Only stored cells count. So the threshold is exact unless more than `STORED_SHARE` of one frame's cells, and more
    than `STORED_AT_LEAST`, reach the exact value; then it is lower.
    """
    highest: ArrayLike = np.concatenate([frame.highest_cells for frame in frames]) if frames else []
    return threshold(highest, 1 - EVIDENCE_QUANTILE, sum(frame.cells for frame in frames))


def score_threshold(
    good: Sequence[float], share: float, lowest_defect: float | None = None, groups: Sequence[str] | None = None
) -> tuple[float, ScoreBy]:
    """Return the score threshold, and the rule that set it.

    1. `quantile`: just above the good frames, of which `share` may reach it. The other rules only raise it, so a bound
       of its false rejects holds for them too.
    2. `margin`: if defective frames are known and the lowest-scoring lies higher, halfway to it: values between good
       and defective belong to neither.
    3. `tail`: if no defective frames are known, at least 8 good frames are, and so few of them may reach the quantile
       that it is one of the highest values: the value that the next frame exceeds with a probability of `share`, by a
       normal distribution (`student`), if it is higher. Frames of one group are alike, so with at least 8 groups it is
       the value for a frame of a new group, if that is higher still.

    Args:
        good: highest tile logit of each good frame.
        share: wanted share of good frames that is rejected, 0 <= share < 1.
        lowest_defect: the result of `lowest_defect_of`; None: no defective frame is known.
        groups: the group of each good frame; None: unknown.
    """
    quantile = threshold(good, share)
    if lowest_defect is not None:
        return (quantile, "quantile") if lowest_defect <= quantile else ((quantile + lowest_defect) / 2, "margin")
    if count_allowed_rejects(len(good), share) >= ENOUGH_BEYOND or len(good) < FEWEST_OF_TAIL or not 0 < share < 0.5:
        return quantile, "quantile"
    tail = prediction_bound([[float(value)] for value in good], share)
    by_group: dict[str, list[float]] = {}
    for group, value in zip(groups or (), good, strict=groups is not None):
        by_group.setdefault(group, []).append(float(value))
    if FEWEST_OF_TAIL <= len(by_group) < len(good):
        tail = max(tail, prediction_bound([*by_group.values()], share))
    return (tail, "tail") if tail > quantile else (quantile, "quantile")


def lowest_defect_of(defective: Sequence[float]) -> float | None:
    """Return the logit that at most `LOWEST_SHARE` of defective frames stay below; None if there are no such frames.

    Args:
        defective: highest tile logits of frames that did not train the model.

    >>> lowest_defect_of([3.0, 1.0, 2.0])
    1.0
    """
    return float(np.quantile(_usable(defective), LOWEST_SHARE, method="lower")) if len(defective) else None


def cases_of_new_group(frames: int, groups: int, share: float) -> tuple[int, int]:
    """Return the highest number of cases, and of how many, in which a frame of a new group reaches the threshold.

    If n groups set the threshold and `allowed` of their frames may reach it, at most as many of their highest frames
    do. If a new group is like them, its highest frame takes each place in their order with the same probability. So it
    reaches the threshold with a probability of at most (allowed + 1) / (n + 1).

    >>> cases_of_new_group(100, 5, 0.01), cases_of_new_group(1000, 5, 0.01)
    ((2, 6), (6, 6))
    """
    return min(count_allowed_rejects(frames, share), groups) + 1, groups + 1


def describe_support(calibration: Calibration) -> str | None:
    """Describe in a sentence what too few good frames cannot show; None if they nearly show the wanted share."""
    share, bound = calibration.false_reject_per_frame, calibration.false_reject_at_most
    if not share or bound is None or bound <= UNSUPPORTED * share:
        return None
    frames, groups, next_group = format_count(calibration.frames, "good frame"), calibration.groups, ""
    if groups is not None and groups < calibration.frames:
        frames += f" of {format_count(groups, 'group')}"
        cases, of_cases = cases_of_new_group(calibration.frames, groups, share)
        if cases < of_cases:
            parts = f"one new part in {of_cases}" if cases == 1 else f"{cases} of {of_cases} new parts"
            next_group = f"; up to {parts} may be rejected"
    return (
        f"{frames} cannot show a false-reject rate of {100 * share:.3g} %: with {100 * CONFIDENCE:.0f} % confidence it "
        f"is at most {100 * bound:.3g} %{next_group}; {format_count(frames_to_show(share), 'good frame')} of the "
        "line of which none reaches the threshold would show it (heatline calibrate)"
    )


def count_held_out_rejects(frames: Sequence[GoodFrame], false_reject: float, lowest_defect: float | None) -> int | None:
    """Count the frames that reach a score threshold from the others; None: there are no others.

    The threshold of a part of `divide` comes from all other parts.
    """
    groups = [frame.group or str(number) for number, frame in enumerate(frames)]
    part, rejected = divide(groups), 0
    if len(set(part)) < 2:
        return None
    for number in set(part):
        others = [(frame, group) for frame, group, at in zip(frames, groups, part, strict=True) if at != number]
        limit, _ = score_threshold(
            [frame.highest_logit for frame, _ in others], false_reject, lowest_defect, [group for _, group in others]
        )
        rejected += sum(frame.highest_logit >= limit for frame, at in zip(frames, part, strict=True) if at == number)
    return rejected


def calibrate(
    frames: Sequence[GoodFrame],
    false_reject: float,
    frames_are: str,
    *,
    top_cells: int | None = None,
    lowest_defect: float | None = None,
    held_out: bool = True,
) -> Calibration:
    """Set the thresholds. The score threshold comes from each frame's highest tile logit, see `score_threshold`.

    If the logit is the mean of the whole map, the evidence threshold is the same quantile of each frame's highest
    heatmap value. If it is the mean of the few highest cells, the cells of all frames together set the evidence
    threshold (see `pooled_threshold`). Then map and logit share one scale, and the evidence threshold is never above
    the score threshold: a tile that reaches the score threshold must have a cell that reaches the evidence threshold.
    Strong evidence is what the highest cells of at most `STRONG_SHARE` of the frames reach, or of the wanted share if
    that is larger, and at least the score threshold. A defect of fewer cells than the mean takes can have it in a tile
    below the score threshold. It rejects no frame, and only adds regions to those that are DEFECT.

    The upper bound of the false rejects counts the frames that may reach the quantile, even if ties keep some of them
    below it: the allowed number was fixed before any frame was seen, the actual number was not. Frames of one group are
    alike, so if groups are known, the bound counts groups, with one frame of each.

    Args:
        top_cells: from the map's identity: the logit is the mean of this many highest cells; None: of all.
        lowest_defect: the result of `lowest_defect_of`; None: no defective frame is known.
        held_out: whether to count the frames that thresholds from the others reject.
    """
    if not 0 <= false_reject < 1:
        raise InputError(f"a false-reject rate of {false_reject} makes no sense; expected 0 <= rate < 1")
    group_names = [frame.group for frame in frames if frame.group is not None]
    groups = len(set(group_names)) if len(group_names) == len(frames) else None
    score, score_by = score_threshold(
        [frame.highest_logit for frame in frames], false_reject, lowest_defect, None if groups is None else group_names
    )
    reach, independent = count_allowed_rejects(len(frames), false_reject), groups or len(frames)
    highest = [frame.highest_cells.max() for frame in frames]
    if top_cells is None:
        evidence, strong = threshold(highest, false_reject), None
    else:
        evidence = min(pooled_threshold(frames), score)
        strong = max(score, threshold(highest, max(false_reject, STRONG_SHARE)))
    return Calibration(
        score_threshold=score,
        evidence_threshold=evidence,
        background=float(np.median([frame.median_evidence for frame in frames])),
        false_reject_per_frame=false_reject,
        frames=len(frames),
        frames_are=frames_are,
        false_reject_at_most=upper_bound(math.ceil(reach * independent / len(frames)), independent),
        groups=groups,
        evidence_quantile=None if top_cells is None else EVIDENCE_QUANTILE,
        score_by=score_by,
        coldest_defect=lowest_defect,
        strong_evidence=strong,
        held_out_rejected=count_held_out_rejects(frames, false_reject, lowest_defect) if held_out else None,
    )


def _usable(highest: ArrayLike) -> NDArray[np.floating]:
    values = np.asarray(highest)
    if not len(values):
        raise InputError("thresholds need at least one good frame, none came")
    if not np.isfinite(values).all():
        raise InputError("thresholds need finite values, a good frame's highest is not a number; check the model")
    return values
