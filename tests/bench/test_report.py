"""`heatline bench report`: every number on its page is in the file it names, and nothing of two machines is mixed."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.commands.report import report as command
from bench.report.content import shown
from bench.report.files import RECOGNISED, read
from bench.report.plots import Bar, Distribution, Place, Series, Stack, bars, distributions, plane, series, stacks
from bench.report.write import Report, make_report, write_report
from bench.soak.soak import SHARE_OF_HIGHEST
from bench.svg import COLOURS, Axis
from bench.targets import COST_PER_TILE_WITHIN, FEWEST_TILES, MOST_TILES, TARGETS, WINDOW_S
from edge.errors import BenchError, InputError
from tests.bench import made_results as made

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
VOID = {"meta", "br", "path", "rect", "circle", "polyline", "polygon"}


# What a page says.


class Page(HTMLParser):
    """Reads a page: what it loads, and the words of each article; a tag that closes another one fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.articles: list[dict[str, list[str]]] = []
        """Words by the tag around them."""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append((tag, given.get("class", "")))
        if tag == "article":
            self.articles.append({})
        if tag == "section":
            self.ids.append(given["id"])
        assert not any(name.startswith("on") for name in given), "a handler in an attribute"
        (self.links if tag == "a" else self.loads).extend(given[name] for name in ("src", "href") if name in given)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.open]
        if "article" in tags and data.strip():
            tag, kind = self.open[-1]
            self.articles[-1].setdefault(f"{tag}.{kind}" if tag == "text" and kind else tag, []).append(data)


def files_of(article: Mapping[str, Sequence[str]]) -> list[Path]:
    """Those that its sources name."""
    return [ROOT / name for line in article["li"] for name in line.partition(": ")[0].split(", ")]


NUMBER = re.compile(r"(?<![\w.-])-?\d[\d,]*(?:\.\d+)?(?![\w.]*[a-z_])")
"""One that stands by itself: 95 of p95 and 0 of lite0 are part of a name."""
SCALES = (1.0, 1e3, 1e-3, 1e-6, 1e-9, 100.0)
SUMMED_UP = ("delivery", "hostile", "tune")
"""Kinds whose tables are the commands' own words, with medians and percentiles of samples that stand in no file."""
CONSTANTS = [
    *(100 * SHARE_OF_HIGHEST, 100 * COST_PER_TILE_WITHIN),
    *(*(target.goal for target in TARGETS), 5.0, 80.0, WINDOW_S, float(FEWEST_TILES), float(MOST_TILES)),
]
"""That are printed and stand in no file: the second run of a soak, targets and their conditions."""
MANY = 40
"""A list that long holds samples, which no table prints: any number would be among them."""


def leaves(value: Any) -> Iterator[float]:
    """All numbers in a file, also those in its words."""
    match value:
        case bool() | None:
            return
        case int() | float():
            yield float(value)
        case str():
            yield from numbers(value)
        case dict():
            yield from (leaf for pair in value.items() for one in pair for leaf in leaves(one))
        case list() if len(value) <= MANY or not isinstance(value[0], int | float):
            yield from (leaf for one in value for leaf in leaves(one))


def numbers(text: str) -> list[float]:
    return [float(one.replace(",", "")) for one in NUMBER.findall(text)]


def unfounded(text: str, known: np.ndarray[Any, np.dtype[np.float64]]) -> list[str]:
    """Numbers of a text that no number of the file is rounded to, in any unit."""
    found = []
    for one in NUMBER.findall(text):
        value, decimals = float(one.replace(",", "")), len(one.partition(".")[2])
        if not any(np.any(np.abs(known * scale - value) <= 0.5000001 * 10**-decimals) for scale in SCALES):
            found.append(one)
    return found


def known_to(article: Mapping[str, Sequence[str]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    found = np.array([leaf for file in files_of(article) for leaf in leaves(json.loads(file.read_text()))])
    with np.errstate(divide="ignore"):
        per_second = 1e3 / found[found != 0]  # ms per tile of tiles per second
    return np.concatenate([found, per_second, CONSTANTS])


def printed(article: Mapping[str, Sequence[str]]) -> list[str]:
    """What is printed of a result: not what axes are marked with, nor sums, which are held against their parts."""
    return [*article.get("td", []), *article.get("text", []), *article.get("h3", [])]


@pytest.fixture(scope="module")
def all_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write_all(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module", params=["results", "made"])
def report(request: pytest.FixtureRequest, all_made: Path) -> Report:
    return make_report([RESULTS if request.param == "results" else all_made])


def test_a_page_of_every_result_there_is_stands_alone_and_loads_nothing(report: Report) -> None:
    page = Page(report.page)
    assert page.loads == []
    assert {link.removeprefix("#") for link in page.links} == set(page.ids)
    assert not {"script", "img", "link", "iframe", "foreignobject"} & set(page.tags)
    assert "url(" not in report.page
    assert "@import" not in report.page
    assert re.findall(r"https?://[^\"'\s<]+", report.page) == []
    for svg in re.findall(r"<svg.*?</svg>", report.page, flags=re.DOTALL):
        picture = ElementTree.fromstring(svg)
        assert picture[0].tag == "title"
        assert "nan" not in svg.lower()


def test_every_number_of_every_article_is_in_the_file_that_it_names(report: Report) -> None:
    page = Page(report.page)
    assert len(page.articles) >= 10
    for article in page.articles:
        if any(file.stem in SUMMED_UP for file in files_of(article)):
            continue
        known = known_to(article)
        for text in printed(article):
            assert unfounded(text, known) == [], f"{text!r} of {article['li']}"


def row_of(report: Report, section: str, first: str) -> dict[str, str]:
    """By its columns, the first row that begins so."""
    lines = report.tables.partition(f"## {section}\n")[2].partition("\n## ")[0].replace("\\", "").splitlines()
    tables = [[cell.strip() for cell in line.split(" | ")] for line in lines if line.startswith("|")]
    at = next(place for place, cells in enumerate(tables) if cells[0] == f"| {first}")
    head = max(place for place, cells in enumerate(tables[:at]) if set(tables[place + 1][0]) <= set("| -:"))
    return {name.strip("| "): cell.strip("| ") for name, cell in zip(tables[head], tables[at], strict=True)}


def test_figures_stand_in_the_columns_that_they_belong_to(all_made: Path) -> None:
    """A row of each kind, worked out by hand from `made_results`."""
    report = make_report([all_made])
    assert row_of(report, "Time per stage", "480") == {
        "tiles per frame": "480",
        "frame": "a square",
        "whole way, ms/tile": "0.594 (0.535 to 0.683)",
        "engine by itself, ms/tile": "0.512 (0.461 to 0.589)",
        "over the engine": "1.06 (0.954 to 1.22)",
    }
    assert row_of(report, "Time per stage", "2448x2048") == {
        "frame": "2448x2048",
        "tiles": "120",
        "stage": "grab",
        "ms": "0.625 (0.562 to 0.719)",
        "p99, ms": "3.50",
        "CPU, ms": "1.75",
        "reads, MB": "15.0",
        "writes, MB": "18.1",
        "arrays": "7",
        "of them, MB": "0.0750",
        "page faults": "2.50",
    }
    assert row_of(report, "From capture to event", "15.5") == {
        "asked, frames/s": "15.5",
        "came": "14.5",
        "seconds": "6.00",
        "p50, ms": "64.2",
        "p99, ms": "71.5",
        "kept up": "no",
        "lost": "dropped.overload 1",
    }
    assert row_of(report, "Start", "cached") == {
        "start": "cached",
        "with": "files in memory, with the model cache",
        "READY, s": "1.45 (1.30 to 1.67)",
        "of warm": "0.600 (0.540 to 0.690)",
        "processor time, s": "0.750 (0.675 to 0.862)",
        "first verdict, s": "1.70 (1.53 to 1.95)",
    }
    beside = row_of(report, "Beside others", "grad-cam")
    assert (beside["of the engine"], beside["ours to it"]) == ("0.0800", "12.1")
    assert (beside["frames/s"], beside["tiles/s"]) == ("0.500 (0.450 to 0.575)", "60.0 (54.0 to 69.0)")
    assert row_of(report, "What a map costs", made.MODEL) == {
        "model": made.MODEL,
        "map": "cam",
        "by": "graph",
        "batch": "1",
        "ratio of medians": "1.000",
        "ratio by rounds": "1.00 (0.900 to 1.15)",
        "with map, ms/tile": "1.25 (1.12 to 1.44)",
        "alone, ms/tile": "1.25 (1.12 to 1.44)",
        "alone is": "pooling",
    }
    counted = row_of(report, "Parameters and multiply-adds", made.MODEL)
    assert (counted["parameters, M"], counted["GMACs"], counted["GFLOPs"], counted["Table 1.1, GMACs"]) == (
        *("0.79", "0.1521", "0.3042", "0.220"),
    )
    placed = row_of(report, "Accuracy and latency", made.MODEL)
    assert (placed["tile AP"], placed["tile AUROC"], placed["ms per tile"]) == ("0.875", "0.938", "1.25")


def test_a_number_that_is_in_no_file_would_be_found(all_made: Path) -> None:
    """Of the test before: half of all numbers of a page are strange to a file whose figures are others."""
    (article, *_) = [one for one in Page(make_report([all_made]).page).articles if "stages.json" in one["li"][0]]
    others = known_to(article) * 1.37
    wrong = [one for text in printed(article) for one in unfounded(text, others)]
    assert len(wrong) > 0.5 * sum(len(numbers(text)) for text in printed(article))


def test_what_is_plotted_is_printed_in_a_table_too(report: Report) -> None:
    """Markdown has no plots, and a screen reader reads tables."""
    for article in Page(report.page).articles:
        in_tables = {one for text in (*article["td"], *article["h3"], *article.get("h4", [])) for one in numbers(text)}
        of_plots = {one for text in article.get("text", []) for one in numbers(text)}
        # Facts of a command may print a figure to more digits than a plot does.
        known = [*in_tables, *CONSTANTS]
        missing = [one for one in of_plots if not any(abs(one - other) <= 0.006 * abs(other) for other in known)]
        assert missing == [], article["h3"]


def test_the_markdown_says_what_the_page_says(report: Report) -> None:
    unescaped = re.sub(r"\\(.)", r"\1", report.tables)
    for article in Page(report.page).articles:
        for cell in (*article["td"], *article["h3"], *article["li"]):
            assert " ".join(cell.split()) in unescaped
    for lines in re.findall(r"(?:^\|.*\|$\n?)+", report.tables, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines.strip().splitlines()}) == 1


def test_every_article_names_file_machine_commit_and_time(all_made: Path) -> None:
    for article in Page(make_report([all_made]).page).articles:
        assert any("machine A, commit 0123456789ab, 2026-11-26T06:32:10Z, load 0.25" in line for line in article["li"])


def test_of_an_older_file_it_says_what_is_not_told() -> None:
    (article,) = Page(make_report([RESULTS / "seams.json"]).page).articles
    assert "commit not told, time not told, load 2.47" in article["li"][0]


def test_sections_come_in_one_order_and_targets_first(all_made: Path) -> None:
    assert Page(make_report([all_made]).page).ids == [
        *("machines", "targets", "end-to-end", "stages", "startup", "tune", "peers", "plane", "map-cost", "flops"),
    ]


def targets_of(report: Report) -> list[dict[str, str]]:
    """Lines of the table of targets."""
    text = report.tables.partition("## Targets")[2].partition("\n## ")[0].replace("\\", "")
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")
    ]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_every_target_is_held_against_its_figure(all_made: Path) -> None:
    rows = targets_of(make_report([all_made]))
    assert [(row["what"], row["target"], row["found"], row["reached"]) for row in rows] == [
        ("service over engine, saturated", "at least 0.95", "0.968", "yes"),
        ("service over engine, saturated", "at least 0.98", "-", "not measured"),
        ("latency of a frame on an idle service, beyond its tiles in the engine, ms", "at most 5", "7.00", "no"),
        ("p99 - p50 from capture to event, frame periods", "under 0.25", "0.141", "yes"),
        ("frames per second, over grad-cam", "at least 10", "12.1", "yes"),
        ("share of the engine, over the best other's", "over 1", "2.20", "yes"),
        ("dearest tile over the cheapest, %", "at most 10", "12.7", "no"),
        ("process start to READY, s", "under 2", "1.45", "yes"),
        (
            "PSS of the service's processes, MB",
            *("under 400", "314", "yes"),
        ),
    ]
    assert {row["machine"] for row in rows} == {"machine A", "-"}
    assert Path(rows[0]["file"]).name == "end-to-end.json"


def replaced(found: Any, **changed: Any) -> Any:
    return msgspec.structs.replace(found, **changed)


WINDOW, HIGHEST, IDLE = made.end_to_end().window, made.end_to_end().highest, made.end_to_end().idle
COSTS = made.stages().cost_per_tile
PEERS = made.peers()
BUT_TWO = [one for one in PEERS.systems if one.name not in ("anomalib", "model-api")]
IDLE_WERE_BUSY = "systems without a turn took 0.0625 of a core"


@pytest.mark.parametrize(
    ("found", "what", "other"),
    [
        (replaced(made.end_to_end(), precision="f32"), "service over engine", "f32"),
        (replaced(made.end_to_end(), model="resnet18"), "service over engine", "resnet18"),
        (replaced(made.end_to_end(), frame_hw=(1080, 1920)), "service over engine", "1920x1080 px"),
        (replaced(made.end_to_end(), quick=True), "service over engine", "--quick"),
        (replaced(made.end_to_end(), ended="interrupted"), "service over engine", "interrupted"),
        (replaced(made.end_to_end(), ended="a verdict was wrong"), "PSS", "the run failed"),
        (replaced(made.end_to_end(), journal=True), "latency of a frame on an idle", "a journal"),
        (replaced(made.end_to_end(), idle=replaced(IDLE, lost=2)), "latency of a frame on an idle", "2 frames lost"),
        (replaced(made.end_to_end(), highest=None), "p99 - p50", "the highest rate is not in the file"),
        (
            replaced(made.end_to_end(), highest=replaced(HIGHEST, rate_fps=23.2)),
            *("p99 - p50", "at 50 % of the highest rate"),
        ),
        (replaced(made.end_to_end(), window=replaced(WINDOW, seconds=20.0)), "p99 - p50", "20 s"),
        (replaced(made.end_to_end(), window=replaced(WINDOW, came_fps=9.0)), "p99 - p50", "9.00 frames/s came"),
        (replaced(made.end_to_end(), window=replaced(WINDOW, dropped={"overload": 1})), "p99 - p50", "1 frames lost"),
        (replaced(made.end_to_end(), cameras=2), "PSS", "2 cameras"),
        (replaced(made.end_to_end(), model="resnet18"), "PSS", "resnet18"),
        (replaced(made.stages(), cost_per_tile=COSTS[:2]), "dearest tile", "9 to 120 tiles"),
        (replaced(PEERS, systems=BUT_TWO), "share of the engine", "without anomalib, without model-api"),
        (replaced(PEERS, others_cpu=0.0625), "share of the engine", IDLE_WERE_BUSY),
        (replaced(PEERS, others_cpu=0.0625), "frames per second, over grad-cam", IDLE_WERE_BUSY),
    ],
)
def test_a_figure_of_other_conditions_reaches_nothing(tmp_path: Path, found: Any, what: str, other: str) -> None:
    kinds = {made.EndToEnd: "end-to-end", made.StagesBench: "stages", made.PeersBench: "peers"}
    made.write(tmp_path, kinds[type(found)], found)
    (row, *_) = [row for row in targets_of(make_report([tmp_path])) if row["what"].startswith(what)]
    assert (row["reached"], row["found"] != "-") == (f"other conditions: {other}", True)


def test_a_run_that_is_not_whole_is_marked_and_one_of_before_that_was_told_is_whole(tmp_path: Path) -> None:
    mark = "This run is not whole"
    file = made.write(tmp_path, "end-to-end", replaced(made.end_to_end(), ended="a verdict was wrong"))
    assert f"{mark}, and nothing of it counts for a target: a verdict was wrong." in make_report([file]).page
    old = json.loads(file.read_text())
    del old["ended"]
    file.write_text(json.dumps(old))
    assert mark not in make_report([file]).page
    assert targets_of(make_report([file]))[0]["reached"] == "yes"


@pytest.mark.parametrize(
    ("precision", "left_out", "reached"),
    [
        ("f32", (), "yes"),
        ("f32", ("grad-cam",), "other conditions: without grad-cam"),
        ("int8", ("grad-cam",), "yes"),
        ("int8", ("grad-cam", "anomalib"), "other conditions: without anomalib"),
    ],
)
def test_the_best_other_is_one_of_all_that_can_do_the_precision(
    tmp_path: Path, precision: str, left_out: Sequence[str], reached: str
) -> None:
    timed = [one for one in PEERS.systems if one.name not in left_out]
    made.write(tmp_path, "peers", replaced(PEERS, precision=precision, systems=timed))
    (row,) = [row for row in targets_of(make_report([tmp_path])) if row["what"].startswith("share of the engine")]
    assert row["reached"] == reached


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "default settings, no journal"),
        ({"engine_settings": {"batch": 2, "streams": 1}, "journal": True}, "batch 2, streams 1, a journal"),
    ],
)
def test_a_figure_from_end_to_end_names_settings_and_journal(tmp_path: Path, changed: Any, told: str) -> None:
    made.write(tmp_path, "end-to-end", replaced(made.end_to_end(), **changed))
    of = {row["of"] for row in targets_of(make_report([tmp_path])) if row["file"] != "-"}
    assert of == {f"{made.MODEL} bf16, 2448x2048, {told}"}


@pytest.mark.parametrize(("changed", "other"), [({"cores": 4}, "4 cores"), ({"cpu_quota": 1.5}, "time of 1.5 cores")])
def test_all_targets_are_for_two_cores(tmp_path: Path, changed: dict[str, Any], other: str) -> None:
    made.write(tmp_path, "startup", made.startup(), **changed)
    rows = targets_of(make_report([tmp_path]))
    assert {row["reached"] for row in rows} == {"not measured", f"other conditions: {other}"}


# Machines.


def test_nothing_of_two_machines_stands_in_one_plot(tmp_path: Path) -> None:
    """Two machines, two models: four latencies, of which each is drawn on its own machine's plane."""
    for machine, cores in (("here", 2), ("there", 8)):
        (tmp_path / machine).mkdir()
        costs = made.map_costs(ms=cores).rows + made.map_costs("resnet18", ms=3 * cores).rows
        made.write(tmp_path / machine, "map-cost", made.MapCosts(rows=costs), cores=cores)
    for model, precision in ((made.MODEL, 0.5), ("resnet18", 0.75)):
        file = tmp_path / f"{model}.json"
        file.write_bytes(msgspec.json.encode(made.evaluation(model, precision)))
    planes = [one for one in Page(make_report([tmp_path]).page).articles if "boards, masks" in one["h3"]]
    assert [[cell for cell in one["td"] if NUMBER.fullmatch(cell)] for one in planes] == [
        ["0.500", "0.938", "2.00", "0.750", "0.938", "6.00"],
        ["0.500", "0.938", "8.00", "0.750", "0.938", "24.0"],
    ]
    assert ["A" in one["li"][0].partition("machine ")[2][:1] for one in planes] == [True, False]
    assert all(
        f"{machine}/map-cost.json" in one["li"][0] for machine, one in zip(("here", "there"), planes, strict=True)
    )


def test_measurements_of_several_machines_in_one_file_part(tmp_path: Path) -> None:
    bundles = json.loads((RESULTS / "precisions.json").read_text())["bundles"][:2]
    bundles[1]["machine"]["cores"] = 64
    file = tmp_path / "precisions.json"
    file.write_text(json.dumps({"bundles": bundles}))
    assert [(one.machine_kind.cores, len(one.measurements)) for one in read(file)] == [(2, 1), (64, 1)]
    first, second = Page(make_report([file]).page).articles
    assert (bundles[0]["bundle"] in first["td"], bundles[1]["bundle"] in first["td"]) == (True, False)
    assert bundles[1]["bundle"] in second["td"]


@pytest.mark.parametrize(
    "changed", [{"processor": "other"}, {"extensions": ["avx2"]}, {"cores": 4}, {"governor": "powersave"}]
)
def test_machines_differ_by_what_decides_how_fast_they_are(tmp_path: Path, changed: dict[str, Any]) -> None:
    (tmp_path / "a").mkdir()
    one, other = (
        made.write(tmp_path, "peers", made.peers()),
        made.write(tmp_path / "a", "peers", made.peers(), **changed),
    )
    same = made.write(tmp_path / "a", "stages", made.stages(), load=[9.0, 9.0, 9.0], commit="abc", at_utc="later")
    kinds = [read(file)[0].machine_kind for file in (one, other, same)]
    assert (kinds[0] != kinds[1], kinds[0] == kinds[2]) == (True, True)


def test_a_machine_is_the_same_in_the_older_format_of_files(tmp_path: Path) -> None:
    old = {"processor": "Example CPU 9, avx2 avx512f", "cores": 2, "load_1_min": 0.1}
    new = made.a_machine(processor="Example CPU 9", extensions=["avx2", "fma", "avx512f"], governor=None)
    for name, machine in (("old", old), ("new", new)):
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode({"bench": "peers", "machine": machine}))
    kinds = {read(tmp_path / f"{name}.json")[0].machine_kind for name in ("old", "new")}
    assert len(kinds) == 1


@pytest.mark.parametrize("kind", [kind for kind in made.MADE if kind != "map-cost"])
def test_all_measurements_of_a_file_are_shown(tmp_path: Path, kind: str) -> None:
    """Files may be put together, as that of precisions is; each measurement keeps its machine."""
    file = made.write(tmp_path, kind, made.MADE[kind])
    one = json.loads(file.read_text())
    once = Page(make_report([tmp_path]).page).articles
    file.write_text(json.dumps({"bench": kind, "runs": [one, one]}))
    twice = Page(make_report([tmp_path]).page).articles
    headings = [[article["h3"] for article in of if article["h3"] != ["Figures to reach"]] for of in (once, twice)]
    assert headings[1] == 2 * headings[0]


# Evaluations.


def test_systems_are_compared_over_the_pictures_that_all_were_held_to(tmp_path: Path) -> None:
    """Of one, two folds are known, of the other one: on the plane is the fold of both."""
    made.write(tmp_path, "map-cost", made.MapCosts(rows=made.map_costs().rows + made.map_costs("resnet18").rows))
    told = [(made.MODEL, 0.5, ("a",)), (made.MODEL, 0.7, ("b",)), ("resnet18", 0.8, ("b",))]
    for number, (model, precision, groups) in enumerate(told):
        (tmp_path / f"{number}.json").write_bytes(msgspec.json.encode(made.evaluation(model, precision, groups)))
    (article,) = [one for one in Page(make_report([tmp_path]).page).articles if "boards, masks" in one["h3"]]
    assert ("0.700" in article["td"], "0.800" in article["td"], "0.500" in article["td"]) == (True, True, False)


def test_an_evaluation_without_a_latency_is_named(tmp_path: Path) -> None:
    made.write(tmp_path, "map-cost", made.map_costs())
    (tmp_path / "vit.json").write_bytes(msgspec.json.encode(made.evaluation("vit", 0.5)))
    (sentence,) = make_report([tmp_path]).unusable
    assert "vit.json evaluates vit with cam, of which no latency is known" in sentence


def test_an_evaluation_that_knows_no_auroc_has_a_dash(tmp_path: Path) -> None:
    made.write(tmp_path, "map-cost", made.map_costs())
    known = made.evaluation(made.MODEL, 0.5)
    known["truths"][0]["figures"]["tile"]["auroc"] = None
    (tmp_path / "evaluation.json").write_bytes(msgspec.json.encode(known))
    placed = row_of(make_report([tmp_path]), "Accuracy and latency", made.MODEL)
    assert (placed["tile AP"], placed["tile AUROC"], Path(placed["in"]).name) == ("0.500", "-", "map-cost.json")


@pytest.mark.parametrize("changed", [{"average_precision": None}, {"family": "rnn"}, {"ms": -1.0}])
def test_an_evaluation_that_cannot_be_placed_is_named(tmp_path: Path, changed: dict[str, Any]) -> None:
    made.write(tmp_path, "startup", made.startup())
    made.write(tmp_path, "map-cost", made.map_costs(ms=changed.get("ms", 1.0)))
    known = made.evaluation(made.MODEL, 0.5)
    known["told"] |= {name: value for name, value in changed.items() if name == "family"}
    tile = known["truths"][0]["figures"]["tile"]
    tile |= {name: value for name, value in changed.items() if name == "average_precision"}
    (tmp_path / "evaluation.json").write_bytes(msgspec.json.encode(known))
    found = make_report([tmp_path])
    assert [sentence for sentence in found.unusable if "evaluation.json" in sentence] != []
    assert "plane" not in Page(found.page).ids


def test_of_an_evaluation_that_two_files_hold_one_is_named_as_left_out(tmp_path: Path) -> None:
    made.write(tmp_path, "map-cost", made.map_costs())
    for name, precision in (("a", 0.5), ("b", 0.75)):
        file = tmp_path / f"{name}.json"
        file.write_bytes(msgspec.json.encode(made.evaluation(made.MODEL, precision)))
    found = make_report([tmp_path])
    assert row_of(found, "Accuracy and latency", made.MODEL)["tile AP"] == "0.750"
    (sentence,) = found.unusable
    assert "a.json evaluates" in sentence
    assert "a file read later evaluates the same" in sentence


def test_result_files_that_docs_tell_of_are_there() -> None:
    told = (RESULTS / "README.md").read_text()
    names = set(re.findall(r"^\| `([\w-]+\.json)`", told, flags=re.MULTILINE))
    for file in (RESULTS / "README.md", *(ROOT / "docs").glob("*.md")):
        names |= set(re.findall(r"bench/results/([\w-]+\.json)", file.read_text()))
    assert len(names) > 5
    assert [name for name in sorted(names) if not (RESULTS / name).is_file()] == []


# Files that cannot be used.

DAMAGED = {
    "cut off": b'{"bench": "soak", "machine": {',
    "no JSON": b"\x00\xff\xfe picture",
    "too deep": b"[" * 100_000,
    "empty": b"",
    "a list": b"[]",
    "an empty object": b"{}",
    "of another tool": b'{"name": "package", "version": "1"}',
    "of a kind to come": b'{"bench": "telepathy", "machine": {}}',
    "of a kind that is a list": b'{"bench": ["soak"], "machine": {}}',
    "with a machine that is none": b'{"bench": "soak", "machine": 7}',
    "with figures that are none": b'{"bench": "peers", "machine": {"extensions": 3, "cores": "2"}, "systems": 1}',
    "without its figures": b'{"bench": "stages", "machine": {}}',
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_in_a_sentence_and_the_others_are_shown(tmp_path: Path, data: bytes) -> None:
    made.write(tmp_path, "startup", made.startup())
    (tmp_path / "bad.json").write_bytes(data)
    found = make_report([tmp_path])
    (sentence,) = found.unusable
    assert "bad.json" in sentence
    assert len(sentence) < 400
    page = Page(found.page)
    assert page.ids == ["machines", "targets", "startup", "unusable"]
    assert "bad.json" in found.tables.partition("## Not in this report")[2]


@pytest.mark.parametrize("kind", [*made.MADE, *RECOGNISED])
def test_a_file_of_which_any_part_is_missing_or_other_never_ends_the_report(tmp_path: Path, kind: str) -> None:
    """Each key at the top taken away, and each given what it cannot be: shown as far as it can be, or named."""
    if kind in made.MADE:
        file = made.write(tmp_path, kind, made.MADE[kind])
    else:
        sources = [RESULTS / f"{kind}.json", *RESULTS.rglob("study/*/*/efficientnet_lite0_d.json")]
        file = next(source for source in sources if source.is_file())
    whole = json.loads(file.read_text())
    (tmp_path / "whole").mkdir()
    made.write(tmp_path / "whole", "flops", made.FLOPS)
    for key in whole:
        for changed in ({k: v for k, v in whole.items() if k != key}, whole | {key: "strange"}, whole | {key: []}):
            (tmp_path / f"{kind}.json").write_text(json.dumps(changed))
            found = make_report([tmp_path])
            assert "flops" in Page(found.page).ids


def test_where_nothing_can_be_used_it_says_why(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="there is no result file in"):
        make_report([tmp_path])
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(BenchError, match=r"nothing can be shown: .*bad\.json"):
        make_report([tmp_path])
    with pytest.raises(InputError, match="nowhere is not there"):
        make_report([tmp_path / "nowhere"])


def test_files_are_taken_once_and_only_those_that_are_json(tmp_path: Path) -> None:
    file = made.write(tmp_path, "startup", made.startup())
    (tmp_path / "notes.txt").write_text("no JSON")
    (tmp_path / "folder.json").mkdir()
    found = make_report([tmp_path, file, tmp_path])
    assert (found.files, found.unusable) == (1, [])


def test_a_file_in_which_nothing_was_measured_is_named(tmp_path: Path) -> None:
    """As a soak that was ended before its first run."""
    made.write(tmp_path, "startup", made.startup())
    made.write(tmp_path, "map-cost", made.MapCosts(rows=[]))
    (sentence,) = make_report([tmp_path]).unusable
    assert "map-cost.json is a result of 'map-cost' in which nothing was measured" in sentence


HOSTILE = "</script></style></title><script>alert(1)</script><img src=x onerror=alert(1)>&amp;|`*[a](b)"


def test_what_a_file_says_is_never_taken_for_html_or_markdown(tmp_path: Path) -> None:
    for kind, found in made.MADE.items():
        report = json.loads(msgspec.json.encode(found))
        made.write(tmp_path, kind, _hostile(report), processor=HOSTILE, commit=HOSTILE, governor=HOSTILE)
    found_report = make_report([tmp_path])
    page = Page(found_report.page)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.ids.count("unusable") == 0, found_report.unusable
    cells = [cell for article in page.articles for cell in article["td"]]
    assert sum(HOSTILE in cell for cell in cells) > 10
    for line in found_report.tables.splitlines():
        assert not re.search(r"(?<!\\)<|(?<!\\)`|\]\(", line), line


def _hostile(value: Any) -> Any:
    """Names, of which nothing depends, made hostile."""
    if isinstance(value, dict):
        chosen = ("model", "what", "reason", "why_not_cold", "units", "variant", "bare", "journal_on", "limited_by")
        return {key: HOSTILE if key in chosen else _hostile(one) for key, one in value.items()}
    return [_hostile(one) for one in value] if isinstance(value, list) else value


# The command.


def test_the_command_writes_both_files_and_says_where_and_what_is_left_out(tmp_path: Path) -> None:
    file, to = made.write(tmp_path, "startup", made.startup()), tmp_path / "out" / "report"
    (tmp_path / "bad.json").write_text("{}")
    done = CliRunner().invoke(command, [str(file), str(tmp_path / "bad.json"), "--to", str(to), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said == {
        "page": str(to / "report.html"),
        "tables": str(to / "report.md"),
        "files": 1,
        "left_out": said["left_out"],
    }
    assert "bad.json" in said["left_out"][0]
    assert "left out: " in done.stderr
    assert Page((to / "report.html").read_text()).ids[0] == "machines"
    assert (to / "report.md").read_text().startswith("# heatline bench\n")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = make_report([made.write(tmp_path, "startup", made.startup())])
    with pytest.raises(BenchError, match="cannot be written"):
        write_report(found, tmp_path / "file" / "report")


WITHOUT_EXTRAS = """
import sys
from pathlib import Path
for name in ("torch", "timm", "lightning", "hydra", "torchmetrics", "optuna", "onnx", "nncf", "jinja2", "pytest"):
    sys.modules[name] = None  # an import of it fails
from bench.report.write import make_report
print(make_report([Path(one) for one in sys.argv[1:]]).files)
"""


def test_a_report_is_made_with_no_extra(all_made: Path) -> None:
    arguments = [sys.executable, "-W", "error", "-c", WITHOUT_EXTRAS, str(RESULTS), str(all_made)]
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 20


# Plots.


def drawn(svg: str, tag: str) -> list[ElementTree.Element]:
    return [one for one in ElementTree.fromstring(svg).iter() if one.tag == tag]


def test_bars_are_as_long_as_their_values_and_whiskers_reach_the_extremes() -> None:
    svg = bars([Bar("one", 0.5, 0.25, 0.75), Bar("other", 1.0), Bar("none", 0.0)], "t", "unit", (1.0, "reference"))
    widths = [float(one.attrib["width"]) for one in drawn(svg, "rect")]
    assert widths[0] == pytest.approx(0.5 * widths[1], abs=0.05)
    assert widths[2] == 0
    left = float(drawn(svg, "rect")[0].attrib["x"])
    low, high = re.search(r"M([\d.]+),[\d.]+v8M[\d.]+,[\d.]+H([\d.]+)", svg).groups()  # type: ignore[union-attr]
    assert [float(low) - left, float(high) - left] == pytest.approx([0.25 * widths[1], 0.75 * widths[1]], abs=0.2)


def test_segments_of_a_stack_lie_one_behind_the_other_and_keep_their_colours() -> None:
    names = ("a", "b", "c")
    whole = stacks([Stack("s", [("a", 1.0), ("b", 6.0), ("c", 3.0)])], "t", "ms", names)
    rest = stacks([Stack("s", [("a", 1.0), ("c", 3.0)])], "t", "ms", names)
    legend_of = {svg: len(drawn(svg, "rect")) // 2 for svg in (whole, rest)}
    segments = drawn(whole, "rect")[legend_of[whole] :]
    ends = [(float(one.attrib["x"]), float(one.attrib["width"])) for one in segments]
    for (x, width), (next_x, _) in pairwise(ends):
        assert x + width + 1 == pytest.approx(next_x, abs=0.1)  # a px of paper is between them
    assert [(width + 1) / (ends[0][1] + 1) for _, width in ends] == pytest.approx([1.0, 6.0, 3.0], rel=0.01)
    assert [one.attrib["fill"] for one in drawn(rest, "rect")[legend_of[rest] :]] == [COLOURS[0], COLOURS[2]]
    sums = [one.text for one in drawn(whole, "text") if one.attrib.get("class") == "sum"]
    assert sums == ["10.0"]


def test_the_curve_of_a_distribution_passes_its_marks() -> None:
    """Quantiles by numpy, at the pixels where the curve is."""
    ms = np.sort(np.random.default_rng(3).lognormal(3, 0.8, 2000))
    marked = [(f"p{round(100 * share)}", share, float(np.quantile(ms, share))) for share in (0.5, 0.95, 0.99)]
    svg = distributions([Distribution("d", ms.tolist(), [1] * len(ms), marked)], "t")
    (curve,) = drawn(svg, "polyline")
    points = np.array([[float(one) for one in point.split(",")] for point in curve.attrib["points"].split()])
    circle = drawn(svg, "circle")[0]
    at, height = float(circle.attrib["cx"]), float(circle.attrib["cy"])
    assert np.interp(at, points[:, 0], points[:, 1]) == pytest.approx(height, abs=1.0)
    assert points[-1][1] == min(points[:, 1])
    assert np.all(np.diff(points[:, 0]) >= 0)
    assert np.all(np.diff(points[:, 1]) <= 0)


def test_a_plane_has_its_points_where_they_belong_and_no_words_over_one_another() -> None:
    places = [Place(f"a model with number {number}", 1.0 + number / 50, 0.5, number % 2) for number in range(12)]
    svg = plane(places, ("cnn", "vit"), "t", "ms", "AP")
    words = [one for one in drawn(svg, "text") if one.text and one.text.startswith("a model")]
    heights = sorted(float(one.attrib["y"]) for one in words)
    assert len(heights) == 12
    assert all(b - a >= 14 for a, b in pairwise(heights))
    marks = drawn(svg, "circle")[1:]
    xs = [float(one.attrib["cx"]) for one in marks]
    assert xs == sorted(xs)
    assert len({one.attrib["cy"] for one in marks}) == 1


def test_a_series_is_drawn_from_zero_with_its_band() -> None:
    svg = series([Series("s", [(9, 1.0), (480, 2.0)])], "t", "tiles", "ms", (1.0, 1.1, "band"))
    (curve,) = drawn(svg, "polyline")
    first, last = [[float(one) for one in point.split(",")] for point in curve.attrib["points"].split()]
    band = next(one for one in drawn(svg, "rect") if "fill-opacity" in one.attrib)
    assert float(band.attrib["y"]) + float(band.attrib["height"]) == pytest.approx(first[1], abs=0.1)
    zero = max(float(one.attrib["y"]) for one in drawn(svg, "text") if one.text == "0") - 4
    assert (zero - last[1]) / (zero - first[1]) == pytest.approx(2.0, rel=0.01)


POSITIVE = st.floats(1e-6, 1e9)


@given(POSITIVE, POSITIVE, st.booleans())
def test_an_axis_begins_and_ends_at_a_tick_and_holds_all_values(one: float, other: float, is_log: bool) -> None:
    low, high = sorted((one, other))
    axis = (Axis.logarithmic if is_log else Axis.linear)(low, high, 100.0, 500.0)
    assert axis.low <= low * (1 + 1e-6) + 1e-9
    assert axis.high >= high * (1 - 1e-6) - 1e-9
    assert (axis.ticks[0], axis.ticks[-1]) == (axis.low, axis.high)
    assert 2 <= len(axis.ticks) <= 16
    pixels = [axis.at(tick) for tick in axis.ticks]
    assert (pixels[0], pixels[-1]) == (pytest.approx(100.0), pytest.approx(500.0))
    assert pixels == sorted(pixels)


@given(st.floats(1e-6, 1e9), st.integers(2, 5))
def test_a_figure_is_shown_to_its_digits_and_without_a_power_of_ten(value: float, digits: int) -> None:
    text = shown(value, digits)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.5 * 10 ** (1 - digits))
    assert shown(None) == "-"
    assert shown(12_345) == "12,345"
