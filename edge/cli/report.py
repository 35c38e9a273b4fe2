"""`heatline report`: the shift report of a line, from its journal."""

import csv
from pathlib import Path
from typing import get_args

import click

from heatline.edge.cli.output import Rows, json_option, print_report, share_text
from heatline.edge.delivery.journal import JournalReader
from heatline.edge.monitor.shift_report import DAYS, SHIFTS, By, Scope, make_report
from heatline.edge.target import file_of, journal_of
from heatline.edge.util.extras import require_extra
from heatline.edge.util.files import replacing, writing
from heatline.edge.util.text import spreadsheet_cell
from heatline.edge.wire.events import in_words

COUNTS, SHARES = ("name", "good", "defect", "no_verdict"), ("yield", "rejected", "low", "high")
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog="Example: heatline report line1 --since 2026-11-28 --by shift --html shifts.html")
@click.argument("line")
@click.option("--since", default="", help=f"Date or time, as 2026-11-28T06:00. Default: {DAYS} days ago.")
@click.option("--until", default="", help="The first date or time that does not count. Default: the newest event.")
@click.option(
    "--by",
    type=click.Choice(get_args(By)),
    default="shift",
    show_default=True,
    help="What a row of the table, of CSV and of Parquet is.",
)
@click.option("--shifts", default=SHIFTS, show_default=True, help="Local times at which shifts begin, in order.")
@click.option("--zone", default="", help="Time zone, as Europe/Vilnius. Default: that of this machine.")
@click.option("--html", type=FILE, help="File for a page with charts and maps of defects. Needs the extra view.")
@click.option("--csv", "csv_file", type=FILE, help="File for the rows as CSV.")
@click.option("--parquet", type=FILE, help="File for the rows as Parquet. Needs the extra cluster.")
@json_option
def report(
    line: str, html: Path | None, csv_file: Path | None, parquet: Path | None, as_json: bool, **words: str
) -> None:
    """Report yield, rejects, and where defects lie, from LINE's journal.

    LINE is a line's name, its TOML file, the journal's folder, or its file. It also works while the line runs.
    """
    scope = Scope.parse(**words)
    with JournalReader.open_file(journal_of(line)) as reader:
        made, tally = make_report(reader, scope)
    rows, total = made["rows"], made["total"]
    if html is not None:
        require_extra("view")
        from heatline.edge.monitor.shift_page import html_of

        with writing(html), replacing(html, unique=True) as new:
            new.write_text(html_of(file_of(line), made, tally), encoding="utf-8")
    if csv_file is not None:
        with writing(csv_file), replacing(csv_file, unique=True) as new, new.open("w", newline="") as file:
            csv.writer(file).writerows([rows[0], *(map(spreadsheet_cell, row.values()) for row in rows)])
    if parquet is not None:
        import pyarrow.parquet

        with writing(parquet), replacing(parquet, unique=True) as new:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), new)
    cells = [
        [*(str(row[name]) for name in COUNTS), *(_percent(row[name]) for name in SHARES)]
        for row in ([*rows, total] if len(rows) > 1 else rows)
    ]
    facts = {
        "journal begins": f"{made['oldest']:%Y-%m-%d %H:%M}" if made["oldest"] > scope.since else None,
        "counted": made["counted"],
        "yield": _percent(total["yield"]),
        "no verdict": "\n".join(f"{count}: {in_words(reason)}" for reason, count in made["no_verdict"].items()) or None,
        "false alarms": share_text(made["false_alarm"]) or None,
        "missed": share_text(made["missed"]) or None,
        "defects": "\n".join(f"{_percent(each['share'])} {each['camera']} {each['zone']}" for each in made["zones"])
        or None,
    }
    headings = scope.by, "GOOD", "DEFECT", "NO_VERDICT", "yield", "rejected", "lowest", "highest"
    print_report(made, as_json, f"{made['line']}, {scope.zone}", facts, Rows(headings, cells, set(headings[1:])))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
