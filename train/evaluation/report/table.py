"""A table of the report, written as Markdown and as HTML, with the best value of each column in bold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

Better = Literal["high", "low"]


class Column(NamedTuple):
    """A column."""

    name: str
    better: Better | None = None
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
    """A row. The study's figures are not compared with ours."""

    cells: tuple[Cell, ...]
    is_published: bool = False
    starts_group: bool = False
    """Whether the page draws a line above the row."""


@dataclass(frozen=True)
class Table:
    """A table."""

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    warning: str = ""
    """Printed in bold before the notes."""
    is_compared: bool = True
    """Whether best values are printed in bold."""

    def is_best(self, line: Line, at: int) -> bool:
        """Whether a cell has the best value among our rows; if all values are equal, no cell has."""
        better, value = self.columns[at].better, line.cells[at].value
        if better is None or value is None or line.is_published or not self.is_compared:
            return False
        found = [each.cells[at].value for each in self.lines if not each.is_published]
        values = [value for value in found if value is not None]
        return min(values) < max(values) and value == (max(values) if better == "high" else min(values))


def known_columns(table: Table) -> Table:
    """Return the table without columns of figures in which no value is known."""
    known = [
        at
        for at, column in enumerate(table.columns)
        if column.is_text or any(line.cells[at] != UNKNOWN for line in table.lines)
    ]
    lines = tuple(replace(line, cells=tuple(line.cells[at] for at in known)) for line in table.lines)
    return replace(table, columns=tuple(table.columns[at] for at in known), lines=lines)


def number(value: float | None, digits: int = 4, interval: tuple[float, float] | None = None) -> Cell:
    """Return a cell with a figure and its interval, as `0.61 [0.52, 0.70]`; a dash if the figure is not known."""
    if value is None:
        return UNKNOWN
    shown = f"{value:.{digits}f}"
    return Cell(shown, value, "" if interval is None else f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]")


def count(value: float | None) -> Cell:
    """Return a cell with a whole number; a dash if it is not known."""
    return UNKNOWN if value is None else Cell(f"{value:,.0f}", value)


def markdown(table: Table, level: int) -> str:
    """Return the table as GitHub Markdown, below a heading of this level; level 0: without a heading."""
    lines = [f"{'#' * level} {_plain(table.title)}", ""] if level else []
    lines.append(_row([_plain(column.name) for column in table.columns]))
    lines.append(_row(["---" if column.is_text else "---:" for column in table.columns]))
    lines += [
        _row([_format_cell(cell, table.is_best(line, at)) for at, cell in enumerate(line.cells)])
        for line in table.lines
    ]
    lines += ["", f"**{_plain(table.warning)}**"] if table.warning else []
    for note in table.notes:
        lines += ["", _plain(note)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _format_cell(cell: Cell, best: bool) -> str:
    text = _plain(cell.text)
    return f"**{text}** {cell.interval}".rstrip() if best else f"{text} {cell.interval}".rstrip()


def _plain(text: str) -> str:
    """Escape what Markdown would interpret; names come from users' files."""
    for sign in ("\\", "|", "*", "`", "<"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("](", "]\\(").split())
