"""`heatline journal export`: writes a journal's events for other programs."""

import contextlib
import csv
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import click

from heatline.edge.cli.event_columns import COLUMNS, row_of
from heatline.edge.cli.options import topic_option
from heatline.edge.cli.output import progress_bar, visible
from heatline.edge.delivery.journal.reader import JournalReader
from heatline.edge.delivery.journal.rows import Record
from heatline.edge.errors import EventsLostError, JournalError, MessageError
from heatline.edge.target import journal_of
from heatline.edge.util.files import replacing, writing
from heatline.edge.util.text import spreadsheet_cell
from heatline.edge.wire.events import event_from

Format = Literal["jsonl", "csv"]
SEQ = click.IntRange(0, 2**63 - 1)


@click.command(epilog="Example: heatline journal export line1 --format csv --topic verdict. --out verdicts.csv")
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
@click.option("--after", "after_seq", type=SEQ, help="Only events after this one. Default: from the oldest.")
@click.option("--through", "through_seq", type=SEQ, help="Only events up to this one. Default: to the newest.")
@topic_option
def export(
    line: str,
    form: Format,
    out: Path | None,
    after_seq: int | None,
    through_seq: int | None,
    topics: tuple[str, ...],
) -> None:
    """Write the events of LINE's journal as JSON lines or CSV, without heatmaps, in their order.

    LINE is a line's name, its TOML file, the journal's folder, or its file. The output file appears when it is
    complete. The exit code is 20 if events after --after are already deleted; the others are written.
    """
    path = journal_of(line)
    with JournalReader.open_file(path) as reader:
        first, last = reader.range()
        begin = (first - 1 if first else last) if after_seq is None else after_seq
        if begin > last:
            raise JournalError(
                f"{path} ends with event {last}, so it has none after {begin}; --after may be a number of an earlier "
                "journal: the first event says when this one began"
            )
        end = last if through_seq is None else min(last, through_seq)
        with _written_to(out) as file, _progress(begin, end, out) as went_on:
            lost = _write(reader, file, form, begin, end, topics, went_on)
    if lost:
        runs = ", ".join(f"{after + 1} to {through}" for after, through in lost)
        raise EventsLostError(
            f"{path}: events {runs} are deleted; the others are written",
            journal_id=reader.journal_id,
            after_seq=lost[0][0],
            through_seq=lost[-1][1],
        )


def _write(
    reader: JournalReader,
    file: BinaryIO,
    form: Format,
    begin: int,
    end: int,
    topics: tuple[str, ...],
    went_on: Callable[[int], None],
) -> list[tuple[int, int]]:
    """Write the events after `begin` through `end`. Return each deleted run: the event before it and its last event."""
    line_of = _csv_line if form == "csv" else _json_line
    if form == "csv":
        file.write(_as_csv(COLUMNS))
    lost: list[tuple[int, int]] = []
    after = begin
    while after < end:
        page = reader.read(after, through_seq=end, topics=topics)
        if page.lost_through is not None:
            lost.append((after, page.lost_through))
        file.writelines(map(line_of, page.records))
        after = page.through_seq
        went_on(after - begin)
    return lost


def _json_line(record: Record) -> bytes:
    return record.header + b"\n"


def _csv_line(record: Record) -> bytes:
    try:
        return _as_csv(row_of(record, event_from(record.header)))
    except MessageError as error:
        click.echo(f"heatline: event {record.seq} is left out: {visible(str(error))}", err=True)
        return b""


def _as_csv(cells: "tuple[str, ...] | list[str | int | float | None]") -> bytes:
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


@contextlib.contextmanager
def _progress(begin: int, end: int, out: Path | None) -> Iterator[Callable[[int], None]]:
    """Show progress on the terminal, unless the events themselves go to standard output."""
    with progress_bar(hidden=out is None) as progress:
        task = progress.add_task("events", total=max(0, end - begin))
        yield lambda done: progress.update(task, completed=done)
