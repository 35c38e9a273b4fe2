"""Figures from columns: the order of scores, rules and frames, compared with slow counts; and the effect of weights."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.train.evaluation.figures import (
    FRAME,
    TILE,
    Columns,
    Figures,
    auroc,
    average_precision,
    compute_figures,
)
from tests.train.evaluations import columns

pytestmark = pytest.mark.usefixtures("one_thread")

NAN = float("nan")
CELL = 16.0
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
        st.sampled_from([0.0, 5.0, CELL, CELL + 1]),  # px from peak to truth
        st.sampled_from([0.0, 0.25, 1.0]),  # share on truth
        st.tuples(*[st.integers(0, 50)] * 4),
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
    group, logit, defective, distance_px, on_truth, px, ambiguous = zip(*rows, strict=True) if rows else ((),) * 7
    bad = np.array(defective, np.bool_)
    return columns(
        TILE,
        group=np.array(group, np.int64),
        logit=np.array(logit, np.float64),
        defective=bad,
        ambiguous=np.array(ambiguous, np.bool_) & ~bad,
        score_threshold=np.full(len(bad), THRESHOLD),
        distance_px=np.where(bad, np.array(distance_px, np.float64), NAN),
        on_truth=np.where(bad, np.array(on_truth, np.float64), NAN),
        study_px=np.array(px, np.int64).reshape(-1, 4),
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
    return compute_figures(tile_columns(tiles), frame_columns(frames), CELL, weight)


def flat(found: Figures) -> Mapping[str, Any]:
    parts = {part: getattr(found, part) for part in ("tile", "study", "line", "frame")}
    return {
        f"{part}.{name}": value
        for part, values in parts.items()
        for name, value in ({"": None} if values is None else msgspec.structs.asdict(values)).items()
    }


@given(TILE_ROWS, FRAME_ROWS, st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_weights_have_the_effect_of_repeated_groups(tiles: list[Any], frames: list[Any], weights: list[int]) -> None:
    placed = {row[0] for row in frames if row[3]}
    tiles = [row for row in tiles if row[0] in placed]  # tiles are of placed frames
    again = [[row for row in rows for _ in range(weights[row[0]])] for rows in (tiles, frames)]
    weighted, repeats = flat(figures(tiles, frames, weights)), flat(figures(*again))
    assert weighted.keys() == repeats.keys()
    for name, value in weighted.items():
        assert type(value) is type(repeats[name]), name
        assert value == (repeats[name] if value is None else pytest.approx(repeats[name])), name


TILES = [
    # group, logit, defective, peak to truth in px, share on truth, px of the study's rule, ambiguous
    (0, 2.0, True, 0.0, 0.5, (30, 10, 20, 40), False),  # found, and peaks on the truth
    (0, 0.5, True, 0.0, 0.25, (0, 10, 50, 40), False),  # above probability 0.5, below the line's threshold
    (1, -1.0, True, CELL, 0.0, (0, 0, 60, 40), False),  # missed, its peak just one cell away
    (1, 1.0, False, 0.0, 0.0, (0, 20, 0, 80), False),  # good, and exactly at the threshold
    (2, -3.0, False, 0.0, 0.0, (0, 0, 0, 100), False),
]
FRAMES = [
    # group, logit, defective, placed, defects, hit, false regions, px of the line's rule
    (0, 2.0, True, True, 2, 1, 0, (25, 5, 75, 95)),
    (1, 1.0, False, True, 0, 0, 3, (0, 50, 0, 150)),
    (1, -1.0, True, True, 1, 0, 0, (0, 0, 60, 140)),
    (2, -3.0, False, True, 0, 0, 0, (0, 0, 0, 200)),
    (3, 3.0, True, False, 0, 0, 0, (0, 0, 0, 0)),
]


def test_figures_match_a_hand_calculation() -> None:
    found = figures(TILES, FRAMES)
    tile, study, line, frame = found.tile, found.study, found.line, found.frame
    assert tile is not None
    assert study is not None
    assert line is not None
    assert (tile.tiles, tile.defective, tile.majority_share, tile.pointing_within_cell) == (5, 3, 0.6, 1)
    assert (tile.pointing, tile.weighting) == (pytest.approx(2 / 3), pytest.approx(0.25))
    # By score: defective, good, defective, defective, good.
    assert (tile.average_precision, tile.auroc) == pytest.approx(((1 + 2 / 3 + 3 / 4) / 3, 4 / 6))

    assert (study.true_positive_px, study.false_positive_px, study.false_negative_px) == (30, 40, 130)
    assert study.true_negative_px == 300
    rates = (study.precision, study.recall, study.f1, study.jaccard, study.accuracy)
    assert rates == pytest.approx((30 / 70, 30 / 160, 60 / 230, 30 / 200, 330 / 500))
    assert study.pointing_gated == pytest.approx(2 / 3)  # at probability one half
    assert study.classification_accuracy == pytest.approx(3 / 5)
    assert (line.true_positive_px, line.false_positive_px, line.false_negative_px) == (25, 55, 135)
    assert line.true_negative_px == 585
    assert line.pointing_gated == pytest.approx(1 / 3)  # a logit equal to the score threshold is DEFECT
    assert line.classification_accuracy == pytest.approx(2 / 5)

    assert (frame.frames, frame.unplaced) == (5, 1)
    assert (frame.defects, frame.defects_hit, frame.defects_missed, frame.false_regions) == (3, 1, 2, 3)
    assert frame.false_regions_per_frame == 3 / 4  # of placed frames
    assert (frame.defective_frames, frame.escaped_frames, frame.good_frames, frame.rejected_frames) == (3, 1, 2, 1)
    assert (frame.escape_rate, frame.false_reject_rate, frame.auroc) == pytest.approx((1 / 3, 0.5, 5 / 6))


def test_tiles_of_one_class_have_no_auroc_and_good_tiles_no_pointing() -> None:
    good = figures([row for row in TILES if not row[2]], FRAMES).tile
    assert good is not None
    assert (good.tiles, good.defective, good.majority_share) == (2, 0, 1)
    assert (good.average_precision, good.auroc) == (None, None)
    assert (good.pointing, good.pointing_within_cell, good.weighting) == (None, None, None)
    rule = figures([row for row in TILES if not row[2]], FRAMES).study
    assert rule is not None
    assert rule.pointing_gated is None
    bad = figures([row for row in TILES if row[2]], FRAMES).tile
    assert bad is not None
    assert (bad.average_precision, bad.majority_share) == (None, 1)


def test_ambiguous_tiles_have_no_rank() -> None:
    """As the highest-scoring good tile, it would halve the precision; counts and the study's rule keep it."""
    hot = (0, 9.0, False, 0.0, 0.0, (0, 0, 0, 100), True)
    without, found = figures(TILES, FRAMES).tile, figures([*TILES, hot], FRAMES).tile
    assert without is not None
    assert found is not None
    assert (found.average_precision, found.auroc) == (without.average_precision, without.auroc)
    assert (found.tiles, found.defective) == (6, 3)


def test_empty_columns_have_counts_of_zero_and_no_rates() -> None:
    for nothing in (figures([], []), figures(TILES, FRAMES, [0, 0, 0, 0])):
        assert (nothing.tile, nothing.study, nothing.line) == (None, None, None)
        assert (nothing.frame.frames, nothing.frame.escape_rate, nothing.frame.auroc) == (0, None, None)
