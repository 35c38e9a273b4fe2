"""The journal: the SQLite file of a line's events, each with its place in a gapless count. Here it is written.

One `Journal` writes. Any number of readers (`edge.delivery.journal.reader`), in any process, read meanwhile.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from edge.delivery.journal.errors import (
    JournalDamagedError,
    JournalForeignError,
    JournalFullError,
    JournalHeldError,
    JournalReplacedError,
    kind_of,
)
from edge.delivery.journal.file import FILE_NAME, PAGE_BYTES, beside, head_of, identity, make, move_aside
from edge.delivery.journal.rows import (
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
from edge.frames import Watermark
from edge.util.file_lock import lock_holders, open_locked

BUSY_SECONDS = 0.2
"""How long to wait for somebody else who holds the file."""
LOOKED_AT_WHEN_OPENED = 1000
"""The newest events, which the last death is most likely to have hurt; `heatline journal verify` looks at all."""
WAL_BYTES = 8 << 20
"""Room taken for it at once: on a disk that fills meanwhile, what is free in the journal can be used still."""
WAL_KEPT_BYTES = 2 * WAL_BYTES
"""A reader that takes long makes it grow; afterwards it shrinks to this."""
WAL_MOST_BYTES = 128 << 20
"""Beyond it, or beyond the budget if that is larger, the journal is full until the reader lets go."""


class Gone(NamedTuple):
    """Events that were deleted."""

    first_seq: int
    last_seq: int
    by_topic: dict[str, int]


class Journal:
    """The journal, to be written by one thread; `open` it."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int, most_bytes: int | None = None) -> None:
        self.path = path
        self._connection, self._lock = connection, lock
        self._most_bytes = most_bytes
        self.journal_id = ""
        self.line = ""
        self.first_seq = self.last_seq = 0
        self.topics: dict[str, int] = {}
        """Each topic's last seq; it outlives the event."""
        self.progress: dict[str, Watermark] = {}
        """By camera; it outlives the event."""
        self.size_bytes = 0
        """Of its pages in use."""
        self.file_bytes = 0
        """Of all its pages: what is deleted is used again, and not given back."""
        self.oldest_at_ns: int | None = None
        """When the oldest event was journalled: UTC, ns since 1970; None where there is none."""
        self.wal_bytes = 0
        """Of what SQLite keeps beside it."""
        self._files: list[tuple[int, int] | None] = []

    @classmethod
    def open(cls, folder: Path, line: str, *, most_bytes: int | None = None) -> Self:
        """Open the journal of a folder; make both where they are not there.

        Args:
            line: whose journal it is.
            most_bytes: beyond it, an append is refused as on a full disk.
        Raises:
            JournalError: one of its kinds; see `edge.delivery.journal.errors`.
        """
        path = folder / FILE_NAME
        with contextlib.ExitStack() as if_it_fails:
            try:
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
                lock = hold(folder, os.O_RDONLY | os.O_CREAT)
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
                journal = cls(path, connection, lock, most_bytes)
                journal._prepare()
                journal.look_again()
                if journal.line != line:
                    raise JournalForeignError.of(path, journal.line, line)
                journal._take_room()
                journal._note_wal()
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
            self.journal_id, self.line, self.created_at_ns = head_of(self._connection, self.path)
            self.first_seq, self.last_seq = range_in(self._connection)
            self.topics = topics_in(self._connection)
            self.progress = progress_in(self._connection)
            self.size_bytes, self.file_bytes = sizes_in(self._connection)
            self.oldest_at_ns = oldest_at_ns_in(self._connection)
            self._require_whole()

    def append(self, records: Sequence[Record], progress: Mapping[str, Watermark]) -> None:
        """Keep events, all or none of them; they are on the disk when this returns.

        Args:
            records: they go on where the journal ends.
            progress: by camera, of those that got on with these events.
        Raises:
            JournalFullError: nothing was tried, or there was no room.
            JournalError: it failed. They may have been kept all the same: `look_again`.
        """
        seqs = [record.seq for record in records]
        if seqs != list(range(self.last_seq + 1, self.last_seq + 1 + len(seqs))):
            raise ValueError(f"events {seqs} cannot follow event {self.last_seq}")
        self.require_little_beside()
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
        """The oldest events: of each its seq, when it was journalled (UTC, ns since 1970), and its size in bytes.

        Args:
            bytes_in_all: so many that these are reached.
        Raises:
            JournalError: they cannot be read.
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
            oldest_at_ns = oldest_at_ns_in(self._connection)
            sizes = sizes_in(self._connection)
        gone = Gone(self.first_seq, min(through_seq, self.last_seq), by_topic)
        self.first_seq, self.oldest_at_ns = first_seq, oldest_at_ns
        self._note_wal()
        self.size_bytes, self.file_bytes = sizes
        return gone

    def checkpoint(self) -> bool:
        """Write what SQLite keeps beside the file into it, so that the room beside it can be used from its begin.

        Returns: whether it can; a reader that takes long may be in the way.

        Raises:
            JournalError: it cannot be written.
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

    def require_little_beside(self) -> None:
        """See that what SQLite keeps beside the file has not grown beyond all measure.

        Raises:
            JournalFullError: it has.
        """
        if self.wal_bytes > max(WAL_MOST_BYTES, self._most_bytes or 0):
            raise JournalFullError(f"{self.path} cannot be written: {self.in_the_way()}")

    def in_the_way(self) -> str:
        """What has grown beside the file, and who keeps it from getting small."""
        others = ", ".join(map(str, lock_holders(beside(self.path)[2])))
        who = f"process {others} reads" if others else "somebody reads"
        return (
            f"{beside(self.path)[1].name} beside it has grown to {self.wal_bytes >> 20} MiB, as {who} it in one go and "
            "does not let go of it; end that reader"
        )

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

    def _prepare(self) -> None:
        run = self._connection.execute
        if run("PRAGMA journal_mode").fetchone()[0] != "wal":  # somebody had it in hand
            run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA cell_size_check = ON")
        run(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
        if self._most_bytes is not None:
            run(f"PRAGMA max_page_count = {max(1, self._most_bytes // PAGE_BYTES)}")

    def _note_wal(self) -> None:
        try:
            self.wal_bytes = beside(self.path)[1].stat().st_size
        except OSError:
            self.wal_bytes = 0

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
    def _transaction(self, of_bytes: int = 0) -> Iterator[None]:
        """All or nothing of what is done within.

        Args:
            of_bytes: that it adds.
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
                said = kind_of(error, self.path)
                if isinstance(said, JournalFullError) and self._has_no_budget_for(of_bytes):
                    said = JournalFullError(
                        f"{self.path} has all the room that the line may give it: more comes than can be deleted "
                        "meanwhile; set a larger journal.retain_mib, or have fewer heatmaps sent"
                    )
                raise said from error
            raise

    def _has_no_budget_for(self, of_bytes: int) -> bool:
        """Whether so much does not fit into what is left of its budget; a little is for SQLite itself."""
        needed = of_bytes + of_bytes // 4 + 16 * PAGE_BYTES
        return self._most_bytes is not None and self.size_bytes + needed > self._most_bytes


def hold(folder: Path, flags: int) -> int:
    """Keep other lines out of the journal of a folder, as long as the descriptor is open.

    Args:
        flags: with which the file is opened that is locked.
    Raises:
        JournalHeldError: another line has it.
        OSError: it cannot be held.
    """
    try:
        return open_locked(folder / "journal.lock", flags)
    except BlockingIOError as error:
        raise JournalHeldError(
            f"{folder / FILE_NAME} is another line's that is running; give each line its own journal.folder"
        ) from error


def _identities(path: Path) -> list[tuple[int, int] | None]:
    return [identity(file) for file in beside(path)]
