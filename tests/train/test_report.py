"""The report of evaluations: rows and folds, tables, and a page that stands alone."""

import json
import re
from collections.abc import Iterable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from edge.errors import InputError
from tests.train.evaluations import (
    RATIOS,
    evaluation,
    exhibits_of,
    frame_figures,
    rule_figures,
    sweep_figures,
    tile_figures,
    told,
    write,
)
from train.evaluation.explorer import explore
from train.evaluation.report import charts, rank_tables, tables
from train.evaluation.report.alike import compared, unlike
from train.evaluation.report.metrics import map_rows
from train.evaluation.report.page import NOT_KEPT, SWEPT
from train.evaluation.report.rows import SHARES, Pictures, Read, rows_of
from train.evaluation.report.table import Cell, Column, Line, Table, markdown
from train.evaluation.report.write import write_report
from train.evaluation.result import Evaluation, Told

VOID = {"meta", "img", "input", "link", "br", "hr", "path", "rect", "circle"}


class Page(HTMLParser):
    """Reads a page and notes what it is made of; a tag that closes another fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if tag == "a" and name == "href":
                self.links.append(value or "")
            elif name in ("src", "href", "srcset", "data", "action", "poster"):
                self.loads.append(value or "")
            assert not name.startswith("on"), "a handler in an attribute"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def read(what: Iterable[Evaluation]) -> list[Pictures]:
    return rows_of(Read(one, Path("none")) for one in what)


def the(pictures: list[Pictures]) -> Pictures:
    (only,) = pictures
    return only


def line_of(table: Table, name: str) -> dict[str, str]:
    """The texts of a line, by column."""
    line = next(line for line in table.lines if line.cells[0].text == name)
    return {column.name: cell.text for column, cell in zip(table.columns, line.cells, strict=True)}


def column(table: Table, name: str) -> list[str]:
    at = [column.name for column in table.columns].index(name)
    return [line.cells[at].text for line in table.lines]


# Rows and folds.


def fold(groups: list[str], **known: float) -> Evaluation:
    return evaluation(told("lite", groups=groups, path=f"runs/{groups[0]}/lite"), tile_figures(**known))


def test_evaluations_of_one_name_with_disjoint_groups_are_one_row_of_means_and_sums() -> None:
    its = the(read([fold(["a"], auroc=0.9, tiles=10), fold(["b"], auroc=0.7, tiles=30), fold(["c"], auroc=0.2)]))
    (row,) = its.rows
    assert [one.told.groups for one in row.folds] == [["a"], ["b"], ["c"]]
    assert row.figure("masks", "tile.auroc") == pytest.approx((0.9 + 0.7 + 0.2) / 3)
    assert row.count("masks", "tile.tiles") == 10 + 30 + 1200
    table = tables.folds(its, "masks")
    assert table is not None
    assert column(table, "groups left out") == ["a", "b", "c"]
    assert line_of(tables.tiles(its, "masks"), "lite")["AUROC"] == "0.6000"
    assert "mean over folds has no interval" in " ".join(tables.tiles(its, "masks").notes)


def test_a_figure_that_one_fold_does_not_know_is_unknown_of_the_row() -> None:
    of = told("lite", groups=["b"], val_loss=None, seconds=None)
    unknown = evaluation(of, frame=frame_figures(auroc=None, defects=None))
    its = the(read([evaluation(told("lite", groups=["a"])), unknown]))
    (row,) = its.rows
    assert row.figure("masks", "frame.auroc") is None
    assert row.figure("boxes", "frame.auroc") is None
    assert row.figure("masks", "frame.hit_rate") == 50 / 60
    line = line_of(tables.frames(its, "masks"), "lite")
    assert (line["frames"], line["defects"], line["hit"], line["AUROC"]) == ("60", "-", "100", "-")
    assert line_of(tables.trials(its), "lite")["validation loss"] == "-"
    training = line_of(tables.training(its), "lite")
    assert (training["steps"], training["hours"]) == ("600", "-")


def test_a_rule_that_one_fold_was_not_held_to_is_unknown_of_the_row() -> None:
    known, other = (evaluation(told("lite", groups=[group])) for group in "ab")
    figures = msgspec.structs.replace(other.truths[0].figures, study=None)
    other = msgspec.structs.replace(other, truths=[msgspec.structs.replace(other.truths[0], figures=figures)])
    (row,) = the(read([known, other])).rows
    assert row.figure("masks", "study.f1") is None


def test_folds_that_are_equal_tie_with_a_row_that_is_equal_to_each() -> None:
    equal = [evaluation(told("lite", groups=[group]), line=rule_figures(0.7, 0.6)) for group in "abc"]
    pictures = the(read([*equal, evaluation(told("other"), line=rule_figures(0.7, 0.6))]))
    assert [row.figure("masks", "line.accuracy") for row in pictures.rows] == [0.99, 0.99]
    assert len({row.figure("masks", "line.f1") for row in pictures.rows}) == 1


def test_evaluations_of_one_name_with_overlapping_groups_are_told_apart_by_their_paths() -> None:
    paths = ["first/lite", "second/lite", "second/lite"]
    its = the(read(evaluation(told("lite", path=path)) for path in paths))
    labels = {row.label for row in its.rows}
    assert labels == {"first/lite", "second/lite (1)", "second/lite (2)"}
    assert tables.folds(its, "masks") is None


def test_evaluations_without_groups_are_no_folds() -> None:
    assert len(the(read([evaluation(told("lite", groups=[])) for _ in range(2)])).rows) == 2


def test_one_name_on_two_data_sets_is_a_row_of_each() -> None:
    pictures = read([evaluation(told("lite")), evaluation(told("lite", data="tiles"))])
    assert [(its.data, its.rows[0].label) for its in pictures] == [("hripcb", "lite"), ("tiles", "lite")]


# The same pictures.


def folded(name: str, folds: dict[str, float], model: str = "efficientnetv2_s_d") -> list[Evaluation]:
    """A row with a fold per group, its figures all following from one value each."""
    return [
        evaluation(
            told(name, model, groups=[group], path=f"runs/{group}/{name}"),
            tile_figures(average_precision=value, pointing=value),
            rule_figures(value, value),
            rule_figures(value, value),
            frame_figures(average_precision=value, auroc=value, hit_rate=value),
        )
        for group, value in folds.items()
    ]


def test_rows_of_different_folds_are_ranked_over_those_that_all_have() -> None:
    """By all its folds, many is the best; on the fold that all have it is the worst."""
    evaluations = [
        *folded("many", {"a": 0.1, "b": 0.9, "c": 0.95}),
        *folded("one", {"a": 0.3}),
        *folded("two", {"a": 0.2, "b": 0.3}),
    ]
    its = the(read(evaluations))
    assert its.rows[0].figure("masks", "study.f1") == pytest.approx(0.65)
    for table in (rank_tables.study_ranks(its, "masks"), rank_tables.own_ranks(its, "masks")):
        means = {name: float(line_of(table, name)["mean across"]) for name in ("many", "one", "two")}
        assert means["one"] < means["two"] < means["many"]
        assert table.warning == (
            "Rows rest on different pictures. Compared here over what all have: group a (30 pictures)."
        )
        assert f"**{table.warning}**" in markdown(table, 2)
    agreement = rank_tables.agreement(its, "masks")
    assert line_of(agreement, "frame AUROC")["models"] == "3"
    assert "group a (30 pictures)" in agreement.warning


def test_rows_without_a_common_fold_are_not_ranked_and_it_is_said_why() -> None:
    its = the(read([*folded("left", {"a": 0.1, "b": 0.9}), *folded("right", {"c": 0.3})]))
    for table in (rank_tables.study_ranks(its, "masks"), rank_tables.own_ranks(its, "masks")):
        for name in ("left", "right"):
            assert set(list(line_of(table, name).values())[2:]) == {"-"}
        assert table.warning == (
            "Not compared: no fold is common to all rows. left: group a (30 pictures) and group b (30 pictures); "
            "right: group c (30 pictures). Evaluate all on the same groups."
        )
    agreement = rank_tables.agreement(its, "masks")
    assert set(column(agreement, "models")) == {"0"}
    assert agreement.warning.startswith("Not compared")


def test_tables_of_figures_keep_all_folds_and_call_no_value_the_best_where_rows_rest_on_different_ones() -> None:
    same, other = (
        the(read([*folded("x", {"a": 0.1, "b": 0.9}), *folded("y", folds)]))
        for folds in ({"a": 0.3, "b": 0.4}, {"a": 0.3})
    )
    assert line_of(tables.tiles(other, "masks"), "x")["AP"] == "0.5000"
    makers = (tables.maps, tables.tiles, tables.line_rule, tables.frames, lambda its, _: tables.summary(its))
    for make in makers:
        assert make(same, "masks").warning == ""
        assert "**0.5000**" in markdown(make(same, "masks"), 0)
        said = markdown(make(other, "masks"), 0)
        (loud,) = [line for line in said.splitlines() if "**" in line]
        assert "y: group a (30 pictures)." in loud
    assert tables.trials(other).warning.startswith("Rows rest on different pictures")


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
def test_the_same_groups_are_the_same_pictures_and_without_groups_the_same_part_is(
    first: dict[str, Any], second: dict[str, Any], is_same: bool
) -> None:
    rows = the(read([evaluation(told("a", **first)), evaluation(told("b", **second))])).rows
    assert (unlike(rows, "masks") == "") == is_same
    assert compared(rows, "masks").is_possible == is_same


def test_a_fold_that_was_not_held_against_a_truth_does_not_count_for_it() -> None:
    first = [evaluation(told("x", groups=["a"])), evaluation(told("x", groups=["b"]), truths=("boxes",))]
    rows = the(read([*first, evaluation(told("y", groups=["a"]))])).against("masks")
    assert unlike(rows, "masks") == ""


def test_of_many_groups_some_are_named_and_all_are_counted() -> None:
    many = evaluation(told("x", groups=[f"g{at:02}" for at in range(40)]))
    rows = the(read([many, evaluation(told("y", groups=["h"]))])).rows
    assert "x: groups g00, g01, g02 ... g39, 40 in all (30 pictures); y: group h" in unlike(rows, "masks")


# Tables.


def test_ours_and_the_studys_best_trials_stand_in_one_table() -> None:
    ours = [
        evaluation(told("v2", lr=lr, val_loss=loss, val_accuracy=0.9, groups=[group]))
        for group, lr, loss in (("a", 0.001, 0.1), ("b", 0.002, 0.3))
    ]
    unknown = evaluation(told("lite", "efficientnet_lite0_d", lr=None, val_loss=None, val_accuracy=None))
    table = tables.trials(the(read([*ours, unknown])))
    shown = [[cell.text for cell in line.cells] for line in table.lines]
    assert shown == [
        ["lite", "ours", "heatline, 600 steps of 32", "-", "-", "-", "0.9500"],
        ["v2", "ours", "heatline, 600 steps of 32", "0.001 to 0.002", "0.200", "0.9000", "0.9500"],
        [
            "efficientnetv2_s_d", "study, PCB (closer)", "best of ten trials, batch 32",
            "0.002", "0.073", "0.9846", "0.9854",
        ],
        ["efficientnetv2_s_d", "study, GID", "best of ten trials, batch 32", "0.002", "0.169", "0.9397", "0.9356"],
    ]  # fmt: skip
    assert "Not in the study: efficientnet_lite0_d." in table.notes


def test_the_models_own_map_has_its_intervals_in_the_table_of_maps_and_other_fusions_have_none() -> None:
    ends = {"study.f1": (0.4, 0.6), "tile.pointing": (0.61, 0.75), "study.classification_accuracy": (0.9, 0.97)}
    its = the(
        read(
            [
                evaluation(told("cut"), intervals=ends),
                evaluation(told("vit", "vit_tiny_patch16_224", method="rollout-max"), intervals=ends),
            ]
        )
    )
    table = tables.maps(its, "masks")
    names = [column.name for column in table.columns]
    intervals = {
        line.cells[0].text: {names[at] for at, cell in enumerate(line.cells) if cell.interval}
        for line in table.lines
        if not line.is_published
    }
    whole = {"F1", "pointing", "classification"}
    assert intervals == {
        "cut": whole,
        "vit fmin": {"classification"},
        "vit fmean": {"classification"},
        "vit fmax": whole,
    }
    assert "| 0.50 [0.40, 0.60] |" in markdown(table, 0)
    assert line_of(table, "vit fmax")["pointing"] == "0.70"
    assert line_of(table, "vit fmin")["F1"] == f"{sweep_figures().f1[0][0]:.4f}"
    assert (
        "Rows of swept fusions other than the model's own have no intervals, but of the classification." in table.notes
    )
    assert "No intervals: a bootstrap needs at least 10 groups, and there are 2." in table.notes


def test_a_figure_has_as_many_digits_as_its_interval_is_sure_of() -> None:
    for ends, shown in (
        ((0.5, 0.7), "0.61 [0.50, 0.70]"),
        ((0.604, 0.62), "0.612 [0.604, 0.620]"),
        ((0.6111, 0.6131), "0.6123 [0.6111, 0.6131]"),
        ((0.6123, 0.6123), "0.61 [0.61, 0.61]"),
    ):
        sure = evaluation(told("sure"), tile_figures(auroc=0.6123), intervals={"tile.auroc": ends})
        assert f"| {shown} |" in markdown(tables.tiles(the(read([sure])), "masks"), 0)


def test_beside_the_study_only_what_is_told_is_said_and_once_per_data_set(tmp_path: Path) -> None:
    untold = told("x", groups=[], steps=None, seconds=None, weights="not known", taught_by="not known", part="all")
    untold = msgspec.structs.replace(untold, recipe="not known", lr=None, val_loss=None, val_accuracy=None)
    said = tables.differences(the(read([evaluation(untold)])))
    assert said.startswith("Beside the study: ours are 30 pictures; its own are PCB, 68,270 tiles")
    _, file = write_report([write(evaluation(untold), tmp_path / "in")], tmp_path / "out")
    assert file.read_text().count("Beside the study: ours") == 1

    known = tables.differences(the(read([evaluation(told("x")), evaluation(told("y", weights="random", steps=900))])))
    assert known.startswith(
        "Beside the study: ours are 30 pictures of 2 groups, none of which the split divides, taught by boxes, "
        "600 to 900 steps of training, first weights: random; its own"
    )
    assert "\n" not in known


def test_a_sweep_without_defective_tiles_has_dashes_and_no_rank_for_what_is_not_known(tmp_path: Path) -> None:
    unknown: list[list[float | None]] = [[None] * len(RATIOS)] * 3
    made = evaluation(told("vit", "vit_tiny_patch16_224"), tile_figures(pointing=None, weighting=None))
    (against,) = made.truths
    assert against.sweep is not None
    sweep = msgspec.structs.replace(against.sweep, pointing=unknown, pointing_gated=unknown, weighting=unknown)
    made = msgspec.structs.replace(made, truths=[msgspec.structs.replace(against, sweep=sweep)])
    its = the(read([made]))
    line = line_of(tables.maps(its, "masks"), "vit fmin")
    assert (line["pointing"], line["pointing, gated"]) == ("-", "-")
    assert line_of(rank_tables.study_ranks(its, "masks"), "vit fmin")["pointing"] == "-"
    page, _ = write_report([write(made, tmp_path / "in")], tmp_path / "out")
    assert "pointing, gated: not known, as no tile is defective." in page.read_text()


def test_of_folds_a_cell_of_a_sweep_is_the_mean_and_unknown_unless_all_know_it(tmp_path: Path) -> None:
    known, other = (evaluation(told("vit", "vit_tiny_patch16_224", groups=[group])) for group in "ab")
    (against,) = other.truths
    assert against.sweep is not None
    sweep = msgspec.structs.replace(against.sweep, pointing=[[None] * len(RATIOS)] * 3)
    other = msgspec.structs.replace(other, truths=[msgspec.structs.replace(against, sweep=sweep)])
    (row,) = the(read([known, other])).rows
    mean = row.sweep("masks")
    assert mean is not None
    assert mean.f1 == sweep_figures().f1
    assert mean.pointing == [[None] * len(RATIOS)] * 3
    page, _ = write_report([write(one, tmp_path / one.told.groups[0]) for one in (known, other)], tmp_path / "out")
    assert "pointing: not known, as not every fold has a defective tile." in page.read_text()


def test_published_figures_stand_below_ours_the_closer_data_first() -> None:
    for data, order in (("hripcb", ["PCB (closer)", "GID"]), ("magnetic_tile", ["GID (closer)", "PCB"])):
        table = tables.maps(the(read([evaluation(told("v2", data=data))])), "masks")
        assert column(table, "figures of") == ["ours", *(f"study, {name}" for name in order)]
        theirs = {line.cells[1].text[:10]: line.cells[2].text for line in table.lines[1:]}
        assert theirs == {"study, PCB": "0.5482", "study, GID": "0.1364"}
        assert all(line.is_published for line in table.lines[1:])


def test_a_model_that_is_not_in_the_study_is_said_not_to_be() -> None:
    table = tables.maps(the(read([evaluation(told("lite", "efficientnet_lite0_d"))])), "masks")
    assert column(table, "figures of") == ["ours", "not in the study"]
    assert "Not in the study: efficientnet_lite0_d." in table.notes


def test_a_vit_with_a_sweep_has_a_row_per_fusion_without_discard_and_its_own() -> None:
    its = the(read([evaluation(told("vit", "vit_tiny_patch16_224"), study=rule_figures(0.25, 0.75))]))
    rows = map_rows(its.rows, "masks")
    assert [row.label for row in rows] == ["vit fmin", "vit fmean", "vit fmax", "vit fmax, discard 0.9"]
    sweep = sweep_figures()
    assert [row.figures["f1"] for row in rows[:3]] == [line[RATIOS.index(0.0)] for line in sweep.f1]
    assert [row.figures["pointing_gated"] for row in rows[:3]] == [line[0] for line in sweep.pointing_gated]
    assert rows[3].figures["precision"] == 0.25
    assert len(tables.line_rule(its, "masks").lines) == 1
    assert "the study does not state the ratio" in " ".join(tables.maps(its, "masks").notes)


def test_intervals_are_printed_where_there_are_any_and_otherwise_why_not() -> None:
    sure = evaluation(told("sure"), tile_figures(auroc=0.614), intervals={"tile.auroc": (0.52, 0.704)})
    table = tables.tiles(the(read([sure, evaluation(told("unsure"))])), "masks")
    assert column(table, "AUROC") == ["0.61", "0.9500"]
    assert "| 0.61 [0.52, 0.70] |" in markdown(table, 3)
    assert table.notes == ("No intervals: a bootstrap needs at least 10 groups, and there are 2.",)


def test_a_figure_without_an_interval_stands_bare_beside_those_that_have_one(tmp_path: Path) -> None:
    """As where all resamples agree: the evaluation writes none."""
    made = evaluation(told("sure"), tile_figures(pointing=1.0), intervals={"tile.auroc": (0.9, 0.97)})
    line = markdown(tables.tiles(the(read([made])), "masks"), 0).splitlines()[2]
    assert "| 0.95 [0.90, 0.97] | 0.9500 | 0.9250 | 1.0000 |" in line
    page, _ = write_report([write(made, tmp_path / "in")], tmp_path / "out")
    assert '<td class="number">0.95<small>[0.90, 0.97]</small></td>' in page.read_text()
    assert '<td class="number">1.0000</td>' in page.read_text()


def test_figures_that_are_not_known_are_dashes() -> None:
    nothing = frame_figures(auroc=None, defects=None, defects_hit=None, defects_missed=None, hit_rate=None, unplaced=30)
    table = tables.frames(the(read([evaluation(told("labels"), frame=nothing)])), "masks")
    line = line_of(table, "labels")
    assert [line[name] for name in ("defects", "hit", "missed", "hit, share", "AUROC")] == ["-"] * 5
    assert "Up to 30 frames count by their label alone" in " ".join(table.notes)


def test_the_best_of_ours_stands_out_even_where_the_study_is_better() -> None:
    lines = (Line((Cell("a"), Cell("0.2", 0.2))), Line((Cell("b"), Cell("0.1", 0.1))))
    theirs = Line((Cell("study"), Cell("0.9", 0.9)), is_published=True)
    for better, best in (("high", "| a | **0.2** |"), ("low", "| b | **0.1** |")):
        table = Table("t", (Column("name", is_text=True), Column("F1", better)), (*lines, theirs))  # type: ignore[arg-type]
        assert [line for line in markdown(table, 2).splitlines() if "**" in line] == [best]


def test_equal_values_do_not_stand_out() -> None:
    lines = tuple(Line((Cell("0.2", 0.2),)) for _ in range(2))
    assert "**" not in markdown(Table("t", (Column("F1", "high"),), lines), 2)


def test_ranks_turn_mistakes_round_so_that_fewer_are_better() -> None:
    rates = [("good", 0.1), ("bad", 0.4)]
    its = the(read(evaluation(told(name), frame=frame_figures(escape_rate=rate)) for name, rate in rates))
    table = rank_tables.own_ranks(its, "masks")
    assert line_of(table, "good")["frames caught"] == "1"
    assert line_of(table, "bad")["frames caught"] == "2"


def test_the_published_ranks_say_which_follow() -> None:
    follows = dict(
        zip(*(column(rank_tables.published_ranks("PCB"), name) for name in ("model", "printed follows")), strict=True)
    )
    assert {name for name, said in follows.items() if said == "no"} == {
        "DeiT_tiny fmin", "DeiT_tiny fmean", "ViT_tiny fmin", "ViT_tiny fmean",
    }  # fmt: skip


def test_agreement_is_1_where_both_rank_alike_and_unknown_of_two() -> None:
    def some(count: int) -> Pictures:
        return the(
            read(
                evaluation(
                    told(f"m{n}"), study=rule_figures(0.5, 0.2 + n / 10), frame=frame_figures(auroc=0.5 + n / 10)
                )
                for n in range(count)
            )
        )

    assert line_of(rank_tables.agreement(some(4), "masks"), "frame AUROC")["Spearman's rho"] == "1.00"
    assert line_of(rank_tables.agreement(some(2), "masks"), "frame AUROC")["Spearman's rho"] == "-"
    assert line_of(rank_tables.agreement(some(2), "masks"), "frame AUROC")["models"] == "2"


def test_sizes_are_those_of_heatline_models_and_unknown_of_a_foreign_name() -> None:
    its = the(read([evaluation(told("a", "mobilenetv3_large")), evaluation(told("b", "no such model"))]))
    table = tables.sizes(its.rows)
    assert line_of(table, "mobilenetv3_large")["study: GFLOPs as printed"] == "0.22"
    assert float(line_of(table, "mobilenetv3_large")["GMACs"]) == pytest.approx(0.215, abs=0.02)
    assert line_of(table, "no such model")["GMACs"] == "-"


# Charts.


@pytest.mark.parametrize(
    "svg",
    [
        charts.bars([charts.Bars("F1", 0.5, None), charts.Bars("<recall>", 0.2, 1.0)], "a & b", ("full", "<cut>")),
        charts.heatmap([[0.1, 0.2], [0.3, 0.3]], ["min", "max"], ["0", "0.9"], "F1 <"),
        charts.heatmap([[0.5]], ["min"], ["0"], "one cell"),
        charts.steps(explore(np.array([1.0, 2.0]), np.array([0.0, 1.5]), 1.2, "good frames"), "x < y"),
        charts.steps(explore(np.array([1.0]), np.array([]), 1.2, "good frames"), "no good frames"),
    ],
)
def test_a_chart_is_well_formed_and_says_what_it_shows(svg: str) -> None:
    drawing = ElementTree.fromstring(svg)
    assert drawing.get("role") == "img"
    assert drawing[0].tag == "title"
    assert drawing[0].text
    assert drawing[1].tag == "desc"
    assert drawing[1].text


def test_a_heatmap_prints_every_value() -> None:
    svg = charts.heatmap([[0.125, 0.25], [0.5, 0.75]], ["min", "max"], ["0", "0.9"], "F1")
    assert [svg.count(f">{value:.3f}<") for value in (0.125, 0.25, 0.5, 0.75)] == [2, 1, 1, 2]  # ends: legend too


def test_a_heatmap_of_equal_values_has_no_scale_of_colours_and_says_so() -> None:
    svg = charts.heatmap([[0.5, 0.5]], ["min"], ["0", "0.9"], "F1")
    assert svg.count(">0.500<") == 2
    assert ">all are equal<" in svg
    assert svg.count("<rect") == 2


def test_the_curve_passes_through_every_threshold() -> None:
    explorer = explore(np.array([1.0, 2.0]), np.array([0.0, 1.5]), 1.2, "good frames")
    (path,) = re.findall(r'<path d="([^"]+)" fill="none" stroke="#6c8ebf"', charts.steps(explorer, "t"))
    corners = re.findall(r"V([\d.]+)H([\d.]+)", path)
    left, top, side = charts.PLOT_LEFT, charts.PLOT_TOP, charts.PLOT_SIDE
    met = [((float(x) - left) / side, 1 - (float(y) - top) / side) for y, x in corners]
    expected = list(zip(explorer.false_reject, explorer.escape, strict=True))[1:]
    np.testing.assert_allclose(met, expected, atol=1e-3)


@pytest.mark.parametrize("chosen", np.linspace(-0.5, 20.5, 22).tolist())
def test_what_is_said_of_the_chosen_point_stands_within_the_drawing_wherever_the_point_is(chosen: float) -> None:
    px_per_letter = 7  # of a wide font at the drawing's size
    both = np.arange(20.0)
    for defective, good in ((both, both), (both, both - 10), (both + 10, both)):
        drawing = ElementTree.fromstring(charts.steps(explore(defective, good, chosen, "good frames"), "t"))
        texts = [
            text
            for text in drawing.iter("text")
            if (text.text or "").startswith(("threshold", "escape ", "false reject "))
        ]
        assert len(texts) == 3
        for text in texts:
            x, y, wide = float(text.get("x", "")), float(text.get("y", "")), px_per_letter * len(text.text or "")
            left = x if text.get("text-anchor") == "start" else x - wide
            assert left >= 0
            assert left + wide <= float(drawing.get("width", ""))
            assert charts.PLOT_TOP < y < charts.PLOT_TOP + charts.PLOT_SIDE


# The page.

SECTIONS = [
    "summary", "models", "maps", "tiles", "line", "ranks", "agreement", "bars", "sweeps", "examples", "fusions",
    "ratios", "failures", "explorer", "notes",
]  # fmt: skip


def whole(tmp_path: Path, with_pictures: bool = True) -> list[Path]:
    """A report's worth of folders: both families, a pair, two data sets."""
    tolds: list[Told] = [
        told("v2", "efficientnetv2_s"),
        told("v2_d", "efficientnetv2_s_d"),
        told("m3_d", "mobilenetv3_large_d"),
        told("vit", "vit_tiny_patch16_224"),
        told("v2_d", "efficientnetv2_s_d", data="magnetic_tile"),
    ]
    return [
        write(evaluation(one, exhibits=exhibits_of(one), seed=at), tmp_path / str(at), with_pictures)
        for at, one in enumerate(tolds)
    ]


def test_the_page_has_every_section_and_a_table_of_contents_and_loads_nothing(tmp_path: Path) -> None:
    page, _ = write_report(whole(tmp_path), tmp_path / "out")
    text = page.read_text()
    read = Page(text)
    assert read.ids == SECTIONS
    assert read.links == [f"#{name}" for name in SECTIONS]
    assert read.loads
    assert all(load.startswith("data:image/jpeg;base64,") for load in read.loads)
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert NOT_KEPT not in text
    assert "mobilenetv3_large: its pair is missing; evaluate mobilenetv3_large too." in text


def charts_of(text: str, section: str) -> list[str]:
    """Titles of a section's drawings."""
    part = text[text.index(f'<section id="{section}">') :]
    return re.findall(r"<title>(.*?)</title>", part[: part.index("</section>")])


def curves_of(text: str) -> list[dict[str, Any]]:
    """What the sliders move along."""
    return [json.loads(unescape(curve)) for curve in re.findall(r'data-curve="(.*?)"', text)]


@pytest.mark.parametrize("chosen", [-9.0, 0.0, 0.125, 9.0])
def test_the_slider_starts_at_the_chosen_threshold_and_says_what_the_drawing_says(
    tmp_path: Path, chosen: float
) -> None:
    """Below, among and above all scores; 0 is a point of the curve by itself, 0.125 is rounded to even."""
    explorer = explore(np.array([1.0, 2.0]), np.array([0.0, 1.5]), chosen, "good frames")
    made = msgspec.structs.replace(evaluation(told()), explorer=explorer)
    text = write_report([write(made, tmp_path / "in")], tmp_path / "out")[0].read_text()
    (curve,) = curves_of(text)
    told_of = curve["told"][curve["start"]]
    threshold, escape, reject = re.findall(r"-?[\d.]+", told_of)
    assert f">threshold {threshold}<" in text
    assert f">escape {escape}<" in text
    assert f">false reject {reject}<" in text
    assert float(threshold) == round(chosen, 2)
    assert curve["escape"] == sorted(curve["escape"])
    assert curve["reject"] == sorted(curve["reject"], reverse=True)
    points = len({*explorer.thresholds, chosen})
    assert [len(curve[name]) for name in ("told", "escape", "reject")] == [points] * 3


@pytest.mark.parametrize(
    ("defective", "good", "said"),
    [
        (8, 4, "8 defective frames against 4 good frames."),
        (1, 1, "1 defective frame against 1 good frame."),
        (8, 0, "8 defective frames against 0 good frames. A curve needs both."),
    ],
)
def test_the_frames_of_a_curve_are_counted_in_a_sentence(tmp_path: Path, defective: int, good: int, said: str) -> None:
    explorer = explore(np.arange(defective) + 2.0, np.arange(good) + 0.0, 1.2, "good frames")
    made = msgspec.structs.replace(evaluation(told()), explorer=explorer)
    assert said in write_report([write(made, tmp_path / "in")], tmp_path / "out")[0].read_text()


def test_one_row_alone_has_no_ranks_no_agreement_and_no_bars(tmp_path: Path) -> None:
    page, file = write_report([write(evaluation(told("v2")), tmp_path / "in")], tmp_path / "out")
    assert not {"ranks", "agreement", "bars"} & set(Page(page.read_text()).ids)
    assert "Spearman" not in page.read_text() + file.read_text()
    assert "## Ranks" not in file.read_text()


def test_beside_a_data_set_of_several_rows_one_of_a_single_row_is_not_ranked(tmp_path: Path) -> None:
    _, file = write_report(whole(tmp_path), tmp_path / "out")
    ranked = file.read_text().partition("## Ranks")[2]
    assert "### hripcb, masks" in ranked
    assert "magnetic_tile" not in ranked


def test_every_table_of_a_sweep_is_drawn(tmp_path: Path) -> None:
    page, _ = write_report([write(evaluation(told("vit", "vit_tiny_patch16_224")), tmp_path / "in")], tmp_path / "out")
    assert charts_of(page.read_text(), "sweeps") == [
        "F1", "precision", "recall", "Jaccard", "accuracy", "pointing", "pointing, gated", "weighting",
    ]  # fmt: skip
    assert set(SWEPT) == set(SHARES)


def test_every_full_model_is_drawn_against_every_cut_one_over_the_pictures_that_both_have(tmp_path: Path) -> None:
    one = [told(name, "efficientnetv2_s", groups=["a"]) for name in ("full 1", "full 2")]
    other = [told("cut 1", groups=["a"]), told("cut 1", groups=["b"]), told("cut 2", groups=["c"])]
    folders = [write(evaluation(of), tmp_path / str(at)) for at, of in enumerate((*one, *other))]
    text = write_report(folders, tmp_path / "out")[0].read_text()
    assert charts_of(text, "bars") == ["full 1 against cut 1, masks", "full 2 against cut 1, masks"]
    assert text.count("<figcaption>Rows rest on different pictures. Compared here over what all have: group a (") == 2
    for name in ("full 1", "full 2"):
        assert f"{name}: group a (30 pictures); cut 2: group c (30 pictures). Evaluate all on the same groups." in text


def test_pictures_that_were_not_kept_are_said_not_to_be(tmp_path: Path) -> None:
    page, _ = write_report(whole(tmp_path, with_pictures=False), tmp_path / "out")
    text = page.read_text()
    assert Page(text).loads == []
    assert NOT_KEPT in text


def test_a_tile_stands_in_one_row_for_all_models_and_failures_come_worst_first(tmp_path: Path) -> None:
    page, _ = write_report(whole(tmp_path), tmp_path / "out")
    text = page.read_text()
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', text, flags=re.DOTALL)
    assert [name for name, _ in rows[:3]] == [f"board-0{at}.jpg, tile at y {222 * at}, x 444" for at in range(3)]
    assert [cells.count("<img") for _, cells in rows] == [4, 4, 4, 1, 1, 1]
    failures = text[text.index('<section id="failures">') : text.index('<section id="explorer">')]
    logits = [float(logit) for logit in re.findall(r"<b>logit (.*?)</b>", failures)]
    assert logits[:3] == [-0.5, 3.5, 1.5]  # the threshold is 0.7: one is missed, two are false


def failures_of(folders: list[Path], out: Path) -> dict[str, list[str]]:
    """Logits, or `none`, by heading."""
    text = write_report(folders, out)[0].read_text()
    part = text[text.index('<section id="failures">') :]
    blocks = part[: part.index("</section>")].split("<h3>")[1:]
    found = r'<b>logit (.*?)</b>|<p class="note">(.*?)</p>'
    return {block.partition("</h3>")[0]: [a or b for a, b in re.findall(found, block)] for block in blocks}


def test_only_tiles_on_the_wrong_side_of_the_threshold_of_their_fold_are_failures(tmp_path: Path) -> None:
    """Logits are 3.5, 1.5 and -0.5 of either kind; one that reaches the threshold is called defective."""

    def fold_at(group: str, score_threshold: float) -> Path:
        of = told("v2", groups=[group])
        made = evaluation(of, exhibits=exhibits_of(of))
        calibration = msgspec.structs.replace(made.calibration, score_threshold=score_threshold)
        return write(msgspec.structs.replace(made, calibration=calibration), tmp_path / group)

    a, b, none_missed, none_false = (fold_at(*of) for of in (("a", 1.5), ("b", 2.0), ("c", -0.5), ("d", 4.0)))
    missed, false = (
        f"v2, hripcb, masks: {what} tiles called {other}"
        for what, other in (("defective", "good"), ("good", "defective"))
    )
    assert failures_of([a], tmp_path / "1") == {missed: ["-0.50"], false: ["3.50", "1.50"]}
    assert failures_of([a, b], tmp_path / "2") == {missed: ["-0.50", "-0.50", "1.50"], false: ["3.50", "3.50", "1.50"]}
    assert failures_of([none_missed], tmp_path / "3") == {missed: ["none"], false: ["3.50", "1.50", "-0.50"]}
    assert failures_of([none_false], tmp_path / "4") == {missed: ["-0.50", "1.50", "3.50"], false: ["none"]}


def test_names_from_users_files_are_shown_and_not_run(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>|x"
    one = told(nasty, data=nasty, part=nasty, groups=[nasty], recipe=nasty, path=nasty, engine=nasty)
    folder = write(evaluation(one, exhibits=exhibits_of(one, 1), truths=(nasty,)), tmp_path / "in")
    page, text = write_report([folder], tmp_path / "out", nasty)
    assert Page(page.read_text()).tags.count("script") == 2  # the page's own
    assert "&lt;script&gt;alert(1)" in page.read_text()
    table = [line for line in text.read_text().splitlines() if line.startswith("|")]
    assert all("<script" not in line.replace("\\<script", "") for line in table)
    assert all("|x" not in line.replace("\\|x", "") for line in table)


def test_a_picture_outside_its_folder_is_not_taken(tmp_path: Path) -> None:
    one = told("v2")
    exhibits = exhibits_of(one, 1)[:1]
    folder = write(evaluation(one, exhibits=exhibits), tmp_path / "in")
    (folder / exhibits[0].file).rename(tmp_path / exhibits[0].file)
    (folder / exhibits[0].file).symlink_to(tmp_path / exhibits[0].file)
    page, _ = write_report([folder], tmp_path / "out")
    assert Page(page.read_text()).loads == []


def test_a_file_that_is_no_picture_is_not_shown(tmp_path: Path) -> None:
    one = told("v2")
    example, _, false = exhibits_of(one, 1)
    folder = write(evaluation(one, exhibits=[example, false]), tmp_path / "in", with_pictures=False)
    (folder / "example-0.png").write_text("no picture")
    (folder / "false-0.png").touch()
    page, _ = write_report([folder], tmp_path / "out")
    assert Page(page.read_text()).loads == []


def test_the_tables_file_has_the_same_tables_each_row_as_wide_as_its_head(tmp_path: Path) -> None:
    page, file = write_report(whole(tmp_path), tmp_path / "out", "two data sets")
    text = file.read_text()
    assert text.startswith("# two data sets\n")
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert len(blocks) == len(re.findall(r'<table(?: class="dense")?>', page.read_text()))
    for block in blocks:
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1
    heads = [block.splitlines()[0] for block in blocks]
    assert (
        "| name | figures of | F1 | precision | Jaccard | accuracy | recall | pointing | pointing, gated | "
        "classification |" in heads
    )
    assert (
        "| name | tiles | defective | AP | AUROC | accuracy at 0.5 | majority share | pointing | within a cell | "
        "weighting |" in heads
    )


def test_an_evaluation_by_labels_alone_makes_a_report_too(tmp_path: Path) -> None:
    unplaced = frame_figures(
        unplaced=30,
        defects=None,
        defects_hit=None,
        defects_missed=None,
        hit_rate=None,
        false_regions=None,
        false_regions_per_frame=None,
    )
    made = evaluation(told("labels"), frame=unplaced, truths=("labels",))
    figures = type(made.truths[0].figures)(None, None, None, unplaced)
    against = type(made.truths[0])("labels", figures, {}, "no intervals", None, [])
    folder = write(Evaluation(made.told, made.calibration, [against], made.explorer), tmp_path / "in")
    page, file = write_report([folder], tmp_path / "out")
    Page(page.read_text())
    assert "| labels | - |" in file.read_text()


def test_no_folder_and_a_folder_without_an_evaluation_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no evaluation was named"):
        write_report([], tmp_path / "out")
    with pytest.raises(InputError, match="evaluate again"):
        write_report([tmp_path], tmp_path / "out")
    (tmp_path / "file").touch()
    folder = write(evaluation(told()), tmp_path / "in")
    with pytest.raises(InputError, match="name another folder"):
        write_report([folder], tmp_path / "file" / "out")
