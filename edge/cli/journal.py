"""`heatline journal`: shows and exports a line's journal."""

import contextlib
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

import click
import msgspec

from heatline.edge.cli.output import CommandGroup, Rows, json_option, print_report, progress_bar, say, topic_option
from heatline.edge.delivery.journal import JournalReader, Record
from heatline.edge.describe import COLUMNS, DATE_TIME, Cell, columns_of, describe_event, local_time
from heatline.edge.errors import MessageError
from heatline.edge.target import journal_of
from heatline.edge.util.files import replacing, writing
from heatline.edge.util.text import spreadsheet_cell
from heatline.edge.wire.events import event_from

HEADINGS = "seq", "time", "topic", "frame", "event", "detail"
Format = Literal["jsonl", "csv"]


@click.group(cls=CommandGroup, epilog="Example: heatline journal show line1")
def journal() -> None:
    """Read and export the journal of a line's events.

    Run this on the line PC. It also works while the line runs, and on a disk that is full or read-only.
    """


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
        held, newest = reader.contents(), reader.newest(count, topics)
    last_of = dict(sorted(held.topics.items()))
    report = {
        "path": str(path),
        "journal_id": held.journal_id,
        "line": held.line,
        "created_at_ns": held.created_at_ns,
        "first_seq": held.first_seq,
        "last_seq": held.last_seq,
        "size_bytes": held.size_bytes,
        "topics": last_of,
        "events": [msgspec.Raw(record.header) for record in newest],
    }
    facts = {
        "journal id": held.journal_id,
        "line": held.line,
        "begun": local_time(held.created_at_ns, DATE_TIME),
        "events": f"{held.first_seq} to {held.last_seq}" if held.first_seq else f"none, up to {held.last_seq}",
        "size": f"{held.size_bytes / 2**20:.1f} MiB",
    }
    facts |= {topic: f"the last was {seq}" for topic, seq in last_of.items()}
    print_report(report, as_json, str(path), facts, Rows(HEADINGS, list(map(_cells, newest)), numbers={"seq"}))


def _cells(record: Record) -> list[str]:
    """Return a row of the table."""
    begin = [str(record.seq), local_time(record.at_ns, DATE_TIME), record.topic]
    try:
        told = describe_event(event_from(record.header))
    except MessageError as error:
        return [*begin, "", "", str(error)]
    return [*begin, told.subject, told.what, told.detail]


@journal.command(epilog="Example: heatline journal export line1 --format csv --topic verdict. --out verdicts.csv")
@click.argument("line")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="jsonl: every event's header as it was journalled, one per line. csv: the columns of docs/journal.md.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write. Default: standard output.")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only events after this one. Default: all.")
@topic_option
def export(line: str, form: Format, out: Path | None, after: int, topics: tuple[str, ...]) -> None:
    """Write the events of LINE's journal as JSON lines or CSV, without heatmaps, in their order.

    LINE is a line's name, its TOML file, the journal's folder, or its file. The output file appears when it is
    complete. A consumer that wants what is new since the last time is `heatline follow`.
    """
    path = journal_of(line)
    with JournalReader.open_file(path) as reader:
        held = reader.contents()
        last = held.last_seq
        begin = after = max(after, held.first_seq - 1)
        # Progress would be between the events if they went to the terminal too.
        with _written_to(out) as file, progress_bar(hidden=out is None) as progress:
            went_on = partial(progress.update, progress.add_task("events", total=max(0, last - begin)))
            if form == "csv":
                file.write(_as_csv(COLUMNS))
            while after < last:
                page = reader.read(after, through_seq=last, topics=topics)
                file.writelines(_csv_line(each) if form == "csv" else each.header + b"\n" for each in page.records)
                after = page.through_seq
                went_on(completed=after - begin)


def _csv_line(record: Record) -> bytes:
    try:
        return _as_csv(columns_of(event_from(record.header), record.seq, record.topic, record.at_ns))
    except MessageError as error:
        say(f"heatline: event {record.seq} is left out: {error}", err=True)
        return b""


def _as_csv(cells: Sequence[Cell]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(map(spreadsheet_cell, cells))
    return line.getvalue().encode()


@contextlib.contextmanager
def _written_to(out: Path | None) -> Iterator[BinaryIO]:
    """Open a file that appears only when it is complete, or standard output."""
    if out is None:
        with writing(Path("standard output")):
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    with writing(out), replacing(out, unique=True) as new, new.open("wb") as file:
        yield file
