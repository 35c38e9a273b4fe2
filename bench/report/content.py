"""What a report is made of, before it is Markdown or a page: sections of blocks, each with where it comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.report.files import Result
from bench.spread import Spread

UNKNOWN = "-"


class Column(NamedTuple):
    """Of a table."""

    name: str
    is_text: bool = False


@dataclass(frozen=True)
class Table:
    """Values as they are printed."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""


@dataclass(frozen=True)
class Plot:
    """A drawing for the page. What it shows stands in a table too, for Markdown has none."""

    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Block:
    """What stands below one heading, all of it of one machine."""

    heading: str
    told: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    results: tuple[Result, ...] = ()
    """Where it comes from. Who gathers blocks sets them, where it is one."""


@dataclass(frozen=True)
class Section:
    """Blocks of one kind."""

    id: str
    title: str
    told: str
    blocks: tuple[Block, ...] = field(default_factory=tuple)


def table(columns: Sequence[str | Column], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """Columns that are no `Column` hold numbers, but the first one, which names the row."""
    heads = [one if isinstance(one, Column) else Column(one, is_text=not place) for place, one in enumerate(columns)]
    return Table(tuple(heads), tuple(tuple(row) for row in rows), title)


def facts(named: Mapping[str, object], title: str = "") -> Table:
    """What a command prints for people, as a table."""
    rows = tuple((name, str(one)) for name, one in named.items())
    return Table((Column("what", True), Column("found", True)), rows, title)


def shown(value: float | None, digits: int = 3) -> str:
    """A figure to so many digits at least, without a power of ten; one that is not known is a dash."""
    if value is None:
        return UNKNOWN
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded value: 9.999 to three digits is 10.0
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def spread(value: Spread | None, digits: int = 3) -> str:
    """Its median, and in brackets the lowest and the highest."""
    if value is None:
        return UNKNOWN
    return f"{shown(value.median, digits)} ({shown(value.lowest, digits)} to {shown(value.highest, digits)})"
