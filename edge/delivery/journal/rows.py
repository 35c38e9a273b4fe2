"""What the journal's tables say."""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from edge.delivery.journal.errors import JournalDamagedError
from edge.delivery.journal.file import PAGE_BYTES
from edge.frames import Watermark

# SQLite keeps whatever is written in a column, and rot may write anything: here it is of its kind all the same.
AT_NS = "ifnull(CAST(at_ns AS INTEGER), 0)"
TOPIC = "ifnull(CAST(topic AS TEXT), '')"
HEADER = "ifnull(CAST(header AS BLOB), x'')"
HEATMAP = "CAST(heatmap AS BLOB)"
EVENT = f"seq, {AT_NS}, {TOPIC}, {HEADER}"


class Record(NamedTuple):
    """An event as the journal has it."""

    seq: int
    at_ns: int
    """When it was journalled: UTC, ns since 1970."""
    topic: str
    header: bytes
    heatmap: bytes | None = None
    """The PNG; None where it has none, or it was not asked for."""


def header_crc(record: Record) -> int:
    """CRC-32 of all of an event but its heatmap."""
    return zlib.crc32(record.header, zlib.crc32(f"{record.seq} {record.at_ns} {record.topic} ".encode()))


def heatmap_crc(heatmap: bytes | None) -> int | None:
    """CRC-32 of a heatmap; None where there is none."""
    return None if heatmap is None else zlib.crc32(heatmap)


def range_in(connection: sqlite3.Connection) -> tuple[int, int]:
    """The oldest event, 0 where there is none, and how far is counted."""
    (first,) = connection.execute("SELECT ifnull(min(seq), 0) FROM events").fetchone()
    return first, max(topics_in(connection).values(), default=0)


def oldest_at_ns_in(connection: sqlite3.Connection) -> int | None:
    """When the oldest event was journalled; None where there is none."""
    found = connection.execute(f"SELECT {AT_NS} FROM events ORDER BY seq LIMIT 1").fetchone()
    return None if found is None else found[0]


def sizes_in(connection: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of the pages in use, and of all."""
    pages: int = connection.execute("PRAGMA page_count").fetchone()[0]
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return (pages - free) * PAGE_BYTES, pages * PAGE_BYTES


def topics_in(connection: sqlite3.Connection) -> dict[str, int]:
    """Each topic's last seq."""
    return dict(_of_kinds(connection.execute("SELECT topic, last_seq FROM topics"), str, int))


def progress_in(connection: sqlite3.Connection) -> dict[str, Watermark]:
    """How far each camera's frames were told."""
    rows = connection.execute("SELECT camera, boot_id, frame_number FROM progress")
    return {camera: Watermark(boot_id, number) for camera, boot_id, number in _of_kinds(rows, str, str, int)}


def _of_kinds(rows: Iterable[tuple[Any, ...]], *kinds: type) -> Iterator[tuple[Any, ...]]:
    """Rows, as they are, if their values are of these kinds: SQLite keeps whatever is written.

    Raises:
        JournalDamagedError: they are not.
    """
    for row in rows:
        if [*map(type, row)] != [*kinds]:
            raise JournalDamagedError("the journal is damaged (a value in it is of another kind than was written)")
        yield row
