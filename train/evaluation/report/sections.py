"""Sections of the report as data: tables, charts and pictures below headings; the tables also as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from heatline.train.evaluation.report.embedding import Picture
from heatline.train.evaluation.report.table import Table, markdown


@dataclass(frozen=True)
class Chart:
    """A chart with its caption."""

    svg: Markup
    caption: str = ""


@dataclass(frozen=True)
class PictureTable:
    """A row per tile and a column per model; None if a model has no picture of a tile."""

    heads: list[str]
    rows: list[tuple[str, list[Picture | None]]]


@dataclass
class Block:
    """Content below one heading."""

    heading: str
    notes: list[str] = field(default_factory=list)
    tables: Sequence[Table] = ()
    charts: list[Chart] = field(default_factory=list)
    pictures: PictureTable | None = None
    strip: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """Blocks below one section heading."""

    id: str
    title: str
    intro: str
    blocks: list[Block]


def as_markdown(title: str, sections: Sequence[Section], notes: Sequence[str]) -> str:
    """Return the tables of all sections as one Markdown text."""
    parts = [f"# {' '.join(title.split())}\n"]
    for section in sections:
        blocks = [block for block in section.blocks if block.tables]
        if not blocks:
            continue
        parts.append(f"## {section.title}\n")
        parts += [section.intro + "\n"] if section.intro else []
        for block in blocks:
            parts.append(f"### {' '.join(block.heading.split())}\n")
            parts += [markdown(table, 4 if len(block.tables) > 1 else 0) for table in block.tables]
    parts.append("## Notes\n")
    parts += [f"- {note}" for note in notes]
    return "\n".join(parts) + "\n"
