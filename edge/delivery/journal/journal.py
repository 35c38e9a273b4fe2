"""The journal: a SQLite file that holds a line's events in a gapless count. This module writes it.

One `Journal` writes. Any number of readers (`heatline.edge.delivery.journal.reader`), in any process, may read
meanwhile.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from heatline.edge.delivery.journal.errors import (
    JournalDamagedError,
    JournalForeignError,
    JournalFullError,
    JournalHeldError,
    kind_of,
)
from heatline.edge.delivery.journal.file import (
    FILE_NAME,
    PAGE_BYTES,
    database_files,
    let_group_read,
    make,
    move_aside,
    read_head,
)
from heatline.edge.delivery.journal.rows import (
    AT_NS,
    TOPIC,
    Record,
    header_crc,
    heatmap_crc,
    oldest_at_ns_in,
    progress_in,
    range_in,
    sizes_in,
    topics_in,
)
from heatline.edge.frames import Watermark
from heatline.edge.util.files import make_folder, open_locked

BUSY_SECONDS = 0.2
"""How long to wait for another process that has locked the file."""
LOOKED_AT_WHEN_OPENED = 1000
"""Newest events that are verified when the journal is opened, since a crash most likely damages them. `heatline journal
verify` verifies all."""
WAL_BYTES = 8 << 20
"""Room that the -wal file takes at once, so that free pages of the journal can still be used if the disk fills up."""
WAL_KEPT_BYTES = 2 * WAL_BYTES
"""A reader that takes long makes the -wal file grow. Afterwards it is truncated to this size."""
WAL_MOST_BYTES = 128 << 20
"""Above this size of the -wal file, or above the budget if that is larger, the journal counts as full."""


class Deleted(NamedTuple):
    """Events that were deleted."""

    first_seq: int
    last_seq: int
    by_topic: dict[str, int]


class Journal:
    """The journal, for writing by one thread. Create it with `open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int, most_bytes: int | None = None) -> None:
        self.path = path
        self._connection, self._lock = connection, lock
        self._most_bytes = most_bytes
        self.journal_id = ""
        self.line = ""
        self.first_seq = self.last_seq = 0
        self.topics: dict[str, int] = {}
        """Last seq of each topic, also after its events were deleted."""
        self.progress: dict[str, Watermark] = {}
        """Last reported frame of each camera, also after its events were deleted."""
        self.size_bytes = 0
        """Size of the pages in use."""
        self.file_bytes = 0
        """Size of all pages. Pages of deleted events are used again, and not returned to the disk."""
        self.oldest_at_ns: int | None = None
        """Time when the oldest event was journalled: UTC, ns since 1970; None if there is none."""
        self.wal_bytes = 0
        """Size of the -wal file."""

    @classmethod
    def open(cls, folder: Path, line: str, *, most_bytes: int | None = None) -> Self:
        """Open the journal of a folder. Create the folder and the journal if they do not exist.

        Args:
            line: name of the line that owns the journal.
            most_bytes: above this size, an append fails as on a full disk.
        Raises:
            JournalError: a subclass of `heatline.edge.delivery.journal.errors`.
        """
        path = folder / FILE_NAME
        with contextlib.ExitStack() as if_it_fails:
            try:
                make_folder(folder)
                lock = hold(folder, os.O_RDONLY | os.O_CREAT)
                if_it_fails.callback(os.close, lock)
                if not path.exists():
                    if any(file.exists() for file in database_files(path)):
                        move_aside(path)  # its database is gone, and SQLite would use the rest for the new one
                    make(path, line)
                let_group_read(path)
                connection = sqlite3.connect(
                    f"{path.absolute().as_uri()}?mode=rw",
                    uri=True,
                    isolation_level=None,
                    check_same_thread=False,
                    timeout=BUSY_SECONDS,
                )
                if_it_fails.callback(connection.close)
                journal = cls(path, connection, lock, most_bytes)
                journal._prepare()
                journal.reload_state()
                if journal.line != line:
                    raise JournalForeignError.of(path, journal.line, line)
                journal._take_room()
                journal._note_wal()
            except (sqlite3.Error, OSError) as error:
                raise kind_of(error, path) from error
            if_it_fails.pop_all()
        return journal

    def reload_state(self) -> None:
        """Read the state from the file. After a failed commit, only the file knows what was stored.

        Raises:
            JournalDamagedError: the file contradicts itself.
            JournalError: the file cannot be read, or no longer be written.
        """
        with self._transaction():
            self.journal_id, self.line, self.created_at_ns = read_head(self._connection, self.path)
            self.first_seq, self.last_seq = range_in(self._connection)
            self.topics = topics_in(self._connection)
            self.progress = progress_in(self._connection)
            self.size_bytes, self.file_bytes = sizes_in(self._connection)
            self.oldest_at_ns = oldest_at_ns_in(self._connection)
            self._require_consistent()

    def append(self, records: Sequence[Record], progress: Mapping[str, Watermark]) -> None:
        """Store events, all or none. They are on the disk when this returns.

        Args:
            records: their numbers continue those of the journal.
            progress: by camera, the last frame that these events report.
        Raises:
            JournalFullError: there is no room, or nothing was tried.
            JournalError: the commit failed. The events may be stored nevertheless: call `reload_state`.
        """
        seqs = [record.seq for record in records]
        if seqs != list(range(self.last_seq + 1, self.last_seq + 1 + len(seqs))):
            raise ValueError(f"events {seqs} cannot follow event {self.last_seq}")
        self.require_small_wal()
        topics = {record.topic: record.seq for record in records}
        rows = [(*record[:3], header_crc(record), heatmap_crc(record.heatmap), *record[3:]) for record in records]
        with self._transaction(sum(len(record.header) + len(record.heatmap or b"") for record in records)):
            self._connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._connection.executemany("REPLACE INTO topics VALUES (?, ?)", topics.items())
            self._connection.executemany(
                "REPLACE INTO progress VALUES (?, ?, ?)", [(camera, *how_far) for camera, how_far in progress.items()]
            )
            sizes = sizes_in(self._connection)
        self.size_bytes, self.file_bytes = sizes
        self.topics |= topics
        self.progress |= progress
        self._note_wal()
        if records:
            if not self.first_seq:
                self.first_seq, self.oldest_at_ns = seqs[0], records[0].at_ns
            self.last_seq = seqs[-1]

    def oldest(self, bytes_in_all: int) -> list[tuple[int, int, int]]:
        """Return seq, time of journalling (UTC, ns since 1970) and size in bytes of the oldest events.

        Args:
            bytes_in_all: return as many events as reach this size together.
        Raises:
            JournalError: the events cannot be read.
        """
        found: list[tuple[int, int, int]] = []
        try:
            rows = self._connection.execute(
                f"SELECT seq, {AT_NS}, ifnull(length(header), 0) + ifnull(length(heatmap), 0) FROM events ORDER BY seq"
            )
            with contextlib.closing(rows):
                for row in rows:
                    found.append(row)
                    bytes_in_all -= row[2]
                    if bytes_in_all <= 0:
                        break
        except sqlite3.Error as error:
            raise kind_of(error, self.path) from error
        return found

    def discard(self, through_seq: int) -> Deleted:
        """Delete the oldest events, through this one, in one transaction. Delete many events in several calls.

        Raises:
            JournalError: it failed; either all of the events are still stored, or none.
        """
        with self._transaction():
            by_topic: dict[str, int] = dict(
                self._connection.execute(
                    f"SELECT {TOPIC}, count(*) FROM events WHERE seq <= ? GROUP BY 1", (through_seq,)
                )
            )
            self._connection.execute("DELETE FROM events WHERE seq <= ?", (through_seq,))
            first_seq, _ = range_in(self._connection)
            oldest_at_ns = oldest_at_ns_in(self._connection)
            sizes = sizes_in(self._connection)
        deleted = Deleted(self.first_seq, min(through_seq, self.last_seq), by_topic)
        self.first_seq, self.oldest_at_ns = first_seq, oldest_at_ns
        self._note_wal()
        self.size_bytes, self.file_bytes = sizes
        return deleted

    def checkpoint(self) -> bool:
        """Write the -wal file's pages into the database, so that the -wal file is used again from its start.

        Returns: whether that succeeded; a reader that takes long may prevent it.

        Raises:
            JournalError: the database cannot be written.
        """
        self._note_wal()
        large = self.wal_bytes > WAL_KEPT_BYTES
        try:
            how = "TRUNCATE" if large else "RESTART"
            busy, _, _ = self._connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        except sqlite3.Error as error:
            raise kind_of(error, self.path) from error
        if large and not busy:
            self._take_room()
            self._note_wal()
        return not busy

    def require_small_wal(self) -> None:
        """Require that the -wal file has not grown too large.

        Raises:
            JournalFullError: it has.
        """
        if self.wal_bytes > max(WAL_MOST_BYTES, self._most_bytes or 0):
            raise JournalFullError(
                f"{self.path} cannot be written: {FILE_NAME}-wal has grown to {self.wal_bytes >> 20} MiB, because a "
                f"process keeps a read transaction open; end that reader (fuser {self.path})"
            )

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _prepare(self) -> None:
        run = self._connection.execute
        if run("PRAGMA journal_mode").fetchone()[0] != "wal":  # another program changed it
            run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA cell_size_check = ON")
        run(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
        if self._most_bytes is not None:
            run(f"PRAGMA max_page_count = {max(1, self._most_bytes // PAGE_BYTES)}")

    def _note_wal(self) -> None:
        try:
            self.wal_bytes = database_files(self.path)[1].stat().st_size
        except OSError:
            self.wal_bytes = 0

    def _take_room(self) -> None:
        """Allocate room for the -wal file, if the disk has plenty."""
        disk = os.statvfs(self.path.parent)
        if disk.f_bavail * disk.f_frsize < 10 * WAL_BYTES:
            return
        with contextlib.suppress(OSError):
            fd = os.open(database_files(self.path)[1], os.O_RDWR | os.O_CLOEXEC)
            try:
                os.posix_fallocate(fd, 0, WAL_BYTES)
            finally:
                os.close(fd)

    def _require_consistent(self) -> None:
        """Compare the tables with the newest events, as far as that is fast."""
        newest, count = self._connection.execute(
            "SELECT max(seq), count(*) FROM (SELECT seq FROM events ORDER BY seq DESC LIMIT ?)",
            (LOOKED_AT_WHEN_OPENED,),
        ).fetchone()
        if newest is None:
            return
        if newest != self.last_seq:
            raise JournalDamagedError(
                f"{self.path} is damaged (it counts {self.last_seq} events, and ends with {newest})"
            )
        if count != min(LOOKED_AT_WHEN_OPENED, newest - self.first_seq + 1):
            raise JournalDamagedError(f"{self.path} is damaged (events before event {newest} are missing)")

    @contextlib.contextmanager
    def _transaction(self, of_bytes: int = 0) -> Iterator[None]:
        """Run the body in one transaction: all of its changes or none.

        Args:
            of_bytes: bytes that the body adds.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                journal_error = kind_of(error, self.path)
                if isinstance(journal_error, JournalFullError) and self._has_no_budget_for(of_bytes):
                    journal_error = JournalFullError(
                        f"{self.path} has all the room that the line may give it: more comes than can be deleted "
                        "meanwhile; set a larger journal.retain_mib, or have fewer heatmaps sent"
                    )
                raise journal_error from error
            raise

    def _has_no_budget_for(self, of_bytes: int) -> bool:
        """Return whether these bytes exceed the rest of the budget, with a reserve for SQLite itself."""
        needed = of_bytes + of_bytes // 4 + 16 * PAGE_BYTES
        return self._most_bytes is not None and self.size_bytes + needed > self._most_bytes


def hold(folder: Path, flags: int) -> int:
    """Lock the journal of a folder against other lines, for as long as the returned descriptor is open.

    Args:
        flags: with which the file is opened that is locked.
    Raises:
        JournalHeldError: another line holds the lock.
        OSError: the lock cannot be taken.
    """
    try:
        return open_locked(folder / "journal.lock", flags)
    except BlockingIOError as error:
        raise JournalHeldError(
            f"{folder / FILE_NAME} is in use by another running line; give each line its own journal.folder"
        ) from error
