"""Effect of each score threshold: defective frames missed and good frames rejected, with 95 % intervals.

Thresholds are positions of a slider, evenly spaced in logits. They include the calibrated threshold. The first rejects
every frame, the last rejects none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatline.edge.calibration.statistics import ENDS, FEWEST_GROUPS, FEWEST_KNOWN
from heatline.train.evaluation.figures import draw_groups

POSITIONS = 250
"""Highest number of steps between the lowest and the highest score."""

Interval = tuple[float, float] | None
"""95 % interval of a share; None if too few groups are known."""


@dataclass(frozen=True)
class Scores:
    """The scores of the frames of one class."""

    scores: NDArray[np.float64]
    """[N], logits: the highest of each frame's tiles."""
    groups: tuple[str, ...] = ()
    """[N], group of each frame; empty if the frames have no groups."""

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Explorer:
    """Counts and intervals at each position."""

    thresholds: NDArray[np.float64]
    """[positions], logits, ascending."""
    missed: NDArray[np.int64]
    """[positions], defective frames judged GOOD."""
    rejected: NDArray[np.int64]
    """[positions], good frames judged DEFECT."""
    missed_interval: list[Interval]
    """[positions], of the share of defective frames that are missed."""
    rejected_interval: list[Interval]
    """[positions], of the share of good frames that are rejected."""
    start: int
    """Position of the calibrated threshold."""
    defective: int
    """Number of defective frames."""
    good: int
    """Number of good frames."""
    digits: int
    """Decimals with which all positions are printed differently."""

    def at(self, score: float) -> int:
        """Return the first position that judges a frame of this score GOOD; before it, the verdict is DEFECT."""
        return int(np.searchsorted(self.thresholds, score, side="right"))


def explore(defective: Scores, good: Scores, calibrated: float) -> Explorer:
    """Count missed and rejected frames at each position.

    Args:
        defective, good: scores of the frames with that label.
        calibrated: the calibrated score threshold, logits.
    """
    thresholds, start, digits = _positions(np.concatenate([defective.scores, good.scores]), calibrated)
    names = sorted({*defective.groups, *good.groups})
    is_grouped = len(defective.groups) == len(defective) and len(good.groups) == len(good)
    resamples = draw_groups(len(names)).T if is_grouped and len(names) >= FEWEST_GROUPS else None
    missed, missed_interval = _below(thresholds, defective, names, resamples)
    passed, passed_interval = _below(thresholds, good, names, resamples)
    return Explorer(
        thresholds=thresholds,
        missed=missed,
        rejected=len(good) - passed,
        missed_interval=missed_interval,
        rejected_interval=[interval and (1 - interval[1], 1 - interval[0]) for interval in passed_interval],
        start=start,
        defective=len(defective),
        good=len(good),
        digits=digits,
    )


def _positions(scores: NDArray[np.float64], calibrated: float) -> tuple[NDArray[np.float64], int, int]:
    """Return the thresholds [positions], the position of the calibrated one, and the decimals to print."""
    low, high = min(scores.min(initial=calibrated), calibrated), max(scores.max(initial=calibrated), calibrated)
    step = _round_step((high - low) / POSITIONS)
    before, after = (math.ceil(reach / step) + 1 for reach in (calibrated - low, high - calibrated))
    return calibrated + step * np.arange(-before, after + 1), before, 2 if step >= 0.01 else 3


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is not below `least`, and at least 0.001."""
    power = 10.0 ** math.floor(math.log10(max(least, 0.001)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _below(
    thresholds: NDArray[np.float64], frames: Scores, names: Sequence[str], resamples: NDArray[np.float64] | None
) -> tuple[NDArray[np.int64], list[Interval]]:
    """Return the number of frames below each threshold [positions], and intervals of their share."""
    first_below = np.searchsorted(thresholds, frames.scores, side="right")
    if resamples is None:
        counts = np.bincount(first_below, minlength=len(thresholds))
        return np.cumsum(counts[: len(thresholds)]), [None] * len(thresholds)
    number = {name: at for at, name in enumerate(names)}
    by_group = np.zeros((len(thresholds), len(names)), np.int64)
    np.add.at(by_group, (first_below, np.array([number[name] for name in frames.groups], np.intp)), 1)
    below = np.cumsum(by_group, axis=0)
    total = below[-1] @ resamples  # the last threshold lies above all scores
    known = total > 0
    shares = (below @ resamples)[:, known] / total[known]
    if known.sum() < FEWEST_KNOWN:
        return below.sum(axis=1), [None] * len(thresholds)
    ends = np.quantile(shares, ENDS, axis=1).T.tolist()
    return below.sum(axis=1), [(low, high) if low < high else None for low, high in ends]
