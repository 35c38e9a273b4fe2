"""Reads the rows of the journal's tables."""

import sqlite3
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec

from heatline.edge.delivery.journal.file import PAGE_BYTES
from heatline.edge.frames import Watermark

T = TypeVar("T")

# SQLite stores any type in a column, and a damaged file may hold anything: these expressions give the right type.
AT_NS = "ifnull(CAST(at_ns AS INTEGER), 0)"
TOPIC = "ifnull(CAST(topic AS TEXT), '')"
HEADER = "ifnull(CAST(header AS BLOB), x'')"
HEATMAP = "CAST(heatmap AS BLOB)"
EVENT = f"seq, {AT_NS}, {TOPIC}, {HEADER}"


class Record(NamedTuple):
    """An event as it is journalled."""

    seq: int
    at_ns: int
    """Time of journalling: UTC, ns since 1970."""
    topic: str
    header: bytes
    heatmap: bytes | None = None
    """The PNG; None if the event has none or it was not requested."""


def header_crc(record: Record) -> int:
    """Return the CRC-32 of an event without its heatmap."""
    return zlib.crc32(record.header, zlib.crc32(f"{record.seq} {record.at_ns} {record.topic} ".encode()))


def heatmap_crc(heatmap: bytes | None) -> int | None:
    """Return the CRC-32 of a heatmap; None if there is none."""
    return None if heatmap is None else zlib.crc32(heatmap)


def range_in(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the oldest event, 0 if there is none, and the last number that was counted."""
    (first,) = connection.execute("SELECT ifnull(min(seq), 0) FROM events").fetchone()
    return first, max(topics_in(connection).values(), default=0)


def oldest_at_ns_in(connection: sqlite3.Connection) -> int | None:
    """Return when the oldest event was journalled; None if there is none."""
    found = connection.execute(f"SELECT {AT_NS} FROM events ORDER BY seq LIMIT 1").fetchone()
    return None if found is None else found[0]


def sizes_in(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the bytes of the pages in use, and of all pages."""
    pages: int = connection.execute("PRAGMA page_count").fetchone()[0]
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return (pages - free) * PAGE_BYTES, pages * PAGE_BYTES


def topics_in(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the last `seq` of each topic."""
    return _typed(connection.execute("SELECT topic, last_seq FROM topics"), dict[str, int])


def progress_in(connection: sqlite3.Connection) -> dict[str, Watermark]:
    """Return the last frame that was reported for each camera."""
    rows = connection.execute("SELECT camera, boot_id, frame_number FROM progress")
    return _typed(((camera, how_far) for camera, *how_far in rows), dict[str, Watermark])


def _typed(rows: Iterable[tuple[Any, Any]], kind: type[T]) -> T:
    """Return rows as a dictionary of this type.

    Raises:
        sqlite3.DatabaseError: a row has another type, so the file is damaged.
    """
    try:
        return msgspec.convert(dict(rows), kind)
    except msgspec.ValidationError as error:
        raise sqlite3.DatabaseError(f"Could not decode a row: {error}") from error
