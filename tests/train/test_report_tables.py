"""The report's rows and folds, and its tables."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from heatline.edge.util.page import Cell, Column, Line, Table
from heatline.train.evaluation import study_chapter
from heatline.train.evaluation.result import Evaluation
from heatline.train.evaluation.rows import PictureSet, StoredEvaluation, figure_tables, make_rows
from tests.train.evaluations import evaluation, made_figures, rule_figures, subject


def rows_of(evaluations: Iterable[Evaluation]) -> list[PictureSet]:
    return make_rows(StoredEvaluation(made, Path("none")) for made in evaluations)


def only_set(pictures: list[PictureSet]) -> PictureSet:
    (only,) = pictures
    return only


def table_of(pictures: PictureSet, title: str) -> Table:
    """Return the table of the line's figures with a title."""
    (found,) = [table for table in figure_tables(pictures) if table.title == title]
    return found


def line_of(table: Table, name: str) -> dict[str, str]:
    """Return the texts of a line, by column."""
    line = next(line for line in table.lines if line.cells[0].text == name)
    return {column.name: cell.text for column, cell in zip(table.columns, line.cells, strict=True)}


def column(table: Table, name: str) -> list[str]:
    at = [column.name for column in table.columns].index(name)
    return [line.cells[at].text for line in table.lines]


# Rows and folds.


def fold(group: str, **known: float) -> Evaluation:
    return evaluation(subject("lite", groups=[group], path=f"runs/{group}/lite"), made_figures(**known))


def test_folds_make_one_row_of_means_and_sums() -> None:
    two = [fold("a", tile__auroc=0.9, tile__tiles=10), fold("b", tile__auroc=0.7, tile__tiles=30)]
    pictures = only_set(rows_of([*two, fold("c", tile__auroc=0.2)]))
    (row,) = pictures.rows
    assert [stored.subject.groups for stored in row.folds] == [["a"], ["b"], ["c"]]
    assert row.figure("tile.auroc") == pytest.approx((0.9 + 0.7 + 0.2) / 3)
    assert row.count("tile.tiles") == 10 + 30 + 1200
    assert column(table_of(pictures, "Folds"), "groups left out") == ["a", "b", "c"]
    assert line_of(table_of(pictures, "Tiles and pixels"), "lite")["tile AUROC"] == "0.6000"


def test_a_figure_that_a_fold_does_not_know_is_unknown_for_the_row() -> None:
    about = subject("lite", "vit_tiny_patch16_224", groups=["b"], val_loss=None)
    figures = made_figures("vit", frame__auroc=None, frame__defects=None, max__pointing=None)
    del figures["study.f1"]
    pictures = only_set(
        rows_of([evaluation(subject("lite", "vit_tiny_patch16_224", groups=["a"])), evaluation(about, figures)])
    )
    (row,) = pictures.rows
    assert (row.figure("frame.auroc"), row.figure("study.f1"), row.figure("max.pointing")) == (None, None, None)
    assert row.figure("max.f1") == made_figures("vit")["max.f1"]
    assert row.figure("frame.hit_rate") == 50 / 60
    line = line_of(table_of(pictures, "Frames and defects"), "lite")
    assert line["defective frames missed"] == "4 of 40"
    assert not {"defects hit by a peak", "picture AUROC"} & line.keys(), "no column of dashes"
    assert line_of(study_chapter.trials(pictures), "lite")["validation loss"] == "-"


def test_evaluations_without_disjoint_groups_are_separate_rows() -> None:
    pictures = only_set(rows_of(evaluation(subject("lite", path=path)) for path in ["first/lite", "second/lite"]))
    assert {row.label for row in pictures.rows} == {"first/lite", "second/lite"}
    assert "Folds" not in {table.title for table in figure_tables(pictures)}
    assert len(only_set(rows_of([evaluation(subject("lite", groups=[])) for _ in range(2)])).rows) == 2
    pictures_of = rows_of([evaluation(subject("lite")), evaluation(subject("lite", data="tiles"))])
    assert [(each.data, each.rows[0].label) for each in pictures_of] == [("hripcb", "lite"), ("tiles", "lite")]
    by_truth = rows_of([evaluation(subject("lite")), evaluation(subject("lite"), truth="boxes")])
    assert [each.title for each in by_truth] == ["hripcb, by boxes", "hripcb, by masks"]


# The same pictures.


def folded(name: str, folds: dict[str, float], model: str = "efficientnetv2_s_d") -> list[Evaluation]:
    """Return the evaluations of a row with a fold per group, all figures of a fold set by one value."""
    return [
        evaluation(
            subject(name, model, groups=[group], path=f"runs/{group}/{name}"),
            made_figures(
                tile__average_precision=value, study__pointing=value, frame__auroc=value, frame__average_precision=value
            )
            | rule_figures("study", value, value)
            | rule_figures("line", value, value),
        )
        for group, value in folds.items()
    ]


def test_rows_of_the_same_folds_are_ranked() -> None:
    evaluations = [*folded("low", {"a": 0.1, "b": 0.5}), *folded("high", {"a": 0.9, "b": 0.7})]
    table = study_chapter.study_ranks(only_set(rows_of(evaluations)))
    assert table.warning == ""
    assert [line_of(table, name)["F1"] for name in ("high", "low")] == ["1", "2"]
    means = {name: float(line_of(table, name)["mean across"]) for name in ("high", "low")}
    assert means["high"] < means["low"]


def test_rows_of_different_folds_are_not_ranked_and_no_value_is_marked_as_best() -> None:
    same, other = (
        only_set(rows_of([*folded("x", {"a": 0.1, "b": 0.9}), *folded("y", folds)]))
        for folds in ({"a": 0.3, "b": 0.4}, {"a": 0.3})
    )
    assert line_of(table_of(other, "Tiles and pixels"), "x")["tile AP"] == "0.5000"
    ranks = study_chapter.study_ranks(other)
    assert set(list(line_of(ranks, "x").values())[2:]) == {"-"}
    assert f"**{ranks.warning}**" in ranks.markdown(2)
    for make in (
        study_chapter.maps,
        lambda pictures: table_of(pictures, "Tiles and pixels"),
        lambda pictures: table_of(pictures, "Frames and defects"),
    ):
        assert make(same).warning == ""
        assert "**0.5000**" in make(same).markdown(0)
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
    pictures = only_set(rows_of([evaluation(subject("a", **first)), evaluation(subject("b", **second))]))
    assert (pictures.mismatch == "") == is_same


# Tables.


def test_every_fusion_of_a_vit_has_a_row_with_the_studys_figures_below() -> None:
    ends = {"study.f1": (0.4, 0.6), "max.f1": (0.2, 0.8), "tile.accuracy": (0.9, 0.97)}
    vit = evaluation(subject("vit", "vit_tiny_patch16_224", method="rollout-max-discard-0.9"), intervals=ends)
    pictures = only_set(rows_of([evaluation(subject("cut"), intervals=ends), vit]))
    table = study_chapter.maps(pictures)
    labels = [line.cells[0].text for line in table.lines if not line.is_published]
    assert labels == ["cut", "vit fmin", "vit fmean", "vit fmax", "vit fmax, discard 0.9"]
    shown = [line_of(table, label)["F1"] for label in labels]
    known = made_figures("vit")
    assert shown == ["0.50", f"{known['min.f1']:.4f}", f"{known['mean.f1']:.4f}", f"{known['max.f1']:.2f}", "0.50"]
    assert "| 0.50 [0.40, 0.60] |" in table.markdown(0)
    assert {line_of(table, label)["classification"] for label in labels} == {"0.95"}
    theirs = [(line.cells[0].text, line.cells[2].text) for line in table.lines if line.is_published]
    assert theirs[:4] == [
        ("EfficientNetV2_s_d", "0.5482"), ("EfficientNetV2_s_d", "0.1364"),
        ("ViT_tiny fmin", "0.2726"), ("ViT_tiny fmin", "0.1264"),
    ]  # fmt: skip
    ranks = study_chapter.study_ranks(pictures)
    printed = [(line.cells[0].text, line.cells[-1].text) for line in ranks.lines if line.is_published]
    assert printed[:4] == [
        ("EfficientNetV2_s_d", "1.67"), ("EfficientNetV2_s_d", "2.5"),
        ("ViT_tiny fmin", "5"), ("ViT_tiny fmin", "3.83"),
    ]  # fmt: skip


def test_a_bundle_of_a_vit_has_one_row() -> None:
    vit = evaluation(subject("vit", "vit_tiny_patch16_224", method="rollout-max"), made_figures())
    table = study_chapter.maps(only_set(rows_of([vit])))
    assert [line.cells[0].text for line in table.lines if not line.is_published] == ["vit fmax"]


def test_a_figure_with_a_wide_interval_has_few_digits() -> None:
    for ends, shown in (
        ((0.5, 0.7), "0.61 [0.50, 0.70]"),
        ((0.604, 0.62), "0.612 [0.604, 0.620]"),
        ((0.6111, 0.6131), "0.6123 [0.6111, 0.6131]"),
        ((0.6123, 0.6123), "0.61 [0.61, 0.61]"),
    ):
        made = evaluation(subject("lite"), made_figures(tile__auroc=0.6123), intervals={"tile.auroc": ends})
        assert f"| {shown} |" in table_of(only_set(rows_of([made])), "Tiles and pixels").markdown(0)


def test_the_best_of_our_values_is_marked_unless_all_are_equal() -> None:
    lines = (Line((Cell("a"), Cell("0.2", 0.2))), Line((Cell("b"), Cell("0.1", 0.1))))
    theirs = Line((Cell("study"), Cell("0.9", 0.9)), is_published=True)
    for better, best in (("high", "| a | **0.2** |"), ("low", "| b | **0.1** |")):
        table = Table("t", (Column("name", is_text=True), Column("F1", better)), (*lines, theirs))  # type: ignore[arg-type]
        assert [line for line in table.markdown(2).splitlines() if "**" in line] == [best]
    assert "**" not in Table("t", (Column("F1", "high"),), (Line((Cell("0.2", 0.2),)),) * 2).markdown(2)


def test_counts_have_their_share_and_its_interval() -> None:
    ends = {"frame.escape_rate": (0.021, 0.25)}
    pictures = only_set(rows_of([evaluation(subject("one"), intervals=ends)]))
    line = table_of(pictures, "Frames and defects").markdown()
    assert "| one | 2 of 20 10.0 % [2.1, 25.0] | 1 of 10 10.0 % | 50 of 60 83.3 % |" in line


def test_a_fold_without_good_frames_leaves_the_share_of_the_others() -> None:
    none = made_figures(frame__good_frames=0, frame__rejected_frames=0, frame__false_reject_rate=None)
    folds = [evaluation(subject(groups=[str(at)]), each) for at, each in enumerate((made_figures(), none))]
    line = table_of(only_set(rows_of(folds)), "Frames and defects").markdown(0)
    assert "| 4 of 40 10.0 % | 1 of 10 10.0 % |" in line
