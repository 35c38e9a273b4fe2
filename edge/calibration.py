"""Thresholds from good frames (the design's verdict rule). Needs no training library: it is done on the line too."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import Calibration
from edge.errors import InputError


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
    descending = sorted(highest, reverse=True)
    if not descending:
        raise InputError("thresholds need at least one good frame, none came")
    if not all(map(math.isfinite, descending)):
        raise InputError("thresholds need finite values, a good frame's highest is not a number; check the model")
    allowed = min(math.floor(false_reject * len(descending) + 1e-9), len(descending) - 1)
    return math.nextafter(descending[allowed], math.inf)


def calibrate(frames: list[GoodFrame], false_reject: float, frames_are: str) -> Calibration:
    """Both thresholds by the same quantile, over each frame's highest tile logit and highest heatmap value.

    Raises:
        InputError: no frame, or a share outside 0..1.
    """
    if not 0 <= false_reject < 1:
        raise InputError(f"a false-reject rate of {false_reject} makes no sense; expected 0 <= rate < 1")
    return Calibration(
        score_threshold=threshold((frame.highest_logit for frame in frames), false_reject),
        evidence_threshold=threshold((frame.highest_evidence for frame in frames), false_reject),
        background=float(np.median([frame.median_evidence for frame in frames])),
        false_reject_per_frame=false_reject,
        frames=len(frames),
        frames_are=frames_are,
    )
