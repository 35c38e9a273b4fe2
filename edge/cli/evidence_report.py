"""`heatline evidence report`: rates of false alarms and missed defects, from people's marks."""

from pathlib import Path

import click
import msgspec

from heatline.edge.cli.options import day_option
from heatline.edge.cli.output import json_option, print_json, print_table, progress_bar, visible
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.describe import utc
from heatline.edge.errors import ConfigError, JournalError
from heatline.edge.monitor.report import Estimate, JournalTotals, Row, Share
from heatline.edge.monitor.report import report as make_report
from heatline.edge.monitor.store import EvidenceStore, evidence_of
from heatline.edge.target import journal_of
from heatline.edge.util.text import format_count

HEADINGS = (
    *("day (UTC)", "camera", "frames", "DEFECT", "DEFECT reviewed", "false alarms"),
    *("GOOD stored", "GOOD reviewed", "missed", "contradictory"),
)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The rates, and where they come from."""

    folder: str
    journal: str | None
    """Null: it cannot be read."""
    journal_fault: str | None
    """Why, as a sentence; null if it can be read."""
    journal_since_at_ns: int | None
    """Capture of the oldest frame whose verdict the journal holds: UTC, ns since 1970; null: it holds none."""
    journal_unreadable: int
    """Number of its verdicts that this version cannot read; they are not counted."""
    since: str | None
    rows: list[Row]
    total: Row


@click.command(epilog="Example: heatline evidence report line1 --since 2026-11-21")
@click.argument("line")
@day_option("--since", "Only frames of this UTC day and later ones, as 2026-11-28.")
@json_option
def report(line: str, since: str | None, as_json: bool) -> None:
    """Report how many of LINE's verdicts reviewers found wrong, by day and camera.

    The share of false alarms is that of the reviewed DEFECTs, the share of missed defects that of the reviewed GOODs
    which the line stored. Intervals are 95 % (Clopper and Pearson). A share is only as good as the choice of what was
    reviewed. LINE is as for `list`; the numbers of all frames are known only if LINE has a journal.
    """
    store = EvidenceStore(evidence_of(line))
    journal, totals, fault = None, None, None
    try:
        path = journal_of(line)
        totals, journal = _totals(path), str(path)
    except (ConfigError, JournalError) as error:
        fault = str(error)
    rows, total = make_report(store, totals, since)
    found = Report(
        folder=str(store.folder),
        journal=journal,
        journal_fault=fault,
        journal_since_at_ns=None if totals is None else totals.since_at_ns,
        journal_unreadable=0 if totals is None else totals.unreadable,
        since=since,
        rows=rows,
        total=total,
    )
    if as_json:
        print_json(found)
        return
    if not rows:
        click.echo(f"{store.folder} holds no such picture")
    else:
        print_table(HEADINGS, map(_cells, [*rows, total]), numbers=HEADINGS[2:])
    for sentence in _notes(found):
        click.echo(visible(sentence))


def _totals(path: Path) -> JournalTotals:
    with JournalReader.open_file(path) as reader, progress_bar() as progress:
        first, last = reader.range()
        task = progress.add_task("events", total=last - first + 1)
        return JournalTotals.read(reader, lambda seq: progress.update(task, completed=seq - first + 1))


def _cells(row: Row) -> list[str]:
    return [
        row.day or "all",
        row.camera or "all",
        "" if row.frames is None else str(row.frames),
        "" if row.defects is None else str(row.defects),
        str(row.reviewed_defects),
        _share(row.false_alarm),
        str(row.stored_goods),
        str(row.reviewed_goods),
        _share(row.missed),
        str(row.contradictory),
    ]


def _notes(found: Report) -> list[str]:
    """Return what the figures are shares of, and what is not in them."""
    total = found.total
    if found.journal_fault is not None:
        notes = [f"The numbers of all frames are not known: {found.journal_fault}."]
    elif found.journal_since_at_ns is None:
        notes = ["The numbers of all frames are not known: the journal holds no verdict."]
    else:
        notes = [
            "frames (with GOOD or DEFECT) and DEFECT are counted in the journal, which holds verdicts since "
            f"{utc(found.journal_since_at_ns)}."
        ]
    if found.journal_unreadable:
        notes.append(
            f"{format_count(found.journal_unreadable, 'verdict')} of another version in the journal are not counted."
        )
    notes.append(
        "false alarms: share of the reviewed DEFECTs. missed: share of the reviewed GOODs among those that the line "
        "stored. In brackets: 95 % interval. A share is only as good as the choice of what was reviewed."
    )
    if total.false_reject is not None:
        notes.append(
            f"About {_range(total.false_reject)} of all frames were rejected although they are good, if the reviewed "
            "DEFECTs of a day and camera are like the others: share of false alarms x DEFECT / frames, since the "
            "journal's oldest verdict. Days with DEFECTs of which none is reviewed are left out."
        )
    if total.chosen_goods:
        notes.append(
            f"Not in a share: {format_count(total.chosen_goods, 'reviewed GOOD frame')} that people chose, "
            f"{total.chosen_missed} of them with a missed defect."
        )
    if total.incomplete_defects:
        notes.append(f"{format_count(total.incomplete_defects, 'reviewed DEFECT')} missed a further defect.")
    return notes


def _share(found: Share | None) -> str:
    return "" if found is None else f"{found.count}: {_range(found)}"


def _range(found: Share | Estimate) -> str:
    return f"{_percent(found.share)} % ({_percent(found.low)} to {_percent(found.high)} %)"


def _percent(share: float) -> str:
    """Format a share as percent: one decimal below 10 %, or two below 0.1 %, as rates of rejects are that low."""
    percent = 100 * share
    if percent == 0 or percent >= 9.95:  # 9.95 is 10 when rounded
        return f"{percent:.0f}"
    return f"{percent:.1f}" if percent >= 0.1 else f"{percent:.2f}"
