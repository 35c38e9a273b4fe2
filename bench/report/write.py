"""Makes a report of result files: one page, and its tables as Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.report.files import Result, find, read
from bench.report.markdown import markdown
from bench.report.page import page
from bench.report.sections import sections
from edge.errors import BenchError

PAGE, TABLES = "report.html", "report.md"


class Report(NamedTuple):
    """What was made."""

    page: str
    """HTML."""
    tables: str
    """Markdown."""
    files: int
    """That were used."""
    unusable: list[str]
    """A sentence for each file that was not."""


def make_report(paths: Sequence[Path], title: str = "heatline bench") -> Report:
    """Of result files, and of folders with such files somewhere below them.

    Raises:
        InputError: a path is not there.
        BenchError: there is no file, or none that can be used.
    """
    files = find(paths)
    if not files:
        named = ", ".join(map(str, paths))
        raise BenchError(f"there is no result file in {named}; write some with heatline bench ... --out FILE")
    results: list[Result] = []
    unusable: list[str] = []
    for file in files:
        try:
            results += read(file)
        except BenchError as error:
            unusable.append(str(error))
    shown, machines, misfits = sections(results)
    unusable += misfits
    if not shown:
        raise BenchError(f"nothing can be shown: {'; '.join(unusable)}")
    used = [result for section in shown for block in section.blocks for result in block.results]
    return Report(
        page(title, shown, machines, unusable),
        markdown(title, shown, machines, unusable),
        len({result.file for result in used}),
        unusable,
    )


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write `report.html` and `report.md` into a folder, which is made where it is not there.

    Raises:
        BenchError: they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PAGE).write_text(report.page, encoding="utf-8")
        (folder / TABLES).write_text(report.tables, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{folder} cannot be written ({error.strerror}); name another folder with --to") from error
    return folder / PAGE, folder / TABLES
