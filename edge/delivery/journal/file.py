"""The journal's file: its name, its tables, and how a damaged file is moved aside.

The service opens the file only through SQLite: when a process closes any descriptor of a file, POSIX drops all locks of
the process on that file, including SQLite's.
"""

import contextlib
import re
import sqlite3
import time
import uuid
from pathlib import Path
from typing import NamedTuple

from heatline.edge.delivery.journal.errors import JournalDamagedError, JournalTooNewError, kind_of
from heatline.edge.util.files import FILE_MODE, sync_folder

FILE_NAME = "journal.db"
SCHEMA_VERSION = 1
"""Counts up when an older heatline could not read or write the journal."""
DAMAGED_KEPT = 2
"""Number of damaged journals that are kept; older ones are deleted."""
PAGE_BYTES = 4096

_TABLES = """
CREATE TABLE journal (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    schema_version INTEGER NOT NULL,
    journal_id TEXT NOT NULL,
    line TEXT NOT NULL,
    created_at_ns INTEGER NOT NULL
);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    at_ns INTEGER NOT NULL,
    topic TEXT NOT NULL,
    header_crc INTEGER NOT NULL,
    heatmap_crc INTEGER,
    header BLOB NOT NULL,
    heatmap BLOB
);
CREATE TABLE topics (topic TEXT PRIMARY KEY, last_seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE progress (camera TEXT PRIMARY KEY, boot_id TEXT NOT NULL, frame_number INTEGER NOT NULL) WITHOUT ROWID;
"""
# In a row, the header stands before the heatmap: reading headers alone never touches the pages of pictures.


def database_files(path: Path) -> list[Path]:
    """Return the path of a database and of its -wal and -shm files."""
    return [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]


def let_group_read(path: Path) -> None:
    """Give a database the mode that its group needs, also where an older heatline made it. SQLite gives its -wal and
    -shm files the same mode when it makes them. The files of another user are left as they are.
    """
    for file in database_files(path):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            file.chmod(FILE_MODE)


def make(path: Path, line: str) -> None:
    """Create an empty journal, which gets its name when it is complete. No -wal or -shm file of another one may exist.

    Raises:
        sqlite3.Error, OSError: it cannot be created.
    """
    new = path.with_name(f"{path.name}.new")
    for leftover in database_files(new):
        leftover.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN; {_TABLES} COMMIT")
            row = SCHEMA_VERSION, uuid.uuid4().hex, line, time.time_ns()
            connection.execute("INSERT INTO journal VALUES (1, ?, ?, ?, ?)", row)
            if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise OSError(0, "not all of its pages were written to the file")
        new.rename(path)
    except (sqlite3.Error, OSError):
        for leftover in database_files(new):
            with contextlib.suppress(OSError):
                leftover.unlink()
        raise
    sync_folder(path.parent)


class Head(NamedTuple):
    """Identity of a journal, as it is stored in its file."""

    journal_id: str
    line: str
    created_at_ns: int
    """UTC, ns since 1970."""


def read_head(connection: sqlite3.Connection, path: Path) -> Head:
    """Read the identity of a journal.

    Raises:
        JournalTooNewError: a newer heatline created it.
        JournalDamagedError: the identity is missing or invalid.
        sqlite3.Error: the file cannot be read.
    """
    rows = connection.execute("SELECT schema_version FROM journal").fetchall()
    if len(rows) != 1 or not isinstance(rows[0][0], int):
        raise JournalDamagedError(f"{path} is damaged (its table journal is not valid)")
    if rows[0][0] > SCHEMA_VERSION:
        raise JournalTooNewError(
            f"{path} is a journal of version {rows[0][0]}, this heatline knows up to {SCHEMA_VERSION}; "
            "update heatline, or move the file away"
        )
    head = Head._make(connection.execute("SELECT journal_id, line, created_at_ns FROM journal").fetchone())
    if [*map(type, head)] != [str, str, int] or not re.fullmatch("[0-9a-f]{32}", head.journal_id):
        raise JournalDamagedError(f"{path} is damaged (its identity is not valid)")
    return head


def move_aside(path: Path) -> Path:
    """Rename a damaged journal with its -wal and -shm files, and delete the oldest of those that were moved before.

    Returns: the new path.

    Raises:
        JournalError: the journal could not be renamed.
    """
    numbered = f"{path.name}.damaged-"
    try:
        there = [entry.name for entry in path.parent.iterdir()]
        numbers = sorted({int(found[1]) for name in there if (found := re.match(rf"{re.escape(numbered)}(\d+)", name))})
        aside = path.with_name(f"{numbered}{numbers[-1] + 1 if numbers else 1}")
        # The database first: without its -wal file it would look complete, and lack its newest events.
        for old, new in zip(database_files(path), database_files(aside), strict=True):
            with contextlib.suppress(FileNotFoundError):
                old.rename(new)
        sync_folder(path.parent)
        for oldest in numbers[: len(numbers) + 1 - DAMAGED_KEPT]:
            for file in database_files(path.with_name(f"{numbered}{oldest}")):
                file.unlink(missing_ok=True)
    except OSError as error:
        raise kind_of(error, path) from error
    return aside
