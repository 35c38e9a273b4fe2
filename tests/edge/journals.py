"""Journals for tests: messages to store, the rows of a journal, and clocks that a test moves."""

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from heatline.edge.delivery.journal import FILE_NAME, JournalReader, Record
from heatline.edge.delivery.journal_writer import JournalWriter
from heatline.edge.delivery.publisher import Numbering
from heatline.edge.errors import JournalError, JournalFault
from heatline.edge.wire.events import CountedEvent, Event, JournalEvent, Message, StatusEvent
from heatline.edge.wire.requests import to_bytes
from tests.edge.wire_examples import ALARM, CHANGE, DEFECT, GOOD

LINE = "line1"
LARGE = 1 << 30
"""Retention that deletes nothing: seconds and bytes."""

Row = tuple[int, str, bytes, bytes | None]
"""A message's row in a journal: seq, topic, header, heatmap."""


@dataclass
class Clocks:
    """Both clocks of a service; they stand still until a test moves them."""

    now_s: float = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    def wall_ns(self) -> int:
        return 1_790_000_000_000_000_000 + self.monotonic_ns()


def good(camera: str = "top", number: int = 1) -> Message:
    return replace(GOOD, event=msgspec.structs.replace(GOOD.event, camera=camera, frame_number=number))


def defect(camera: str = "top", number: int = 1, png: bytes = b"\x89PNG") -> Message:
    return Message(msgspec.structs.replace(DEFECT.event, camera=camera, frame_number=number), png)


def mixed_messages(count: int, png_bytes: int = 0) -> list[Message]:
    """Return verdicts, alarms and changes in rotation."""
    kinds = [good(), defect(png=bytes(png_bytes)), good("side"), ALARM, CHANGE]
    return [kinds[number % len(kinds)] for number in range(count)]


def make_writer(
    folder: Path | None,
    clocks: Clocks | None = None,
    acked: dict[str, int] | None = None,
    *,
    boot_id: str = "boot",
    keep_bytes: int = LARGE,
) -> Any:
    """A `JournalWriter`; without a folder, only a `Numbering`."""
    if folder is None:
        return Numbering()
    clocks = clocks or Clocks()
    acked_seqs = {} if acked is None else acked
    clock, wall_ns = clocks.monotonic_s, clocks.wall_ns
    return JournalWriter(LINE, boot_id, folder, keep_bytes, lambda _: dict(acked_seqs), clock=clock, wall_ns=wall_ns)


def counted(messages: Sequence[Message]) -> list[CountedEvent]:
    """Return the events that have a number."""
    return [message.event for message in messages if not isinstance(message.event, StatusEvent)]


def journal_events(messages: Sequence[Message]) -> list[JournalEvent]:
    return [message.event for message in messages if isinstance(message.event, JournalEvent)]


def rows_of(messages: Sequence[Message]) -> list[Row]:
    """Return the rows that a journal must hold of messages."""
    with_number = [message for message in messages if not isinstance(message.event, StatusEvent)]
    return [(m.event.seq, m.event.topic, to_bytes(m.event), m.png) for m in with_number]


def stored_rows(folder: Path) -> list[Row]:
    """Return all rows of a journal."""
    with JournalReader.open(folder) as reader:
        return [(record.seq, record.topic, record.header, record.heatmap) for record in all_records(reader)]


def all_records(reader: JournalReader) -> list[Record]:
    held = reader.contents()
    records: list[Record] = []
    after = held.first_seq - 1 if held.first_seq else held.last_seq
    while after < held.last_seq:
        page = reader.read(after, heatmaps=True)
        assert page.lost_through is None
        records += page.records
        after = page.through_seq
    return records


def events_in(folder: Path) -> list[Event]:
    return [msgspec.json.decode(header, type=Event) for _, _, header, _ in stored_rows(folder)]


def fails(*kinds: JournalFault, match: str = ".") -> pytest.RaisesExc[JournalError]:
    """Expect a journal error of one of these kinds."""
    return pytest.raises(JournalError, match=match, check=lambda error: error.kind in kinds)


def change(folder: Path, statement: str, *values: object) -> None:
    """Change a journal's database directly."""
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as connection, connection:
        connection.execute(statement, values)
