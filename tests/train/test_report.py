"""The report of evaluations: rows and folds, tables, and a page that stands alone."""

import re
from collections.abc import Iterable
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
from train.evaluation.report.page import NOT_KEPT
from train.evaluation.report.rows import Pictures, Read, rows_of
from train.evaluation.report.table import Cell, Column, Line, Table, markdown
from train.evaluation.report.write import write_report
from train.evaluation.result import Evaluation


class Page(HTMLParser):
    """Reads a page: its tags, its tables' cells, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.is_in_cell = False
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.is_in_cell = True
            self.cells.append("")
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster") and not (value or "").startswith("#"):
                self.loads.append(value or "")
            assert not name.startswith("on"), "a handler in an attribute"

    def handle_endtag(self, tag: str) -> None:
        self.is_in_cell = self.is_in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.is_in_cell:
            self.cells[-1] += data


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


def report(tmp_path: Path, *what: Evaluation, with_pictures: bool = True) -> tuple[str, str]:
    """The page and the tables of some evaluations."""
    folders = [write(one, tmp_path / f"in {at}", with_pictures) for at, one in enumerate(what)]
    page, text = write_report(folders, tmp_path / "out")
    return page.read_text(), text.read_text()


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


def test_a_figure_that_one_fold_does_not_know_is_unknown_of_the_row() -> None:
    of = told("lite", "vit_tiny_patch16_224", groups=["b"], val_loss=None, seconds=None)
    unknown = evaluation(of, frame=frame_figures(auroc=None, defects=None))
    (against,) = unknown.truths
    assert against.sweep is not None
    sweep = msgspec.structs.replace(against.sweep, pointing=[[None] * len(RATIOS)] * 3)
    figures = msgspec.structs.replace(against.figures, study=None)
    unknown = msgspec.structs.replace(unknown, truths=[msgspec.structs.replace(against, sweep=sweep, figures=figures)])
    its = the(read([evaluation(told("lite", "vit_tiny_patch16_224", groups=["a"])), unknown]))
    (row,) = its.rows
    assert row.figure("masks", "frame.auroc") is None
    assert row.figure("boxes", "frame.auroc") is None
    assert row.figure("masks", "study.f1") is None
    assert row.figure("masks", "frame.hit_rate") == 50 / 60
    mean = row.sweep("masks")
    assert mean is not None
    assert (mean.f1, mean.pointing) == (sweep_figures().f1, [[None] * len(RATIOS)] * 3)
    line = line_of(tables.frames(its, "masks"), "lite")
    assert (line["frames"], line["defects"], line["hit"], line["AUROC"]) == ("60", "-", "100", "-")
    training = line_of(tables.training(its), "lite")
    assert (training["steps"], training["hours"]) == ("600", "-")


def test_evaluations_of_overlapping_groups_or_none_or_other_data_are_rows_of_their_own() -> None:
    its = the(read(evaluation(told("lite", path=path)) for path in ["first/lite", "second/lite", "second/lite"]))
    assert {row.label for row in its.rows} == {"first/lite", "second/lite (1)", "second/lite (2)"}
    assert tables.folds(its, "masks") is None
    assert len(the(read([evaluation(told("lite", groups=[])) for _ in range(2)])).rows) == 2
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
        assert "over what all have: group a (30 pictures)" in table.warning
        assert f"**{table.warning}**" in markdown(table, 2)
    assert line_of(rank_tables.agreement(its, "masks"), "frame AUROC")["models"] == "3"


def test_rows_without_a_common_fold_are_not_ranked_and_it_is_said_why() -> None:
    its = the(read([*folded("left", {"a": 0.1, "b": 0.9}), *folded("right", {"c": 0.3})]))
    for table in (rank_tables.study_ranks(its, "masks"), rank_tables.own_ranks(its, "masks")):
        for name in ("left", "right"):
            assert set(list(line_of(table, name).values())[2:]) == {"-"}
        assert table.warning.startswith("Not compared: no fold is common to all rows. left: group a (30 pictures) and")
    assert set(column(rank_tables.agreement(its, "masks"), "models")) == {"0"}


def test_tables_keep_all_folds_and_call_no_value_the_best_where_rows_rest_on_different_ones() -> None:
    same, other = (
        the(read([*folded("x", {"a": 0.1, "b": 0.9}), *folded("y", folds)]))
        for folds in ({"a": 0.3, "b": 0.4}, {"a": 0.3})
    )
    assert line_of(tables.tiles(other, "masks"), "x")["AP"] == "0.5000"
    makers = (tables.maps, tables.tiles, tables.line_rule, tables.frames, lambda its, _: tables.summary(its))
    for make in makers:
        assert make(same, "masks").warning == ""
        assert "**0.5000**" in markdown(make(same, "masks"), 0)
        (loud,) = [line for line in markdown(make(other, "masks"), 0).splitlines() if "**" in line]
        assert "y: group a (30 pictures)." in loud


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


# Tables.


def test_the_models_own_map_has_its_intervals_in_the_table_of_maps_and_other_fusions_have_none() -> None:
    ends = {"study.f1": (0.4, 0.6), "tile.pointing": (0.61, 0.75), "study.classification_accuracy": (0.9, 0.97)}
    vit = evaluation(told("vit", "vit_tiny_patch16_224", method="rollout-max"), intervals=ends)
    table = tables.maps(the(read([evaluation(told("cut"), intervals=ends), vit])), "masks")
    intervals = {
        line.cells[0].text: {table.columns[at].name for at, cell in enumerate(line.cells) if cell.interval}
        for line in table.lines
        if not line.is_published
    }
    whole, of_the_model = {"F1", "pointing", "classification"}, {"classification"}
    assert intervals == {"cut": whole, "vit fmin": of_the_model, "vit fmean": of_the_model, "vit fmax": whole}
    assert "| 0.50 [0.40, 0.60] |" in markdown(table, 0)
    assert line_of(table, "vit fmax")["pointing"] == "0.70"
    assert line_of(table, "vit fmin")["F1"] == f"{sweep_figures().f1[0][0]:.4f}"


def test_a_figure_has_as_many_digits_as_its_interval_is_sure_of() -> None:
    for ends, shown in (
        ((0.5, 0.7), "0.61 [0.50, 0.70]"),
        ((0.604, 0.62), "0.612 [0.604, 0.620]"),
        ((0.6111, 0.6131), "0.6123 [0.6111, 0.6131]"),
        ((0.6123, 0.6123), "0.61 [0.61, 0.61]"),
    ):
        sure = evaluation(told("sure"), tile_figures(auroc=0.6123), intervals={"tile.auroc": ends})
        assert f"| {shown} |" in markdown(tables.tiles(the(read([sure])), "masks"), 0)


def test_the_best_of_ours_stands_out_even_where_the_study_is_better_and_equal_values_do_not() -> None:
    lines = (Line((Cell("a"), Cell("0.2", 0.2))), Line((Cell("b"), Cell("0.1", 0.1))))
    theirs = Line((Cell("study"), Cell("0.9", 0.9)), is_published=True)
    for better, best in (("high", "| a | **0.2** |"), ("low", "| b | **0.1** |")):
        table = Table("t", (Column("name", is_text=True), Column("F1", better)), (*lines, theirs))  # type: ignore[arg-type]
        assert [line for line in markdown(table, 2).splitlines() if "**" in line] == [best]
    assert "**" not in markdown(Table("t", (Column("F1", "high"),), (Line((Cell("0.2", 0.2),)),) * 2), 2)


def test_ranks_turn_mistakes_round_so_that_fewer_are_better() -> None:
    rates = [("good", 0.1), ("bad", 0.4)]
    its = the(read(evaluation(told(name), frame=frame_figures(escape_rate=rate)) for name, rate in rates))
    table = rank_tables.own_ranks(its, "masks")
    assert [line_of(table, name)["frames caught"] for name in ("good", "bad")] == ["1", "2"]


# Charts.


def test_charts_are_well_formed_and_show_their_values() -> None:
    values = [[0.125, 0.25], [0.5, 0.75]]
    heatmap = charts.heatmap(values, ["min", "max"], ["0", "0.9"], "F1 <")
    assert [heatmap.count(f">{value:.3f}<") for line in values for value in line] == [2, 1, 1, 2]  # ends: legend too
    bars = charts.bars([charts.Bars("F1", 0.5, None), charts.Bars("<recall>", 0.2, 1.0)], "a & b", ("full", "<cut>"))
    equal = charts.heatmap([[0.5, 0.5]], ["min"], ["0", "0.9"], "F1")
    alone = charts.steps(explore(np.array([1.0]), np.array([]), 1.2, "good frames"), "no good frames")
    for svg in (heatmap, bars, equal, alone):
        assert ElementTree.fromstring(svg).get("role") == "img"


def test_the_curve_passes_through_every_threshold() -> None:
    explorer = explore(np.array([1.0, 2.0]), np.array([0.0, 1.5]), 1.2, "good frames")
    (path,) = re.findall(r'<path d="([^"]+)" fill="none" stroke="#6c8ebf"', charts.steps(explorer, "t"))
    corners = re.findall(r"V([\d.]+)H([\d.]+)", path)
    left, top, side = charts.PLOT_LEFT, charts.PLOT_TOP, charts.PLOT_SIDE
    met = [((float(x) - left) / side, 1 - (float(y) - top) / side) for y, x in corners]
    expected = list(zip(explorer.false_reject, explorer.escape, strict=True))[1:]
    np.testing.assert_allclose(met, expected, atol=1e-3)


# The page.


def whole() -> list[Evaluation]:
    """A report's worth of evaluations: both families, a pair, two data sets."""
    tolds = [
        told("v2", "efficientnetv2_s"),
        told("v2_d", "efficientnetv2_s_d"),
        told("vit", "vit_tiny_patch16_224"),
        told("v2_d", "efficientnetv2_s_d", data="magnetic_tile"),
    ]
    return [evaluation(one, exhibits=exhibits_of(one), seed=at) for at, one in enumerate(tolds)]


def test_the_page_loads_nothing_and_shows_the_figures_of_the_tables(tmp_path: Path) -> None:
    page, text = report(tmp_path, *whole())
    shown = Page(page)
    assert shown.loads
    assert all(load.startswith("data:image/jpeg;base64,") for load in shown.loads)
    assert not re.search(r"http|url\(|@import", page)
    assert NOT_KEPT not in page
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ") and line.strip("|-: ")]
    cells = [re.sub(r"[\s*\\]", "", cell) for row in rows for cell in row]
    assert len(cells) > 300
    assert [re.sub(r"[\s*\\]", "", cell) for cell in shown.cells[: len(cells)]] == cells
    figures = whole()[2].truths[0].figures
    assert figures.tile is not None
    assert re.search(rf"\| vit \| .*\| \**{figures.tile.auroc:.4f}\** \|", text)


def failures_of(text: str) -> dict[str, list[str]]:
    """Logits, or `none`, by heading."""
    part = text[text.index('<section id="failures">') :]
    blocks = part[: part.index("</section>")].split("<h3>")[1:]
    found = r'<b>logit (.*?)</b>|<p class="note">(.*?)</p>'
    return {block.partition("</h3>")[0]: [a or b for a, b in re.findall(found, block)] for block in blocks}


@pytest.mark.parametrize(
    ("thresholds", "missed", "false"),
    [
        ([1.5], ["-0.50"], ["3.50", "1.50"]),
        ([1.5, 2.0], ["-0.50", "-0.50", "1.50"], ["3.50", "3.50", "1.50"]),
        ([-0.5], ["none"], ["3.50", "1.50", "-0.50"]),
        ([4.0], ["-0.50", "1.50", "3.50"], ["none"]),
    ],
)
def test_tiles_on_the_wrong_side_of_the_threshold_of_their_fold_are_failures_the_worst_first(
    tmp_path: Path, thresholds: list[float], missed: list[str], false: list[str]
) -> None:
    """Logits are 3.5, 1.5 and -0.5 of either kind; one that reaches the threshold is called defective."""
    folds = []
    for group, threshold in zip("ab", thresholds, strict=False):
        of = told("v2", groups=[group])
        made = evaluation(of, exhibits=exhibits_of(of))
        calibration = msgspec.structs.replace(made.calibration, score_threshold=threshold)
        folds.append(msgspec.structs.replace(made, calibration=calibration))
    assert list(failures_of(report(tmp_path, *folds)[0]).values()) == [missed, false]


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


def test_what_is_no_picture_in_the_evaluations_folder_is_not_shown(tmp_path: Path) -> None:
    """One lies elsewhere, one is text, one is empty, and one is not there."""
    one = told("v2")
    kinds = exhibits_of(one, 2)[:4]
    folder = write(evaluation(one, exhibits=kinds), tmp_path / "in")
    (folder / kinds[0].file).rename(tmp_path / "elsewhere.png")
    (folder / kinds[0].file).symlink_to(tmp_path / "elsewhere.png")
    (folder / kinds[1].file).write_text("no picture")
    (folder / kinds[2].file).write_text("")
    (folder / kinds[3].file).unlink()
    text = write_report([folder], tmp_path / "out")[0].read_text()
    assert Page(text).loads == []
    assert NOT_KEPT in text


def test_no_folder_and_a_folder_without_an_evaluation_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no evaluation was named"):
        write_report([], tmp_path / "out")
    with pytest.raises(InputError, match="evaluate again"):
        write_report([tmp_path], tmp_path / "out")
    (tmp_path / "file").touch()
    folder = write(evaluation(told()), tmp_path / "in")
    with pytest.raises(InputError, match="name another folder"):
        write_report([folder], tmp_path / "file" / "out")
