"""`heatline bench report`: its figures are those of its files, held to the targets, never of two machines at once."""

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.commands.report import report as command
from bench.report.content import shown
from bench.report.files import read
from bench.report.write import Report, make_report, write_report
from edge.errors import BenchError, InputError
from tests.bench import made_results as made

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
VOID = {"meta", "br", "path", "rect", "circle", "polyline", "polygon"}


class Page(HTMLParser):
    """Reads a page: what it loads, and the words of each article by the tag around them. Tags must be balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.articles: list[dict[str, list[str]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "article":
            self.articles.append({})
        if tag == "section":
            self.ids.append(given["id"])
        assert not any(name.startswith("on") for name in given), "a handler in an attribute"
        self.loads += [given[name] for name in ("src", "href") if name in given and not given[name].startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "article" in self.open and data.strip():
            self.articles[-1].setdefault(self.open[-1], []).append(data)


def replaced(found: Any, **changed: Any) -> Any:
    return msgspec.structs.replace(found, **changed)


def table_of(report: Report, section: str, first: str) -> list[dict[str, str]]:
    """The lines of a section's tables that begin with this cell, by column."""
    found, head = [], list[str]()
    lines = report.tables.partition(f"## {section}\n")[2].partition("\n## ")[0].replace("\\", "").splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if re.fullmatch(r"[|\s:-]+", below) and "-" in below:
            head = cells
        elif line.startswith("|") and line[2].isalnum() and cells[0].startswith(first):
            found.append(dict(zip(head, cells, strict=True)))
    return found


def target_of(report: Report, what: str) -> dict[str, str]:
    return table_of(report, "Targets", what)[0]


@pytest.fixture(scope="module")
def all_made(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return make_report([made.write_all(tmp_path_factory.mktemp("made"))])


@pytest.mark.parametrize("files", ["kept", "made"])
def test_a_page_of_every_result_stands_alone_and_runs_nothing(files: str, all_made: Report) -> None:
    report = make_report([RESULTS]) if files == "kept" else all_made
    page = Page(report.page)
    assert page.loads == []
    assert not {"script", "img", "link", "iframe", "foreignobject"} & page.tags
    assert not re.search(r"url\(|@import|https?://", report.page)
    unescaped = re.sub(r"\\(.)", r"\1", report.tables)
    for article in page.articles:
        assert article["li"], "the files that it comes from"
        for cell in (*article["td"], *article["h3"], *article["li"]):
            assert " ".join(cell.split()) in unescaped, "the tables in Markdown have what the page has"


def test_every_kind_shows_its_figures_in_the_columns_that_they_belong_to(all_made: Report) -> None:
    """A row of each kind, worked out by hand from `made_results`."""
    rows: Mapping[tuple[str, str], Mapping[str, str]] = {
        ("Time per stage", "480"): {"whole way, ms/tile": "0.594 (0.535 to 0.683)"},
        ("Time per stage", "2448x2048"): {"tiles": "120", "ms": "0.625 (0.562 to 0.719)", "reads, MB": "15.0"},
        ("From capture to event", "15.5"): {"came": "14.5", "p50, ms": "64.2", "lost": "dropped.overload 1"},
        ("Start", "cached"): {"READY, s": "1.45 (1.30 to 1.67)", "of warm": "0.600 (0.540 to 0.690)"},
        ("Beside others", "grad-cam"): {"of the engine": "0.0800", "ours to it": "12.1"},
        ("What a map costs", made.MODEL): {"with map, ms/tile": "1.25 (1.12 to 1.44)", "ratio of medians": "1.000"},
        ("Parameters and multiply-adds", made.MODEL): {"parameters, M": "0.79", "GMACs": "0.1521"},
        ("Accuracy and latency", made.MODEL): {"tile AP": "0.875", "tile AUROC": "0.938", "ms per tile": "1.25"},
    }  # fmt: skip
    for (section, first), expected in rows.items():
        row = table_of(all_made, section, first)[0]
        assert expected.items() <= row.items(), f"{section}: {row}"


def test_every_target_is_held_against_its_figure(all_made: Report) -> None:
    rows = table_of(all_made, "Targets", "")
    assert [(row["target"], row["found"], row["reached"]) for row in rows] == [
        ("at least 0.95", "0.968", "yes"),
        ("at least 0.98", "-", "not measured"),
        ("at most 5", "7.00", "no"),
        ("under 0.25", "0.141", "yes"),
        ("at least 10", "12.1", "yes"),
        ("over 1", "2.20", "yes"),
        ("at most 10", "12.7", "no"),
        ("under 2", "1.45", "yes"),
        ("under 400", "314", "yes"),
    ]
    assert Path(rows[0]["file"]).name == "end-to-end.json"


RUN, PEERS = made.end_to_end(), made.peers()
OVER, IDLE, JITTER, BEST = "service over engine", "latency of a frame on an idle", "p99 - p50", "share of the engine"
RUN_AT_HALF = replaced(RUN, highest=replaced(RUN.highest, rate_fps=23.2))
FEW_TILES = replaced(made.stages(), cost_per_tile=made.stages().cost_per_tile[:2])
BUSY = "systems without a turn took 0.0625 of a core"


def without(*names: str) -> Any:
    return [one for one in PEERS.systems if one.name not in names]


@pytest.mark.parametrize(
    ("kind", "found", "what", "other"),
    [
        ("end-to-end", replaced(RUN, precision="f32"), OVER, "f32"),
        ("end-to-end", replaced(RUN, frame_hw=(1080, 1920)), OVER, "1920x1080 px"),
        ("end-to-end", replaced(RUN, quick=True), OVER, "--quick"),
        ("end-to-end", replaced(RUN, ended="interrupted"), OVER, "interrupted"),
        ("end-to-end", replaced(RUN, ended="a verdict was wrong"), "PSS", "the run failed"),
        ("end-to-end", replaced(RUN, model="resnet18"), "PSS", "resnet18"),
        ("end-to-end", replaced(RUN, cameras=2), "PSS", "2 cameras"),
        ("end-to-end", replaced(RUN, journal=True), IDLE, "a journal"),
        ("end-to-end", replaced(RUN, idle=replaced(RUN.idle, lost=2)), IDLE, "2 frames lost"),
        ("end-to-end", replaced(RUN, highest=None), JITTER, "the highest rate is not in the file"),
        ("end-to-end", RUN_AT_HALF, JITTER, "at 50 % of the highest rate"),
        ("end-to-end", replaced(RUN, window=replaced(RUN.window, seconds=20.0)), JITTER, "20 s"),
        ("end-to-end", replaced(RUN, window=replaced(RUN.window, came_fps=9.0)), JITTER, "9.00 frames/s came"),
        ("end-to-end", replaced(RUN, window=replaced(RUN.window, unheard=1)), JITTER, "1 frames lost"),
        ("stages", FEW_TILES, "dearest tile", "9 to 120 tiles"),
        ("peers", replaced(PEERS, systems=without("anomalib")), BEST, "without anomalib"),
        ("peers", replaced(PEERS, others_cpu=0.0625), BEST, BUSY),
        ("peers", replaced(PEERS, precision="int8", systems=without("grad-cam")), BEST, None),
        ("peers", replaced(PEERS, precision="int8", systems=without("grad-cam", "anomalib")), BEST, "without anomalib"),
    ],
)  # fmt: skip
def test_a_figure_of_other_conditions_reaches_nothing(
    tmp_path: Path, kind: str, found: Any, what: str, other: str | None
) -> None:
    made.write(tmp_path, kind, found)
    row = target_of(make_report([tmp_path]), what)
    assert row["reached"] == ("yes" if other is None else f"other conditions: {other}")
    assert row["found"] != "-"


def test_targets_are_for_two_cores(tmp_path: Path) -> None:
    for changed, other in (({"cores": 4}, "4 cores"), ({"cpu_quota": 1.5}, "time of 1.5 cores")):
        made.write(tmp_path, "startup", **changed)
        assert target_of(make_report([tmp_path]), "process start")["reached"] == f"other conditions: {other}"


def test_nothing_of_two_machines_stands_in_one_plot(tmp_path: Path) -> None:
    """Two machines, two models: four latencies, each drawn on the plane of its own machine."""
    for machine, cores in (("here", 2), ("there", 8)):
        (tmp_path / machine).mkdir()
        costs = made.map_costs(ms=cores).rows + made.map_costs("resnet18", ms=3 * cores).rows
        made.write(tmp_path / machine, "map-cost", made.MapCosts(rows=costs), cores=cores)
    for model, precision in ((made.MODEL, 0.5), ("resnet18", 0.75)):
        (tmp_path / f"{model}.json").write_bytes(made.evaluation(model, precision, "a"))
    planes = [one for one in Page(make_report([tmp_path]).page).articles if "boards, masks" in one["h3"]]
    assert [[cell for cell in one["td"] if re.fullmatch(r"[\d.]+", cell)] for one in planes] == [
        ["0.500", "0.938", "2.00", "0.750", "0.938", "6.00"],
        ["0.500", "0.938", "8.00", "0.750", "0.938", "24.0"],
    ]


def test_machines_differ_by_what_decides_how_fast_they_are(tmp_path: Path) -> None:
    def kind(**changed: Any) -> object:
        return read(made.write(tmp_path, "peers", **changed))[0].machine_kind

    assert kind() == kind(load=[9.0, 9.0, 9.0], commit="abc", at_utc="later", versions={})
    for changed in ({"processor": "other"}, {"extensions": ["avx2"]}, {"cores": 4}, {"governor": "powersave"}):
        assert kind() != kind(**changed)


def test_measurements_of_one_file_part_by_machine(tmp_path: Path) -> None:
    one = json.loads(made.write(tmp_path, "startup").read_text())
    (tmp_path / "startup.json").write_text(json.dumps({"bench": "startup", "runs": [one, one]}))
    assert [len(found.measurements) for found in read(tmp_path / "startup.json")] == [2]
    other = {**one, "machine": made.a_machine(cores=64)}
    (tmp_path / "startup.json").write_text(json.dumps({"bench": "startup", "runs": [one, other]}))
    found = read(tmp_path / "startup.json")
    assert [(each.machine_kind.cores, len(each.measurements)) for each in found] == [(2, 1), (64, 1)]


def test_systems_are_compared_over_the_pictures_that_all_were_evaluated_on(tmp_path: Path) -> None:
    """Two folds are known of one system, one of the other: the plane shows the fold that both have."""
    made.write(tmp_path, "map-cost", made.MapCosts(rows=made.map_costs().rows + made.map_costs("resnet18").rows))
    for number, (model, precision, group) in enumerate(
        [(made.MODEL, 0.5, "a"), (made.MODEL, 0.7, "b"), ("resnet18", 0.8, "b")]
    ):
        (tmp_path / f"{number}.json").write_bytes(made.evaluation(model, precision, group))
    (article,) = [one for one in Page(make_report([tmp_path]).page).articles if "boards, masks" in one["h3"]]
    assert ("0.700" in article["td"], "0.800" in article["td"], "0.500" in article["td"]) == (True, True, False)


@pytest.mark.parametrize(
    ("evaluation", "why"),
    [
        (made.evaluation("vit", 0.5, "a"), "of which no latency is known"),
        (made.evaluation(made.MODEL, None, "a"), "has no average precision of tiles"),
        (made.evaluation(made.MODEL, 0.5, "a", family="rnn"), "does not hold what one holds"),
    ],
)
def test_an_evaluation_that_cannot_be_placed_is_named(tmp_path: Path, evaluation: bytes, why: str) -> None:
    made.write(tmp_path, "map-cost")
    (tmp_path / "evaluation.json").write_bytes(evaluation)
    found = make_report([tmp_path])
    (sentence,) = found.unusable
    assert why in sentence
    assert "plane" not in Page(found.page).ids


DAMAGED = {
    "cut off": b'{"bench": "soak", "machine": {',
    "too deep": b"[" * 100_000,
    "a list": b"[]",
    "of another tool": b'{"name": "package", "version": "1"}',
    "of an unknown kind": b'{"bench": "telepathy", "machine": {}}',
    "with a machine that is none": b'{"bench": "soak", "machine": 7}',
    "without its figures": b'{"bench": "stages", "machine": {}}',
    "nothing was measured": b'{"bench": "map-cost", "machine": {}, "rows": []}',
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_in_a_sentence_and_the_others_are_shown(tmp_path: Path, data: bytes) -> None:
    made.write(tmp_path, "startup")
    (tmp_path / "bad.json").write_bytes(data)
    found = make_report([tmp_path])
    (sentence,) = found.unusable
    assert "bad.json" in sentence
    assert len(sentence) < 400
    assert Page(found.page).ids == ["machines", "targets", "startup", "unusable"]


@pytest.mark.parametrize("kind", made.MADE)
def test_a_file_with_any_part_missing_or_of_another_type_never_ends_the_report(tmp_path: Path, kind: str) -> None:
    """A key at the top is taken away, or is given what it cannot be: the file is shown as far as it goes, or named."""
    whole = json.loads(made.write(tmp_path, kind).read_text())
    (tmp_path / "whole").mkdir()
    other = "flops" if kind != "flops" else "peers"
    made.write(tmp_path / "whole", other)
    for place, key in enumerate(whole):
        changed = {name: value for name, value in whole.items() if name != key}
        if place % 3:
            changed[key] = "strange" if place % 3 == 1 else []
        (tmp_path / f"{kind}.json").write_text(json.dumps(changed))
        assert other in Page(make_report([tmp_path]).page).ids


HOSTILE = "</script></style></title><script>alert(1)</script><img src=x onerror=alert(1)>&amp;|`*[a](b)"


def hostile(value: Any) -> Any:
    """With hostile names, on which nothing depends."""
    if isinstance(value, dict):
        chosen = ("model", "what", "reason", "why_not_cold", "units", "variant", "bare", "journal_on", "limited_by")
        return {key: HOSTILE if key in chosen else hostile(one) for key, one in value.items()}
    return [hostile(one) for one in value] if isinstance(value, list) else value


def test_what_a_file_says_is_never_taken_for_html_or_markdown(tmp_path: Path) -> None:
    for kind in made.MADE:
        file = made.write(tmp_path, kind, processor=HOSTILE, commit=HOSTILE, governor=HOSTILE)
        file.write_text(json.dumps(hostile(json.loads(file.read_text()))))
    report = make_report([tmp_path])
    page = Page(report.page)
    assert not {"script", "img"} & page.tags
    assert report.unusable == []
    assert sum(HOSTILE in cell for article in page.articles for cell in article["td"]) > 10
    for line in report.tables.splitlines():
        assert not re.search(r"(?<!\\)<|(?<!\\)`|\]\(", line), line


def test_the_command_writes_both_files_and_says_what_is_left_out(tmp_path: Path) -> None:
    file, to = made.write(tmp_path, "startup"), tmp_path / "out" / "report"
    (tmp_path / "bad.json").write_text("{}")
    done = CliRunner().invoke(command, [str(file), str(tmp_path), "--to", str(to), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["page"], said["files"]) == (str(to / "report.html"), 1), "a file that is named twice counts once"
    assert "bad.json" in said["left_out"][0]
    assert Page((to / "report.html").read_text()).ids[0] == "machines"
    assert (to / "report.md").read_text().startswith("# heatline bench\n")


def test_what_cannot_be_read_or_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="there is no result file in"):
        make_report([tmp_path])
    with pytest.raises(InputError, match="nowhere is not there"):
        make_report([tmp_path / "nowhere"])
    file = made.write(tmp_path, "startup")
    with pytest.raises(BenchError, match="cannot be written"):
        write_report(make_report([file]), file / "report")
    file.write_text("{}")
    with pytest.raises(BenchError, match=r"nothing can be shown: .*startup\.json"):
        make_report([tmp_path])


def test_result_files_that_docs_name_are_there() -> None:
    told = (RESULTS / "README.md").read_text()
    names = set(re.findall(r"^\| `([\w-]+\.json)`", told, flags=re.MULTILINE))
    for file in (RESULTS / "README.md", *(ROOT / "docs").glob("*.md")):
        names |= set(re.findall(r"bench/results/([\w-]+\.json)", file.read_text()))
    assert [name for name in sorted(names) if not (RESULTS / name).is_file()] == []


@given(st.floats(1e-6, 1e9), st.integers(2, 5))
def test_a_figure_is_shown_to_its_digits_and_without_a_power_of_ten(value: float, digits: int) -> None:
    text = shown(value, digits)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.5 * 10 ** (1 - digits))
    assert (shown(None), shown(12_345)) == ("-", "12,345")
