"""`heatline journal`: shows and verifies a line's journal."""

from collections.abc import Sequence

import click
import msgspec

from heatline.edge.cli.event_columns import COLUMNS, Cell, row_of
from heatline.edge.cli.formatting import local_time
from heatline.edge.cli.group import CommandGroup
from heatline.edge.cli.journal_export import export
from heatline.edge.cli.options import topic_option
from heatline.edge.cli.output import json_option, print_facts, print_json, print_table, progress_bar, visible
from heatline.edge.delivery.journal.check import faults
from heatline.edge.delivery.journal.errors import JournalDamagedError
from heatline.edge.delivery.journal.reader import JournalReader
from heatline.edge.delivery.journal.rows import Record
from heatline.edge.errors import MessageError, SchemaVersionError
from heatline.edge.target import journal_of
from heatline.edge.util.text import format_count
from heatline.edge.wire.events import event_from

FAULTS_SHOWN = 20
HEADINGS = "seq", "time", "topic", "frame", "part", "score", "regions", "what"


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """The events of a topic."""

    events: int
    """Number of events in the journal."""
    last_seq: int


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a journal."""

    path: str
    journal_id: str
    line: str
    created_at_ns: int
    first_seq: int
    last_seq: int
    size_bytes: int
    topics: dict[str, Topic]
    events: list[msgspec.Raw]
    """Headers as they were journalled."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The faults of a journal."""

    path: str
    journal_id: str
    first_seq: int
    last_seq: int
    other_versions: int
    """Events of another schema version, of which only the checksums and the place were verified."""
    faults: list[str]


@click.group(cls=CommandGroup, epilog="Example: heatline journal show line1")
def journal() -> None:
    """Read, verify and export the journal of a line's events.

    Run this on the line PC. It also works while the line runs, and on a disk that is full or read-only.
    """


journal.add_command(export)


@journal.command(epilog="Example: heatline journal show line1 -n 50 --topic verdict.top.DEFECT")
@click.argument("line")
@click.option("-n", "count", type=click.IntRange(0, 100_000), default=10, show_default=True, help="Events to show.")
@topic_option
@json_option
def show(line: str, count: int, topics: tuple[str, ...], as_json: bool) -> None:
    """Print the contents of LINE's journal and its newest events.

    LINE is a line's name, its TOML file, the journal's folder, or its file.
    """
    path = journal_of(line)
    with JournalReader.open_file(path) as reader:
        first, last = reader.range()
        events = reader.tally()
        newest = reader.newest(count, topics)
        shown = Shown(
            path=str(path),
            journal_id=reader.journal_id,
            line=reader.line,
            created_at_ns=reader.created_at_ns,
            first_seq=first,
            last_seq=last,
            size_bytes=reader.size_bytes(),
            topics={
                topic: Topic(events=events.get(topic, 0), last_seq=seq)
                for topic, seq in sorted(reader.topics().items())
            },
            events=[msgspec.Raw(stored.record.header) for stored in newest],
        )
    if as_json:
        print_json(shown)
        return
    facts: dict[str, object] = {
        "journal id": shown.journal_id,
        "line": shown.line,
        "begun": local_time(shown.created_at_ns, "%Y-%m-%d %H:%M:%S"),
        "events": f"{first} to {last}" if first else f"none, up to {last}",
        "size": f"{shown.size_bytes / 2**20:.1f} MiB",
    }
    for topic, one in shown.topics.items():
        facts[topic] = f"{format_count(one.events, 'event')}, the last was {one.last_seq}"
    print_facts(str(path), facts)
    if newest:
        click.echo()
        rows = (_cells(each.record, each.faults(heatmap=False)) for each in newest)
        print_table(HEADINGS, rows, numbers={"seq", "score", "regions"})


def _cells(record: Record, faults: Sequence[str]) -> list[str]:
    """Return a row of the table.

    Args:
        faults: the parts of the event that have changed since they were written.
    """
    try:
        row = dict(zip(COLUMNS, row_of(record, event_from(record.header)), strict=True))
    except MessageError as error:
        return [str(record.seq), _clock(record.at_ns), record.topic, "", "", "", "", str(error)]
    description = ": ".join(_format_cell(row[name]) for name in ("what", "detail") if row[name])
    score = row["frame_score"]
    return [
        str(record.seq),
        _clock(record.at_ns),
        record.topic,
        _format_cell(row["frame_number"]),
        _format_cell(row["part_id"]),
        f"{score:.2f}" if isinstance(score, float) else "",
        _format_cell(row["regions"] or None),
        "; ".join(filter(None, [description, *faults])),
    ]


def _format_cell(cell: Cell) -> str:
    return "" if cell is None else str(cell)


def _clock(at_ns: int) -> str:
    return local_time(at_ns, "%Y-%m-%d %H:%M:%S")


@journal.command(epilog="Example: heatline journal verify line1")
@click.argument("line")
@json_option
def verify(line: str, as_json: bool) -> None:
    """Verify all of LINE's journal: its structure, its sequence without gaps, and every event.

    LINE is a line's name, its TOML file, the journal's folder, or its file. The exit code is 19 if it has a fault.
    Reads the whole file, which loads the disk: if the line runs, do this in a quiet hour.
    """
    path = journal_of(line)
    found: list[str] = []
    other_versions: list[SchemaVersionError] = []
    with JournalReader.open_file(path) as reader, progress_bar() as progress:
        first, last = reader.range()
        task = progress.add_task("structure", total=None)

        def went_on(done: int, of: int) -> None:
            progress.update(task, description="events", completed=done, total=of)

        try:
            for fault in faults(reader, went_on, other_versions.append):
                found.append(fault)
        except JournalDamagedError as error:
            found.append(f"it cannot be read any further: {error}")
        report = Verified(
            path=str(path),
            journal_id=reader.journal_id,
            first_seq=first,
            last_seq=last,
            other_versions=len(other_versions),
            faults=found,
        )
    if as_json:
        print_json(report)
    elif other_versions:
        events = format_count(len(other_versions), "event")
        click.echo(f"only the checksums of {events} were verified: {other_versions[0]}")
    for fault in [] if as_json else found[:FAULTS_SHOWN]:
        click.echo(visible(fault))
    if found:
        raise JournalDamagedError(f"{path} is damaged: {format_count(len(found), 'fault')}, the first is: {found[0]}")
    if not as_json:
        events = format_count(last - first + 1, "event") if first else "no event"
        click.echo(f"{path} is intact: {events}, each as it was written")
