"""A report as GitHub's Markdown: its tables, for documents to quote from."""

from collections.abc import Sequence

from bench.report.content import Section, Table
from bench.report.sources import Machines


def markdown(title: str, sections: Sequence[Section], machines: Machines, unusable: Sequence[str]) -> str:
    """The text of `report.md`."""
    parts = [f"# {plain(title)}", "## Machines", _table(machines.table())]
    for section in sections:
        parts += [f"## {plain(section.title)}", *filter(None, [plain(section.told)])]
        for block in section.blocks:
            parts += [f"### {plain(block.heading)}", *(plain(sentence) for sentence in block.told)]
            for one in block.tables:
                parts += [*([f"**{plain(one.title)}**"] if one.title else []), _table(one)]
            parts.append("\n".join(f"- {plain(one)}" for one in machines.sentences(block.results)))
    if unusable:
        parts += ["## Not in this report", "\n".join(f"- {plain(sentence)}" for sentence in unusable)]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Without what Markdown would take for its own; names come from users' files."""
    for sign in ("\\", "|", "*", "`", "<", "#"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("](", "]\\(").split())


def _table(table: Table) -> str:
    lines = [
        [plain(column.name) for column in table.columns],
        ["---" if column.is_text else "---:" for column in table.columns],
        *([plain(cell) for cell in row] for row in table.rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
