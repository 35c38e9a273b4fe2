"""A report as GitHub's Markdown: its tables, for documents to quote from."""

from collections.abc import Sequence

from bench.report.content import Section
from bench.report.machines import Machines
from bench.report.tables import Table


def markdown(title: str, sections: Sequence[Section], machines: Machines, unusable: Sequence[str]) -> str:
    """The text of `report.md`."""
    parts = [f"# {plain(title)}", "## Machines", _table(machines.table())]
    for section in sections:
        parts += [f"## {plain(section.title)}", *filter(None, [plain(section.told)])]
        for block in section.blocks:
            parts += [f"### {plain(block.heading)}", *map(plain, block.notes), *map(_table, block.tables)]
            parts.append("\n".join(f"- {plain(machines.source(one))}" for one in block.results))
    if unusable:
        parts += ["## Not in this report", "\n".join(f"- {plain(sentence)}" for sentence in unusable)]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Escape what Markdown would take for its own; names come from users' files."""
    for sign in ("\\", "|", "*", "`", "<", "#"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("](", "]\\(").split())


def _table(table: Table) -> str:
    lines = [
        [plain(column) for column in table.columns],
        ["---" if is_text else "---:" for is_text in table.is_text],
        *([plain(cell) for cell in row] for row in table.rows),
    ]
    title = f"**{plain(table.title)}**\n\n" if table.title else ""
    return title + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
