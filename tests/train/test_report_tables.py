"""The report's rows and folds, tables and charts."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.patches import Rectangle

from heatline.edge.util.page import Cell, Column, Line, Table
from heatline.train.evaluation import charts, study_chapter
from heatline.train.evaluation.charts import explore, to_svg
from heatline.train.evaluation.result import Evaluation
from heatline.train.evaluation.rows import (
    PictureSet,
    StoredEvaluation,
    compare_rows,
    describe_mismatch,
    folds_table,
    frames_table,
    make_rows,
    tiles_table,
)
from tests.train.evaluations import (
    RATIOS,
    evaluation,
    frame_figures,
    rule_figures,
    subject,
    sweep_figures,
    tile_figures,
)


def rows_of(evaluations: Iterable[Evaluation]) -> list[PictureSet]:
    return make_rows(StoredEvaluation(made, Path("none")) for made in evaluations)


def only_set(pictures: list[PictureSet]) -> PictureSet:
    (only,) = pictures
    return only


def line_of(table: Table, name: str) -> dict[str, str]:
    """Return the texts of a line, by column."""
    line = next(line for line in table.lines if line.cells[0].text == name)
    return {column.name: cell.text for column, cell in zip(table.columns, line.cells, strict=True)}


def column(table: Table, name: str) -> list[str]:
    at = [column.name for column in table.columns].index(name)
    return [line.cells[at].text for line in table.lines]


# Rows and folds.


def fold(groups: list[str], **known: float) -> Evaluation:
    return evaluation(subject("lite", groups=groups, path=f"runs/{groups[0]}/lite"), tile_figures(**known))


def test_folds_make_one_row_of_means_and_sums() -> None:
    pictures = only_set(
        rows_of([fold(["a"], auroc=0.9, tiles=10), fold(["b"], auroc=0.7, tiles=30), fold(["c"], auroc=0.2)])
    )
    (row,) = pictures.rows
    assert [stored.subject.groups for stored in row.folds] == [["a"], ["b"], ["c"]]
    assert row.figure("masks", "tile.auroc") == pytest.approx((0.9 + 0.7 + 0.2) / 3)
    assert row.count("masks", "tile.tiles") == 10 + 30 + 1200
    table = folds_table(pictures, "masks")
    assert table is not None
    assert column(table, "groups left out") == ["a", "b", "c"]
    assert line_of(tiles_table(pictures, "masks"), "lite")["tile AUROC"] == "0.6000"


def test_a_figure_that_a_fold_does_not_know_is_unknown_for_the_row() -> None:
    about = subject("lite", "vit_tiny_patch16_224", groups=["b"], val_loss=None)
    unknown = evaluation(about, frame=frame_figures(auroc=None, defects=None))
    (result,) = unknown.truths
    assert result.sweep is not None
    sweep = msgspec.structs.replace(result.sweep, pointing=[[None] * len(RATIOS)] * 3)
    figures = msgspec.structs.replace(result.figures, study=None)
    unknown = msgspec.structs.replace(unknown, truths=[msgspec.structs.replace(result, sweep=sweep, figures=figures)])
    pictures = only_set(rows_of([evaluation(subject("lite", "vit_tiny_patch16_224", groups=["a"])), unknown]))
    (row,) = pictures.rows
    assert row.figure("masks", "frame.auroc") is None
    assert row.figure("boxes", "frame.auroc") is None
    assert row.figure("masks", "study.f1") is None
    assert row.figure("masks", "frame.hit_rate") == 50 / 60
    mean = row.sweep("masks")
    assert mean is not None
    assert (mean.f1, mean.pointing) == (sweep_figures().f1, [[None] * len(RATIOS)] * 3)
    line = line_of(frames_table(pictures, "masks"), "lite")
    assert line["defective frames missed"] == "4 of 40"
    assert not {"defects hit by a peak", "picture AUROC"} & line.keys(), "no column of dashes"
    assert line_of(study_chapter.trials(pictures), "lite")["validation loss"] == "-"


def test_evaluations_without_disjoint_groups_are_separate_rows() -> None:
    pictures = only_set(
        rows_of(evaluation(subject("lite", path=path)) for path in ["first/lite", "second/lite", "second/lite"])
    )
    assert {row.label for row in pictures.rows} == {"first/lite", "second/lite (1)", "second/lite (2)"}
    assert folds_table(pictures, "masks") is None
    assert len(only_set(rows_of([evaluation(subject("lite", groups=[])) for _ in range(2)])).rows) == 2
    pictures = rows_of([evaluation(subject("lite")), evaluation(subject("lite", data="tiles"))])
    assert [(each.data, each.rows[0].label) for each in pictures] == [("hripcb", "lite"), ("tiles", "lite")]


# The same pictures.


def folded(name: str, folds: dict[str, float], model: str = "efficientnetv2_s_d") -> list[Evaluation]:
    """Return the evaluations of a row with a fold per group, all figures of a fold set by one value."""
    return [
        evaluation(
            subject(name, model, groups=[group], path=f"runs/{group}/{name}"),
            tile_figures(average_precision=value, pointing=value),
            rule_figures(value, value),
            rule_figures(value, value),
            frame_figures(average_precision=value, auroc=value, hit_rate=value),
        )
        for group, value in folds.items()
    ]


def test_rows_of_different_folds_are_ranked_over_their_common_folds() -> None:
    """Over all its folds `many` is the best row; on the common fold it is the worst."""
    evaluations = [
        *folded("many", {"a": 0.1, "b": 0.9, "c": 0.95}),
        *folded("one", {"a": 0.3}),
        *folded("two", {"a": 0.2, "b": 0.3}),
    ]
    pictures = only_set(rows_of(evaluations))
    assert pictures.rows[0].figure("masks", "study.f1") == pytest.approx(0.65)
    table = study_chapter.study_ranks(pictures, "masks")
    means = {name: float(line_of(table, name)["mean across"]) for name in ("many", "one", "two")}
    assert means["one"] < means["two"] < means["many"]
    assert "over the common ones: group a (30 pictures)" in table.warning
    assert f"**{table.warning}**" in table.markdown(2)


def test_rows_without_a_common_fold_are_not_ranked_and_have_a_warning() -> None:
    pictures = only_set(rows_of([*folded("left", {"a": 0.1, "b": 0.9}), *folded("right", {"c": 0.3})]))
    table = study_chapter.study_ranks(pictures, "masks")
    for name in ("left", "right"):
        assert set(list(line_of(table, name).values())[2:]) == {"-"}
    assert table.warning.startswith("Not compared: no fold is common to all rows. left: group a (30 pictures) and")


def test_tables_mark_no_best_value_if_rows_rest_on_different_folds() -> None:
    same, other = (
        only_set(rows_of([*folded("x", {"a": 0.1, "b": 0.9}), *folded("y", folds)]))
        for folds in ({"a": 0.3, "b": 0.4}, {"a": 0.3})
    )
    assert line_of(tiles_table(other, "masks"), "x")["tile AP"] == "0.5000"
    makers = (study_chapter.maps, tiles_table, frames_table)
    for make in makers:
        assert make(same, "masks").warning == ""
        assert "**0.5000**" in make(same, "masks").markdown(0)
        (bold,) = [line for line in make(other, "masks").markdown(0).splitlines() if "**" in line]
        assert "y: group a (30 pictures)." in bold


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
    rows = only_set(rows_of([evaluation(subject("a", **first)), evaluation(subject("b", **second))])).rows
    assert (describe_mismatch(rows, "masks") == "") == is_same
    assert bool(compare_rows(rows, "masks")[0]) == is_same


# Tables.


def test_only_the_models_own_map_has_intervals_in_the_table_of_maps() -> None:
    ends = {"study.f1": (0.4, 0.6), "tile.pointing": (0.61, 0.75), "study.classification_accuracy": (0.9, 0.97)}
    vit = evaluation(subject("vit", "vit_tiny_patch16_224", method="rollout-max"), intervals=ends)
    table = study_chapter.maps(only_set(rows_of([evaluation(subject("cut"), intervals=ends), vit])), "masks")
    intervals = {
        line.cells[0].text: {table.columns[at].name for at, cell in enumerate(line.cells) if cell.interval}
        for line in table.lines
        if not line.is_published
    }
    own_map, other_map = {"F1", "pointing", "classification"}, {"classification"}
    assert intervals == {"cut": own_map, "vit fmin": other_map, "vit fmean": other_map, "vit fmax": own_map}
    assert "| 0.50 [0.40, 0.60] |" in table.markdown(0)
    assert line_of(table, "vit fmax")["pointing"] == "0.70"
    assert line_of(table, "vit fmin")["F1"] == f"{sweep_figures().f1[0][0]:.4f}"


def test_a_figure_with_a_wide_interval_has_few_digits() -> None:
    for ends, shown in (
        ((0.5, 0.7), "0.61 [0.50, 0.70]"),
        ((0.604, 0.62), "0.612 [0.604, 0.620]"),
        ((0.6111, 0.6131), "0.6123 [0.6111, 0.6131]"),
        ((0.6123, 0.6123), "0.61 [0.61, 0.61]"),
    ):
        made = evaluation(subject("lite"), tile_figures(auroc=0.6123), intervals={"tile.auroc": ends})
        assert f"| {shown} |" in tiles_table(only_set(rows_of([made])), "masks").markdown(0)


def test_the_best_of_our_values_is_marked_unless_all_are_equal() -> None:
    lines = (Line((Cell("a"), Cell("0.2", 0.2))), Line((Cell("b"), Cell("0.1", 0.1))))
    theirs = Line((Cell("study"), Cell("0.9", 0.9)), is_published=True)
    for better, best in (("high", "| a | **0.2** |"), ("low", "| b | **0.1** |")):
        table = Table("t", (Column("name", is_text=True), Column("F1", better)), (*lines, theirs))  # type: ignore[arg-type]
        assert [line for line in table.markdown(2).splitlines() if "**" in line] == [best]
    assert "**" not in Table("t", (Column("F1", "high"),), (Line((Cell("0.2", 0.2),)),) * 2).markdown(2)


def test_counts_have_their_share_and_its_interval() -> None:
    ends = {"frame.escape_rate": (0.021, 0.25)}
    line = frames_table(only_set(rows_of([evaluation(subject("one"), intervals=ends)])), "masks").markdown()
    assert "| one | 2 of 20 10.0 % [2.1, 25.0] | 1 of 10 10.0 % | 50 of 60 83.3 % |" in line


def test_a_fold_without_good_frames_leaves_the_share_of_the_others() -> None:
    figures = frame_figures(), frame_figures(good_frames=0, rejected_frames=0, false_reject_rate=None)
    folds = [evaluation(subject(groups=[str(at)]), frame=each) for at, each in enumerate(figures)]
    line = frames_table(only_set(rows_of(folds)), "masks").markdown(0)
    assert "| 4 of 40 10.0 % | 1 of 10 10.0 % |" in line


# Charts.


def test_charts_are_well_formed() -> None:
    curve = to_svg(charts.curve(explore(np.array([1.0, 2.0]), np.array([0.0]), 1.2)), "a & b <")
    found = explore(np.array([1.0]), np.array([]), 1.2)
    single = to_svg(charts.scores(np.array([1.0]), np.array([]), found), "<no good frames>", is_stretched=True)
    for svg in (curve, single):
        assert ElementTree.fromstring(svg).get("role") == "img"
        assert not re.search(r"https?://|<script|\bhref=\"[^#]", svg)


def test_the_curve_has_a_corner_at_every_position() -> None:
    found = explore(np.array([1.0, 2.0]), np.array([0.0, 1.5]), 1.2)
    (axes,) = charts.curve(found).axes
    line, dot = axes.lines
    assert line.get_drawstyle() == "steps-pre", "between two positions the line takes the worse corner"
    np.testing.assert_array_equal(line.get_xydata(), np.column_stack([found.rejected / 2, found.missed / 2]))
    np.testing.assert_array_equal(dot.get_xydata(), [[found.rejected[found.start] / 2, found.missed[found.start] / 2]])


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=20), st.floats(-9, 9))
def test_a_bar_of_the_chart_of_scores_lies_on_one_side_of_the_calibrated_threshold(
    scores: list[float], calibrated: float
) -> None:
    good = np.array(scores)
    found = explore(good, np.array([]), calibrated)
    edges, (of_good, _) = charts.count_scores(good, np.array([]), found)
    assert of_good.sum() == len(scores)
    assert of_good[edges[:-1] >= calibrated].sum() == np.count_nonzero(good >= calibrated)


def test_the_chart_of_scores_draws_every_frame_at_its_score() -> None:
    """Bars of good frames are above the axis, those of defective frames below; heights are roots of counts."""
    found = explore(np.full(4, 3.0), np.array([-3.0]), 0.0)
    (axes,) = charts.scores(np.full(4, 3.0), np.array([-3.0]), found).axes
    assert axes.get_xlim() == (found.thresholds[0], found.thresholds[-1]), "along the slider"
    good, bad = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert good.get_x() <= -3.0 <= good.get_x() + good.get_width() / 0.9
    assert bad.get_x() <= 3.0 <= bad.get_x() + bad.get_width() / 0.9
    assert (good.get_y(), bad.get_y()) == (0, 0)
    assert (good.get_height(), bad.get_height()) == (0.5, -1)
