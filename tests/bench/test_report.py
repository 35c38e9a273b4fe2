"""`heatline bench report`: its figures come from its files, whatever these hold."""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from heatline.bench.command import report as command
from heatline.bench.report import make_report
from heatline.edge.errors import BenchError
from tests.golden import assert_golden

RESULTS = Path(__file__).parents[2] / "bench" / "results"
OF_EACH_KIND = [
    RESULTS / f"{name}.json"
    for name in ("end-to-end-mobilenetv3-saturated", "stages", "peers-grad-cam-xeon", "map-cost-dense", "flops")
]


def cells(page: str) -> list[str]:
    """Return the cells of all tables."""
    return [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page, flags=re.DOTALL)]


def test_markdown_has_the_figures_of_the_files_and_the_page_has_the_same_and_needs_no_other_file() -> None:
    report = make_report(OF_EACH_KIND)
    assert report.unusable == []
    assert_golden("bench_report", report.tables, results=RESULTS)
    assert report.page.count("<svg") == 1
    assert not {"script", "img", "link", "iframe"} & set(re.findall(r"<([a-z]+)", report.page))
    assert not re.search(r"url\([^#]|@import|https?://|(src|href)=\"[^#]", report.page)
    unescaped = re.sub(r"\\(.)", r"\1", report.tables)
    assert [cell for cell in cells(report.page) if " ".join(cell.split()) not in unescaped] == []


@pytest.mark.parametrize(
    "data",
    [b'{"bench": "soak", "machine": {', b"[" * 100_000, b"[]", b'{"bench": "telepathy", "machine": {}}'],
    ids=range(4),
)
def test_an_unusable_file_is_named_and_both_files_show_the_others_once(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(data)
    with pytest.raises(BenchError, match=r"nothing can be shown: .*bad\.json"):
        make_report([tmp_path])
    file, to = Path(shutil.copy(RESULTS / "stages.json", tmp_path)), tmp_path / "out" / "report"
    done = CliRunner().invoke(command, [str(file), str(tmp_path), "--to", str(to), "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    (sentence,) = printed["left_out"]
    assert (printed["page"], printed["files"], "bad.json" in sentence) == (str(to / "report.html"), 1, True)
    assert "<h2>Time per stage</h2>" in (to / "report.html").read_text()
    assert (to / "report.md").read_text().startswith("# heatline bench\n")


HOSTILE = "</script></style></title><script>alert(1)</script><img src=x onerror=alert(1)>&amp;|`*[a](b)"


def insert_hostile_text(value: Any) -> Any:
    """Return the value with hostile text in fields that the report only shows."""
    if isinstance(value, dict):
        chosen = (
            "processor", "commit", "governor", "model", "what", "reason", "units", "bare", "journal_on", "limited_by",
            "not_done",
        )  # fmt: skip
        return {key: HOSTILE if key in chosen else insert_hostile_text(one) for key, one in value.items()}
    return [insert_hostile_text(one) for one in value] if isinstance(value, list) else value


def test_text_from_files_is_escaped_in_html_and_markdown(tmp_path: Path) -> None:
    for file in OF_EACH_KIND:
        (tmp_path / file.name).write_text(json.dumps(insert_hostile_text(json.loads(file.read_text()))))
    report = make_report([tmp_path])
    assert report.unusable == []
    assert "<script" not in report.page
    assert "<img" not in report.page
    assert sum(HOSTILE in cell for cell in cells(report.page)) > 5
    for line in report.tables.splitlines():
        if line.startswith("|"):
            assert not re.search(r"(?<!\\)<|(?<!\\)`|\]\(", line), line
