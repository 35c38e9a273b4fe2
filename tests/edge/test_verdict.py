"""The verdict rule: DEFECT if and only if a tile reaches the score threshold; a GOOD frame has no region."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.geometry import Stitcher, TileGrid
from heatline.edge.inspection.verdict import Thresholds, judge

STITCHER = Stitcher(TileGrid((60, 100), 32, 4), (4, 4))
TILES = len(STITCHER.grid)
LOGITS = st.floats(-30, 30, width=32)
THRESHOLDS = st.builds(
    Thresholds, score=st.floats(-30, 30), evidence=st.floats(-30, 30), strong=st.none() | st.floats(-30, 30)
)


def maps_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.broadcast_to(logits[:, None, None], (len(logits), 4, 4)).astype(np.float32)


@given(
    logits=arrays(np.float32, TILES, elements=LOGITS),
    maps=arrays(np.float32, (TILES, 4, 4), elements=st.floats(-100, 100, width=32)),
    thresholds=THRESHOLDS,
)
def test_a_frame_is_a_defect_only_if_a_tile_reaches_the_threshold(
    logits: NDArray[np.float32], maps: NDArray[np.float32], thresholds: Thresholds
) -> None:
    judgement = judge(logits, maps, STITCHER, thresholds)
    reached = any(float(logit) >= thresholds.score for logit in logits)
    assert judgement.verdict == ("DEFECT" if reached else "GOOD")
    assert bool(judgement.regions) is reached
    assert judgement.score == max(float(logit) for logit in logits)
    # The published numbers must be enough to check the verdict.
    assert (judgement.score >= thresholds.score) is (judgement.verdict == "DEFECT")
    assert judgement.heatmap.shape == STITCHER.heatmap_hw


@pytest.mark.parametrize(
    ("logit", "threshold", "verdict"),
    [
        (3.0, 3.0, "DEFECT"),  # equal
        (3.0, math.nextafter(3.0, -math.inf), "DEFECT"),
        (3.0, math.nextafter(3.0, math.inf), "GOOD"),  # just below; float32 cannot represent the difference
        (-0.0, 0.0, "DEFECT"),  # equal: -0.0 and 0.0
        (0.1, 0.1, "DEFECT"),  # float32(0.1) lies above 0.1
        (0.7, 0.7, "GOOD"),  # float32(0.7) lies below 0.7
    ],
)
def test_a_logit_equal_to_the_threshold_is_a_defect(logit: float, threshold: float, verdict: str) -> None:
    logits = np.full(TILES, -50, np.float32)
    logits[1] = logit
    assert judge(logits, maps_of(logits), STITCHER, Thresholds(threshold, 0.0, None)).verdict == verdict


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_answers_that_are_not_finite_are_refused(value: float) -> None:
    logits = np.full(TILES, -5, np.float32)
    maps = maps_of(logits).copy()
    maps[2, 1, 3] = value
    with pytest.raises(ValueError, match="not finite"):
        judge(logits, maps, STITCHER, Thresholds(0.0, 0.0, None))
    logits[2], maps[2, 1, 3] = value, 0
    with pytest.raises(ValueError, match="not finite"):
        judge(logits, maps, STITCHER, Thresholds(0.0, 0.0, None))


def test_strong_evidence_comes_from_the_bundle_and_is_never_below_the_score_threshold(bundle: Bundle) -> None:
    own = bundle.manifest.calibration
    with_strong = msgspec.structs.replace(own, strong_evidence=own.score_threshold + 1)
    score, evidence = own.score_threshold, own.evidence_threshold
    assert Thresholds.of(own) == Thresholds(score, evidence, None)
    assert Thresholds.of(with_strong) == Thresholds(score, evidence, score + 1)
    assert Thresholds.of(with_strong, score + 3, 1.0) == Thresholds(score + 3, 1.0, score + 3)
    assert Thresholds.of(with_strong, score - 3) == Thresholds(score - 3, evidence, score + 1)


def test_a_small_defect_in_a_tile_below_the_threshold_is_a_region_only_beside_a_defective_tile() -> None:
    """The logit of its tile is the mean of more cells than the defect has."""
    maps = np.full((TILES, 4, 4), -5, np.float32)
    maps[0], maps[-1, 1:3, 1:3] = 3, 9
    logits = np.array([3, *[-5] * (TILES - 2), -1], np.float32)
    beside = judge(logits, maps, STITCHER, Thresholds(2.0, 1.0, strong=2.0))
    assert len(beside.regions) == 2
    assert beside.regions[0].score > 5
    assert len(judge(logits, maps, STITCHER, Thresholds(2.0, 1.0, None)).regions) == 1
    logits[0] = 0
    assert judge(logits, maps, STITCHER, Thresholds(2.0, 1.0, strong=2.0)).regions == []
