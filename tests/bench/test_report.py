"""`heatline bench report`: its figures come from its files, whatever these hold."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from heatline.bench.command import report as command
from heatline.bench.report import Report, make_report
from heatline.edge.errors import BenchError
from tests.bench import made_results as made

RESULTS = Path(__file__).parents[2] / "bench" / "results"


def cells(page: str) -> list[str]:
    """Return the cells of all tables."""
    return [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page, flags=re.DOTALL)]


def rows_of(report: Report, section: str, first: str) -> list[dict[str, str]]:
    """Return the rows of a section's tables that begin with `first`, as cells by column."""
    found, head = [], list[str]()
    lines = report.tables.partition(f"## {section}\n")[2].partition("\n## ")[0].replace("\\", "").splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        row = [cell.strip() for cell in line.strip("|").split(" | ")]
        if re.fullmatch(r"[|\s:-]+", below) and "-" in below:
            head = row
        elif line.startswith("|") and row[0].startswith(first):
            found.append(dict(zip(head, row, strict=True)))
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
    found = cells(report.page)
    assert len(found) > 100
    assert [cell for cell in found if " ".join(cell.split()) not in unescaped] == []


def test_every_kind_of_result_has_its_figures_in_the_right_columns(all_made: Report) -> None:
    """One row of each kind, computed by hand from `made_results`."""
    for section, first, expected in (
        ("Time per stage", "640x480", {"tiles": "9", "ms": "0.0469 (0.0422 to 0.0539)"}),
        ("From capture to event", "saturated: service over engine", {"found": "0.968"}),
        ("Start", "cached", {"ready s": "1.45 (1.30 to 1.67)"}),
        ("Compared with others", "grad-cam", {"to engine": "0.0800 (0.0720 to 0.0920)"}),
        ("What a map costs", made.MODEL, {"ratio": "1.00 (0.900 to 1.15)"}),
        ("Parameters and multiply-adds", made.MODEL, {"parameters": "790,000", "macs": "152,100,000"}),
    ):
        row = rows_of(all_made, section, first)[0]
        assert expected.items() <= row.items(), f"{section}: {row}"
    assert all_made.page.count("<svg") == 4


@pytest.mark.parametrize(
    "data",
    [
        b'{"bench": "soak", "machine": {',
        b"[" * 100_000,
        b"[]",
        b'{"name": "package", "version": "1"}',
        b'{"bench": "telepathy", "machine": {}}',
    ],
    ids=range(5),
)
def test_an_unusable_file_is_named_and_the_others_are_shown(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(data)
    with pytest.raises(BenchError, match=r"nothing can be shown: .*bad\.json"):
        make_report([tmp_path])
    made.write(tmp_path, "startup")
    found = make_report([tmp_path, tmp_path])
    (sentence,) = found.unusable
    assert "bad.json" in sentence
    assert (found.files, len(rows_of(found, "Start", "cached"))) == (1, 1)


HOSTILE = "</script></style></title><script>alert(1)</script><img src=x onerror=alert(1)>&amp;|`*[a](b)"


def insert_hostile_text(value: Any) -> Any:
    """Return the value with hostile text in fields that the report only shows."""
    if isinstance(value, dict):
        chosen = ("model", "what", "reason", "units", "bare", "journal_on", "limited_by", "not_done")
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
    assert sum(HOSTILE in cell for cell in cells(report.page)) > 5
    for line in report.tables.splitlines():
        if line.startswith("|"):
            assert not re.search(r"(?<!\\)<|(?<!\\)`|\]\(", line), line


def test_the_command_writes_both_files_and_names_those_left_out(tmp_path: Path) -> None:
    file, to = made.write(tmp_path, "startup"), tmp_path / "out" / "report"
    (tmp_path / "bad.json").write_text("{}")
    done = CliRunner().invoke(command, [str(file), str(tmp_path), "--to", str(to), "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert (printed["page"], printed["files"]) == (str(to / "report.html"), 1), "a file that is given twice counts once"
    (sentence,) = printed["left_out"]
    assert "bad.json" in sentence
    assert "<h2>Start</h2>" in (to / "report.html").read_text()
    assert (to / "report.md").read_text().startswith("# heatline bench\n")
