"""Figures and their intervals, compared with slow counts; and the report, whose slider follows the verdict rule."""

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from heatline.edge.bundle import Calibration
from heatline.edge.errors import InputError, TrainingError
from heatline.edge.geometry import Region
from heatline.edge.heatmap_picture import ColourScale
from heatline.edge.inspection.verdict import Judgement, TileScores
from heatline.edge.util.page import Table
from heatline.train.evaluation import study_chapter
from heatline.train.evaluation.gallery import FRAMES, GAP_PX, TRUTH_RGB, FrameGallery, draw_frame
from heatline.train.evaluation.report import NAMES, write_report
from heatline.train.evaluation.result import (
    DefectKind,
    Evaluation,
    EvaluationSubject,
    FrameAnswer,
    count_kinds,
    describe_escapes,
    describe_kinds,
    write_evaluation,
)
from heatline.train.evaluation.rows import PictureSet, StoredEvaluation, figure_tables, make_rows
from heatline.train.evaluation.scoring import (
    FRAME,
    RESAMPLES,
    Figures,
    compute_figures,
    compute_intervals,
    label_defects,
    match_regions,
    peak_distance_px,
    study_mask,
    tile_type,
)
from heatline.train.evaluation.study_chapter import ranks
from heatline.train.metrics import auroc, average_precision
from heatline.train.models.vit import FUSIONS
from tests.golden import assert_golden
from tests.oracles import bilinear
from tests.train.report_page import Page

pytestmark = pytest.mark.usefixtures("one_thread")


def rule_figures(name: str, precision: float = 0.5, recall: float = 0.5) -> Figures:
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    values = {"precision": precision, "recall": recall, "f1": f1, "jaccard": f1 / (2 - f1), "accuracy": 0.99}
    return {f"{name}.{field}": value for field, value in values.items()}


def made_figures(family: str = "cnn", seed: int = 0, **known: float | None) -> Figures:
    """Return figures by dotted name; of `known`, the first `__` is the dot."""
    figures: Figures = {
        "tile.tiles": 1200, "tile.defective": 90, "tile.average_precision": 0.8, "tile.auroc": 0.95,
        "tile.accuracy": 0.95, "study.pointing": 0.7, "study.pointing_gated": 0.6,
        "frame.frames": 30, "frame.unplaced": 0, "frame.defects": 60, "frame.defects_hit": 50,
        "frame.hit_rate": 50 / 60, "frame.false_regions": 6, "frame.false_regions_per_frame": 0.2,
        "frame.defective_frames": 20, "frame.escaped_frames": 2, "frame.escape_rate": 0.1, "frame.good_frames": 10,
        "frame.rejected_frames": 1, "frame.false_reject_rate": 0.1, "frame.average_precision": 0.97,
        "frame.auroc": 0.96, **rule_figures("study"), **rule_figures("line", 0.7, 0.6),
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    for fusion in FUSIONS if family == "vit" else ():
        names = ("precision", "recall", "f1", "jaccard", "accuracy", "pointing", "pointing_gated")
        figures |= {f"{fusion}.{name}": float(rng.random()) for name in names}
    return figures | {name.replace("__", "."): value for name, value in known.items()}


def subject(name: str = "run", model: str = "efficientnetv2_s_d", **known: Any) -> EvaluationSubject:
    is_vit = "vit" in model or "deit" in model
    values: dict[str, Any] = {
        "name": name, "path": f"runs/{name}", "kind": "run", "model": model, "family": "vit" if is_vit else "cnn",
        "method": "rollout-max-discard-0.9" if is_vit else "cam", "map_hw": (7, 7) if model.endswith("s") else (14, 14),
        "engine": "torch f32", "recipe": "finetune, 600 steps of 32", "data": "hripcb", "part": "test",
        "groups": ["10", "12"], "pictures": 30, "lr": 0.001, "val_loss": 0.1, "val_accuracy": 0.96,
    }  # fmt: skip
    return EvaluationSubject(**(values | known))


def evaluation(
    about: EvaluationSubject,
    figures: Figures | None = None,
    intervals: dict[str, tuple[float, float]] | None = None,
    frames: list[FrameAnswer] | None = None,
    seed: int = 0,
    **known: Any,
) -> Evaluation:
    values: dict[str, Any] = {
        "truth": "masks",
        "calibration": Calibration(0.7, 5.5, -6.0, 0.05, 36, "good frames of the validation groups"),
        "figures": made_figures(about.family, seed) if figures is None else figures,
        "intervals": intervals or {},
        "intervals_are": "no intervals: a bootstrap needs at least 10 groups, and there are 2",
        "frames": answers(seed, groups=about.groups) if frames is None else frames,
        "rests_on": "the test groups (2 groups, 60 frames)",
    }
    return Evaluation(about, **(values | known))


def answers(seed: int = 0, defective: int = 20, good: int = 40, groups: Sequence[str] = ()) -> list[FrameAnswer]:
    """Return frames with random scores, alternating between the groups; two of three defects of each are hit."""
    rng = np.random.default_rng(seed)
    return [
        FrameAnswer(
            image=f"{'bad' if at < defective else 'good'}/{at:03}.png",
            group=groups[at % len(groups)] if groups else None,
            defective=at < defective,
            score=float(score),
            defects=3 if at < defective else 0,
            hit=2 if at < defective else 0,
            false_regions=0,
        )
        for at, score in enumerate([*rng.normal(4, 3, defective), *rng.normal(-2, 2, good)])
    ]


def pictured(frames: int = 3) -> list[FrameAnswer]:
    """Return frames of each label with a picture; their files are not written."""
    return [
        FrameAnswer(f"board-{at:02}.jpg", None, is_bad, 3.5 - 2 * at, picture=f"{is_bad}-{at}.png")
        for is_bad in (True, False)
        for at in range(frames)
    ]


def write(made: Evaluation, folder: Path) -> Path:
    """Write an evaluation with its gallery into a folder."""
    folder.mkdir(parents=True)
    write_evaluation(made, folder)
    for frame in made.frames:
        if frame.picture is not None:
            cv2.imwrite(str(folder / frame.picture), np.full((8, 24, 3), 90, np.uint8))
    return folder


MAPS = ("study", "min")
SCORES = st.sampled_from([-2.0, -0.5, 0.0, 1.0, 1.5, 3.0])
"""Few values, so that many scores are equal."""
SCORED = st.lists(st.tuples(SCORES, st.booleans(), st.integers(0, 3)), max_size=12)
"""Score, whether the item is defective, and weight."""


def slow_average_precision(items: list[tuple[float, bool]]) -> float:
    """Sum the precision at each threshold times its gain in recall: the share of the defective items with its score."""
    total, all_defective = 0.0, sum(defective for _, defective in items)
    for threshold in {score for score, _ in items}:
        called = [defective for score, defective in items if score >= threshold]
        gain = sum(defective for score, defective in items if score == threshold) / all_defective
        total += sum(called) / len(called) * gain
    return total


def slow_auroc(items: list[tuple[float, bool]]) -> float:
    """Compare all pairs of a defective and a good item."""
    pairs = [(bad, good) for bad, is_bad in items if is_bad for good, is_bad_too in items if not is_bad_too]
    return sum((bad > good) + (bad == good) / 2 for bad, good in pairs) / len(pairs)


@given(SCORED)
def test_average_precision_and_auroc_match_slow_counts(items: list[tuple[float, bool, int]]) -> None:
    every = [(score, defective) for score, defective, weight in items for _ in range(weight)]
    columns = np.array(items, np.float64).reshape(-1, 3).T
    found = [measure(columns[0], columns[1] > 0, columns[2]) for measure in (average_precision, auroc)]
    if {defective for _, defective in every} != {True, False}:
        assert found == [None, None]
    else:
        assert found == pytest.approx([slow_average_precision(every), slow_auroc(every)])


def figures(tiles: list[Any], frames: list[Any], weights: Sequence[int] = (1,) * 4, **how: bool) -> Figures:
    rows = np.array(tiles, tile_type(len(MAPS))), np.array(frames, FRAME)
    return compute_figures(*rows, MAPS, np.array(weights, np.float64), **how)


TILE_ROWS = [
    # group, logit, defective, ambiguous, px from each map's peak to the truth, px of the study's rule of each map
    (0, 2.0, True, False, (0.0, 0.0), ((30, 10, 20, 40), (1, 2, 3, 94))),  # found, and both peaks on the truth
    (0, 0.5, True, False, (0.0, 9.0), ((0, 10, 50, 40), (0, 0, 50, 50))),  # above probability 0.5
    (1, -1.0, True, False, (0.5, 0.0), ((0, 0, 60, 40), (0, 0, 60, 40))),  # missed
    (1, 1.0, False, False, (np.nan, np.nan), ((0, 20, 0, 80), (0, 0, 0, 100))),
    (2, -3.0, False, False, (np.nan, np.nan), ((0, 0, 0, 100), (0, 0, 0, 100))),
]
FRAME_ROWS = [
    # group, logit, defective, rejected, placed, defects, hit, false regions, px of the line's rule
    (0, 2.0, True, True, True, 2, 1, 0, (25, 5, 75, 95)),
    (1, 1.0, False, True, True, 0, 0, 3, (0, 50, 0, 150)),
    (1, -1.0, True, False, True, 1, 0, 0, (0, 0, 60, 140)),
    (2, -3.0, False, False, True, 0, 0, 0, (0, 0, 0, 200)),
    (3, 3.0, True, True, False, 0, 0, 0, (0, 0, 0, 0)),
]
BY_HAND: dict[str, list[float | None]] = {
    "tile.tiles tile.defective tile.accuracy": [5, 3, 3 / 5],
    # By score: defective, good, defective, defective, good.
    "tile.average_precision tile.auroc": [(1 + 2 / 3 + 3 / 4) / 3, 4 / 6],
    "study.true_positive_px study.false_positive_px study.false_negative_px study.true_negative_px": [30, 40, 130, 300],
    "study.precision study.recall study.f1 study.jaccard study.accuracy":
        [30 / 70, 30 / 160, 60 / 230, 30 / 200, 330 / 500],
    "min.precision min.recall min.f1 min.jaccard min.accuracy": [1 / 3, 1 / 114, 2 / 117, 1 / 116, 385 / 500],
    "line.precision line.recall line.f1 line.jaccard line.accuracy":
        [25 / 80, 25 / 160, 50 / 240, 25 / 215, 610 / 800],
    # The gate is probability one half, which the tile with the lowest logit does not reach.
    "study.pointing study.pointing_gated min.pointing min.pointing_gated": [2 / 3, 2 / 3, 2 / 3, 1 / 3],
    "frame.frames frame.unplaced frame.defects frame.defects_hit frame.false_regions": [5, 1, 3, 1, 3],
    "frame.hit_rate frame.false_regions_per_frame": [1 / 3, 3 / 4],  # per placed frame
    "frame.defective_frames frame.escaped_frames frame.good_frames frame.rejected_frames": [3, 1, 2, 1],
    "frame.escape_rate frame.false_reject_rate frame.auroc": [1 / 3, 0.5, 5 / 6],
}  # fmt: skip


@given(st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any))
def test_weights_have_the_effect_of_repeated_groups(weights: list[int]) -> None:
    again = [[row for row in rows for _ in range(weights[row[0]])] for rows in (TILE_ROWS, FRAME_ROWS)]
    weighted, repeats = figures(TILE_ROWS, FRAME_ROWS, weights), figures(*again)
    assert weighted.keys() == repeats.keys()
    for name, value in weighted.items():
        assert type(value) is type(repeats[name]), name
        assert value == (repeats[name] if value is None else pytest.approx(repeats[name])), name


def test_figures_match_a_hand_calculation() -> None:
    found = figures(TILE_ROWS, FRAME_ROWS)
    for names, expected in BY_HAND.items():
        assert [found[name] for name in names.split()] == pytest.approx(expected), names
    one_class = figures([row for row in TILE_ROWS if not row[2]], FRAME_ROWS)
    assert [one_class[f"tile.{name}"] for name in ("average_precision", "auroc")] == [None, None]
    assert one_class["study.pointing"] is None
    # An ambiguous tile has no rank; as the highest-scoring good one, it would halve the precision. It is counted.
    ambiguous = (0, 9.0, False, True, (np.nan, np.nan), ((0, 0, 0, 100), (0, 0, 0, 100)))
    more = figures([*TILE_ROWS, ambiguous], FRAME_ROWS)
    assert all(more[f"tile.{name}"] == found[f"tile.{name}"] for name in ("average_precision", "auroc"))
    assert (more["tile.tiles"], more["study.true_negative_px"]) == (6, 400)
    # Good frames that set the threshold give no rate.
    chosen = figures(TILE_ROWS, FRAME_ROWS, set_threshold=True)
    assert (chosen["frame.rejected_frames"], chosen["frame.false_reject_rate"]) == (1, None)


CELL, TILE = 16, 12
TILE_MAPS = arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 2), elements=st.integers(0, 9).map(np.float32))
"""Small maps of whole numbers, so that no enlarged value lies on the threshold, where rounding would decide."""


def region(x: int, y: int) -> Region:
    return Region((x, y, x + 1, y + 1), [(x, y)], 1, (x, y), 1.0)


def mask(*squares: tuple[int, int, int], side: int = 400) -> NDArray[np.bool_]:
    """Return a mask that is true in squares (y, x, side)."""
    marked = np.zeros((side, side), np.bool_)
    for y, x, length in squares:
        marked[y : y + length, x : x + length] = True
    return marked


@given(TILE_MAPS, st.sampled_from([-3.0, 0.0, 1e-6, 2.0]))
def test_a_mask_is_that_of_the_studys_rule_pixel_by_pixel(tile_map: NDArray[np.float32], logit: float) -> None:
    expected = np.zeros((TILE, TILE), np.bool_)
    if 1 / (1 + np.exp(-logit)) > 0.5:
        ys, xs = ([(i + 0.5) * cells / TILE for i in range(TILE)] for cells in tile_map.shape)
        values = np.array([[bilinear(tile_map.astype(np.float64), y, x) for x in xs] for y in ys])
        spread = values.max() - values.min()
        expected = (values - values.min()) / spread * 255 > 127 if spread else expected
    assert (study_mask(tile_map, logit, TILE) == expected).all()


def test_pixels_above_level_127_of_255_are_in_the_mask() -> None:
    """The map has the resolution of its tile, so there are no interpolated values."""
    tile_map = np.array([[0, 126, 127], [127.5, 128, 255], [0, 0, 0]], np.float32)
    above = [[False, False, False], [True, True, True], [False, False, False]]
    assert study_mask(tile_map, 1.0, 3).tolist() == above
    assert study_mask(tile_map * 0.5 - 300, 1.0, 3).tolist() == above  # the stretch removes scale and offset
    for value in (0.1, -7.3, 1e20):  # also if rounding in the enlargement would leave differences to stretch
        assert not study_mask(np.full((7, 7), value, np.float32), 3.0, 224).any()


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        ([], (1, 0, 0)),  # nothing found: missed
        ([(100 - CELL, 110)], (1, 1, 0)),  # exactly one cell beside it
        ([(100 - CELL - 1, 110)], (1, 0, 1)),  # one px too far
        ([(100 - 12, 100 - 12)], (1, 0, 1)),  # 12 px in both directions are 17 px
        ([(110, 110), (111, 111)], (1, 1, 0)),  # two regions on one defect: one hit, none false
        ([(0, 0), (399, 399)], (1, 0, 2)),  # peaks at the frame's corners
    ],
)
def test_a_defect_is_hit_by_a_peak_within_a_cell_of_it(
    peaks: list[tuple[int, int]], expected: tuple[int, int, int]
) -> None:
    assert match_regions([region(*peak) for peak in peaks], mask((100, 100, 20)), CELL).score == expected


@pytest.mark.parametrize(("gap", "defects"), [(4, 1), (CELL, 1), (CELL + 2, 2), (100, 2)])
def test_pieces_closer_than_a_cell_are_one_defect(gap: int, defects: int) -> None:
    pieces = mask((100, 100, 10), (100, 110 + gap, 10))
    labels = label_defects(pieces, CELL)
    assert labels.max() == defects
    assert ((labels > 0) == pieces).all()


def test_the_peak_of_a_map_lies_at_the_centre_of_its_cell_and_not_in_the_padding() -> None:
    tile_map, truth = np.zeros((14, 14), np.float32), mask((3 * 16 + 8, 10 * 16 + 8, 1), side=224)
    tile_map[3, 10] = 1
    assert peak_distance_px(tile_map, truth) < 1.5  # the centre of a cell lies between four px
    assert peak_distance_px(tile_map, np.roll(truth, 30, axis=1)) == pytest.approx(30, abs=1.5)
    tile_map[13, 13] = 9
    assert peak_distance_px(tile_map, truth) > 100 > peak_distance_px(tile_map, truth, (100, 200)) + 98.5


NO_TILES = np.zeros(0, tile_type(1))


def intervals_of(rows: list[Any], groups: int) -> tuple[dict[str, tuple[float, float]], str]:
    return compute_intervals(partial(compute_figures, NO_TILES, np.array(rows, FRAME), ["study"]), groups)


def test_intervals_match_a_bootstrap_that_repeats_pictures_one_by_one() -> None:
    """An independent bootstrap with the same draws lists pictures as often as their group is drawn."""
    rng = np.random.default_rng(7)
    group = [0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8, 9, 9, 9, 10, 11]
    logit, defective = rng.normal(size=len(group)).round(1).tolist(), (rng.random(len(group)) < 0.6).tolist()
    px = [(int(a), int(b), int(c), 900) for a, b, c in rng.integers(0, 100, (len(group), 3))]
    known = zip(group, logit, defective, px, strict=True)
    found, basis = intervals_of([(at, score, bad, score >= 0, True, 0, 0, 0, of) for at, score, bad, of in known], 12)
    assert basis == "95 % intervals by a bootstrap over 12 groups, 1000 resamples, percentiles"

    values: dict[str, list[float]] = {"frame.escape_rate": [], "line.precision": [], "frame.auroc": []}
    for drawn in np.random.default_rng(0).multinomial(12, [1 / 12] * 12, RESAMPLES):
        pictures = [picture for picture, number in enumerate(group) for _ in range(drawn[number])]
        bad, good = ([p for p in pictures if defective[p] is wanted] for wanted in (True, False))
        values["frame.escape_rate"] += [sum(logit[p] < 0 for p in bad) / len(bad)] if bad else []
        values["line.precision"] += [sum(px[p][0] for p in pictures) / sum(px[p][0] + px[p][1] for p in pictures)]
        pairs = [(logit[one] > logit[other]) + (logit[one] == logit[other]) / 2 for one in bad for other in good]
        values["frame.auroc"] += [sum(pairs) / len(pairs)] if pairs else []
    for name, each in values.items():
        assert found[name] == pytest.approx(tuple(np.quantile(each, (0.025, 0.975)))), name


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        (0, "the pictures have no groups, and only whole groups are independent"),
        (9, "a bootstrap needs at least 10 groups, and there are 9"),
    ],
)
def test_too_few_groups_have_no_intervals_and_the_reason_is_given(groups: int, reason: str) -> None:
    rows = [(at, 1, True, True, False, 0, 0, 0, (0,) * 4) for at in range(max(groups, 1))]
    assert intervals_of(rows, groups) == ({}, f"no intervals: {reason}")


SOME = st.lists(st.one_of(st.none(), st.integers(-3, 3).map(float)), min_size=1, max_size=8)


@given(SOME)
def test_ranks_match_the_slow_reference(values: list[float | None]) -> None:
    """Equal values get the mean of their places, best first."""
    line = sorted((value for value in values if value is not None), reverse=True)
    places = {value: line.index(value) + (line.count(value) + 1) / 2 for value in line}
    assert ranks(values) == [None if value is None else places[value] for value in values]


def frame(score: float, kinds: list[DefectKind], loose: float | None = -1.0, **known: Any) -> FrameAnswer:
    return FrameAnswer(f"{score}.png", None, bool(kinds), score, kinds=kinds, loose_threshold=loose, **known)


def kind(name: str, score: float, area_px: int | None, by: Literal["class", "size"] = "class") -> DefectKind:
    return DefectKind(by, name, score, area_px)


def frames_of(*pairs: tuple[float, str, int]) -> list[FrameAnswer]:
    return [frame(score, [kind(name, score, area)]) for score, name, area in pairs]


def judged_by(threshold: float, made: Evaluation, **calibrated: float) -> Evaluation:
    """Return the evaluation by another score threshold, and with other values of its calibration."""
    calibration = msgspec.structs.replace(made.calibration, score_threshold=threshold, **calibrated)
    return msgspec.structs.replace(made, calibration=calibration)


def judged(*frames: FrameAnswer) -> Evaluation:
    return judged_by(1.0, evaluation(subject(), frames=list(frames)), false_reject_per_frame=0.01)


def test_a_class_that_passes_is_named_first_and_the_smallest_before_the_others() -> None:
    """Of 3 pits all pass, of 2 scratches none; at 5 % one pit passes. A picture with both counts for each."""
    both = frame(5.0, [kind("scratch", 5.0, 900), kind("pit", -2.0, 9)])
    found = judged(*frames_of((0.0, "pit", 9), (0.5, "pit", 12), (2.0, "scratch", 900)), both, frame(0.0, []))
    assert describe_kinds(found) == {
        "escapes": "At 1 % false rejects, 2 of 4 defective pictures pass (at 5 %, 0); whole kinds of defects pass: all "
        "pit 3 of 3 (at 5 %, 1).",
        "missed by class": "pit 3 of 3 (at 5 %, 1), scratch 0 of 2 (at 5 %, 0)",
    }
    assert [(each.name, each.missed, each.pictures) for each in count_kinds([found, found])] == [
        ("pit", 6, 6), ("scratch", 0, 4),
    ]  # fmt: skip
    hostile = judged(*frames_of((0.0, "pit\x1b[2J\n", 9), (2.0, "scratch", 900)))
    assert [each.name for each in count_kinds([hostile])] == ["pit\\x1b[2J\\n", "scratch"]


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ([0.0] * 27 + [2.0] * 8, "At 1 % false rejects, 27 of 35 defective pictures pass."),
        ([0.0] * 3 + [2.0] * 8, ""),
        ([2.0] * 3, ""),
    ],
)
def test_many_pictures_that_pass_are_told_also_if_no_class_is_known(scores: list[float], sentence: str) -> None:
    one = [frame(score, [kind("only", score, None)], loose=None) for score in scores]
    found = judged(*one, frame(0.0, []))
    assert describe_escapes(found, count_kinds([found])) == sentence
    assert count_kinds([found]) == [], "a single class says nothing"


def report(tmp_path: Path, *evaluations: Evaluation, study: bool = False) -> tuple[str, str]:
    """Write a report, and return its page and its tables."""
    folders = [write(made, tmp_path / f"in {at}") for at, made in enumerate(evaluations)]
    page, text = write_report(folders, tmp_path / "out", study=study)
    return page.read_text(), text.read_text()


def test_the_page_loads_nothing_and_shows_the_figures_of_the_tables_with_the_study_at_the_end(tmp_path: Path) -> None:
    """Of both families, a full and a cut model, two data sets, intervals, classes and sizes."""
    ends = {"study.f1": (0.4, 0.6), "max.f1": (0.2, 0.8), "tile.accuracy": (0.9, 0.97), "frame.escape_rate": (0.02, 1)}
    made = [
        evaluation(about, frames=[*pictured(), *answers(at)], seed=at, intervals=ends if at == 2 else {})
        for at, about in enumerate((
            subject("v2", "efficientnetv2_s"), subject("v2_d", "efficientnetv2_s_d"),
            subject("vit", "vit_tiny_patch16_224"), subject("v2_d", "efficientnetv2_s_d", data="magnetic_tile"),
        ))
    ]  # fmt: skip
    kinds = [[DefectKind("class", name, -9.0, area)] for name, area in (("pit", 9), ("dent", 400))]
    frames = [msgspec.structs.replace(frame, kinds=kinds[at % 2] if frame.defective else [])
              for at, frame in enumerate(made[3].frames)]  # fmt: skip
    page, text = report(tmp_path, *made[:3], msgspec.structs.replace(made[3], frames=frames), study=True)
    assert_golden("train_report", text)
    shown = Page(page)
    assert {load[:23] for load in shown.loads} == {"data:image/jpeg;base64,"}
    assert not re.search(r"http|url\([^#]|@import|picture missing", page)
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ") and line.strip("|-: ")]
    cells = {re.sub(r"[\s*\\]", "", cell) for row in rows if len(row) > 2 for cell in row}
    assert cells <= {re.sub(r"[\s*\\]", "", part.text) for part in shown.parts if part.tag in ("td", "th", "dd", "dt")}
    in_order = ['id="figures"', "data-positions", "Missed by class and by size", "Comparison with the study", "ViT_tin"]
    assert sorted(in_order, key=page.index) == in_order
    plain, _ = report(tmp_path / "plain", made[0])
    assert "Comparison with the study" not in plain
    assert "Missed by class" not in plain


def counted(frames: list[FrameAnswer], threshold: float) -> tuple[list[str], list[str]]:
    """Return the names of the missed and of the rejected frames by the verdict rule, the worst first."""
    ordered = sorted(frames, key=lambda frame: (frame.score, frame.image))
    missed = [frame.image for frame in ordered if frame.defective and frame.score < threshold]
    return missed, [frame.image for frame in reversed(ordered) if not frame.defective and frame.score >= threshold]


SIDES = "missed", "rejected"


@pytest.mark.parametrize("threshold", [0.7, 20.0])
def test_numbers_and_lists_follow_the_scores_at_every_position(tmp_path: Path, threshold: float) -> None:
    frames = answers(5, 60, 90)
    for at in (0, 60):  # a frame of each label at the threshold itself
        frames[at] = msgspec.structs.replace(frames[at], score=threshold)
    page = Page(report(tmp_path, judged_by(threshold, evaluation(subject("lite"), frames=frames)))[0])
    (element,) = page.having("data-positions")
    positions = json.loads(element.known["data-positions"] or "")
    start, thresholds = positions["start"], [float(each) for each in positions["threshold"]]
    assert (thresholds[start], positions["defective"], positions["good"]) == (threshold, 60, 90)
    assert [positions[side][at] for side in SIDES for at in (0, -1)] == [0, 60, 90, 0]
    listed = {side: [item for item in page.having("data-side", side) if item.tag == "li"] for side in SIDES}
    for at, place in enumerate(threshold + (thresholds[1] - thresholds[0]) * (np.arange(len(thresholds)) - start)):
        for side, names in zip(SIDES, counted(frames, place), strict=True):
            assert positions[side][at] == len(names)
            shown = [item for item in listed[side] if (item.at <= at) == (side == "missed")]
            assert [item.text.split()[0] for item in shown] == names[:NAMES]
    missed, rejected = (len(names) for names in counted(frames, threshold))
    expected = {"missed": missed, "rejected": rejected, "caught": 60 - missed, "passed": 90 - rejected}
    assert {name: page.now(name) for name in expected} == {name: {str(count)} for name, count in expected.items()}
    for item in page.having("data-at"):
        assert ("hidden" in item.known) == ((item.at > start) == (item.known["data-side"] == "missed"))


def test_folds_with_different_thresholds_share_a_slider(tmp_path: Path) -> None:
    folds = [
        judged_by(threshold, evaluation(subject("v2", groups=[group]), frames=answers(seed, groups=[group])))
        for group, threshold, seed in (("a", 1.0, 1), ("b", -2.5, 2))
    ]
    page = Page(report(tmp_path, *folds)[0])
    each = [counted(fold.frames, fold.calibration.score_threshold) for fold in folds]
    assert page.now("threshold") == {"0.00"}
    for side, names in zip(SIDES, zip(*each, strict=True), strict=True):
        assert page.now(side) == {str(sum(map(len, names)))}


def test_frames_that_set_the_threshold_are_counted_by_that_of_the_others(tmp_path: Path) -> None:
    """As the numbers of the confusion matrix do at the slider's start, which is at the calibrated threshold."""
    made = evaluation(subject("v2"))
    held_out = [msgspec.structs.replace(frame, threshold=0.7 + at % 3 - 1) for at, frame in enumerate(made.frames)]
    wrong = [frame for frame in held_out if frame.defective == (frame.score < (frame.threshold or 0))]
    page = Page(report(tmp_path, msgspec.structs.replace(made, frames=held_out))[0])
    assert page.now("threshold") == {"0.70"}
    assert page.now("missed") == {str(sum(frame.defective for frame in wrong))}
    shown = {item.text.split()[0] for item in page.having("data-at") if item.tag == "li" and "hidden" not in item.known}
    assert shown == {frame.image for frame in wrong}


def test_names_from_users_files_are_escaped(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>|x\"' onload=alert(1)"
    about = subject(nasty, data=nasty, part=nasty, groups=[nasty], recipe=nasty, path=nasty, engine=nasty)
    frames = [FrameAnswer(nasty, nasty, is_bad, 1.0, 2, 1, 0, picture=f"{is_bad}.png") for is_bad in (True, False)]
    made = evaluation(about, truth=nasty, frames=frames, warnings=[nasty], rests_on=nasty)
    page, text = report(tmp_path, made, study=True)
    assert [tag for tag, _ in Page(page).elements].count("script") == 2  # those of the page itself
    assert page.count("&lt;script&gt;alert(1)") > 10
    table = " ".join(line for line in text.splitlines() if line.startswith("|"))
    assert not re.search(r"(?<!\\)(<script|\|x)", table)


def test_files_that_are_not_pictures_of_the_evaluation_are_not_shown(tmp_path: Path) -> None:
    """One is text, others are missing."""
    frames = pictured(2)
    folder = write(evaluation(subject("v2"), frames=frames), tmp_path / "in")
    text, *others = (folder / str(frame.picture) for frame in frames)
    text.write_text("no picture")
    for file in others:
        file.unlink()
    page = write_report([folder], tmp_path / "out")[0].read_text()
    pictures = [str(part.known["alt"]).partition(" of ")[0] for part in Page(page).having("src") if part.tag == "img"]
    assert (pictures, "picture missing" in page) == (["Colour scale"], True), "only that of the legend"


@pytest.mark.parametrize(
    ("given", "out", "kind", "told"),
    [(["."], "out", InputError, "evaluate again"), (["in"], "file/out", TrainingError, "choose another place")],
)
def test_a_report_without_an_evaluation_or_a_place_is_refused(
    tmp_path: Path, given: list[str], out: str, kind: type[Exception], told: str
) -> None:
    (tmp_path / "file").touch()
    write(evaluation(subject()), tmp_path / "in")
    with pytest.raises(kind, match=told):
        write_report([tmp_path / name for name in given], tmp_path / out)


def only_set(*evaluations: Evaluation) -> PictureSet:
    (only,) = make_rows(StoredEvaluation(made, Path("none")) for made in evaluations)
    return only


def tables_of(pictures: PictureSet) -> dict[str, Table]:
    """Return the tables of the line's figures by their titles."""
    return {table.title: table for table in figure_tables(pictures)}


def line_of(table: Table, name: str) -> dict[str, str]:
    """Return the texts of a line, by column."""
    line = next(line for line in table.lines if line.cells[0].text == name)
    return {column.name: cell.text for column, cell in zip(table.columns, line.cells, strict=True)}


def fold(group: str, model: str = "lite", **known: float | None) -> Evaluation:
    return evaluation(subject(model, groups=[group], path=f"runs/{group}/{model}"), made_figures(**known))


def test_folds_make_one_row_of_means_and_sums_unless_one_does_not_know_a_figure() -> None:
    two = [fold("a", tile__auroc=0.9, tile__tiles=10), fold("b", tile__auroc=0.7, tile__tiles=30)]
    pictures = only_set(*two, fold("c", tile__auroc=0.2, frame__auroc=None, frame__defects=None))
    (row,), tables = pictures.rows, tables_of(pictures)
    assert row.figure("tile.auroc") == pytest.approx((0.9 + 0.7 + 0.2) / 3)
    assert (row.count("tile.tiles"), row.figure("frame.auroc")) == (10 + 30 + 1200, None)
    at = [column.name for column in tables["Folds"].columns].index("groups left out")
    assert [line.cells[at].text for line in tables["Folds"].lines] == ["a", "b", "c"]
    assert line_of(tables["Tiles and pixels"], "lite")["tile AUROC"] == "0.6000"
    line = line_of(tables["Frames and defects"], "lite")
    assert line["defective frames missed"] == "6 of 60"
    assert not {"defects hit by a peak", "picture AUROC"} & line.keys(), "no column of dashes"

    apart = only_set(*(evaluation(subject("lite", path=path)) for path in ["first/lite", "second/lite"]))
    assert ({row.label for row in apart.rows}, "Folds" in tables_of(apart)) == ({"first/lite", "second/lite"}, False)
    made = evaluation(subject()), evaluation(subject(data="tiles")), evaluation(subject(), truth="boxes")
    titles = [each.title for each in make_rows(StoredEvaluation(one, Path("none")) for one in made)]
    assert titles == ["hripcb, by boxes", "hripcb, by masks", "tiles, by masks"]


def folds_of(name: str, **values: float) -> list[Evaluation]:
    """Return a row with a fold per group, whose figures of maps and tiles all are its value."""
    return [
        fold(group, name, tile__average_precision=value, study__pointing=value, **{
            key.replace(".", "__"): each for key, each in rule_figures("study", value, value).items()
        })
        for group, value in values.items()
    ]  # fmt: skip


def test_rows_are_ranked_and_the_best_marked_if_they_rest_on_the_same_folds() -> None:
    table = study_chapter.study_ranks(only_set(*folds_of("low", a=0.1, b=0.5), *folds_of("high", a=0.9, b=0.7)))
    low, high = line_of(table, "low"), line_of(table, "high")
    assert (table.warning, high["F1"], low["F1"]) == ("", "1", "2")
    assert float(high["mean across"]) < float(low["mean across"])
    same = only_set(*folds_of("x", a=0.1, b=0.9), *folds_of("y", a=0.3, b=0.4))
    other = only_set(*folds_of("x", a=0.1, b=0.9), *folds_of("y", a=0.3))
    ranks = study_chapter.study_ranks(other)
    assert set(list(line_of(ranks, "x").values())[2:]) == {"-"}
    assert f"**{ranks.warning}**" in ranks.markdown(2)
    for make in (study_chapter.maps, lambda pictures: tables_of(pictures)["Tiles and pixels"]):
        assert (make(same).warning, "**0.5000**" in make(same).markdown(0)) == ("", True)
        (bold,) = [line for line in make(other).markdown(0).splitlines() if "**" in line]
        assert "Rows rest on different pictures and do not compare" in bold


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ({"groups": ["a", "b"], "part": "test"}, {"groups": ["b", "a"], "part": "groups a and b"}, True),
        ({"groups": ["a", "b"]}, {"groups": ["a", "b"], "pictures": 29}, False),
        ({"groups": ["a"], "part": "test"}, {"groups": ["a", "b"], "part": "all"}, False),
        ({"groups": [], "part": "test"}, {"groups": [], "part": "test"}, True),
        ({"groups": [], "part": "test"}, {"groups": [], "part": "all"}, False),
        ({"groups": [], "part": "test"}, {"groups": ["a"], "part": "test"}, False),
    ],
)
def test_pictures_are_the_same_by_their_groups_or_without_groups_by_their_part(
    first: dict[str, Any], second: dict[str, Any], is_same: bool
) -> None:
    assert (only_set(evaluation(subject("a", **first)), evaluation(subject("b", **second))).mismatch == "") == is_same


@pytest.mark.parametrize(
    ("ends", "shown"),
    [
        ((0.5, 0.7), "0.61 [0.50, 0.70]"),
        ((0.604, 0.62), "0.612 [0.604, 0.620]"),
        ((0.6111, 0.6131), "0.6123 [0.6111, 0.6131]"),
        ((0.6123, 0.6123), "0.61 [0.61, 0.61]"),
    ],
)
def test_a_figure_with_a_wide_interval_has_few_digits(ends: tuple[float, float], shown: str) -> None:
    made = evaluation(subject("lite"), made_figures(tile__auroc=0.6123), intervals={"tile.auroc": ends})
    assert f"| {shown} |" in tables_of(only_set(made))["Tiles and pixels"].markdown(0)


def drawn_frame(hw: tuple[int, int], *, defective: bool, reference: bool = False) -> NDArray[np.uint8]:
    """Draw a grey frame with a hot cell of 10 px at y 20, x 30; a defective frame has a true square."""
    truth, heatmap = np.zeros(hw, np.bool_), np.full((hw[0] // 10, hw[1] // 10), -1, np.float32)
    truth[20:60, 30:70] = defective
    heatmap[2, 3] = 4.0
    tiles = TileScores(np.zeros((1, 2), np.int32), np.array([4.0], np.float32), 100)
    rgb, judgement = np.full((*hw, 3), 90, np.uint8), Judgement("GOOD", hw, 4.0, heatmap, [], tiles)
    return draw_frame(rgb, truth, rgb // 2 if reference else None, judgement, 10, ColourScale.around(2.0, -1.0))


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=20))
def test_the_worst_frames_are_shown(tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[int, bool]]) -> None:
    gallery, folder = FrameGallery(), tmp_path_factory.mktemp("frames")
    for number, (score, defective) in enumerate(seen):
        gallery.add(number, float(score), defective, lambda: np.zeros((2, 2, 3), np.uint8))
    written = gallery.write(folder)
    assert all((folder / file).is_file() for file in written.values())
    for sign, is_bad in ((1, True), (-1, False)):
        worst = sorted(sign * score for score, defective in seen if defective is is_bad)[:FRAMES]
        assert sorted(sign * seen[number][0] for number in written if seen[number][1] is is_bad) == worst


def test_a_frame_is_shown_with_its_truth_its_reference_and_under_its_heatmap() -> None:
    tall, wide = drawn_frame((150, 100), defective=True), drawn_frame((100, 150), defective=False)
    compared = drawn_frame((150, 100), defective=True, reference=True)
    outline, heat = (tall[:, :100] == TRUTH_RGB).all(axis=2), tall[:, -100:]
    assert (outline[20:60, [30, 69]].all(), outline[30:50, 40:60].any()) == (True, False)
    assert heat[25, 35, 0] > 150
    assert (heat[100:, 60:] == 90).all(), "as cold as a good frame"
    assert tall.shape == (150, 2 * 100 + GAP_PX, 3)
    assert wide.shape == (2 * 100 + GAP_PX, 150, 3), "wide frames lie one below the other"
    assert not (wide == TRUTH_RGB).all(axis=2).any()
    assert (compared[:, 100 + GAP_PX : 200 + GAP_PX] == 90 // 2).all()
