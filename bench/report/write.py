"""Write a report of result files: one page, and its tables as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from heatline.bench.report.files import Machines, Result, find, read
from heatline.bench.report.kinds import KINDS, Kind
from heatline.bench.report.tables import Table, tables
from heatline.bench.result_file import NotAResultError
from heatline.edge.errors import BenchError
from heatline.edge.util.text import format_count

PAGE, TABLES = "report.html", "report.md"
UNUSABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""Errors of reading a file that lacks values of its kind, or has others in their place."""
APPARATUS = {
    "soak": "docs/soak.md",
    "chaos": "docs/chaos.md",
    "delivery": "docs/chaos.md",
    "hostile": "docs/chaos.md",
    "cameras": "docs/cameras.md",
}
"""Kinds of results of test apparatus, with the document of each."""


class Report(NamedTuple):
    """A report as text."""

    page: str
    """HTML."""
    tables: str
    """Markdown."""
    files: int
    """Number of files that it shows."""
    unusable: list[str]
    """A sentence for each file that cannot be used, and one for all files below folders that have no section here."""


@dataclass(frozen=True)
class Block:
    """Figures below one heading, all of one machine."""

    heading: str
    headlines: tuple[str, ...]
    """Main figures."""
    notes: tuple[str, ...]
    plots: tuple[Markup, ...]
    tables: tuple[Table, ...]
    results: tuple[Result, ...]
    """Results that it shows."""


@dataclass(frozen=True)
class Section:
    """The blocks of one kind."""

    kind: Kind
    blocks: list[Block]


def make_report(paths: Sequence[Path], title: str = "heatline bench") -> Report:
    """Make a report of result files, and of folders that hold such files at any depth.

    Raises:
        InputError: a path does not exist.
        BenchError: there is no file, or no file can be used.
    """
    files = find(paths)
    if not files:
        named = ", ".join(map(str, paths))
        raise BenchError(f"there is no result file in {named}; write some with heatline bench ... --out FILE")
    blocks: dict[str, list[Block]] = {kind.name: [] for kind in KINDS}
    unusable, not_shown = list[str](), list[str]()
    given = {path.resolve() for path in paths if path.is_file()}
    for file in files:
        try:
            result = read(file)
            blocks.get(result.kind, []).append(_block(result))
        except NotAResultError as error:
            if file.resolve() in given:
                unusable.append(str(error))
            else:
                not_shown.append(file.name)
        except BenchError as error:
            unusable.append(str(error))
    if not_shown:
        unusable.append(
            f"{format_count(len(not_shown), 'file')} of other measurements, for which there is no section: "
            f"{', '.join(not_shown)}"
        )
    sections = [Section(kind, _joined(kind, blocks[kind.name])) for kind in KINDS if blocks[kind.name]]
    if not sections:
        raise BenchError(f"nothing can be shown: {'; '.join(unusable)}")
    used = [result for section in sections for block in section.blocks for result in block.results]
    environment = Environment(
        loader=PackageLoader("heatline.bench.report"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    environment.globals["format_count"] = format_count
    page, markdown = (
        environment.get_template(f"{name}.jinja").render(
            title=title, sections=sections, machines=Machines(used), unusable=unusable
        )
        for name in (PAGE, TABLES)
    )
    return Report(page, markdown, len(used), unusable)


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write `report.html` and `report.md` into a folder, which is created if needed.

    Raises:
        BenchError: they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PAGE).write_text(report.page, encoding="utf-8", errors="replace")
        (folder / TABLES).write_text(report.tables, encoding="utf-8", errors="replace")
    except OSError as error:
        raise BenchError(f"{folder} cannot be written ({error.strerror}); name another folder with --to") from error
    return folder / PAGE, folder / TABLES


def plain(text: str) -> str:
    """Escape the signs of Markdown; names come from users' files."""
    for sign in ("\\", "|", "*", "`", "<", "#"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("](", "]\\(").split())


def _block(result: Result) -> Block:
    """Make the block of a result.

    Raises:
        NotAResultError: the report has no section for its kind.
        BenchError: the file is damaged, or holds no measurement.
    """
    kind = next((kind for kind in KINDS if kind.name == result.kind), None)
    if result.kind in APPARATUS:
        raise NotAResultError(
            f"{result.file} is a result of test apparatus (make {result.kind}), which this report does not show; "
            f"{APPARATUS[result.kind]} describes it"
        )
    if kind is None:
        raise NotAResultError(
            f"{result.file} is a result of {result.kind!r}, which this report does not show; use the heatline that "
            "wrote it"
        )
    one = result.content
    try:
        shown = tuple(tables(kind.view(one), ("bench", "machine", *kind.leave_out)))
        block = Block(
            kind.heading.format(**one),
            tuple(kind.headlines(one)),
            tuple(kind.notes(one)),
            tuple(kind.plots(one)),
            shown,
            (result,),
        )
    except UNUSABLE as error:
        raise BenchError(
            f"{result.file} is a result of {result.kind!r} that lacks a value or has a wrong one ({error!r}); it is "
            "damaged or of an older format: measure it again"
        ) from error
    if not block.tables:
        raise BenchError(f"{result.file} is a result of {result.kind!r} in which nothing was measured")
    return block


def _joined(kind: Kind, blocks: Sequence[Block]) -> list[Block]:
    """Join the blocks of one heading and machine if the kind is joined, without empty columns."""
    if not kind.is_joined:
        return [*blocks]
    groups: dict[tuple[object, ...], list[Block]] = {}
    for block in blocks:
        groups.setdefault((block.heading, block.results[0].machine_kind), []).append(block)
    return [
        Block(
            of[0].heading,
            tuple(headline for block in of for headline in block.headlines),
            tuple(dict.fromkeys(note for block in of for note in block.notes)),
            tuple(plot for block in of for plot in block.plots),
            tuple(
                Table(each[0].title, each[0].columns, [row for one in each for row in one.rows]).without_empty_columns()
                for each in zip(*(block.tables for block in of), strict=True)
            ),
            tuple(result for block in of for result in block.results),
        )
        for of in groups.values()
    ]
