"""What a report is made of, before it is a page or Markdown."""

from dataclasses import dataclass

from markupsafe import Markup

from bench.report.files import Result
from bench.report.tables import Table


@dataclass(frozen=True)
class Block:
    """What stands below one heading, all of it of one machine."""

    heading: str
    notes: tuple[str, ...]
    plots: tuple[Markup, ...]
    tables: tuple[Table, ...]
    results: tuple[Result, ...]
    """Where it comes from."""


@dataclass(frozen=True)
class Section:
    """Blocks of one kind."""

    id: str
    title: str
    told: str
    blocks: tuple[Block, ...]
