"""Escapes against false rejects per frame, over all thresholds: what a line can choose from."""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray


class Explorer(msgspec.Struct, frozen=True):
    """A step curve: at `thresholds[i]`, such shares of frames are missed and rejected."""

    thresholds: list[float]
    """Score thresholds in logits, ascending; one for each point where a share changes."""
    escape: list[float]
    """Share of defective frames judged GOOD."""
    false_reject: list[float]
    """Share of good frames judged DEFECT."""
    chosen: float
    """The calibrated score threshold."""
    chosen_escape: float | None
    chosen_false_reject: float | None
    """None, as the other, without frames of that class."""
    defective_frames: int
    good_frames: int
    good_are: str
    """Which frames count as good, in words: where all pictures are defective, what is left of them without their
    defective tiles."""


def explore(defective: NDArray[np.float64], good: NDArray[np.float64], chosen: float, good_are: str) -> Explorer:
    """The curve of frames by their highest tile logit.

    Args:
        defective, good: highest logit of each frame, in logits.
        chosen: the calibrated score threshold.
        good_are: which frames are the good ones, in words.
    """
    values = np.unique(np.concatenate([defective, good]))
    # A frame is DEFECT from its own score on, so what changes, changes just above each score.
    thresholds = np.unique([*values[:1], *(math.nextafter(value, math.inf) for value in values)])
    escape = [_share(defective < at) for at in thresholds]
    false_reject = [_share(good >= at) for at in thresholds]
    return Explorer(
        thresholds=thresholds.tolist(),
        escape=[value or 0.0 for value in escape],
        false_reject=[value or 0.0 for value in false_reject],
        chosen=chosen,
        chosen_escape=_share(defective < chosen),
        chosen_false_reject=_share(good >= chosen),
        defective_frames=len(defective),
        good_frames=len(good),
        good_are=good_are,
    )


def _share(which: NDArray[np.bool_]) -> float | None:
    return float(which.mean()) if len(which) else None
