"""Thresholds from good frames (the design's verdict rule). Needs no training library: it is done on the line too."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.binomial import upper_bound
from edge.bundle.manifest import Calibration
from edge.errors import InputError

JUST_ABOVE_EVEN = float(np.finfo(np.float32).tiny)
"""The study's threshold, logits: the probability must exceed 0.5. The smallest number above 0 that is none of those
which some processors take for 0.
"""


@dataclass(frozen=True)
class GoodFrame:
    """What calibration needs of one good frame, in logits."""

    highest_logit: float
    highest_evidence: float
    median_evidence: float

    @classmethod
    def of(cls, logits: NDArray[np.float32], heatmap: NDArray[np.float32]) -> "GoodFrame":
        """From the logits of its tiles [N] and its heatmap [H, W]; cells that no tile covers are NaN and are left
        out.
        """
        return cls(float(logits.max()), float(np.nanmax(heatmap)), float(np.nanmedian(heatmap)))


def may_reach(frames: int, false_reject: float) -> int:
    """How many of so many good frames may reach a threshold, for a wanted share of them.

    >>> may_reach(100, 0.01), may_reach(99, 0.01)
    (1, 0)
    """
    return min(math.floor(false_reject * frames + 1e-9), frames - 1)


def threshold(highest: Iterable[float], false_reject: float) -> float:
    """The lowest threshold that at most the wanted share of good frames reaches.

    Args:
        highest: the highest value of each good frame.
        false_reject: wanted share of good frames, 0 <= share < 1. Fewer than 1 / share frames cannot show it: then the
            threshold lies just above the highest of all.
    Raises:
        InputError: no frame came, or a value that is not finite.

    >>> threshold([1.0, 2.0, 3.0, 4.0], 0.25) == math.nextafter(3.0, math.inf)
    True
    """
    descending = sorted(_usable(highest), reverse=True)
    return math.nextafter(descending[may_reach(len(descending), false_reject)], math.inf)


def rejected(frames: Iterable[GoodFrame], score_threshold: float) -> int:
    """How many frames a score threshold, in logits, calls defective."""
    return sum(frame.highest_logit >= score_threshold for frame in frames)


def calibrate(frames: list[GoodFrame], false_reject: float, frames_are: str) -> Calibration:
    """Both thresholds by the same quantile, over each frame's highest tile logit and highest heatmap value.

    The bound is that of as many frames as may reach the threshold, also where ties keep some of them below it: how many
    may was settled before any frame was seen, how many do was not.

    Raises:
        InputError: no frame, or a share outside 0..1.
    """
    if not 0 <= false_reject < 1:
        raise InputError(f"a false-reject rate of {false_reject} makes no sense; expected 0 <= rate < 1")
    score = threshold((frame.highest_logit for frame in frames), false_reject)
    return Calibration(
        score_threshold=score,
        evidence_threshold=threshold((frame.highest_evidence for frame in frames), false_reject),
        background=_background(frames),
        false_reject_per_frame=false_reject,
        frames=len(frames),
        frames_are=frames_are,
        rejected=rejected(frames, score),
        false_reject_at_most=upper_bound(may_reach(len(frames), false_reject), len(frames)),
    )


def calibrate_by_the_study(frames: list[GoodFrame], frames_are: str) -> Calibration:
    """Both thresholds where the study had them, just above a probability of 0.5; the frames say what comes of it.

    Raises:
        InputError: no frame, or a value that is not finite.
    """
    count = len(_usable(frame.highest_logit for frame in frames))
    reach = rejected(frames, JUST_ABOVE_EVEN)
    return Calibration(
        score_threshold=JUST_ABOVE_EVEN,
        evidence_threshold=JUST_ABOVE_EVEN,
        background=_background(frames),
        false_reject_per_frame=None,
        frames=count,
        frames_are=frames_are,
        rule="study",
        rejected=reach,
        false_reject_at_most=upper_bound(reach, count),
    )


def _usable(highest: Iterable[float]) -> list[float]:
    values = list(highest)
    if not values:
        raise InputError("thresholds need at least one good frame, none came")
    if not all(map(math.isfinite, values)):
        raise InputError("thresholds need finite values, a good frame's highest is not a number; check the model")
    return values


def _background(frames: list[GoodFrame]) -> float:
    return float(np.median([frame.median_evidence for frame in frames]))
