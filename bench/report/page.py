"""A report as one HTML page that needs no other file, no script and no network. It is light or dark as its reader's
screen is, and white on paper.
"""

from collections.abc import Sequence
from html import escape

from bench.report.content import Block, Column, Section, Table
from bench.report.sources import Machines

SHORT = 28
"""Characters of a cell that is not broken into lines."""
STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --quiet: #4d5761; --page: #fff; --raised: #f4f6f8; --rule: #d3dae1;
  --link: #0a58ca; --warning: #a85400; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --quiet: #a7b1bc; --page: #0f1419; --raised: #182029;
  --rule: #323b45; --link: #79b8ff; --warning: #f0b04c; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, "Noto Sans", sans-serif; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
.layout { display: grid; grid-template-columns: 11rem minmax(0, 1fr); gap: 2rem; max-width: 1400px; margin: 0 auto;
  padding: 2rem; }
nav { position: sticky; top: 2rem; align-self: start; font-size: .92rem; }
nav ol { list-style: none; margin: .5rem 0 0; padding: 0; } nav li { margin: .42rem 0; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; margin: 0 0 .4rem; } h3 { font-size: 1.08rem; margin: 2rem 0 .4rem; overflow-wrap: anywhere; }
h4 { font-size: .95rem; margin: 1.2rem 0 .4rem; }
section { border-top: 1px solid var(--rule); padding: 2rem 0 1.2rem; }
p { margin: .2rem 0 .7rem; max-width: 62rem; }
.sources { color: var(--quiet); font-size: .85rem; margin: .3rem 0 .9rem; padding: 0; list-style: none;
  overflow-wrap: anywhere; }
.unusable { border-left: 4px solid var(--warning); padding-left: 1.6rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; border: 1px solid var(--rule); border-radius: 8px; margin: .6rem 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .65rem; text-align: right; vertical-align: top; }
th { background: var(--raised); font-weight: 600; vertical-align: bottom; }
th.text, td.text { text-align: left; } td.number { white-space: nowrap; }
td.text { overflow-wrap: break-word; min-width: 9rem; max-width: 34rem; }
td.short { white-space: nowrap; min-width: 0; }
tbody tr + tr td { border-top: 1px solid var(--rule); }
figure { margin: .8rem 0; padding: .9rem; border: 1px solid var(--rule); border-radius: 8px; max-width: 100%;
  overflow-x: auto; width: fit-content; }
figure svg { display: block; max-width: 100%; height: auto; }
figcaption { color: var(--quiet); font-size: .88rem; margin-top: .5rem; max-width: 760px; }
@media (max-width: 900px) { .layout { grid-template-columns: minmax(0, 1fr); padding: 1rem; gap: 1rem; }
  nav { position: static; } nav ol { columns: 2; } }
@media print { :root { color-scheme: light; --text: #000; --quiet: #333; --page: #fff; --raised: #fff; --rule: #999; }
  nav { display: none; } .layout { display: block; padding: 0; } body { font-size: 10pt; }
  table { font-size: 7.5pt; } th, td { padding: .2rem .35rem; } figure, tr { break-inside: avoid; }
  h2, h3, h4 { break-after: avoid; } .wide { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def page(title: str, sections: Sequence[Section], machines: Machines, unusable: Sequence[str]) -> str:
    """The page's text."""
    contents = [("machines", "Machines"), *((one.id, one.title) for one in sections)]
    if unusable:
        contents.append(("unusable", "Not in this report"))
    links = "".join(f'<li><a href="#{escape(name)}">{escape(words)}</a></li>' for name, words in contents)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<div class="layout">\n'
        f'<nav aria-label="Contents"><strong>Contents</strong><ol>{links}</ol></nav>\n'
        f"<main>\n<h1>{escape(title)}</h1>\n"
        '<section id="machines">\n<h2>Machines</h2>\n<p>Files count as of one machine where processor, vector '
        "extensions, cores and governor are the same. Nothing of two machines stands in one plot.</p>\n"
        f"{_table(machines.table())}</section>\n"
        + "".join(_section(one, machines) for one in sections)
        + _unusable(unusable)
        + "</main>\n</div>\n</body>\n</html>\n"
    )


def _section(section: Section, machines: Machines) -> str:
    told = f"<p>{escape(section.told)}</p>\n" if section.told else ""
    blocks = "".join(_block(block, machines) for block in section.blocks)
    return f'<section id="{escape(section.id)}">\n<h2>{escape(section.title)}</h2>\n{told}{blocks}</section>\n'


def _block(block: Block, machines: Machines) -> str:
    sources = "".join(f"<li>{escape(one)}</li>" for one in machines.sentences(block.results))
    plots = "".join(
        f"<figure>{plot.svg}{f'<figcaption>{escape(plot.caption)}</figcaption>' if plot.caption else ''}</figure>\n"
        for plot in block.plots
    )
    tables = "".join(
        (f"<h4>{escape(table.title)}</h4>\n" if table.title else "") + _table(table) for table in block.tables
    )
    told = "".join(f"<p>{escape(sentence)}</p>\n" for sentence in block.told)
    return (
        f'<article>\n<h3>{escape(block.heading)}</h3>\n<ul class="sources">{sources}</ul>\n{told}{plots}{tables}'
        "</article>\n"
    )


def _table(table: Table) -> str:
    heads = "".join(
        f'<th scope="col"{" class=text" if column.is_text else ""}>{escape(column.name)}</th>'
        for column in table.columns
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="{_kind(column, cell)}">{escape(cell)}</td>'
            for column, cell in zip(table.columns, row, strict=True)
        )
        + "</tr>\n"
        for row in table.rows
    )
    return (
        f'<div class="wide" tabindex="0"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n'
        "</table></div>\n"
    )


def _kind(column: Column, cell: str) -> str:
    if not column.is_text:
        return "number"
    return "text short" if len(cell) <= SHORT else "text"


def _unusable(unusable: Sequence[str]) -> str:
    if not unusable:
        return ""
    lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in unusable)
    return f'<section id="unusable">\n<h2>Not in this report</h2>\n<ul class="unusable">{lines}</ul>\n</section>\n'
