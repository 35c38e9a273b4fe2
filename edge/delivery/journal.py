"""The journal: the SQLite file of a line's events, each with its place in a gapless count.

One `Journal` writes. Any number of `JournalReader`s, in any process, read meanwhile, and where nothing can be written.
"""

import contextlib
import fcntl
import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from edge.delivery.journal_errors import (
    JournalDamagedError,
    JournalFailedError,
    JournalForeignError,
    JournalFullError,
    JournalMissingError,
    JournalReadOnlyError,
    JournalReplacedError,
    kind_of,
)
from edge.delivery.journal_file import FILE_NAME, PAGE_BYTES, beside, head_of, make, move_aside
from edge.errors import JournalError

BUSY_SECONDS = 0.5
"""How long a writer waits for somebody else who holds the file."""
READER_BUSY_SECONDS = 5.0
LOOKED_AT_WHEN_OPENED = 1000
"""The newest events, which the last death is most likely to have hurt; `heatline journal verify` looks at all."""
WAL_BYTES = 8 << 20
"""Room taken for it at once: on a disk that fills meanwhile, what is free in the journal can be used still."""
WAL_KEPT_BYTES = 2 * WAL_BYTES
"""A reader that takes long makes it grow; afterwards it shrinks to this."""
SCANNED_AT_MOST = 20_000
"""Events looked at in one reading, so that a filter that nothing passes keeps no reader, nor the file, for long."""


class Record(NamedTuple):
    """An event as the journal has it."""

    seq: int
    at_ns: int
    """When it was journalled: UTC, ns since 1970."""
    topic: str
    header: bytes
    heatmap: bytes | None = None
    """The PNG; None where it has none, or it was not asked for."""


class Progress(NamedTuple):
    """How far a camera's frames were told."""

    boot_id: str
    frame_number: int
    """Of the last frame with an event, as that boot's ledger counts."""


class Gone(NamedTuple):
    """Events that were deleted."""

    first_seq: int
    last_seq: int
    by_topic: dict[str, int]


def crc_of(header: bytes, heatmap: bytes | None) -> int:
    """CRC-32 of what was journalled."""
    return zlib.crc32(heatmap or b"", zlib.crc32(header))


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
            self.first_seq, self.last_seq = _range(self._connection)
            self.topics = _topics(self._connection)
            self.progress = _progress(self._connection)
            self.size_bytes, self.file_bytes = _sizes(self._connection)
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
            sizes = _sizes(self._connection)
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
                "SELECT seq, at_ns, length(header) + ifnull(length(heatmap), 0) FROM events ORDER BY seq LIMIT ?",
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
                    "SELECT topic, count(*) FROM events WHERE seq <= ? GROUP BY topic", (through_seq,)
                )
            )
            self._connection.execute("DELETE FROM events WHERE seq <= ?", (through_seq,))
            first_seq, _ = _range(self._connection)
            sizes = _sizes(self._connection)
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
            found = self._connection.execute("SELECT topic FROM events WHERE seq = ?", (seq,)).fetchone()
            if seq >= self.first_seq and found != (topic,):
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


class Page(NamedTuple):
    """What was read at once."""

    records: list[Record]
    through_seq: int
    """Up to it, nothing that was asked for and is there is missing."""
    lost_through: int | None
    """Events that were asked for, up to this one, are gone; None where none are."""


class Stored(NamedTuple):
    """Events as they are stored."""

    first_seq: int
    """Of the oldest event at that instant."""
    records: list[tuple[Record, int]]
    """Each with the CRC that was noted of it."""


class JournalReader:
    """The journal, to be read by one thread; `open` it."""

    def __init__(self, path: Path, connection: sqlite3.Connection, alone: bool) -> None:
        self.path = path
        self._connection = connection
        self._alone = alone
        """Nobody is writing: what SQLite keeps beside a file that is written is not there, and cannot be made."""
        self.journal_id = ""
        self.line = ""
        self.created_at_ns = 0
        """UTC, ns since 1970."""
        self._file: tuple[int, int] | None = None
        self._changed_at_ns = 0

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the journal of a folder.

        Raises:
            JournalMissingError: there is none.
            JournalError: another of its kinds; see `edge.delivery.journal_errors`.
        """
        return cls.open_file(folder / FILE_NAME)

    @classmethod
    def open_file(cls, path: Path) -> Self:
        """Open a journal by its path, as of one that was moved aside; otherwise like `open`."""
        try:
            return cls._open(path, "mode=ro", alone=False)
        except (JournalReadOnlyError, JournalFullError, JournalFailedError):
            # SQLite could not make the files that it keeps beside it. Where there are none, nobody writes.
            if _is_written(path):
                raise
            return cls._open(path, "mode=ro&immutable=1", alone=True)

    @classmethod
    def _open(cls, path: Path, how: str, *, alone: bool) -> Self:
        try:
            found = path.stat()
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?{how}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=READER_BUSY_SECONDS,
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            raise JournalMissingError(f"there is no journal {path}; expected that of a line that has run") from error
        except (sqlite3.Error, OSError) as error:
            raise kind_of(error, path) from error
        reader = cls(path, connection, alone)
        reader._file, reader._changed_at_ns = (found.st_dev, found.st_ino), found.st_mtime_ns
        try:
            reader.journal_id, reader.line, reader.created_at_ns = head_of(connection, path)
        except (sqlite3.Error, JournalError) as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise kind_of(error, path) from error
            raise
        return reader

    @property
    def first_seq(self) -> int:
        """Of the oldest event; 0 where there is none."""
        return self.range()[0]

    @property
    def last_seq(self) -> int:
        """How far it counts, whatever has been deleted since."""
        return self.range()[1]

    def range(self) -> tuple[int, int]:
        """Its first and its last seq.

        Raises:
            JournalError: it cannot be read.
        """
        with self._snapshot():
            return _range(self._connection)

    def size_bytes(self) -> int:
        """Of its pages in use.

        Raises:
            JournalError: it cannot be read.
        """
        with self._snapshot():
            return _sizes(self._connection)[0]

    def topics(self) -> dict[str, int]:
        """Each topic's last seq.

        Raises:
            JournalError: they cannot be read.
        """
        with self._snapshot():
            return _topics(self._connection)

    def progress(self) -> dict[str, Progress]:
        """How far each camera's frames were told.

        Raises:
            JournalError: it cannot be read.
        """
        with self._snapshot():
            return _progress(self._connection)

    def read(
        self,
        after_seq: int,
        *,
        through_seq: int | None = None,
        topics: Iterable[str] = ("",),
        at_most: int = 1000,
        at_most_bytes: int = 4 << 20,
        heatmaps: bool = False,
    ) -> Page:
        """Events in their order.

        Args:
            after_seq: those after this one,
            through_seq: up to this one; None: to the last.
            topics: prefixes of topics that are wanted, as ZeroMQ takes them.
            at_most: events; ask again from the page's `through_seq` for more.
            at_most_bytes: headers and heatmaps together; one event is read whatever its size.
            heatmaps: whether they are wanted.
        Raises:
            JournalReplacedError: the journal is another one by now.
            JournalError: another of its kinds: it cannot be read.
        """
        self.require_in_place()
        wanted, prefixes = _condition(topics)
        with self._snapshot():
            first, last = _range(self._connection)
            end = last if through_seq is None else min(last, through_seq)
            begin = max(after_seq, first - 1 if first else last)  # what was before is gone
            lost_through = min(begin, end) if after_seq < min(begin, end) else None
            end = min(end, begin + SCANNED_AT_MOST)
            rows = self._connection.execute(
                f"SELECT seq, at_ns, topic, header, {'heatmap' if heatmaps else 'NULL'} FROM events "
                f"WHERE seq > ? AND seq <= ? AND {wanted} ORDER BY seq LIMIT ?",
                (begin, end, *prefixes, at_most),
            )
            records: list[Record] = []
            left = at_most_bytes
            cut_off = False
            for row in map(Record._make, rows):
                left -= len(row.header) + len(row.heatmap or b"")
                if records and left < 0:
                    cut_off = True
                    break
                records.append(row)
            rows.close()
        through = records[-1].seq if cut_off or len(records) == at_most else max(end, after_seq)
        if (
            not prefixes
            and wanted == _ALL
            and [record.seq for record in records] != list(range(begin + 1, through + 1))
        ):
            raise JournalDamagedError(f"{self.path} is damaged (events after event {begin} are missing)")
        return Page(records, through, lost_through)

    def newest(self, at_most: int, topics: Iterable[str] = ("",)) -> list[Record]:
        """The newest events of these topics, in their order, without heatmaps.

        Raises:
            JournalError: they cannot be read.
        """
        wanted, prefixes = _condition(topics)
        with self._snapshot():
            rows = self._connection.execute(
                f"SELECT seq, at_ns, topic, header, NULL FROM events WHERE {wanted} ORDER BY seq DESC LIMIT ?",
                (*prefixes, at_most),
            )
            return [Record._make(row) for row in rows][::-1]

    def tally(self) -> dict[str, int]:
        """How many events of each topic there are.

        Raises:
            JournalError: they cannot be read.
        """
        counts: Counter[str] = Counter()
        first, last = self.range()
        for begin in range(first, last + 1, SCANNED_AT_MOST):  # in steps, so that the file need not grow meanwhile
            with self._snapshot():
                rows = self._connection.execute(
                    "SELECT topic, count(*) FROM events WHERE seq >= ? AND seq <= ? GROUP BY topic",
                    (begin, min(last, begin + SCANNED_AT_MOST - 1)),
                )
                counts.update(dict(rows))
        return dict(counts)

    def stored(self, after_seq: int, through_seq: int, at_most: int) -> Stored:
        """Events after one, up to another, just as they are stored, whatever is missing or wrong.

        Raises:
            JournalError: they cannot be read.
        """
        with self._snapshot():
            first, _ = _range(self._connection)
            rows = self._connection.execute(
                "SELECT seq, at_ns, topic, header, heatmap, crc FROM events WHERE seq > ? AND seq <= ? ORDER BY seq "
                "LIMIT ?",
                (after_seq, through_seq, at_most),
            )
            return Stored(first, [(Record._make(row[:5]), row[5]) for row in rows])

    def faults_of_structure(self, at_most: int) -> list[str]:
        """What SQLite finds wrong with the file, in its words. It reads all of it; Ctrl-C ends it.

        Raises:
            JournalError: it cannot be read at all.
        """
        self._connection.set_progress_handler(lambda: 0, 10_000)  # has Python look for Ctrl-C
        try:
            with self._snapshot():
                said = self._connection.execute(f"PRAGMA integrity_check({at_most})").fetchall()
        except JournalError as error:
            if getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise KeyboardInterrupt from error
            raise
        finally:
            self._connection.set_progress_handler(None, 0)
        return [line for (text,) in said if text != "ok" for line in text.splitlines()]

    def close(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def require_in_place(self) -> None:
        """See that what is open is still what is at its path.

        Raises:
            JournalReplacedError: the journal is another one by now.
        """
        try:
            found = self.path.stat()
            same = (found.st_dev, found.st_ino) == self._file
            if self._alone:
                same = same and found.st_mtime_ns == self._changed_at_ns and not _is_written(self.path)
        except OSError:
            same = False
        if not same:
            raise JournalReplacedError(f"{self.path} is another file than it was; open it anew")

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """All that is read within is of one instant."""
        try:
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise kind_of(error, self.path) from error


_ALL = "true"


def _condition(topics: Iterable[str]) -> tuple[str, list[int | str]]:
    """The SQL condition that a topic begins with one of these, and its values."""
    prefixes = list(topics)
    if "" in prefixes:
        return _ALL, []
    values: list[int | str] = []
    for prefix in prefixes:
        values += [len(prefix), prefix]
    return f"({' OR '.join(['substr(topic, 1, ?) = ?'] * len(prefixes)) or 'false'})", values


def _range(connection: sqlite3.Connection) -> tuple[int, int]:
    (first,) = connection.execute("SELECT ifnull(min(seq), 0) FROM events").fetchone()
    (last,) = connection.execute("SELECT ifnull(max(last_seq), 0) FROM topics").fetchone()
    return first, last


def _sizes(connection: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of the pages in use, and of all."""
    pages: int = connection.execute("PRAGMA page_count").fetchone()[0]
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return (pages - free) * PAGE_BYTES, pages * PAGE_BYTES


def _topics(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT topic, last_seq FROM topics"))


def _progress(connection: sqlite3.Connection) -> dict[str, Progress]:
    rows = connection.execute("SELECT camera, boot_id, frame_number FROM progress")
    return {camera: Progress(boot_id, number) for camera, boot_id, number in rows}


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


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is at a path; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_written(path: Path) -> bool:
    """Whether something is kept beside a journal that is not in it yet."""
    try:
        return beside(path)[1].stat().st_size > 0
    except OSError:
        return False


def _identities(path: Path) -> list[tuple[int, int] | None]:
    return [_identity(file) for file in beside(path)]
