"""A table of the report: made once, written as Markdown and as HTML. Of each column the best value stands out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

Better = Literal["high", "low"]


class Column(NamedTuple):
    """One column."""

    name: str
    better: Better | None = None
    """Which value is best and stands out; None where none is."""
    is_text: bool = False


class Cell(NamedTuple):
    """What is printed, and what it is compared by."""

    text: str
    value: float | None = None
    interval: str = ""
    """As `[0.52, 0.70]`; behind the text, or below it."""


UNKNOWN = Cell("-")


@dataclass(frozen=True)
class Line:
    """A row. Figures of the study stand beside ours and are not compared with them."""

    cells: tuple[Cell, ...]
    is_published: bool = False
    starts_group: bool = False
    """A line of the page is drawn above it."""


@dataclass(frozen=True)
class Table:
    """A table."""

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    warning: str = ""
    """What must not be overlooked; the first of the notes, and louder."""
    is_compared: bool = True
    """Whether a best value may stand out."""

    def best(self, line: Line, at: int) -> bool:
        """Whether a cell has the best value among ours; with a single value, or none but equal ones, no cell has."""
        better, value = self.columns[at].better, line.cells[at].value
        if better is None or value is None or line.is_published or not self.is_compared:
            return False
        found = [one.cells[at].value for one in self.lines if not one.is_published]
        values = [value for value in found if value is not None]
        return min(values) < max(values) and value == (max(values) if better == "high" else min(values))


def known_columns(table: Table) -> Table:
    """The table without columns of figures that are known of no line."""
    known = [
        at
        for at, column in enumerate(table.columns)
        if column.is_text or any(line.cells[at] != UNKNOWN for line in table.lines)
    ]
    lines = tuple(replace(line, cells=tuple(line.cells[at] for at in known)) for line in table.lines)
    return replace(table, columns=tuple(table.columns[at] for at in known), lines=lines)


def number(value: float | None, digits: int = 4, interval: tuple[float, float] | None = None) -> Cell:
    """A figure, with its interval as `0.61 [0.52, 0.70]`; one that is not known is a dash."""
    if value is None:
        return UNKNOWN
    shown = f"{value:.{digits}f}"
    return Cell(shown, value, "" if interval is None else f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]")


def count(value: float | None) -> Cell:
    """A whole number."""
    return UNKNOWN if value is None else Cell(f"{value:,.0f}", value)


def markdown(table: Table, level: int) -> str:
    """The table as GitHub's Markdown, below a heading of that level; 0: without its title."""
    lines = [f"{'#' * level} {_plain(table.title)}", ""] if level else []
    lines.append(_row([_plain(column.name) for column in table.columns]))
    lines.append(_row(["---" if column.is_text else "---:" for column in table.columns]))
    lines += [_row([_shown(cell, table.best(line, at)) for at, cell in enumerate(line.cells)]) for line in table.lines]
    lines += ["", f"**{_plain(table.warning)}**"] if table.warning else []
    for note in table.notes:
        lines += ["", _plain(note)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _shown(cell: Cell, best: bool) -> str:
    text = _plain(cell.text)
    return f"**{text}** {cell.interval}".rstrip() if best else f"{text} {cell.interval}".rstrip()


def _plain(text: str) -> str:
    """Without what Markdown would take for its own; names come from users' files."""
    for sign in ("\\", "|", "*", "`", "<"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("](", "]\\(").split())
