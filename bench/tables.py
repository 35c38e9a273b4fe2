"""Tables of a result, whatever values and records it holds.

Keys carry their units (`latency_p50_ms`), so they are the headings.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from heatline.edge.cli.output import print_table

Record = Mapping[str, Any]
"""An object of a result file."""

UNKNOWN = "-"
NOT_SHOWN = ("bench", "machine")
FIGURE = re.compile(r"-?|-?[\d,]+(\.\d+)?( ± .*| \(.*\))?")
"""A cell that is aligned to the right."""


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def is_text(self) -> list[bool]:
        """Return for each column whether it holds other text than figures."""
        return [not all(FIGURE.fullmatch(row[place]) for row in self.rows) for place in range(len(self.columns))]


def tables(record: Record, leave_out: Collection[str] = ()) -> list[Table]:
    """Make a table of all single values, and one of each list of records at any depth.

    Args:
        leave_out: keys that are not shown.
    """
    facts: list[tuple[str, str]] = []
    lists: list[Table] = []
    for name, value in _values(record, leave_out):
        if _is_list_of_records(value):
            lists.append(rows(value, leave_out, name))
        elif not isinstance(value, list) or (value and all(isinstance(one, str | int) for one in value)):
            facts.append((name, cell(value)))
    return [Table("", ("what", "found"), facts), *lists] if facts else lists


def rows(records: Sequence[Record], leave_out: Collection[str] = (), title: str = "") -> Table:
    """Make a row per record, with the columns of all. Lists of records inside records are left out."""
    found = [
        {name: cell(one) for name, one in _values(record, leave_out) if not _is_list_of_records(one)}
        for record in records
    ]
    columns = list(dict.fromkeys(name for row in found for name in row))
    return Table(title, columns, [[row.get(name, UNKNOWN) for name in columns] for row in found])


def cell(value: object) -> str:
    """Format a value of a result file.

    >>> cell({"median": 2, "lowest": 1.5, "highest": 2.25}), cell([True, None, 0.12345]), cell({"streams": 2})
    ('2 (1.50 to 2.25)', 'yes, -, 0.123', 'streams 2')
    """
    match value:
        case None:
            return UNKNOWN
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return shown(value)
        case {"median": median, "lowest": lowest, "highest": highest}:
            return f"{cell(median)} ({cell(lowest)} to {cell(highest)})"
        case dict():
            return ", ".join(f"{name} {cell(one)}" for name, one in value.items()) or "none"
        case list():
            return ", ".join(map(cell, value)) or "none"
        case _:
            return str(value)


def shown(value: float, digits: int = 3) -> str:
    """Format a figure to a number of significant digits at least, without a power of ten."""
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded value: 9.999 to three digits is 10.0
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def _values(record: Record, leave_out: Collection[str], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names and values of a record and of records inside it."""
    for key, value in record.items():
        name = before + key.replace("_", " ")
        if key in leave_out:
            continue
        if key.endswith("_hw") and isinstance(value, list):
            yield f"{name.removesuffix(' hw')} px", "x".join(map(str, value[::-1]))
        elif isinstance(value, dict) and any(isinstance(one, dict | list) for one in value.values()):
            yield from _values(value, leave_out, f"{name}: ")
        else:
            yield name, value


def _is_list_of_records(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def print_tables(report: Record) -> None:
    """Print a result's tables for people."""
    for table in tables(report, NOT_SHOWN):
        if table.title:
            click.echo(table.title)
        figures = {column for column, is_text in zip(table.columns, table.is_text, strict=True) if not is_text}
        print_table(table.columns, table.rows, figures)
