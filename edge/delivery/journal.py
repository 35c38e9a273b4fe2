"""The journal's file: a SQLite database that holds a line's events in a gapless count. This module writes it.

One `Journal` writes. Any number of readers (`heatline.edge.delivery.reader`), in any process, may read meanwhile. The
service opens the file only through SQLite: when a process closes any descriptor of a file, POSIX drops all locks of the
process on that file, including SQLite's.
"""

import contextlib
import errno
import os
import sqlite3
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from heatline.edge.errors import DeliveryError, JournalError
from heatline.edge.frames import Watermark
from heatline.edge.util.files import FILE_MODE, make_folder, open_locked, sync_folder

FILE_NAME = "journal.db"
SCHEMA_VERSION = 1
"""Counts up when an older heatline could not read or write the journal."""
EVENTS_AT_ONCE, BYTES_AT_ONCE = 1000, 4 << 20
"""Most events and bytes deleted in one transaction, so that no commit waits long for it."""
PAGE_BYTES = 4096
BUSY_SECONDS = 0.2
"""How long to wait for another process that has locked the file."""
WAL_KEPT_BYTES = 16 << 20
"""A reader that takes long makes the -wal file grow. Afterwards it is truncated to this size."""

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
_DUE = """
SELECT max(seq) FROM (
    SELECT seq, at_ns, sum(size) OVER (ORDER BY seq) - size AS freed
    FROM (
        SELECT seq, at_ns, length(header) + ifnull(length(heatmap), 0) AS size
        FROM events WHERE seq <= ? ORDER BY seq LIMIT ?
    )
)
WHERE freed < ? AND (at_ns < ? OR freed < ?)
"""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED_SENTENCES = "Could not decode", "no such table", "no such column", "malformed database schema"
"""Python's own error for invalid text, and SQLite's: the statements themselves are right."""


def journal_error(error: sqlite3.Error | OSError, path: Path) -> JournalError:
    """Return an error of SQLite or of the disk as a journal error.

    Args:
        path: of the journal.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGED or str(error).startswith(_DAMAGED_SENTENCES):
        return JournalError(f"{path} is not a journal, or it is damaged ({error})", "damaged")
    if code in _LOCKED:
        return JournalError(f"{path} is locked by another process ({error}); end the program that writes to it")
    full = getattr(error, "errno", None) in _NO_ROOM or code == sqlite3.SQLITE_FULL
    if not full and code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):  # SQLite does not say why
        with contextlib.suppress(OSError):
            full = os.statvfs(path.parent).f_bavail == 0
    if full:
        return JournalError(f"{path} cannot be written, there is no room; make room on its disk", "full")
    reason = getattr(error, "strerror", None) or error
    return JournalError(f"{path} cannot be used ({reason}); check journal.folder, its disk, and the rights to both")


def database_files(path: Path) -> list[Path]:
    """Return the path of a database and of its -wal and -shm files."""
    return [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]


def connect(path: Path, how: str, busy_s: float) -> sqlite3.Connection:
    """Open a database without implicit transactions, for use by one thread at a time.

    Args:
        how: parameters of SQLite's URI, such as `mode=ro`.
        busy_s: how long to wait for another process that has locked the file.
    Raises:
        sqlite3.Error: it cannot be opened.
    """
    uri = f"{path.absolute().as_uri()}?{how}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=busy_s)


def hold(folder: Path, flags: int) -> int:
    """Lock the journal of a folder against other lines, for as long as the returned descriptor is open.

    Args:
        flags: with which the file is opened that is locked.
    Raises:
        DeliveryError: another line holds the lock.
        OSError: the lock cannot be taken.
    """
    try:
        return open_locked(folder / "journal.lock", flags)
    except BlockingIOError as error:
        raise DeliveryError(
            f"{folder / FILE_NAME} is in use by another running line; give each line its own journal.folder"
        ) from error


def require_own(path: Path, owner: str, line: str) -> None:
    """Require that a journal is a line's own.

    Raises:
        JournalError: it bears another line's name.
    """
    if owner != line:
        raise JournalError(
            f"{path} is the journal of line {owner}, not of {line}; give each line its own journal.folder", "foreign"
        )


def move_aside(path: Path) -> Path:
    """Rename a damaged journal with its -wal and -shm files, in place of the one that was moved aside before.

    Returns: the new path.

    Raises:
        JournalError: the journal could not be renamed.
    """
    aside = path.with_name(f"{path.name}.damaged")
    try:
        for file in database_files(aside):
            file.unlink(missing_ok=True)
        # The database first: without its -wal file it would look complete, and lack its newest events.
        for old, new in zip(database_files(path), database_files(aside), strict=True):
            with contextlib.suppress(FileNotFoundError):
                old.rename(new)
        sync_folder(path.parent)
    except OSError as error:
        raise journal_error(error, path) from error
    return aside


# Reading the tables.


class Record(NamedTuple):
    """An event as it is journalled."""

    seq: int
    at_ns: int
    """Time of journalling: UTC, ns since 1970."""
    topic: str
    header: bytes
    heatmap: bytes | None = None
    """The PNG; None if the event has none or it was not requested."""

    @property
    def header_crc(self) -> int:
        """The CRC-32 of the event without its heatmap."""
        return zlib.crc32(self.header, zlib.crc32(f"{self.seq} {self.at_ns} {self.topic} ".encode()))

    @property
    def heatmap_crc(self) -> int | None:
        """The CRC-32 of the heatmap; None if there is none."""
        return None if self.heatmap is None else zlib.crc32(self.heatmap)


def read_head(connection: sqlite3.Connection, path: Path) -> tuple[str, str, int]:
    """Return a journal's id, its line, and when it was created (UTC, ns since 1970).

    Raises:
        JournalError: a newer heatline created it, or its identity is missing.
        sqlite3.Error: the file cannot be read.
    """
    version = connection.execute("SELECT schema_version FROM journal").fetchone()
    if version is not None and version != (SCHEMA_VERSION,):
        raise JournalError(
            f"{path} is a journal of version {version[0]}, this heatline knows version {SCHEMA_VERSION}; update "
            "heatline, or move the file away",
            "foreign",
        )
    head: tuple[str, str, int] | None
    head = connection.execute("SELECT journal_id, line, created_at_ns FROM journal").fetchone()
    if head is None:
        raise JournalError(f"{path} is damaged (its identity is missing)", "damaged")
    return head


def range_in(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the oldest event, 0 if there is none, and the last number that was counted."""
    (first,) = connection.execute("SELECT ifnull(min(seq), 0) FROM events").fetchone()
    return first, max(topics_in(connection).values(), default=0)


def size_in(connection: sqlite3.Connection) -> int:
    """Return the bytes of the pages in use."""
    pages: int = connection.execute("PRAGMA page_count").fetchone()[0]
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return (pages - free) * PAGE_BYTES


def topics_in(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the last `seq` of each topic."""
    return dict(connection.execute("SELECT topic, last_seq FROM topics"))


def progress_in(connection: sqlite3.Connection) -> dict[str, Watermark]:
    """Return the last frame that was reported for each camera."""
    rows = connection.execute("SELECT camera, boot_id, frame_number FROM progress")
    return {camera: Watermark(boot_id, frame_number) for camera, boot_id, frame_number in rows}


class Deleted(NamedTuple):
    """Events that were deleted."""

    first_seq: int
    last_seq: int
    by_topic: dict[str, int]


def _make(path: Path, line: str) -> None:
    """Create a journal, which readers see only when it is whole."""
    new = path.with_name(f".{path.name}.new")
    for file in (*database_files(new), *database_files(path)):  # of a start that was cut off, or of a deleted journal
        file.unlink(missing_ok=True)
    new.touch()
    new.chmod(FILE_MODE)  # SQLite gives its -wal and -shm files the same
    with contextlib.closing(connect(new, "mode=rw", BUSY_SECONDS)) as connection:
        connection.executescript(_TABLES)
        row = SCHEMA_VERSION, uuid.uuid4().hex, line, time.time_ns()
        connection.execute("INSERT INTO journal VALUES (1, ?, ?, ?, ?)", row)
    new.rename(path)
    sync_folder(path.parent)


class Journal:
    """The journal, for writing by one thread. Create it with `open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int) -> None:
        self.path = path
        self._connection, self._lock = connection, lock
        self.journal_id = ""
        self.line = ""
        self.created_at_ns = 0
        """UTC, ns since 1970."""
        self.first_seq = self.last_seq = 0
        self.topics: dict[str, int] = {}
        """Last seq of each topic, also after its events were deleted."""
        self.progress: dict[str, Watermark] = {}
        """Last reported frame of each camera, also after its events were deleted."""
        self.size_bytes = 0
        """Size of the pages in use. Pages of deleted events are used again, and not returned to the disk."""
        self.oldest_at_ns: int | None = None
        """Time when the oldest event was journalled: UTC, ns since 1970; None if there is none."""

    @classmethod
    def open(cls, folder: Path, line: str) -> Self:
        """Open the journal of a folder. Create the folder and the journal if they do not exist.

        Args:
            line: name of the line that owns the journal.
        Raises:
            DeliveryError: another running line uses it.
            JournalError: it cannot be used.
        """
        path = folder / FILE_NAME
        with contextlib.ExitStack() as if_it_fails:
            try:
                make_folder(folder)
                lock = hold(folder, os.O_RDONLY | os.O_CREAT)
                if_it_fails.callback(os.close, lock)
                if not path.exists():
                    _make(path, line)
                connection = connect(path, "mode=rw", BUSY_SECONDS)
                if_it_fails.callback(connection.close)
                journal = cls(path, connection, lock)
                journal._prepare()
                journal.reload_state()
                require_own(path, journal.line, line)
            except (sqlite3.Error, OSError) as error:
                raise journal_error(error, path) from error
            if_it_fails.pop_all()
        return journal

    def reload_state(self) -> None:
        """Read the state from the file. After a failed commit, only the file knows what was stored.

        Raises:
            JournalError: the file contradicts itself, cannot be read, or no longer be written.
        """
        with self._transaction():
            self._read_state()

    def append(self, records: Sequence[Record], progress: Mapping[str, Watermark]) -> None:
        """Store events, all or none. They are on the disk when this returns.

        Args:
            records: their numbers continue those of the journal.
            progress: by camera, the last frame that these events report.
        Raises:
            JournalError: the commit failed. The events may be stored nevertheless: call `reload_state`.
        """
        seqs = [record.seq for record in records]
        if seqs != list(range(self.last_seq + 1, self.last_seq + 1 + len(seqs))):
            raise ValueError(f"events {seqs} cannot follow event {self.last_seq}")
        topics = {record.topic: record.seq for record in records}
        rows = [(*record[:3], record.header_crc, record.heatmap_crc, *record[3:]) for record in records]
        with self._transaction():
            self._connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._connection.executemany("REPLACE INTO topics VALUES (?, ?)", topics.items())
            self._connection.executemany(
                "REPLACE INTO progress VALUES (?, ?, ?)", [(camera, *how_far) for camera, how_far in progress.items()]
            )
            size_bytes = size_in(self._connection)
        self.size_bytes = size_bytes
        self.topics |= topics
        self.progress |= progress
        if records:
            if not self.first_seq:
                self.first_seq, self.oldest_at_ns = seqs[0], records[0].at_ns
            self.last_seq = seqs[-1]

    def due(self, acked_seq: int, before_ns: int, too_much: int) -> int | None:
        """Return the last event to delete at once; None: none is due.

        Of the events that every durable consumer acknowledged, those that are too old or exceed the budget are due; of
        others, where there are no such, those that exceed the budget.

        Args:
            acked_seq: the last event that every durable consumer acknowledged.
            before_ns: time before which events are too old: UTC, ns since 1970.
            too_much: bytes beyond the budget; 0: none.
        """
        is_free = self.first_seq <= acked_seq
        limits = acked_seq if is_free else self.last_seq, EVENTS_AT_ONCE, BYTES_AT_ONCE
        try:
            row = self._connection.execute(_DUE, (*limits, before_ns if is_free else 0, too_much)).fetchone()
        except sqlite3.Error as error:
            raise journal_error(error, self.path) from error
        through: int | None = row[0]
        return through

    def discard(self, through_seq: int) -> Deleted:
        """Delete the oldest events, through this one, in one transaction. Delete many events in several calls.

        Raises:
            JournalError: it failed; either all of the events are still stored, or none.
        """
        first_seq = self.first_seq
        with self._transaction():
            by_topic = dict(
                self._connection.execute(
                    "SELECT topic, count(*) FROM events WHERE seq <= ? GROUP BY topic", (through_seq,)
                )
            )
            self._connection.execute("DELETE FROM events WHERE seq <= ?", (through_seq,))
        self.reload_state()
        return Deleted(first_seq, min(through_seq, self.last_seq), by_topic)

    def checkpoint(self) -> None:
        """Write the -wal file's pages into the database, so that the -wal file is used again from its start.

        Raises:
            JournalError: the database cannot be written.
        """
        try:
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        except sqlite3.Error as error:
            raise journal_error(error, self.path) from error

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA cell_size_check = ON")
        run(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")

    def _read_state(self) -> None:
        self.journal_id, self.line, self.created_at_ns = read_head(self._connection, self.path)
        self.first_seq, self.last_seq = range_in(self._connection)
        self.topics, self.progress = topics_in(self._connection), progress_in(self._connection)
        self.size_bytes = size_in(self._connection)
        oldest = self._connection.execute("SELECT at_ns FROM events ORDER BY seq LIMIT 1").fetchone()
        self.oldest_at_ns = None if oldest is None else oldest[0]
        (newest,) = self._connection.execute("SELECT max(seq) FROM events").fetchone()
        if newest not in (None, self.last_seq):
            raise JournalError(
                f"{self.path} is damaged (it counts {self.last_seq} events, and ends with {newest})", "damaged"
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run the body in one transaction: all of its changes or none."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise journal_error(error, self.path) from error
            raise
