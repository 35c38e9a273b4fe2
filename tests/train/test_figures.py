"""Figures from columns: the order of scores, rules and frames, compared with slow counts; and the effect of weights."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.train.evaluation.figures import FRAME, Columns, Figures, compute_figures, tile_type
from heatline.train.metrics import auroc, average_precision
from tests.train.evaluations import columns

pytestmark = pytest.mark.usefixtures("one_thread")

NAN = float("nan")
MAPS = ("study", "min")
THRESHOLD = 1.0

SCORES = st.sampled_from([-2.0, -0.5, 0.0, 1.0, 1.5, 3.0])
"""Few values, so that many scores are equal."""
SCORED = st.lists(st.tuples(SCORES, st.booleans(), st.integers(0, 3)), max_size=12)
"""Score, whether the item is defective, and weight."""


def scored(items: list[tuple[float, bool, int]]) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    return (
        np.array([score for score, _, _ in items], np.float64),
        np.array([defective for _, defective, _ in items], np.bool_),
        np.array([weight for _, _, weight in items], np.float64),
    )


def repeated(items: list[tuple[float, bool, int]]) -> list[tuple[float, bool]]:
    return [(score, defective) for score, defective, weight in items for _ in range(weight)]


def slow_average_precision(items: list[tuple[float, bool]]) -> float:
    """Sum the precision at each threshold times its gain in recall."""
    total, before, all_defective = 0.0, 0.0, sum(defective for _, defective in items)
    for threshold in sorted({score for score, _ in items}, reverse=True):
        called = [defective for score, defective in items if score >= threshold]
        recall = sum(called) / all_defective
        total += sum(called) / len(called) * (recall - before)
        before = recall
    return total


def slow_auroc(items: list[tuple[float, bool]]) -> float:
    """Compare all pairs of a defective and a good item."""
    pairs = [(bad, good) for bad, is_bad in items if is_bad for good, is_bad_too in items if not is_bad_too]
    return sum((bad > good) + (bad == good) / 2 for bad, good in pairs) / len(pairs)


@given(SCORED)
def test_average_precision_and_auroc_match_slow_counts_with_repeated_items(
    items: list[tuple[float, bool, int]],
) -> None:
    every = repeated(items)
    if {defective for _, defective in every} != {True, False}:
        assert average_precision(*scored(items)) is None
        assert auroc(*scored(items)) is None
    else:
        assert average_precision(*scored(items)) == pytest.approx(slow_average_precision(every))
        assert auroc(*scored(items)) == pytest.approx(slow_auroc(every))


# ---------------------------------------------------------------------------------------------------------- the figures

TILE_ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),  # group
        SCORES,
        st.booleans(),
        st.tuples(*[st.sampled_from([0.0, 0.5, 5.0])] * 2),  # px from each map's peak to the truth
        st.tuples(*[st.tuples(*[st.integers(0, 50)] * 4)] * 2),
        st.booleans(),  # ambiguous, unless it is defective
    ),
    max_size=8,
)
FRAME_ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        SCORES,
        st.booleans(),
        st.booleans(),  # placed
        st.integers(0, 3),  # defects
        st.integers(0, 3),  # of which hit, at most all
        st.integers(0, 4),  # false regions
        st.tuples(*[st.integers(0, 50)] * 4),
    ),
    min_size=1,
    max_size=8,
)


def tile_columns(rows: list[Any]) -> Columns:
    group, logit, defective, distance_px, px, ambiguous = zip(*rows, strict=True) if rows else ((),) * 6
    bad = np.array(defective, np.bool_)
    return columns(
        tile_type(len(MAPS)),
        group=np.array(group, np.int64),
        logit=np.array(logit, np.float64),
        defective=bad,
        ambiguous=np.array(ambiguous, np.bool_) & ~bad,
        distance_px=np.where(bad[:, None], np.array(distance_px, np.float64).reshape(-1, 2), NAN),
        px=np.array(px, np.int64).reshape(-1, 2, 4),
    )


def frame_columns(rows: list[Any]) -> Columns:
    group, logit, defective, placed, defects, hit, false, px = zip(*rows, strict=True) if rows else ((),) * 8
    known, logits = np.array(placed, np.bool_), np.array(logit, np.float64)
    return columns(
        FRAME,
        group=np.array(group, np.int64),
        logit=logits,
        defective=np.array(defective, np.bool_),
        rejected=logits >= THRESHOLD,
        placed=known,
        defects=np.array(defects, np.int64) * known,
        hit=np.minimum(np.array(hit, np.int64), np.array(defects, np.int64)) * known,
        false_regions=np.array(false, np.int64) * known,
        line_px=np.array(px, np.int64).reshape(-1, 4) * known[:, None],
    )


def figures(tiles: list[Any], frames: list[Any], weights: list[int] | None = None) -> Figures:
    weight = np.ones(4) if weights is None else np.array(weights, np.float64)
    return compute_figures(tile_columns(tiles), frame_columns(frames), MAPS, weight)


@given(TILE_ROWS, FRAME_ROWS, st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_weights_have_the_effect_of_repeated_groups(tiles: list[Any], frames: list[Any], weights: list[int]) -> None:
    placed = {row[0] for row in frames if row[3]}
    tiles = [row for row in tiles if row[0] in placed]  # tiles are of placed frames
    again = [[row for row in rows for _ in range(weights[row[0]])] for rows in (tiles, frames)]
    weighted, repeats = figures(tiles, frames, weights), figures(*again)
    assert weighted.keys() == repeats.keys()
    for name, value in weighted.items():
        assert type(value) is type(repeats[name]), name
        assert value == (repeats[name] if value is None else pytest.approx(repeats[name])), name


TILES = [
    # group, logit, defective, px from each map's peak to the truth, px of the study's rule of each map, ambiguous
    (0, 2.0, True, (0.0, 0.0), ((30, 10, 20, 40), (1, 2, 3, 94)), False),  # found, and both peaks on the truth
    (0, 0.5, True, (0.0, 9.0), ((0, 10, 50, 40), (0, 0, 50, 50)), False),  # above probability 0.5
    (1, -1.0, True, (0.5, 0.0), ((0, 0, 60, 40), (0, 0, 60, 40)), False),  # missed
    (1, 1.0, False, (0.0, 0.0), ((0, 20, 0, 80), (0, 0, 0, 100)), False),
    (2, -3.0, False, (0.0, 0.0), ((0, 0, 0, 100), (0, 0, 0, 100)), False),
]
FRAMES = [
    # group, logit, defective, placed, defects, hit, false regions, px of the line's rule
    (0, 2.0, True, True, 2, 1, 0, (25, 5, 75, 95)),
    (1, 1.0, False, True, 0, 0, 3, (0, 50, 0, 150)),
    (1, -1.0, True, True, 1, 0, 0, (0, 0, 60, 140)),
    (2, -3.0, False, True, 0, 0, 0, (0, 0, 0, 200)),
    (3, 3.0, True, False, 0, 0, 0, (0, 0, 0, 0)),
]


def of(found: Figures, part: str, *names: str) -> list[float | None]:
    return [found[f"{part}.{name}"] for name in names]


def test_figures_match_a_hand_calculation() -> None:
    found = figures(TILES, FRAMES)
    assert of(found, "tile", "tiles", "defective", "accuracy") == [5, 3, pytest.approx(3 / 5)]
    # By score: defective, good, defective, defective, good.
    assert of(found, "tile", "average_precision", "auroc") == pytest.approx([(1 + 2 / 3 + 3 / 4) / 3, 4 / 6])

    pixels = "true_positive_px", "false_positive_px", "false_negative_px", "true_negative_px"
    rates = "precision", "recall", "f1", "jaccard", "accuracy"
    assert of(found, "study", *pixels) == [30, 40, 130, 300]
    assert of(found, "study", *rates) == pytest.approx([30 / 70, 30 / 160, 60 / 230, 30 / 200, 330 / 500])
    assert of(found, "min", *pixels) == [1, 2, 113, 384]
    assert of(found, "min", *rates) == pytest.approx([1 / 3, 1 / 114, 2 / 117, 1 / 116, 385 / 500])
    assert of(found, "line", *pixels) == [25, 55, 135, 585]
    assert of(found, "line", *rates) == pytest.approx([25 / 80, 25 / 160, 50 / 240, 25 / 215, 610 / 800])
    # The gate is probability one half, which the tile with the lowest logit does not reach.
    assert of(found, "study", "pointing", "pointing_gated") == pytest.approx([2 / 3, 2 / 3])
    assert of(found, "min", "pointing", "pointing_gated") == pytest.approx([2 / 3, 1 / 3])

    assert of(found, "frame", "frames", "unplaced", "defects", "defects_hit", "false_regions") == [5, 1, 3, 1, 3]
    # False regions are per placed frame.
    assert of(found, "frame", "hit_rate", "false_regions_per_frame") == pytest.approx([1 / 3, 3 / 4])
    counts = "defective_frames", "escaped_frames", "good_frames", "rejected_frames"
    assert of(found, "frame", *counts) == [3, 1, 2, 1]
    assert of(found, "frame", "escape_rate", "false_reject_rate", "auroc") == pytest.approx([1 / 3, 0.5, 5 / 6])


def test_tiles_of_one_class_have_no_auroc_and_good_tiles_no_pointing() -> None:
    good = figures([row for row in TILES if not row[2]], FRAMES)
    assert of(good, "tile", "tiles", "defective", "average_precision", "auroc") == [2, 0, None, None]
    assert of(good, "study", "pointing", "pointing_gated") == [None, None]
    bad = figures([row for row in TILES if row[2]], FRAMES)
    assert of(bad, "tile", "average_precision", "accuracy") == [None, pytest.approx(2 / 3)]


def test_ambiguous_tiles_have_no_rank() -> None:
    """As the highest-scoring good tile, it would halve the precision; counts and the study's rule keep it."""
    hot = (0, 9.0, False, (0.0, 0.0), ((0, 0, 0, 100), (0, 0, 0, 100)), True)
    without, found = figures(TILES, FRAMES), figures([*TILES, hot], FRAMES)
    ranked = "average_precision", "auroc"
    assert of(found, "tile", *ranked) == of(without, "tile", *ranked)
    assert of(found, "tile", "tiles", "defective") == [6, 3]
    assert found["study.true_negative_px"] == 400


def test_empty_columns_have_counts_of_zero_and_no_rates() -> None:
    for nothing in (figures([], []), figures(TILES, FRAMES, [0, 0, 0, 0])):
        assert {name.partition(".")[0] for name in nothing} == {"frame"}
        assert of(nothing, "frame", "frames", "escape_rate", "auroc") == [0, None, None]


def test_good_frames_that_set_the_threshold_give_no_rate() -> None:
    weight = np.ones(4)
    found = compute_figures(tile_columns(TILES), frame_columns(FRAMES), MAPS, weight, set_threshold=True)
    assert of(found, "frame", "rejected_frames", "good_frames", "false_reject_rate") == [1, 2, None]
