"""Makes a report of result files: one page, and its tables as Markdown."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from bench.report.content import Block, Section
from bench.report.files import Measurement, Result, find, read
from bench.report.kinds import KINDS, Kind
from bench.report.machines import Machines
from bench.report.markdown import markdown
from bench.report.tables import UNKNOWN, Table, cell, size, tables
from bench.targets import CORES, TARGETS, Target
from edge.errors import BenchError

PAGE, TABLES = "report.html", "report.md"
UNUSABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What comes of files that do not hold what their kind holds: any value may be there, or none."""


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


class Found(NamedTuple):
    """A figure that there is a target for."""

    target: Target
    of: str
    value: float
    differs: list[str]
    """Conditions that are not the target's, in words."""
    result: Result


def make_report(paths: Sequence[Path], title: str = "heatline bench") -> Report:
    """Make a report of result files, and of folders with such files somewhere below them.

    Raises:
        InputError: a path is not there.
        BenchError: there is no file, or none that can be used.
    """
    files = find(paths)
    if not files:
        named = ", ".join(map(str, paths))
        raise BenchError(f"there is no result file in {named}; write some with heatline bench ... --out FILE")
    blocks: dict[str, list[Block]] = {kind.name: [] for kind in KINDS}
    found: list[Found] = []
    unusable: list[str] = []
    for file in files:
        try:
            for result in read(file):
                made, figures = _of_result(result)
                blocks[result.kind] += made
                found += figures
        except BenchError as error:
            unusable.append(str(error))
    sections = [_section(kind, blocks[kind.name]) for kind in KINDS if blocks[kind.name]]
    if not sections:
        raise BenchError(f"nothing can be shown: {'; '.join(unusable)}")
    used = [result for section in sections for block in section.blocks for result in block.results]
    machines = Machines(used)
    if found:
        sections.insert(0, _targets(found, machines))
    environment = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja")
    return Report(
        page.render(title=title, sections=sections, machines=machines, unusable=unusable),
        markdown(title, sections, machines, unusable),
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


def _of_result(result: Result) -> tuple[list[Block], list[Found]]:
    """Make what a result shows, and take the figures that there are targets for.

    Raises:
        BenchError: it is of no kind that is known, is damaged, or nothing was measured.
    """
    kind = next((kind for kind in KINDS if kind.name == result.kind), None)
    if kind is None:
        raise BenchError(
            f"{result.file} is a result of {result.kind!r}, which this report does not show; use the heatline that "
            "wrote it"
        )
    try:
        made = [_block(kind, one, result) for one in result.measurements]
        found = [each for one in result.measurements for each in _figures(one, result)]
    except UNUSABLE as error:
        raise BenchError(
            f"{result.file} is a result of {result.kind!r} but does not hold what one holds ({error!r}); it is damaged "
            "or of an older format: measure it again"
        ) from error
    blocks = [block for block in made if block.tables]
    if not blocks:
        raise BenchError(f"{result.file} is a result of {result.kind!r} in which nothing was measured")
    return blocks, found


def _block(kind: Kind, one: Measurement, result: Result) -> Block:
    shown = tables(kind.view(one), ("bench", "machine", *kind.leave_out))
    return Block(kind.heading.format(**one), tuple(kind.notes(one)), tuple(kind.plots(one)), tuple(shown), (result,))


def _section(kind: Kind, blocks: Sequence[Block]) -> Section:
    """Put blocks of a kind together, joined where the kind is, without columns that have no value."""
    groups: dict[tuple[object, ...], list[Block]] = {}
    for block in blocks:
        key = (block.heading, block.results[0].machine_kind) if kind.is_joined else (id(block),)
        groups.setdefault(key, []).append(block)
    return Section(kind.name, kind.title, kind.told, tuple(_joined(each) for each in groups.values()))


def _joined(blocks: Sequence[Block]) -> Block:
    first = blocks[0]
    joined = [
        Table(of[0].title, of[0].columns, [row for one in of for row in one.rows]).without_empty_columns()
        for of in zip(*(block.tables for block in blocks), strict=True)
    ]
    results = tuple(result for block in blocks for result in block.results)
    return replace(first, tables=tuple(joined), results=results)


def _figures(one: Measurement, result: Result) -> Iterator[Found]:
    """Yield what a measurement says of targets; a model that another target names is that target's alone."""
    for target in (target for target in TARGETS if target.kind == result.kind):
        named = {other.model for other in TARGETS if other.what == target.what} - {target.model, None}
        for of, value in target.find(one) if one["model"] not in named else ():
            frame = [f"{size(*one['frame_hw'])} px"] if "frame_hw" in one else []
            words = ", ".join(filter(None, [f"{one['model']} {one['precision']}", *frame, of]))
            yield Found(target, words, float(value), target.differs(one, result.machine_kind), result)


def _targets(found: Sequence[Found], machines: Machines) -> Section:
    """A row for each figure of each target, and for each target without a figure."""
    rows = []
    for target in TARGETS:
        told = (target.words, target.conditions)
        rows += [
            (
                *(target.what, one.of, *told, cell(one.value)),
                f"other conditions: {', '.join(one.differs)}" if one.differs else cell(target.is_reached(one.value)),
                machines.name(one.result.machine_kind) if one.result.machine else UNKNOWN,
                one.result.file,
            )
            for one in found
            if one.target is target
        ] or [(target.what, target.model or UNKNOWN, *told, UNKNOWN, "not measured", UNKNOWN, UNKNOWN)]
    columns = ("what", "of", "target", "under these conditions", "found", "reached", "machine", "file")
    note = f"All targets are for {CORES} cores. A target is held against figures measured under its conditions alone."
    results = tuple({id(one.result): one.result for one in found}.values())
    block = Block("Figures to reach", (note,), (), (Table("", columns, rows),), results)
    return Section("targets", "Targets", "What the figures are to be, and what they are.", (block,))
