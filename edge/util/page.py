"""Pages that need no other file, all of one template and one style sheet, and their tables, also as GitHub Markdown.

A page extends `page.html.jinja` and fills its blocks; `parts.html.jinja` has the macros that pages share.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from heatline.edge.util.text import format_count, is_are

JPEG_QUALITY = 85


class Column(NamedTuple):
    """A column."""

    name: str
    better: Literal["high", "low"] | None = None
    """Which value is best and printed in bold; None if no value is better than another."""
    is_text: bool = False


class Cell(NamedTuple):
    """A printed text, and the value by which it is compared."""

    text: str
    value: float | None = None
    interval: str = ""
    """As `[0.52, 0.70]`; printed after the text or below it."""


UNKNOWN = Cell("-")


@dataclass(frozen=True)
class Line:
    """A row. Published figures are not compared with ours."""

    cells: Sequence[Cell]
    is_published: bool = False
    starts_group: bool = False
    """Whether the page draws a line above the row."""


@dataclass(frozen=True)
class Table:
    """A table."""

    title: str
    columns: Sequence[Column]
    lines: Sequence[Line]
    notes: Sequence[str] = ()
    warning: str = ""
    """Printed in bold before the notes, in place of the best values."""

    def is_best(self, line: Line, at: int) -> bool:
        """Whether a cell has the best value among our rows; if all values are equal, no cell has."""
        better, value = self.columns[at].better, line.cells[at].value
        if better is None or value is None or line.is_published or self.warning:
            return False
        found = [each.cells[at].value for each in self.lines if not each.is_published]
        values = [value for value in found if value is not None]
        return min(values) < max(values) and value == (max(values) if better == "high" else min(values))

    def known(self) -> "Table":
        """Return the table without columns of figures in which no value is known."""
        kept = [
            at
            for at, column in enumerate(self.columns)
            if column.is_text or any(line.cells[at] != UNKNOWN for line in self.lines)
        ]
        lines = [replace(line, cells=[line.cells[at] for at in kept]) for line in self.lines]
        return replace(self, columns=[self.columns[at] for at in kept], lines=lines)

    def markdown(self, level: int = 0) -> str:
        """Return the table as GitHub Markdown, below a heading of this level; level 0: without a heading."""
        heading = f"{'#' * level} {plain(self.title)}\n\n" if level else ""
        rows = [[self._markdown_cell(line, at) for at in range(len(self.columns))] for line in self.lines]
        names = [plain(column.name) for column in self.columns]
        table = markdown_table([names, *rows], [column.is_text for column in self.columns])
        notes = [f"**{plain(self.warning)}**"] * bool(self.warning) + [plain(note) for note in self.notes]
        return heading + table + "".join(f"\n{note}\n" for note in notes)

    def _markdown_cell(self, line: Line, at: int) -> str:
        cell = line.cells[at]
        text = f"**{plain(cell.text)}**" if self.is_best(line, at) else plain(cell.text)
        return f"{text} {cell.interval}".rstrip()


@dataclass(frozen=True)
class Picture:
    """An embedded picture, or a place for one that is missing."""

    uri: str | None
    """None: the file is missing."""
    name: str
    caption: str
    """Printed after the name."""
    shows: str
    """Description of the content."""
    at: int | None = None
    """First position of a slider that judges it GOOD; None if it does not follow a slider."""


class Chart(NamedTuple):
    """A chart with its caption."""

    svg: Markup
    caption: str = ""


@dataclass
class Block:
    """Content below one heading."""

    heading: str
    notes: list[str] = field(default_factory=list)
    tables: Sequence[Table] = ()
    charts: list[Chart] = field(default_factory=list)
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Section:
    """Blocks below one section heading."""

    id: str
    title: str
    intro: str
    blocks: Sequence[Block]


def sections_markdown(title: str, sections: Sequence[Section], notes: Sequence[str]) -> str:
    """Return the tables of all sections as one Markdown text."""
    parts = [f"# {' '.join(title.split())}\n"]
    for section in sections:
        blocks = [block for block in section.blocks if block.tables]
        if not blocks:
            continue
        parts.append(f"## {section.title}\n")
        parts += [section.intro + "\n"] * bool(section.intro)
        for block in blocks:
            parts.append(f"### {' '.join(block.heading.split())}\n")
            parts += [table.markdown(4 if len(block.tables) > 1 else 0) for table in block.tables]
    return "\n".join([*parts, "## Notes\n", *(f"- {note}" for note in notes)]) + "\n"


def number(value: float | None, digits: int = 4, interval: tuple[float, float] | None = None) -> Cell:
    """Return a cell with a figure and its interval, as `0.61 [0.52, 0.70]`; a dash if the figure is not known."""
    if value is None:
        return UNKNOWN
    shown = f"{value:.{digits}f}"
    return Cell(shown, value, "" if interval is None else f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]")


def count(value: float | None) -> Cell:
    """Return a cell with a whole number; a dash if it is not known."""
    return UNKNOWN if value is None else Cell(f"{value:,.0f}", value)


def markdown_table(rows: Sequence[Sequence[str]], is_text: Sequence[bool] | None = None) -> str:
    r"""Write a table of Markdown texts, such as `plain` makes: the first row is the heading.

    Args:
        is_text: whether a column is text, aligned to the left; None: only the first is.

    >>> print(markdown_table([["model", "hit"], ["lite", "0.5"]]), end="")
    | model | hit |
    | --- | ---: |
    | lite | 0.5 |
    """
    heading, *others = rows
    texts = [at == 0 for at in range(len(heading))] if is_text is None else is_text
    aligned = [heading, ["---" if text else "---:" for text in texts], *others]
    return "".join(f"| {' | '.join(row)} |\n" for row in aligned)


def plain(text: str) -> str:
    r"""Escape what Markdown would interpret, in one line; names come from users' files.

    >>> print(plain("a|b\n*c*"))
    a\|b \*c\*
    """
    for sign in ("\\", "|", "*", "`", "<", "#"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("](", "]\\(").split())


def jpeg_uri(bgr: NDArray[np.uint8]) -> str:
    """Encode a BGR picture [H, W, 3] as a data URI."""
    jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def page_templates(templates: str | BaseLoader) -> Environment:
    """Return the templates of pages, which may extend and import those of this package.

    Args:
        templates: the package with a folder `templates`, or a loader.
    """
    own = PackageLoader(templates) if isinstance(templates, str) else templates
    environment = Environment(
        loader=ChoiceLoader([own, PackageLoader("heatline.edge.util")]),
        autoescape=lambda name: name is None or ".md" not in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(format_count=format_count, is_are=is_are)
    environment.filters["plain"] = plain
    return environment
