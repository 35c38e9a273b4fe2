"""The journal's file: a SQLite database that holds a line's events in a gapless count.

One line writes it. Any number of readers, in any process, may read meanwhile, also on a read-only disk. The service
opens the file only through SQLite: when a process closes any descriptor of a file, POSIX drops all locks of the process
on that file, including SQLite's.
"""

import contextlib
import errno
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from heatline.edge.errors import DeliveryError, JournalError
from heatline.edge.frames import Watermark
from heatline.edge.util.files import FILE_MODE, make_folder, open_locked, require_writable, sync_folder

FILE_NAME = "journal.db"
SCHEMA_VERSION = 2
"""Counts up when an older heatline could not read or write the journal."""
EVENTS_AT_ONCE, BYTES_AT_ONCE = 1000, 4 << 20
"""Most events and bytes deleted in one transaction, so that no commit waits long for it."""
BUSY_SECONDS = 0.2
"""How long to wait for another process that has locked the file."""
READER_BUSY_SECONDS = 5.0
"""The same for a reader."""
SCANNED_AT_MOST = 20_000
"""Events scanned in one transaction, so that a filter that matches nothing does not keep it open for long."""
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
    header BLOB NOT NULL,
    heatmap BLOB
);
CREATE TABLE topics (topic TEXT PRIMARY KEY, last_seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE progress (camera TEXT PRIMARY KEY, boot_id TEXT NOT NULL, frame_number INTEGER NOT NULL) WITHOUT ROWID;
"""
# In a row, the header stands before the heatmap: reading headers alone never touches the pages of pictures.
_DUE = """
SELECT max(seq) FROM (
    SELECT seq, sum(size) OVER (ORDER BY seq) - size AS freed
    FROM (
        SELECT seq, length(header) + ifnull(length(heatmap), 0) AS size
        FROM events WHERE seq <= ? ORDER BY seq LIMIT ?
    )
)
WHERE freed < ?
"""
_SIZE = """
SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size
"""
_ALL = "true"
_DAMAGED_SENTENCES = "Could not decode", "no such table", "no such column", "malformed database schema"
"""Python's own error for invalid text, and SQLite's: the statements themselves are right."""


def _journal_error(error: sqlite3.Error | OSError, path: Path) -> JournalError:
    """Return an error of SQLite or of the disk as an error of the journal at this path."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or str(error).startswith(_DAMAGED_SENTENCES):
        return JournalError(f"{path} is not a journal, or it is damaged ({error})", "damaged")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JournalError(f"{path} is locked by another process ({error}); end the program that writes to it")
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or code == sqlite3.SQLITE_FULL
    if not full and code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):  # SQLite does not say why
        with contextlib.suppress(OSError):
            full = os.statvfs(path.parent).f_bavail == 0
    if full:
        return JournalError(f"{path} cannot be written, there is no room; make room on its disk", "full")
    reason = getattr(error, "strerror", None) or error
    return JournalError(f"{path} cannot be used ({reason}); check journal.folder, its disk, and the rights to both")


@contextlib.contextmanager
def journal_errors(path: Path) -> Iterator[None]:
    """Raise an error of SQLite or of the disk as one of the journal at this path."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise _journal_error(error, path) from error


def database_files(path: Path) -> list[Path]:
    """Return the path of a database and of its -wal and -shm files."""
    return [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]


def connect(path: Path, how: str, busy_s: float) -> sqlite3.Connection:
    """Open a database without implicit transactions, for use by one thread at a time, with parameters of SQLite's URI
    such as `mode=ro`. A locked file is waited for.
    """
    uri = f"{path.absolute().as_uri()}?{how}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=busy_s)


def hold(folder: Path, flags: int) -> int:
    """Lock the journal of a folder against other lines, for as long as the returned descriptor is open."""
    try:
        return open_locked(folder / "journal.lock", flags)
    except BlockingIOError as error:
        raise DeliveryError(
            f"{folder / FILE_NAME} is in use by another running line; give each line its own journal.folder"
        ) from error


def _require_own(path: Path, owner: str, line: str) -> None:
    """Raise a JournalError if a journal bears another line's name."""
    if owner != line:
        raise JournalError(
            f"{path} is the journal of line {owner}, not of {line}; give each line its own journal.folder", "foreign"
        )


def move_aside(path: Path) -> Path:
    """Rename a damaged journal with its -wal and -shm files, in place of one moved aside before; return its path."""
    aside = path.with_name(f"{path.name}.damaged")
    with journal_errors(path):
        for file in database_files(aside):
            file.unlink(missing_ok=True)
        # The database first: without its -wal file it would look complete, and lack its newest events.
        for old, new in zip(database_files(path), database_files(aside), strict=True):
            with contextlib.suppress(FileNotFoundError):
                old.rename(new)
        sync_folder(path.parent)
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


class Contents(NamedTuple):
    """What a journal is and holds, as of one instant; without values, that of which nothing is known."""

    journal_id: str = ""
    line: str = ""
    created_at_ns: int = 0
    """UTC, ns since 1970."""
    first_seq: int = 0
    """The oldest event; 0 if there is none."""
    last_seq: int = 0
    """The last number that was counted."""
    topics: Mapping[str, int] = {}
    """Of each topic the last `seq`, also after events were deleted."""
    progress: Mapping[str, Watermark] = {}
    """Of each camera the last frame that was reported, also after events were deleted."""
    size_bytes: int = 0
    """Of the pages in use. Pages of deleted events are used again, and not returned to the disk."""


def read_contents(connection: sqlite3.Connection, path: Path) -> Contents:
    """Return what a journal holds, within a transaction."""
    head = connection.execute("SELECT schema_version, * FROM journal").fetchone()  # other versions have other columns
    if head is None:
        raise JournalError(f"{path} is damaged (its identity is missing)", "damaged")
    if head[0] != SCHEMA_VERSION:
        raise JournalError(
            f"{path} is a journal of version {head[0]}, this heatline knows version {SCHEMA_VERSION}; use the "
            "heatline that wrote it, or move the file away",
            "foreign",
        )
    (first_seq,) = connection.execute("SELECT ifnull(min(seq), 0) FROM events").fetchone()
    topics = dict(connection.execute("SELECT topic, last_seq FROM topics"))
    reported = connection.execute("SELECT camera, boot_id, frame_number FROM progress")
    progress = {camera: Watermark(boot_id, frame_number) for camera, boot_id, frame_number in reported}
    (size,) = connection.execute(_SIZE).fetchone()
    *_, journal_id, line, begun_ns = head
    return Contents(journal_id, line, begun_ns, first_seq, max(topics.values(), default=0), topics, progress, size)


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
    """The journal of a folder, for writing by its line, in one thread. Both are created if they do not exist. Raises a
    DeliveryError if another running line uses it, a JournalError if it cannot be used.
    """

    def __init__(self, folder: Path, line: str) -> None:
        self.path = folder / FILE_NAME
        with contextlib.ExitStack() as if_it_fails, journal_errors(self.path):
            make_folder(folder)
            self._lock = hold(folder, os.O_RDONLY | os.O_CREAT)
            if_it_fails.callback(os.close, self._lock)
            if not self.path.exists():
                _make(self.path, line)
            self._connection = connect(self.path, "mode=rw", BUSY_SECONDS)
            if_it_fails.callback(self._connection.close)
            limit = f"journal_size_limit = {WAL_KEPT_BYTES}"
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "cell_size_check = ON", limit):
                self._connection.execute(f"PRAGMA {pragma}")
            self.reload()
            _require_own(self.path, self.contents.line, line)
            if_it_fails.pop_all()

    # Each of the following raises JournalError if the file contradicts itself, or cannot be read or written.

    def reload(self) -> None:
        """Read the contents from the file. After a failed commit, only the file knows what was stored."""
        with self._transaction():
            pass

    def append(self, records: Sequence[Record], progress: Mapping[str, Watermark]) -> None:
        """Store events, all or none, whose numbers continue those of the journal, and by camera the last frame that
        they report. They are on the disk when this returns. After an error, they may be stored nevertheless: call
        `reload`.
        """
        topics = {record.topic: record.seq for record in records}
        reported = [(camera, *how_far) for camera, how_far in progress.items()]
        with self._transaction():
            self._connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", records)
            self._connection.executemany("REPLACE INTO topics VALUES (?, ?)", topics.items())
            self._connection.executemany("REPLACE INTO progress VALUES (?, ?, ?)", reported)

    def due(self, acked_seq: int, too_much: int) -> int:
        """Return the last event to delete at once, for bytes beyond the budget, more than 0: of those that every
        durable consumer acknowledged, through `acked_seq`; of others if there are none.
        """
        last = acked_seq if self.contents.first_seq <= acked_seq else self.contents.last_seq
        due = last, EVENTS_AT_ONCE, min(too_much, BYTES_AT_ONCE)
        with journal_errors(self.path):
            return int(self._connection.execute(_DUE, due).fetchone()[0])

    def discard(self, through_seq: int) -> None:
        """Delete the oldest events, through this one, in one transaction. Delete many events in several calls."""
        with self._transaction():
            self._connection.execute("DELETE FROM events WHERE seq <= ?", (through_seq,))

    def checkpoint(self) -> None:
        """Write the -wal file's pages into the database, so that the -wal file is used again from its start."""
        with journal_errors(self.path):
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        os.close(self._lock)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run the body in one transaction, all of its changes or none, and read the contents that it leaves."""
        with journal_errors(self.path):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                contents = read_contents(self._connection, self.path)
                (newest,) = self._connection.execute("SELECT max(seq) FROM events").fetchone()
                if newest not in (None, contents.last_seq):
                    raise JournalError(
                        f"{self.path} is damaged (it counts {contents.last_seq} events, and ends with {newest})",
                        "damaged",
                    )
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")  # fails if none has begun
                raise
            self.contents = contents


class Page(NamedTuple):
    """Events that were read at once."""

    records: list[Record]
    through_seq: int
    """All requested events up to this one that are in the journal were read."""
    lost_through: int | None
    """Requested events up to this one were deleted; None: none were."""


class JournalReader:
    """The journal, for reading by one thread. Create it with `open`."""

    def __init__(self, path: Path, how: str, *, alone: bool = False) -> None:
        self.path = path
        self._alone = alone
        """Nobody writes: there are no -wal and -shm files, and none can be created."""
        with journal_errors(path), contextlib.ExitStack() as if_it_fails:
            try:
                self._inode = path.stat().st_ino
            except (FileNotFoundError, NotADirectoryError) as error:
                raise JournalError(
                    f"there is no journal {path}; expected that of a line that has run", "missing"
                ) from error
            self._connection = connect(path, how, READER_BUSY_SECONDS)
            if_it_fails.callback(self._connection.close)
            self.journal_id = self.contents().journal_id
            if_it_fails.pop_all()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the journal of a folder; raise a JournalError if there is none, or it cannot be read."""
        return cls.open_file(folder / FILE_NAME)

    @classmethod
    def open_file(cls, path: Path) -> Self:
        """Open a journal by its path, such as one that was moved aside; otherwise like `open`."""
        try:
            return cls(path, "mode=ro")
        except JournalError as error:
            # SQLite could not create the -wal and -shm files. If there are none, nobody writes.
            if error.kind not in ("full", "failed") or _is_written(path):
                raise
            return cls(path, "mode=ro&immutable=1", alone=True)

    # Each of the following raises JournalError if the journal cannot be read.

    def contents(self) -> Contents:
        """Return what the journal holds now."""
        with self._snapshot():
            return read_contents(self._connection, self.path)

    def read(
        self,
        after_seq: int,
        *,
        through_seq: int | None = None,
        topics: Iterable[str] = ("",),
        since_ns: int | None = None,
        at_most: int = 1000,
        at_most_bytes: int = 4 << 20,
        heatmaps: bool = False,
    ) -> Page:
        """Read events in order.

        Args:
            through_seq: read events up to this one; None: to the last.
            topics: prefixes of the topics to read, as in ZeroMQ.
            since_ns: read events that were journalled at this time (UTC, ns since 1970) or later; None: all.
            at_most: most events to read; read on from the page's `through_seq`.
            at_most_bytes: most bytes of headers and heatmaps to read; one event is read whatever its size.
        """
        if not self.is_in_place:
            raise JournalError(f"{self.path} was replaced while it was open; open it again", "replaced")
        wanted, values = _condition(topics)
        if since_ns is not None:
            wanted, values = f"{wanted} AND at_ns >= ?", [*values, since_ns]
        with self._snapshot():
            _, _, _, first, last, *_ = read_contents(self._connection, self.path)
            end = last if through_seq is None else min(last, through_seq)
            begin = max(after_seq, first - 1 if first else last)  # events before were deleted
            lost_through = min(begin, end) if after_seq < min(begin, end) else None
            end = min(end, begin + SCANNED_AT_MOST)
            rows = self._rows(f"seq > ? AND seq <= ? AND {wanted} ORDER BY seq LIMIT ?", heatmaps)
            records: list[Record] = []
            left, cut_off = at_most_bytes, False
            with contextlib.closing(self._connection.execute(rows, (begin, end, *values, at_most))) as found:
                for record in map(Record._make, found):
                    left -= len(record.header) + len(record.heatmap or b"")
                    cut_off = bool(records) and left < 0
                    if cut_off:
                        break
                    records.append(record)
        through = records[-1].seq if cut_off or len(records) == at_most else max(end, after_seq)
        if wanted == _ALL and [record.seq for record in records] != list(range(begin + 1, through + 1)):
            raise JournalError(f"{self.path} is damaged (events after event {begin} are missing)", "damaged")
        return Page(records, through, lost_through)

    def newest(self, at_most: int, topics: Iterable[str] = ("",)) -> list[Record]:
        """Return the newest events of these topics, in order, without heatmaps."""
        wanted, prefixes = _condition(topics)
        rows = self._rows(f"{wanted} ORDER BY seq DESC LIMIT ?", heatmaps=False)
        with self._snapshot():
            return [Record(*row) for row in self._connection.execute(rows, (*prefixes, at_most))][::-1]

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_in_place(self) -> bool:
        """Whether the open file is still the one at its path, and nobody writes if nobody did."""
        try:
            return self.path.stat().st_ino == self._inode and not (self._alone and _is_written(self.path))
        except OSError:
            return False

    def _rows(self, condition: str, heatmaps: bool) -> str:
        return f"SELECT seq, at_ns, topic, header, {'heatmap' if heatmaps else 'NULL'} FROM events WHERE {condition}"

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Read within one transaction, so that everything is of the same instant."""
        with journal_errors(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")


def _is_written(path: Path) -> bool:
    """Return whether the -wal file holds pages that are not in the database."""
    try:
        return database_files(path)[1].stat().st_size > 0
    except OSError:
        return False


def _condition(topics: Iterable[str]) -> tuple[str, list[int | str]]:
    """Return the SQL condition that a topic begins with one of these prefixes, and its values; of all topics: none."""
    prefixes = list(topics)
    if "" in prefixes:
        return _ALL, []
    values: list[int | str] = [value for prefix in prefixes for value in (len(prefix), prefix)]
    return f"({' OR '.join(['substr(topic, 1, ?) = ?'] * len(prefixes)) or 'false'})", values


def check_place(folder: Path, line: str) -> None:
    """Raise a DeliveryError or JournalError if a line cannot keep its journal in a folder. Nothing is written there."""
    path = folder / FILE_NAME
    with journal_errors(path):
        if require_writable(folder) == folder and path.exists():
            os.close(hold(folder, os.O_RDONLY))
            with JournalReader.open(folder) as journal:
                _require_own(path, journal.contents().line, line)
