"""The journal: the SQLite file of a line's events, each with its place in a gapless count. Here it is written.

One `Journal` writes. Any number of readers (`edge.delivery.journal_reader`), in any process, read meanwhile.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from edge.delivery.journal_errors import JournalDamagedError, JournalForeignError, JournalReplacedError, kind_of
from edge.delivery.journal_file import FILE_NAME, PAGE_BYTES, beside, head_of, identity, make, move_aside
from edge.delivery.journal_rows import (
    AT_NS,
    TOPIC,
    Progress,
    Record,
    crc_of,
    progress_in,
    range_in,
    sizes_in,
    topics_in,
)

BUSY_SECONDS = 0.5
"""How long to wait for somebody else who holds the file."""
LOOKED_AT_WHEN_OPENED = 1000
"""The newest events, which the last death is most likely to have hurt; `heatline journal verify` looks at all."""
WAL_BYTES = 8 << 20
"""Room taken for it at once: on a disk that fills meanwhile, what is free in the journal can be used still."""
WAL_KEPT_BYTES = 2 * WAL_BYTES
"""A reader that takes long makes it grow; afterwards it shrinks to this."""


class Gone(NamedTuple):
    """Events that were deleted."""

    first_seq: int
    last_seq: int
    by_topic: dict[str, int]


class Journal:
    """The journal, to be written by one thread; `open` it."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int) -> None:
        self.path = path
        self._connection, self._lock = connection, lock
        self.journal_id = ""
        self.line = ""
        self.first_seq = self.last_seq = 0
        self.topics: dict[str, int] = {}
        """Each topic's last seq; it outlives the event."""
        self.progress: dict[str, Progress] = {}
        """By camera; it outlives the event."""
        self.size_bytes = 0
        """Of its pages in use."""
        self.file_bytes = 0
        """Of all its pages: what is deleted is used again, and not given back."""
        self._files: list[tuple[int, int] | None] = []

    @classmethod
    def open(cls, folder: Path, line: str, *, most_bytes: int | None = None) -> Self:
        """Open the journal of a folder; make both where they are not there.

        Args:
            line: whose journal it is.
            most_bytes: beyond it, an append is refused as on a full disk.
        Raises:
            JournalError: one of its kinds; see `edge.delivery.journal_errors`.
        """
        path = folder / FILE_NAME
        with contextlib.ExitStack() as if_it_fails:
            try:
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
                lock = _hold(folder)
                if_it_fails.callback(os.close, lock)
                if not path.exists():
                    if any(file.exists() for file in beside(path)):
                        move_aside(path)  # of a journal that is gone: SQLite would take it for the new one's
                    make(path, line)
                connection = sqlite3.connect(
                    f"{path.absolute().as_uri()}?mode=rw",
                    uri=True,
                    isolation_level=None,
                    check_same_thread=False,
                    timeout=BUSY_SECONDS,
                )
                if_it_fails.callback(connection.close)
                journal = cls(path, connection, lock)
                journal._prepare(most_bytes)
                journal.look_again()
                if journal.line != line:
                    raise JournalForeignError(
                        f"{path} is the journal of line {journal.line}, not of {line}; give each line its own "
                        "journal.folder"
                    )
                journal._take_room()
                journal._files = _identities(path)
            except (sqlite3.Error, OSError) as error:
                raise kind_of(error, path) from error
            if_it_fails.pop_all()
        return journal

    def look_again(self) -> None:
        """Take over what the file says; after a commit that failed, it alone knows what was kept.

        Raises:
            JournalDamagedError: it contradicts itself.
            JournalError: it cannot be read, or not be written any more.
        """
        with self._transaction():
            self.journal_id, self.line, _ = head_of(self._connection, self.path)
            self.first_seq, self.last_seq = range_in(self._connection)
            self.topics = topics_in(self._connection)
            self.progress = progress_in(self._connection)
            self.size_bytes, self.file_bytes = sizes_in(self._connection)
            self._require_whole()

    def append(self, records: Sequence[Record], progress: Mapping[str, Progress]) -> None:
        """Keep events, all or none of them; they are on the disk when this returns.

        Args:
            records: they go on where the journal ends.
            progress: by camera, of those that got on with these events.
        Raises:
            JournalError: it failed. They may have been kept all the same: `look_again`.
        """
        seqs = [record.seq for record in records]
        if seqs != list(range(self.last_seq + 1, self.last_seq + 1 + len(seqs))):
            raise ValueError(f"events {seqs} cannot follow event {self.last_seq}")
        topics = {record.topic: record.seq for record in records}
        rows = [(*record[:3], crc_of(record.header, record.heatmap), *record[3:]) for record in records]
        with self._transaction():
            self._connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._connection.executemany("REPLACE INTO topics VALUES (?, ?)", topics.items())
            self._connection.executemany(
                "REPLACE INTO progress VALUES (?, ?, ?)", [(camera, *how_far) for camera, how_far in progress.items()]
            )
            sizes = sizes_in(self._connection)
        self.size_bytes, self.file_bytes = sizes
        self.topics |= topics
        self.progress |= progress
        if records:
            self.first_seq, self.last_seq = self.first_seq or seqs[0], seqs[-1]

    def oldest(self, at_most: int) -> list[tuple[int, int, int]]:
        """The oldest events: of each its seq, when it was journalled (UTC, ns since 1970), and its size in bytes.

        Raises:
            JournalError: they cannot be read.
        """
        try:
            return self._connection.execute(
                f"SELECT seq, {AT_NS}, ifnull(length(header), 0) + ifnull(length(heatmap), 0) FROM events "
                "ORDER BY seq LIMIT ?",
                (at_most,),
            ).fetchall()
        except sqlite3.Error as error:
            raise kind_of(error, self.path) from error

    def discard(self, through_seq: int) -> Gone:
        """Delete the oldest events, through this one. In one transaction: of many, have them go in several calls.

        Raises:
            JournalError: it failed, and they are all there still, or none.
        """
        with self._transaction():
            by_topic: dict[str, int] = dict(
                self._connection.execute(
                    f"SELECT {TOPIC}, count(*) FROM events WHERE seq <= ? GROUP BY 1", (through_seq,)
                )
            )
            self._connection.execute("DELETE FROM events WHERE seq <= ?", (through_seq,))
            first_seq, _ = range_in(self._connection)
            sizes = sizes_in(self._connection)
        gone = Gone(self.first_seq, min(through_seq, self.last_seq), by_topic)
        self.first_seq = first_seq
        self.size_bytes, self.file_bytes = sizes
        return gone

    def checkpoint(self) -> bool:
        """Write what SQLite keeps beside the file into it, so that the room beside it can be used from its begin.

        Returns: whether it can; a reader that takes long may be in the way.

        Raises:
            JournalError: it cannot be written.
        """
        try:
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        except sqlite3.Error as error:
            raise kind_of(error, self.path) from error
        return not busy

    def require_in_place(self) -> None:
        """See that what is open is still what is at its path.

        Raises:
            JournalReplacedError: it was deleted, or another file has taken its place.
        """
        if _identities(self.path) != self._files:
            raise JournalReplacedError(f"{self.path} was deleted or replaced while it was in use")

    def close(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _prepare(self, most_bytes: int | None) -> None:
        run = self._connection.execute
        if run("PRAGMA journal_mode").fetchone()[0] != "wal":  # somebody had it in hand
            run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA cell_size_check = ON")
        run(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
        if most_bytes is not None:
            run(f"PRAGMA max_page_count = {max(1, most_bytes // PAGE_BYTES)}")

    def _take_room(self) -> None:
        """Have the file beside it take the room that it needs, where there is plenty."""
        disk = os.statvfs(self.path.parent)
        if disk.f_bavail * disk.f_frsize < 10 * WAL_BYTES:
            return
        with contextlib.suppress(OSError):
            fd = os.open(beside(self.path)[1], os.O_RDWR | os.O_CLOEXEC)
            try:
                os.posix_fallocate(fd, 0, WAL_BYTES)
            finally:
                os.close(fd)

    def _require_whole(self) -> None:
        """Hold what it says of itself against its events, as far as that takes no time."""
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
        for topic, seq in self.topics.items():
            if seq < self.first_seq:
                continue  # it has gone
            found = self._connection.execute("SELECT topic FROM events WHERE seq = ?", (seq,)).fetchone()
            if found != (topic,):
                raise JournalDamagedError(f"{self.path} is damaged (event {seq} is not of topic {topic})")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise kind_of(error, self.path) from error
            raise


def _hold(folder: Path) -> int:
    """Keep other lines out of the journal of a folder, as long as the descriptor is open.

    Raises:
        JournalForeignError: another line has it.
        OSError: it cannot be held.
    """
    lock = os.open(folder / "journal.lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise JournalForeignError(
            f"{folder / FILE_NAME} is another line's that is running; give each line its own journal.folder"
        ) from error
    return lock


def _identities(path: Path) -> list[tuple[int, int] | None]:
    return [identity(file) for file in beside(path)]
