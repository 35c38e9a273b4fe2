"""Escapes against false rejects, held to the verdict rule frame by frame."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from train.evaluation.explorer import Explorer, explore
from train.evaluation.figures import FrameColumns, TileColumns, figures_of

LOGITS = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.floats(-20, 20, width=32))
"""Those of an engine are float32; thresholds are float64. Some are equal."""
FRAMES = st.lists(st.tuples(st.lists(LOGITS, min_size=1, max_size=3), st.booleans()), max_size=7)
"""Logits of a frame's tiles, and whether it is defective."""


def explored(frames: list[tuple[list[float], bool]], chosen: float) -> Explorer:
    highest = [(max(tiles), defective) for tiles, defective in frames]
    defective, good = (np.array([logit for logit, is_bad in highest if is_bad is kind]) for kind in (True, False))
    return explore(defective, good, chosen, "good frames")


def shares(frames: list[tuple[list[float], bool]], threshold: float) -> tuple[float | None, float | None]:
    """Escapes and false rejects, where a frame is DEFECT if any tile reaches the threshold."""
    escaped = [not any(logit >= threshold for logit in tiles) for tiles, defective in frames if defective]
    rejected = [any(logit >= threshold for logit in tiles) for tiles, defective in frames if not defective]
    return (
        sum(escaped) / len(escaped) if escaped else None,
        sum(rejected) / len(rejected) if rejected else None,
    )


@given(FRAMES, st.floats(-25, 25))
def test_at_every_threshold_the_curve_is_what_the_verdict_rule_gives(
    frames: list[tuple[list[float], bool]], anywhere: float
) -> None:
    found = explored(frames, 0.0)
    assert found.thresholds == sorted(set(found.thresholds))
    if found.defective_frames:
        assert (found.escape[0], found.escape[-1]) == (0, 1)
    if found.good_frames:
        assert (found.false_reject[0], found.false_reject[-1]) == (1, 0)
    scores = [logit for tiles, _ in frames for logit in tiles]
    for threshold in [anywhere, *found.thresholds, *scores, *(math.nextafter(score, math.inf) for score in scores)]:
        # A step begins at its threshold; below the first, all frames are DEFECT, as they are at it.
        step = max(int(np.searchsorted(found.thresholds, threshold, side="right")) - 1, 0)
        escape, false_reject = shares(frames, threshold)
        if frames:
            assert (found.escape[step], found.false_reject[step]) == (escape or 0.0, false_reject or 0.0)


@given(FRAMES, LOGITS)
def test_the_chosen_point_is_that_of_the_frames_figures(frames: list[tuple[list[float], bool]], chosen: float) -> None:
    found = explored(frames, chosen)
    logit = np.array([max(tiles) for tiles, _ in frames])
    count = len(frames)
    columns = FrameColumns(
        group=np.zeros(count, np.int64),
        logit=logit,
        defective=np.array([defective for _, defective in frames], np.bool_),
        rejected=logit >= chosen,
        placed=np.zeros(count, np.bool_),
        defects=np.zeros(count, np.int64),
        hit=np.zeros(count, np.int64),
        false_regions=np.zeros(count, np.int64),
        line_px=np.zeros((count, 4), np.int64),
    )
    none = np.zeros(0, np.int64)
    tiles = TileColumns(none, none.astype(np.float64), none > 0, none * 1.0, none * 1.0, none.reshape(0, 4))
    frame = figures_of(tiles, columns, chosen, 16.0, np.ones(1)).frame
    assert (found.chosen, found.chosen_escape, found.chosen_false_reject) == (
        chosen, frame.escape_rate, frame.false_reject_rate,
    )  # fmt: skip
    assert (found.defective_frames, found.good_frames) == (frame.defective_frames, frame.good_frames)
