"""`heatline bench report`: result files as one page, and as Markdown to quote from.

Tables are made of whatever a file holds; a chart is drawn where `CHARTS` names a figure with its spread.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from heatline.bench import tables as found
from heatline.bench.machine import machine_kind
from heatline.bench.result_file import read_result
from heatline.edge.errors import BenchError, InputError
from heatline.edge.util.page import Block, Cell, Chart, Column, Line, Section, Table, page_templates, sections_markdown

PAGE, TABLES = "report.html", "report.md"
TITLE = "heatline bench"
TITLES = {
    "end-to-end": "From capture to event",
    "stages": "Time per stage",
    "startup": "Start",
    "tune": "Settings for this machine",
    "peers": "Compared with others",
    "map-cost": "What a map costs",
    "flops": "Parameters and multiply-adds",
    "screening": "What a screening stage gains",
}
"""Sections by the bench, in their order; files of others are left out."""
HEADING = ("bundle", "model", "method", "precision", "line")
LEFT_OUT = ("engine_alone_tried", "tried", "libraries")
NOTES = (
    "A figure that was measured several times is the median, with the lowest and the highest in parentheses.",
    "Only figures of one machine can be compared: processor, vector extensions, cores, governor and granted time.",
)
WIDTH_IN, BAR_IN, MARGIN_IN = 8.4, 0.32, 1.0
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",  # text stays text: it can be searched and copied
    "svg.hashsalt": "heatline",  # the same figure gives the same bytes
    "text.parse_math": False,  # names come from users' files
}


class Bars(NamedTuple):
    """What is drawn of a bench's records."""

    records: str
    names: Sequence[str]
    """Keys that together name a record."""
    figure: str
    unit: str


CHARTS = {
    "stages": Bars("rows", ("size", "stage"), "ms", "ms per frame"),
    "startup": Bars("conditions", ("condition",), "ready_s", "s until READY"),
    "peers": Bars("systems", ("name",), "to_engine", "frames per second, of the engine alone"),
    "screening": Bars("rows", ("defective",), "gain", "frames a second, of those without the stage"),
    "map-cost": Bars("rows", ("model", "method", "precision", "batch"), "ratio", "time with a map, of that without"),
}


class Report(NamedTuple):
    """A report as text."""

    page: str
    """HTML."""
    tables: str
    """Markdown."""
    files: int
    """Number of files that it shows."""
    unusable: list[str]
    """A sentence for each file that it does not show."""


def make_report(paths: Sequence[Path]) -> Report:
    """Make a report of result files, and of folders that hold such files at any depth.

    Raises:
        InputError: a path does not exist.
        BenchError: no file can be used.
    """
    blocks: dict[str, list[Block]] = {bench: [] for bench in TITLES}
    unusable: list[str] = []
    for file in _find(paths):
        try:
            result = read_result(file)
        except BenchError as error:
            unusable.append(str(error))
            continue
        if (bench := str(result.get("bench"))) in blocks:
            blocks[bench].append(_block(file, bench, result))
        else:
            unusable.append(f"{file} is not of a bench that this report shows")
    sections = [Section(bench, TITLES[bench], "", of) for bench, of in blocks.items() if of]
    if not sections:
        raise BenchError(f"nothing can be shown: {'; '.join(unusable) or 'there is no file'}")
    page = page_templates("heatline.bench").get_template("bench.html.jinja")
    return Report(
        page.render(title=TITLE, sections=sections, unusable=unusable, notes=NOTES),
        sections_markdown(TITLE, sections, [*NOTES, *unusable]),
        sum(len(section.blocks) for section in sections),
        unusable,
    )


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write `report.html` and `report.md` into a folder, which is created if needed; a BenchError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in ((PAGE, report.page), (TABLES, report.tables)):
            (folder / name).write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise BenchError(f"{folder} cannot be written ({error.strerror}); name another folder with --to") from error
    return folder / PAGE, folder / TABLES


def _find(paths: Sequence[Path]) -> list[Path]:
    files: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist; name result files of heatline bench, or folders of them")
        for file in [path] if path.is_file() else sorted(path.rglob("*.json")):
            files.setdefault(file.resolve(), file)
    return list(files.values())


def _block(file: Path, bench: str, result: Mapping[str, Any]) -> Block:
    machine = result.get("machine")
    block = Block(" ".join(str(result[key]) for key in HEADING if key in result) or file.stem)
    block.notes = [_source(file, machine if isinstance(machine, dict) else {})]
    block.tables = [_table(each) for each in found.tables(result, (*found.NOT_SHOWN, *LEFT_OUT))]
    if bench in CHARTS and (bars := _drawn(CHARTS[bench], result)):
        block.charts = [Chart(_chart(bars, CHARTS[bench].unit), CHARTS[bench].unit)]
    return block


def _source(file: Path, machine: Mapping[str, Any]) -> str:
    known = {**machine_kind(machine), **{key: machine.get(key) for key in ("commit", "at_utc", "load", "versions")}}
    facts = [f"{key.replace('_', ' ')} {found.cell(value)}" for key, value in known.items() if value]
    return f"{file}: {'; '.join(facts) or 'unknown machine'}"


def _table(table: found.Table) -> Table:
    columns = [Column(name, is_text=text) for name, text in zip(table.columns, table.is_text, strict=True)]
    return Table(table.title, columns, [Line([Cell(cell) for cell in row]) for row in table.rows])


def _drawn(bars: Bars, result: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Return the spreads of the records that have one, by their names."""
    records = result.get(bars.records)
    spreads = {
        ", ".join(str(record.get(key)) for key in bars.names): record.get(bars.figure)
        for record in (records if isinstance(records, list) else ())
        if isinstance(record, dict)
    }
    return {name: spread for name, spread in spreads.items() if isinstance(spread, dict) and _is_whole(spread)}


def _is_whole(spread: Mapping[str, Any]) -> bool:
    values = [spread.get(key) for key in ("median", "lowest", "highest")]
    return all(isinstance(value, float | int) and math.isfinite(value) for value in values)


def _chart(bars: Mapping[str, Mapping[str, float]], unit: str) -> Markup:
    """Draw a bar per name, with a whisker from the lowest to the highest value, as one `<svg>` element."""
    medians = [one["median"] for one in bars.values()]
    below = [max(0.0, one["median"] - one["lowest"]) for one in bars.values()]
    above = [max(0.0, one["highest"] - one["median"]) for one in bars.values()]
    places = range(len(bars))
    width_in, height_in = WIDTH_IN, MARGIN_IN + BAR_IN * len(bars)
    svg = io.StringIO()
    with mpl.rc_context(STYLE):
        figure = Figure((width_in, height_in))
        axes = figure.subplots()
        drawn = axes.barh(places, medians, xerr=[below, above], capsize=3)
        axes.bar_label(drawn, [found.shown(value) for value in medians], padding=4)
        axes.set_yticks(places, list(bars))
        axes.invert_yaxis()
        axes.margins(x=0.12)
        figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    content = re.sub(r"^.*?<svg\b[^>]*>", "", svg.getvalue(), count=1, flags=re.DOTALL)
    return Markup(
        f'<svg viewBox="0 0 {72 * width_in:g} {72 * height_in:g}" width="{96 * width_in:g}" '
        f'height="{96 * height_in:g}" role="img" aria-label="{escape(unit)}">'
        + content.replace("xlink:href=", "href=")  # SVG 2 needs no namespace
    )
