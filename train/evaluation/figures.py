"""Figures of an evaluation from columns of tiles and frames, and their intervals, by other weights of groups."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from heatline.train.evaluation.scoring import GATE_LOGIT, pixel_rates
from heatline.train.metrics import auroc, average_precision

Weights = NDArray[np.float64]
"""[groups], how often each group counts; all 1 for the figures themselves."""
Figures = dict[str, int | float | None]
"""By dotted name, as `frame.escape_rate`: counts are int, rates float, None is not known (docs/evaluation.md)."""
Columns = NDArray[np.void]
"""One row per tile of all placed frames, of `tile_type`, or per frame, of `FRAME`."""

FEWEST_GROUPS, RESAMPLES = 10, 1000

FRAME = np.dtype(
    [
        ("group", "i8"),  # its number
        ("logit", "f8"),  # the highest of its tiles
        ("defective", "?"),
        ("rejected", "?"),  # the verdict is DEFECT
        ("placed", "?"),  # the place of its defects is known; if not, what follows is 0
        ("defects", "i8"),
        ("hit", "i8"),
        ("false_regions", "i8"),
        ("line_px", "i8", (4,)),  # by the line's rule, as `count_pixels`
    ]
)
COUNTED_PX = "true_positive_px", "false_positive_px", "false_negative_px", "true_negative_px"


def tile_type(maps: int) -> np.dtype[np.void]:
    """Return the type of the columns of tiles with so many maps: the model's own, and by other fusions of its heads."""
    return np.dtype(
        [
            ("group", "i8"),
            ("logit", "f8"),
            ("defective", "?"),  # by the 1 % rule
            ("ambiguous", "?"),  # it has a defective pixel, and is good by the 1 % rule
            ("distance_px", "f8", (maps,)),  # from each map's peak to the nearest true pixel; NaN for a good tile
            ("px", "i8", (maps, 4)),  # by the study's rule for each map, as `count_pixels`
        ]
    )


def compute_figures(
    tiles: Columns, frames: Columns, maps: Sequence[str], weights: Weights, *, set_threshold: bool = False
) -> Figures:
    """Compute the figures with weights of groups; those of tiles and pixels are missing if no frame is placed.

    Args:
        maps: names of the maps of `tile_type`, the first parts of their figures' names.
        weights: [groups], whole numbers: the draws of a bootstrap, or all 1.
        set_threshold: whether good frames set the threshold that judges them, so that their rejects are not a rate.
    """
    figures = _of_frames(frames, weights)
    if set_threshold:
        figures["frame.false_reject_rate"] = None
    if figures["frame.frames"] == figures["frame.unplaced"]:
        return figures
    weight, bad, clear = weights[tiles["group"]], tiles["defective"], ~tiles["ambiguous"]
    called = tiles["logit"] > GATE_LOGIT
    ranked = tiles["logit"][clear], bad[clear], weight[clear]
    figures |= {
        "tile.tiles": round(float(weight.sum())),
        "tile.defective": round(float(weight[bad].sum())),
        "tile.average_precision": average_precision(*ranked),
        "tile.auroc": auroc(*ranked),
        "tile.accuracy": _mean(called == bad, weight) or 0.0,
        **_of_pixels("line", weights[frames["group"]] @ frames["line_px"]),
    }
    for at, name in enumerate(maps):
        on_truth = tiles["distance_px"][bad, at] == 0
        figures |= _of_pixels(name, weight @ tiles["px"][:, at])
        figures[f"{name}.pointing"] = _mean(on_truth, weight[bad])
        figures[f"{name}.pointing_gated"] = _mean(on_truth & called[bad], weight[bad])
    return figures


def _of_pixels(name: str, counts: NDArray[np.float64]) -> Figures:
    px = {f"{name}.{field}": round(float(count)) for field, count in zip(COUNTED_PX, counts, strict=True)}
    return {**px, **{f"{name}.{field}": rate for field, rate in pixel_rates(counts.tolist()).items()}}


def _of_frames(frames: Columns, weights: Weights) -> Figures:
    weight = weights[frames["group"]]
    bad, rejected, placed = (frames[name] for name in ("defective", "rejected", "placed"))

    def count(which: NDArray[np.generic]) -> int:
        return round(float(weight @ which.astype(np.float64)))

    of_placed: Figures = {
        "defects": count(frames["defects"]),
        "defects_hit": count(frames["hit"]),
        "hit_rate": _mean(frames["hit"], weight, frames["defects"]),
        "false_regions": count(frames["false_regions"]),
        "false_regions_per_frame": _mean(frames["false_regions"], weight, placed),
    }
    found: Figures = {
        "frames": count(np.ones(len(weight))),
        "unplaced": count(~placed),
        **(of_placed if count(placed) else dict.fromkeys(of_placed)),
        "defective_frames": count(bad),
        "escaped_frames": count(bad & ~rejected),
        "escape_rate": _mean(bad & ~rejected, weight, bad),
        "good_frames": count(~bad),
        "rejected_frames": count(~bad & rejected),
        "false_reject_rate": _mean(~bad & rejected, weight, ~bad),
        "average_precision": average_precision(frames["logit"], bad, weight),
        "auroc": auroc(frames["logit"], bad, weight),
    }
    return {f"frame.{name}": value for name, value in found.items()}


def _mean(values: NDArray[np.generic], weight: Weights, of: NDArray[np.generic] | None = None) -> float | None:
    """Return the weighted sum of values divided by that of `of` (default: ones); None if there are none."""
    total = float(weight.sum() if of is None else weight @ of.astype(np.float64))
    return float(weight @ values.astype(np.float64)) / total if total else None


def compute_intervals(figures: Callable[[Weights], Figures], groups: int) -> tuple[dict[str, tuple[float, float]], str]:
    """Return 95 % intervals of all rates, by name, and a description of their basis.

    The bootstrap draws whole groups, with replacement (Efron & Tibshirani 1993, percentile intervals), as pictures of
    one group show the same thing; with few groups an interval is not reliable, and none is given. A figure that is
    equal in all resamples gets none: with 0 of 4 frames rejected, the rate is not certain to be 0. Nor does one that
    many resamples lack, because they lack a class.

    Args:
        figures: returns the figures for weights [groups].
        groups: number of groups; 0 if the pictures have none.
    """
    if groups == 0:
        return {}, "no intervals: the pictures have no groups, and only whole groups are independent"
    if groups < FEWEST_GROUPS:
        return {}, f"no intervals: a bootstrap needs at least {FEWEST_GROUPS} groups, and there are {groups}"
    drawn: dict[str, list[float]] = {}
    # The seed is fixed, so that the same pictures have the same intervals.
    for weights in np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES):
        for name, value in figures(weights.astype(np.float64)).items():
            if isinstance(value, float):
                drawn.setdefault(name, []).append(value)
    ends = {
        name: tuple(np.quantile(values, (0.025, 0.975)).tolist())
        for name, values in drawn.items()
        if len(values) >= 0.95 * RESAMPLES
    }
    basis = f"95 % intervals by a bootstrap over {groups} groups, {RESAMPLES} resamples, percentiles"
    return {name: (low, high) for name, (low, high) in ends.items() if low < high}, basis
