"""Intervals by a bootstrap over groups, compared with a known result and with a bootstrap in plain loops."""

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.calibration.statistics import RESAMPLES, SEED
from heatline.train.evaluation.figures import FRAME, Columns, compute_figures, compute_intervals, tile_type
from tests.train.evaluations import columns

NO_TILES = np.zeros(0, tile_type(1))


def frames(
    group: list[int], logit: list[float], defective: list[bool], px: list[tuple[int, int, int, int]] | None = None
) -> Columns:
    """Return frames that are not placed unless `px` is given; a logit of at least 0 is DEFECT."""
    logits = np.array(logit)
    known = {} if px is None else {"placed": True, "line_px": px}
    return columns(FRAME, group, logit=logits, defective=defective, rejected=logits >= 0, **known)


def intervals_of(of_frames: Columns, groups: int) -> tuple[dict[str, tuple[float, float]], str]:
    return compute_intervals(partial(compute_figures, NO_TILES, of_frames, ["study"]), groups)


def quantile(values: list[float], share: float) -> float:
    """Return a quantile by linear interpolation."""
    ordered, place = sorted(values), share * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def test_the_interval_of_ten_groups_of_which_half_escape_is_binomial() -> None:
    """In ten draws of groups of which half escape, at most 1 of 10 has probability 0.011 and at most 2 has 0.055. So
    the 2.5 % quantile is 2 of 10, and the upper quantile 8 of 10.
    """
    found, basis = intervals_of(frames(list(range(10)), [1.0] * 5 + [-1.0] * 5, [True] * 10), 10)
    assert found == {"frame.escape_rate": (pytest.approx(0.2), pytest.approx(0.8))}
    assert basis == "95 % intervals by a bootstrap over 10 groups, 1000 resamples, percentiles"


def test_intervals_match_a_bootstrap_that_repeats_pictures_one_by_one() -> None:
    """An independent bootstrap with the same draws lists pictures as often as their group is drawn."""
    rng = np.random.default_rng(7)
    group = [0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8, 9, 9, 9, 10, 11]
    logit, defective = rng.normal(size=len(group)).round(1).tolist(), (rng.random(len(group)) < 0.6).tolist()
    px = [(int(a), int(b), int(c), 900) for a, b, c in rng.integers(0, 100, (len(group), 3))]
    found, _ = intervals_of(frames(group, logit, defective, px), 12)

    escapes: list[float] = []
    precisions: list[float] = []
    aurocs: list[float] = []
    for drawn in draws(12):
        pictures = [picture for picture, number in enumerate(group) for _ in range(drawn[number])]
        bad, good = ([p for p in pictures if defective[p] is wanted] for wanted in (True, False))
        escapes += [sum(logit[p] < 0 for p in bad) / len(bad)] if bad else []
        precisions.append(sum(px[p][0] for p in pictures) / sum(px[p][0] + px[p][1] for p in pictures))
        pairs = [(logit[one] > logit[other]) + (logit[one] == logit[other]) / 2 for one in bad for other in good]
        aurocs += [sum(pairs) / len(pairs)] if pairs else []
    expected = {"frame.escape_rate": escapes, "line.precision": precisions, "frame.auroc": aurocs}
    for name, values in expected.items():
        assert found[name] == pytest.approx((quantile(values, 0.025), quantile(values, 0.975))), name
        assert found[name][0] < found[name][1]


def draws(groups: int) -> NDArray[np.int64]:
    return np.random.default_rng(SEED).multinomial(groups, [1 / groups] * groups, RESAMPLES)


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        (0, "the pictures have no groups, and only whole groups are independent"),
        (1, "a bootstrap needs at least 10 groups, and there are 1"),
        (9, "a bootstrap needs at least 10 groups, and there are 9"),
    ],
)
def test_too_few_groups_have_no_intervals_and_the_reason_is_given(groups: int, reason: str) -> None:
    count = max(groups, 1)
    assert intervals_of(frames(list(range(count)), [1.0] * count, [True] * count), groups) == (
        {},
        f"no intervals: {reason}",
    )


def test_a_figure_that_many_resamples_lack_has_no_interval() -> None:
    """One group of ten has all good frames; 0.9^10 = 35 % of the resamples do not draw it. None of four groups of
    twelve is drawn in 0.8 % of the resamples.
    """
    rare, _ = intervals_of(frames(list(range(10)), [1.0, -1.0] * 5, [False] + [True] * 9), 10)
    assert rare.keys() == {"frame.escape_rate"}
    usual, _ = intervals_of(frames(list(range(12)), [1.0, -1.0] * 6, [False] * 4 + [True] * 8), 12)
    assert usual.keys() == {
        f"frame.{name}" for name in ("escape_rate", "false_reject_rate", "average_precision", "auroc")
    }


def test_figures_of_pixels_have_no_interval_if_few_groups_are_placed() -> None:
    """A resample without placed frames does not know the figures of pixels."""
    columns = frames(list(range(10)), [1.0] * 10, [True] * 10, [(10, 0, 0, 90)] * 10)
    columns["placed"][1:] = False
    assert intervals_of(columns, 10)[0] == {}
    # A figure that is equal in every group has no interval either: 0 escapes of 10 do not prove a rate of 0.
    assert intervals_of(frames(list(range(10)), [1.0] * 10, [True] * 10, [(10, 10, 20, 60)] * 10), 10)[0] == {}
