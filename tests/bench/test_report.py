"""`heatline bench report`: its figures come from its files, and no table or plot mixes machines."""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from heatline.bench.commands.report import report as command
from heatline.bench.recipes.rows import Training
from heatline.bench.report.files import read
from heatline.bench.report.tables import shown
from heatline.bench.report.write import Report, make_report
from heatline.edge.errors import BenchError
from tests.bench import made_results as made

RESULTS = Path(__file__).parents[2] / "bench" / "results"


def articles(page: str) -> list[list[str]]:
    """Return the cells of each article's tables."""
    return [
        [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", article, flags=re.DOTALL)]
        for article in re.findall(r"<article>.*?</article>", page, flags=re.DOTALL)
    ]


def replaced(found: Any, **changed: Any) -> Any:
    return msgspec.structs.replace(found, **changed)


def rows_of(report: Report, section: str, first: str = "") -> list[dict[str, str]]:
    """Return the rows of a section's tables that begin with `first`, as cells by column."""
    found, head = [], list[str]()
    lines = report.tables.partition(f"## {section}\n")[2].partition("\n## ")[0].replace("\\", "").splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if re.fullmatch(r"[|\s:-]+", below) and "-" in below:
            head = cells
        elif line.startswith("|") and line[2].isalnum() and cells[0].startswith(first):
            found.append(dict(zip(head, cells, strict=True)))
    return found


@pytest.fixture(scope="module")
def all_made(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return make_report([made.write_all(tmp_path_factory.mktemp("made"))])


@pytest.mark.parametrize("files", ["published", "made"])
def test_the_page_needs_no_other_file_and_markdown_has_the_same_tables(files: str, all_made: Report) -> None:
    report = make_report([RESULTS]) if files == "published" else all_made
    assert not {"script", "img", "link", "iframe"} & set(re.findall(r"<([a-z]+)", report.page))
    assert not re.search(r"url\([^#]|@import|https?://|(src|href)=\"[^#]", report.page)
    unescaped = re.sub(r"\\(.)", r"\1", report.tables)
    cells = [cell for article in articles(report.page) for cell in article]
    assert len(cells) > 100
    assert [sentence for sentence in report.unusable if "does not hold" in sentence] == [], "older files are readable"
    assert [cell for cell in cells if " ".join(cell.split()) not in unescaped] == []


def test_the_page_begins_with_the_summary_and_ends_with_the_machines(all_made: Report) -> None:
    summary = all_made.page.partition('<section id="summary">')[2].partition("</section>")[0]
    text = " ".join(html.unescape(re.sub("<[^>]*>", " ", summary)).split())
    for figures in (
        "0.968 of what the engine does alone",
        "no frame lost at 14.5 frames/s",
        "cached: READY after 1.45 s",
        "grad-cam: 0.0800 of the frames/s of the engine alone",
        "machine A",
    ):
        assert figures in text
    sections = re.findall('<section id="(.*?)"', all_made.page)
    assert (sections[0], sections[-1]) == ("summary", "machines")


def test_every_kind_of_result_has_its_figures_in_the_right_columns(all_made: Report) -> None:
    """One row of each kind, computed by hand from `made_results`."""
    rows: Mapping[tuple[str, str], Mapping[str, str]] = {
        ("Time per stage", "480"): {"whole ms per tile": "0.594 (0.535 to 0.683)"},
        ("Time per stage", "2448x2048"): {"tiles": "120", "ms": "0.625 (0.562 to 0.719)"},
        ("From capture to event", "15.5"): {"came fps": "14.5", "not kept up": "lost: dropped.overload 1"},
        ("From capture to event", "saturated: service over engine"): {"found": "0.968"},
        ("Start", "cached"): {"ready s": "1.45 (1.30 to 1.67)", "ready to warm": "0.600 (0.540 to 0.690)"},
        ("Compared with others", "grad-cam"): {"to engine": "0.0800", "ours to it": "12.1"},
        ("What a map costs", made.MODEL): {"cost: map ms per tile": "1.25 (1.12 to 1.44)", "cost: ratio": "1.00"},
        ("Parameters and multiply-adds", made.MODEL): {"parameters": "790,000", "macs": "152,100,000"},
        ("Recipes", "heatline a=1"): {"tile AP": "0.625 ± 0.00", "defects hit": "0.750 ± 0.25"},
        ("Evaluations", made.MODEL): {"tile AP, all": "0.875", "tile AUROC, all": "0.938", "groups": "a"},
    }
    for (section, first), expected in rows.items():
        row = rows_of(all_made, section, first)[0]
        assert expected.items() <= row.items(), f"{section}: {row}"


def test_no_plot_or_table_mixes_machines(tmp_path: Path) -> None:
    for machine, cores in (("here", 2), ("there", 8)):
        (tmp_path / machine).mkdir()
        made.write(tmp_path / machine, "map-cost", made.map_costs(ms=cores), cores=cores)
        other = made.write(tmp_path / machine, "recipes", replaced(made.recipe(), recipe="bank"), cores=cores)
        other.rename(tmp_path / machine / "bank.json")
        made.write(tmp_path / machine, "recipes", cores=cores)
    page = make_report([tmp_path]).page
    for section, rows in (("map-cost", 3), ("recipes", 2)):  # recipes of one machine are rows of one table
        (content,) = re.findall(f'<section id="{section}">(.*?)</section>', page, flags=re.DOTALL)
        blocks = re.findall(r"<article>(.*?)</article>", content, flags=re.DOTALL)
        assert [block.count("<tr>") - 1 for block in blocks] == [rows, rows]
        assert [set(re.findall("machine [A-Z]", block)) for block in blocks] == [{"machine A"}, {"machine B"}]


def test_machines_differ_by_what_affects_their_speed(tmp_path: Path) -> None:
    def kind(**changed: Any) -> object:
        return read(made.write(tmp_path, "peers", **changed)).machine_kind

    assert kind() == kind(load=[9.0, 9.0, 9.0], commit="abc", at_utc="later", versions={})
    for changed in ({"processor": "other"}, {"extensions": ["avx2"]}, {"cores": 4}, {"governor": "powersave"}):
        assert kind() != kind(**changed)


@pytest.mark.parametrize(
    "data",
    [
        b'{"bench": "soak", "machine": {',
        b"[" * 100_000,
        b"[]",
        b'{"name": "package", "version": "1"}',
        b'{"bench": "telepathy", "machine": {}}',
        b'{"bench": "soak", "machine": 7}',
        b'{"bench": "map-cost", "machine": {}, "rows": []}',
        b'{"bench": "peers", "machine": {}, "model": "m", "precision": "f32", "systems": [7]}',
        b'{"subject": {"data": "boards"}, "calibration": {}, "truths": [{"figures": []}]}',
    ],
    ids=range(9),
)
def test_an_unusable_file_is_named_and_the_others_are_shown(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(data)
    with pytest.raises(BenchError, match=r"nothing can be shown: .*bad\.json"):
        make_report([tmp_path])
    made.write(tmp_path, "startup")
    found = make_report([tmp_path, tmp_path])
    (sentence,) = found.unusable
    assert "bad.json" in sentence
    assert len(sentence) < 400
    assert (found.files, len(rows_of(found, "Start", "cached"))) == (1, 1)


HOSTILE = "</script></style></title><script>alert(1)</script><img src=x onerror=alert(1)>&amp;|`*[a](b)"


def insert_hostile_text(value: Any) -> Any:
    """Return the value with hostile text in fields that the report only shows."""
    if isinstance(value, dict):
        chosen = ("model", "what", "reason", "why_not_cold", "units", "variant", "bare", "journal_on", "limited_by")
        return {key: HOSTILE if key in chosen else insert_hostile_text(one) for key, one in value.items()}
    return [insert_hostile_text(one) for one in value] if isinstance(value, list) else value


def test_text_from_files_is_escaped_in_html_and_markdown(tmp_path: Path) -> None:
    for kind in made.MADE:
        file = made.write(tmp_path, kind, processor=HOSTILE, commit=HOSTILE, governor=HOSTILE)
        file.write_text(json.dumps(insert_hostile_text(json.loads(file.read_text()))))
    report = make_report([tmp_path])
    assert "<script" not in report.page
    assert "<img" not in report.page
    assert report.unusable == []
    assert sum(HOSTILE in cell for article in articles(report.page) for cell in article) > 10
    for line in report.tables.splitlines():
        assert not re.search(r"(?<!\\)<|(?<!\\)`|\]\(", line), line


def test_the_command_writes_both_files_and_names_those_left_out(tmp_path: Path) -> None:
    file, to = made.write(tmp_path, "startup"), tmp_path / "out" / "report"
    for name in ("bad.json", "other.json"):
        (tmp_path / name).write_text("{}")
    done = CliRunner().invoke(command, [str(file), str(tmp_path), "--to", str(to), "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert (printed["page"], printed["files"]) == (str(to / "report.html"), 1), "a file that is given twice counts once"
    (sentence,) = printed["left_out"]
    assert "2 files of other measurements" in sentence, "files of a folder are only counted"
    assert sentence.endswith("bad.json, other.json")
    assert "<h2>Start</h2>" in (to / "report.html").read_text()
    assert (to / "report.md").read_text().startswith("# heatline bench\n")


def test_a_file_given_by_name_is_reported_if_it_has_no_section(tmp_path: Path) -> None:
    made.write(tmp_path, "startup")
    for kind in ("soak", "telepathy"):
        (tmp_path / f"{kind}.json").write_text(f'{{"bench": "{kind}", "machine": {{}}}}')
    soak, other = make_report([tmp_path, tmp_path / "soak.json", tmp_path / "telepathy.json"]).unusable
    assert soak.endswith("soak.json is a result of test apparatus (make soak), which this report does not show; "
                         "docs/soak.md describes it")  # fmt: skip
    assert "use the heatline that wrote it" in other
    (both,) = make_report([tmp_path]).unusable
    assert "2 files of other measurements" in both


def test_trainings_of_several_machines_are_listed_with_their_machine(tmp_path: Path) -> None:
    def training(fold: int, commit: str) -> Training:
        machine = {"processor": "Example CPU 9", "commit": commit}
        return Training(seed=0, fold=fold, seconds=9, tiles_per_s=None, machine=machine)

    def page_of(*commits: str) -> str:
        trainings = [training(fold, commit) for fold, commit in enumerate(commits)]
        return make_report([made.write(tmp_path, "recipes", replaced(made.recipe(), trainings=trainings))]).page

    assert "measured on: " not in page_of("abc", "abc")
    first, second = (
        f"seed 0, fold {fold}: Example CPU 9, commit {commit}" for fold, commit in ((0, "abc"), (1, "def"))
    )
    assert f"heatline a=1: measured on: {first}; {second}." in page_of("abc", "def")


def test_default_results_that_do_not_belong_to_the_report_are_only_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatline.bench.commands.report.RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    made.write(tmp_path / "results", "startup")
    (tmp_path / "results" / "soak.json").write_text("{}")
    done = CliRunner().invoke(command, ["--to", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert f"1 other file of {tmp_path / 'results'} is not for this report" in done.stderr
    assert "soak.json" not in done.stderr


@given(st.floats(1e-6, 1e9), st.integers(2, 5))
def test_a_figure_is_shown_to_its_digits_without_an_exponent(value: float, digits: int) -> None:
    text = shown(value, digits)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.5 * 10 ** (1 - digits))
