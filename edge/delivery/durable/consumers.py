"""Stores the positions of durable consumers.

The positions are in a small SQLite file beside the journal. It takes all its room at once and is only overwritten
afterwards, so that acknowledgements can be stored on a full disk.
"""

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge.delivery.journal.errors import JournalDamagedError, JournalTooNewError, kind_of
from edge.errors import JournalError
from edge.util.atomic_file import sync_folder

logger = logging.getLogger(__name__)

FILE_NAME = "consumers.db"
SCHEMA_VERSION = 1
"""Counts up when an older heatline could not use the file."""
MOST_CONSUMERS = 64
PAGE_BYTES = 16384
"""All consumers fit on one page."""
BUSY_SECONDS = 0.5
SECONDS_BETWEEN_TRIES = 1.0
NOT_KNOWN = "(not known)"
"""Stands for all consumers while the file cannot be read."""

_TABLE = """
CREATE TABLE consumers (
    name TEXT PRIMARY KEY,
    journal_id TEXT NOT NULL,
    acked_seq INTEGER NOT NULL,
    seen_at_ns INTEGER NOT NULL
) WITHOUT ROWID
"""
_PRAGMAS = {
    "page_size": PAGE_BYTES,
    "journal_mode": "PERSIST",
    "synchronous": "FULL",
    "temp_store": "MEMORY",
    "cell_size_check": "ON",
}
_WRITE = "REPLACE INTO consumers VALUES (?, ?, ?, ?)"


class Position(NamedTuple):
    """How far a consumer has acknowledged."""

    journal_id: str
    acked_seq: int
    """All events up to this one were acknowledged."""
    seen_at_ns: int
    """Time of its last request: UTC, ns since 1970."""

    def in_journal(self, journal_id: str) -> int:
        """Return the last event of a journal that was acknowledged; 0 if none was."""
        return self.acked_seq if self.journal_id == journal_id else 0


class Consumers:
    """The durable consumers of a line. Any thread.

    A fault of the disk ends nothing: positions stay in memory, the fault is logged, and each `write` tries again.

    Args:
        folder: folder of the journal.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._aside = folder / f"{FILE_NAME}.damaged"
        self._lock = threading.Lock()
        """Held briefly. A thread that needs both locks takes `_writing` first."""
        self._writing = threading.Lock()
        """Held while the disk is waited for."""
        self._connection: sqlite3.Connection | None = None
        self._known = False
        self._positions: dict[str, Position] = {}
        self._written: dict[str, Position] = {}
        self._try_again_s = 0.0
        self._closing = False
        self.fault: str | None = None
        """Why acknowledgements cannot be stored now, as a sentence; None while they can."""
        with self._writing, contextlib.suppress(JournalError):
            self._open()

    @property
    def lost_consumers(self) -> bool:
        """Whether a damaged file was moved aside, so that a name that looks new may have existed before."""
        return self._aside.exists()

    def positions(self) -> dict[str, Position]:
        """Return the position of each consumer by name.

        Raises:
            JournalError: the positions are not known yet, because the file cannot be read.
        """
        with self._lock:
            if not self._known:
                raise JournalError(self.fault or f"{self._path} was not read yet")
            return dict(self._positions)

    def acked(self, journal_id: str) -> dict[str, int]:
        """Return the acknowledged event of each consumer as it is on the disk. Later events must not be deleted."""
        with self._lock:
            if not self._known:
                return {NOT_KNOWN: 0}
            written = {name: self._written.get(name) for name in self._positions}
            return {name: each.in_journal(journal_id) if each else 0 for name, each in written.items()}

    def register(self, name: str, journal_id: str, acked_seq: int) -> None:
        """Register a new consumer, for which events are retained from now on. It is on the disk when this returns.

        Raises:
            JournalError: the disk cannot be written, and the consumer is not registered.
        """
        position = Position(journal_id, acked_seq, time.time_ns())
        with self._writing:
            self._run(_WRITE, (name, *position))
            with self._lock:
                self._positions[name] = self._written[name] = position

    def forget(self, name: str) -> None:
        """Remove a consumer. It is removed from the disk when this returns.

        Raises:
            JournalError: the disk cannot be written, and the consumer is still registered.
        """
        with self._writing:
            self._run("DELETE FROM consumers WHERE name = ?", (name,))
            with self._lock:
                self._positions.pop(name, None)
                self._written.pop(name, None)

    def acknowledge(self, name: str, journal_id: str, seq: int) -> None:
        """Record that a consumer acknowledged all events up to one. The next `write` stores it."""
        with self._lock:
            if name in self._positions:
                self._positions[name] = Position(journal_id, seq, time.time_ns())

    def seen(self, name: str) -> None:
        """Record that a consumer sent a request. It is stored with its next acknowledgement, and at the end."""
        with self._lock:
            if name in self._positions:
                self._positions[name] = self._positions[name]._replace(seen_at_ns=time.time_ns())

    def write(self) -> None:
        """Store the acknowledgements on the disk. If that fails, a later call tries again."""
        with self._writing, contextlib.suppress(JournalError):
            if self.fault is not None and time.monotonic() < self._try_again_s:
                return
            if self._connection is None:
                self._open()
            with self._lock:
                changed = {name: each for name, each in self._positions.items() if self._is_worth_writing(name, each)}
            if changed or self.fault is not None:
                self._run_all([(_WRITE, (name, *position)) for name, position in changed.items()])
                with self._lock:
                    self._written |= changed

    def close(self) -> None:
        """Store the acknowledgements, and close the file."""
        self._try_again_s, self._closing = 0.0, True
        self.write()
        with self._writing:
            self._close_file()

    # The following methods are called with `_writing` held.

    def _is_worth_writing(self, name: str, position: Position) -> bool:
        """Return whether a position differs enough from the stored one to be written."""
        written = self._written.get(name)
        return written is None or written[:2] != position[:2] or (self._closing and written != position)

    def _run(self, statement: str, values: tuple[str | int, ...]) -> None:
        if self._connection is None:
            self._open()
        self._run_all([(statement, values)])

    def _run_all(self, statements: list[tuple[str, tuple[str | int, ...]]]) -> None:
        assert self._connection is not None
        try:
            with _transaction(self._connection):
                for statement, values in statements:
                    self._connection.execute(statement, values)
                if not statements:  # find out whether the file can be written again
                    _touch(self._connection)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        if self.fault is not None:
            logger.info("%s can be written again: the acknowledgements of durable consumers are stored", self._path)
        self.fault = None

    def _open(self) -> None:
        """Read the file. Create it if there is none, and replace it if it is damaged.

        Raises:
            JournalError: the file cannot be opened, or it can be read and not be written.
        """
        try:
            if not self._known and not _has_bytes(self._path):  # no consumer can be in it, even if it cannot be created
                with self._lock:
                    self._known = True
            self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            try:
                self._connection, found = _opened(self._path)
            except JournalDamagedError as error:
                self._move_aside(error)
                self._connection, found = _opened(self._path)
        except (OSError, JournalError) as error:
            raise self._failed(error) from error
        with self._lock:
            if not self._known:  # otherwise the positions in memory are newer
                self._positions = dict(found)
            self._written = found
            self._known = True
        self._run_all([])

    def _failed(self, error: sqlite3.Error | OSError | JournalError) -> JournalError:
        journal_error = error if isinstance(error, JournalError) else kind_of(error, self._path)
        self._close_file()  # SQLite remembers that an open file was read-only; and a damaged file is replaced
        if self.fault is None:
            logger.error("the acknowledgements of durable consumers cannot be stored; trying again: %s", journal_error)
        self.fault = str(journal_error)
        self._try_again_s = time.monotonic() + SECONDS_BETWEEN_TRIES
        return journal_error

    def _move_aside(self, damaged: JournalDamagedError) -> None:
        # The -journal file first: SQLite would take it for the new file's.
        for end in ("-journal", ""):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self._path}{end}").rename(f"{self._aside}{end}")
        sync_folder(self._path.parent)
        known = (
            "the positions are in memory" if self._known else "all consumers start with the first event in the journal"
        )
        logger.error("%s; it was moved to %s, and %s", damaged, self._aside, known)

    def _close_file(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _opened(path: Path) -> tuple[sqlite3.Connection, dict[str, Position]]:
    """Open the file and read the consumers in it. Create its table if the file is empty.

    Raises:
        JournalError: the file cannot be used.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS)
        try:
            for pragma, value in _PRAGMAS.items():
                connection.execute(f"PRAGMA {pragma} = {value}")
            return connection, _read(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise kind_of(error, path) from error


def _read(connection: sqlite3.Connection, path: Path) -> dict[str, Position]:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise JournalTooNewError(
            f"{path} is of version {version}, this heatline knows up to {SCHEMA_VERSION}; update heatline"
        )
    if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        with _transaction(connection):
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    rows = connection.execute("SELECT name, journal_id, acked_seq, seen_at_ns FROM consumers").fetchall()
    if found != "ok" or any([*map(type, row)] != [str, str, int, int] for row in rows):
        raise JournalDamagedError(f"{path} is damaged")
    return {name: Position(journal_id, acked_seq, seen_at_ns) for name, journal_id, acked_seq, seen_at_ns in rows}


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


def _touch(connection: sqlite3.Connection) -> None:
    """Change all pages and undo the change, so that SQLite takes all the room that its -journal file ever needs."""
    connection.execute(_WRITE, ("", "", 0, 0))
    connection.execute("DELETE FROM consumers WHERE name = ''")


def _has_bytes(path: Path) -> bool:
    """Return whether there is a file that is not empty."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
