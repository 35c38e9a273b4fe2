"""Figures of an evaluation with their intervals, and the columns that they are computed from.

Everything is computed from columns of tiles and frames with a weight per group. So the bootstrap uses the same code: it
computes the same figures with other weights.
"""

from collections.abc import Callable, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.calibration.statistics import ENDS, FEWEST_GROUPS, FEWEST_KNOWN, RESAMPLES, SEED, describe_basis
from heatline.train.evaluation.scoring import PixelCounts

Weights = NDArray[np.float64]
"""[groups], how often each group counts; all 1 for the figures themselves."""


class TileFigures(msgspec.Struct, frozen=True):
    """Figures of all tiles without a threshold: how well logits separate defective tiles, and where maps peak."""

    tiles: int
    defective: int
    majority_share: float
    """Accuracy of a classifier that gives every tile the more frequent class; the reference for every accuracy."""
    average_precision: float | None
    """Of the tiles that are not ambiguous, as the next. None if all of them are good or all are defective."""
    auroc: float | None
    pointing: float | None
    """Pointing game: share of defective tiles whose map has its peak on the truth. None, as the next two, if no tile is
    defective."""
    pointing_within_cell: float | None
    """Share of defective tiles whose map has its peak at most one map cell from the truth."""
    weighting: float | None
    """Weighting game (Raatikainen & Rahtu 2022): mean over defective tiles of the share of the map's positive evidence
    that lies on the truth."""


class RuleFigures(msgspec.Struct, frozen=True):
    """Figures of a rule that turns maps into masks: the study's, per tile, or the line's, on the stitched heatmap.

    Pixels of all tiles or frames are pooled, including good ones; 0/0 counts as 0.
    """

    true_positive_px: int
    false_positive_px: int
    false_negative_px: int
    true_negative_px: int
    precision: float
    recall: float
    f1: float
    jaccard: float
    accuracy: float
    """Of pixels."""
    pointing_gated: float | None
    """Pointing game in which tiles that the rule classifies as good count as missed."""
    classification_accuracy: float
    """Share of tiles that the rule classifies correctly, at probability 0.5 or at the score threshold."""


class FrameFigures(msgspec.Struct, frozen=True):
    """Figures of whole frames, with the verdicts of the line."""

    frames: int
    unplaced: int
    """Frames with a label only, without the place of the defect. They do not count for tiles, pixels, defects and
    regions."""
    defects: int | None
    """None, as the next five, if all frames are unplaced."""
    defects_hit: int | None
    defects_missed: int | None
    hit_rate: float | None
    false_regions: int | None
    false_regions_per_frame: float | None
    defective_frames: int
    escaped_frames: int
    """Defective frames judged GOOD."""
    escape_rate: float | None
    good_frames: int
    rejected_frames: int
    """Good frames judged DEFECT."""
    false_reject_rate: float | None
    """None if there is no good frame, or if good frames set the threshold that judges them."""
    average_precision: float | None
    """Of frames by their highest tile logit; None, as the next, if all are good or all are defective."""
    auroc: float | None


class Figures(msgspec.Struct, frozen=True):
    """All figures of one model against one truth."""

    tile: TileFigures | None
    """None, as the next two, if all frames are unplaced."""
    study: RuleFigures | None
    line: RuleFigures | None
    frame: FrameFigures


Columns = NDArray[np.void]
"""One row per tile of all placed frames, of type `TILE`, or per frame, of type `FRAME`."""

TILE = np.dtype(
    [
        ("group", "i8"),  # its number
        ("logit", "f8"),
        ("defective", "?"),  # by the 1 % rule
        ("ambiguous", "?"),  # it has a defective pixel, and is good by the 1 % rule
        ("score_threshold", "f8"),  # of its frame, logits
        ("distance_px", "f8"),  # from the map's peak to the nearest true pixel; NaN for a good tile
        ("on_truth", "f8"),  # share of the map's positive evidence that lies on the truth; NaN for a good tile
        ("study_px", "i8", (4,)),  # true positive, false positive, false negative, true negative by the study's rule
    ]
)
FRAME = np.dtype(
    [
        ("group", "i8"),
        ("logit", "f8"),  # the highest of its tiles
        ("defective", "?"),
        ("rejected", "?"),  # the verdict is DEFECT
        ("placed", "?"),  # the place of its defects is known; if not, what follows is 0
        ("defects", "i8"),
        ("hit", "i8"),
        ("false_regions", "i8"),
        ("line_px", "i8", (4,)),  # as `study_px`, by the line's rule
    ]
)


def compute_figures(
    tiles: Columns, frames: Columns, cell_px: float, weights: Weights, *, set_threshold: bool = False
) -> Figures:
    """Compute the figures with weights of groups.

    Args:
        cell_px: side of a map cell.
        weights: [groups], whole numbers: the draws of a bootstrap, or all 1.
        set_threshold: whether good frames set the threshold that judges them, so that their rejects are not a rate.
    """
    frame = _frames(frames, weights)
    if set_threshold:
        frame = msgspec.structs.replace(frame, false_reject_rate=None)
    if frame.frames == frame.unplaced:
        return Figures(None, None, None, frame)
    on_truth = tiles["distance_px"] == 0
    study = _rule(tiles, on_truth, tiles["logit"] > 0, tiles["study_px"], weights[tiles["group"]], weights)
    line = _rule(
        tiles,
        on_truth,
        tiles["logit"] >= tiles["score_threshold"],
        frames["line_px"],
        weights[frames["group"]],
        weights,
    )
    return Figures(_tiles(tiles, cell_px, weights), study, line, frame)


def _tiles(tiles: Columns, cell_px: float, weights: Weights) -> TileFigures:
    weight = weights[tiles["group"]]
    total, defective = float(weight.sum()), float(weight[tiles["defective"]].sum())
    of_defective, clear = weight[tiles["defective"]], ~tiles["ambiguous"]
    ranked = tiles["logit"][clear], tiles["defective"][clear], weight[clear]
    return TileFigures(
        tiles=round(total),
        defective=round(defective),
        majority_share=max(defective, total - defective) / total if total else 0.0,
        average_precision=average_precision(*ranked),
        auroc=auroc(*ranked),
        pointing=_mean(tiles["distance_px"][tiles["defective"]] == 0, of_defective),
        pointing_within_cell=_mean(tiles["distance_px"][tiles["defective"]] <= cell_px, of_defective),
        weighting=_mean(tiles["on_truth"][tiles["defective"]], of_defective),
    )


def _rule(
    tiles: Columns,
    on_truth: NDArray[np.bool_],
    called_defective: NDArray[np.bool_],
    px: NDArray[np.int64],
    px_weight: Weights,
    weights: Weights,
) -> RuleFigures:
    pixels = PixelCounts(*(round(float(count)) for count in px_weight @ px))
    weight = weights[tiles["group"]]
    return RuleFigures(
        true_positive_px=pixels.true_positive,
        false_positive_px=pixels.false_positive,
        false_negative_px=pixels.false_negative,
        true_negative_px=pixels.true_negative,
        precision=pixels.precision,
        recall=pixels.recall,
        f1=pixels.f1,
        jaccard=pixels.jaccard,
        accuracy=pixels.accuracy,
        pointing_gated=_mean((on_truth & called_defective)[tiles["defective"]], weight[tiles["defective"]]),
        classification_accuracy=_mean(called_defective == tiles["defective"], weight) or 0.0,
    )


def _frames(frames: Columns, weights: Weights) -> FrameFigures:
    weight = weights[frames["group"]]

    def count(which: NDArray[np.generic]) -> int:
        return round(float(weight @ which.astype(np.float64)))

    defects, hit, false_regions = count(frames["defects"]), count(frames["hit"]), count(frames["false_regions"])
    placed, good, defective = count(frames["placed"]), count(~frames["defective"]), count(frames["defective"])
    escaped, rejected = (
        count(frames["defective"] & ~frames["rejected"]),
        count(~frames["defective"] & frames["rejected"]),
    )
    known = placed > 0
    return FrameFigures(
        frames=count(np.ones(len(weight))),
        unplaced=count(~frames["placed"]),
        defects=defects if known else None,
        defects_hit=hit if known else None,
        defects_missed=defects - hit if known else None,
        hit_rate=hit / defects if defects else None,
        false_regions=false_regions if known else None,
        false_regions_per_frame=false_regions / placed if known else None,
        defective_frames=defective,
        escaped_frames=escaped,
        escape_rate=escaped / defective if defective else None,
        good_frames=good,
        rejected_frames=rejected,
        false_reject_rate=rejected / good if good else None,
        average_precision=average_precision(frames["logit"], frames["defective"], weight),
        auroc=auroc(frames["logit"], frames["defective"], weight),
    )


def _mean(values: NDArray[np.generic], weight: Weights) -> float | None:
    total = float(weight.sum())
    return float(weight @ values.astype(np.float64)) / total if total else None


# Average precision and AUROC with a weight per item. Both depend only on the order of the scores; equal scores are one
# step. Torchmetrics has both without weights, and a bootstrap over groups needs weights.


def average_precision(
    scores: NDArray[np.float64], defective: NDArray[np.bool_], weight: NDArray[np.float64]
) -> float | None:
    """Return the sum over all thresholds of precision times the gain in recall; None if a class is missing.

    Args:
        scores, defective, weight: [N], weights not negative.
    """
    steps = _steps(scores, defective, weight)
    if steps is None:
        return None
    positive, negative = steps
    found = np.cumsum(positive)
    called = found + np.cumsum(negative)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return float((precision * positive).sum() / found[-1])


def auroc(scores: NDArray[np.float64], defective: NDArray[np.bool_], weight: NDArray[np.float64]) -> float | None:
    """Return the probability that a defective item scores above a good one; None if a class is missing.

    Equal scores count half. Arguments as for `average_precision`.
    """
    steps = _steps(scores, defective, weight)
    if steps is None:
        return None
    positive, negative = steps
    above = np.cumsum(positive) - positive / 2
    return float((above * negative).sum() / (positive.sum() * negative.sum()))


def _steps(
    scores: NDArray[np.float64], defective: NDArray[np.bool_], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the weight of the defective and of the good items at each score, highest score first."""
    values, step = np.unique(-scores, return_inverse=True)
    positive = np.bincount(step, weight * defective, len(values)).astype(np.float64)
    negative = np.bincount(step, weight * ~defective, len(values)).astype(np.float64)
    if not positive.sum() or not negative.sum():
        return None
    return positive, negative


# Confidence intervals.


def compute_intervals(figures: Callable[[Weights], Figures], groups: int) -> tuple[dict[str, tuple[float, float]], str]:
    """Return 95 % intervals of all rates, by dotted name, and a description of their basis.

    A figure that is equal in all resamples gets none: with 0 of 4 frames rejected, the rate is not certain to be 0.

    Args:
        figures: returns the figures for weights [groups].
        groups: number of groups; 0 if the pictures have none.
    """
    if groups == 0:
        return {}, "no intervals: the pictures have no groups, and only whole groups are independent"
    if groups < FEWEST_GROUPS:
        return {}, describe_basis(groups)
    drawn: dict[str, list[float]] = {}
    for weights in draw_groups(groups):
        for name, value in rates(figures(weights)):
            drawn.setdefault(name, []).append(value)
    ends = {
        name: tuple(np.quantile(values, ENDS).tolist()) for name, values in drawn.items() if len(values) >= FEWEST_KNOWN
    }
    return {name: (low, high) for name, (low, high) in ends.items() if low < high}, describe_basis(groups)


def draw_groups(groups: int) -> NDArray[np.float64]:
    """Return how often each resample draws each group, [resamples, groups]; the seed is fixed."""
    drawn = np.random.default_rng(SEED).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES)
    return drawn.astype(np.float64)


def rates(figures: Figures) -> Iterator[tuple[str, float]]:
    """Yield all known figures that are rates and not counts, by dotted name, as `study.f1`."""
    for part, values in msgspec.structs.asdict(figures).items():
        if values is None:
            continue
        for name, value in msgspec.structs.asdict(values).items():
            if isinstance(value, float):
                yield f"{part}.{name}", value
