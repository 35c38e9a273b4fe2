"""Reads the journal: in any process, while it is written, and on a read-only disk."""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from heatline.edge.delivery.journal.errors import (
    JournalDamagedError,
    JournalFailedError,
    JournalFullError,
    JournalMissingError,
    JournalReadOnlyError,
    JournalReplacedError,
    kind_of,
)
from heatline.edge.delivery.journal.file import FILE_NAME, database_files, read_head
from heatline.edge.delivery.journal.rows import (
    EVENT,
    HEATMAP,
    TOPIC,
    Record,
    header_crc,
    heatmap_crc,
    progress_in,
    range_in,
    sizes_in,
    topics_in,
)
from heatline.edge.errors import JournalError
from heatline.edge.frames import Watermark
from heatline.edge.util.files import require_plain

BUSY_SECONDS = 5.0
"""How long to wait for another process that has locked the file."""
SCANNED_AT_MOST = 20_000
"""Events scanned in one transaction, so that a filter that matches nothing does not keep it open for long."""


class Page(NamedTuple):
    """Events that were read at once."""

    records: list[Record]
    through_seq: int
    """All requested events up to this one that are in the journal were read."""
    lost_through: int | None
    """Requested events up to this one were deleted; None: none were."""


class StoredRecord(NamedTuple):
    """An event as it is stored, with its checksums."""

    record: Record
    header_crc: int | None
    """As it was stored with the event."""
    heatmap_crc: int | None

    def faults(self, heatmap: bool = True) -> list[str]:
        """Return a sentence for each part of the event that does not match its checksum.

        Args:
            heatmap: whether the heatmap was read.
        """
        parts = {
            "its header, its topic or its time": header_crc(self.record) != self.header_crc,
            "its heatmap": heatmap and heatmap_crc(self.record.heatmap) != self.heatmap_crc,
        }
        return [f"{part} is not what was written (its checksum differs)" for part, differs in parts.items() if differs]


class Stored(NamedTuple):
    """Events as they are stored, with their checksums."""

    first_seq: int
    """The oldest event in the journal when these were read."""
    records: list[StoredRecord]


class JournalReader:
    """The journal, for reading by one thread. Create it with `open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, alone: bool) -> None:
        self.path = path
        self._connection = connection
        self._alone = alone
        """Nobody writes: there are no -wal and -shm files, and none can be created."""
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
            JournalMissingError: the folder has no journal.
            JournalError: another subclass of `heatline.edge.delivery.journal.errors`.
        """
        return cls.open_file(folder / FILE_NAME)

    @classmethod
    def open_file(cls, path: Path) -> Self:
        """Open a journal by its path, such as one that was moved aside; otherwise like `open`."""
        try:
            return cls._open(path, "mode=ro", alone=False)
        except (JournalReadOnlyError, JournalFullError, JournalFailedError):
            # SQLite could not create the -wal and -shm files. If there are none, nobody writes.
            if _is_written(path):
                raise
            return cls._open(path, "mode=ro&immutable=1", alone=True)

    @classmethod
    def _open(cls, path: Path, how: str, *, alone: bool) -> Self:
        try:
            found = path.stat()
            require_plain(found.st_mode)  # SQLite would wait at a pipe for ever
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?{how}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=BUSY_SECONDS,
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            raise JournalMissingError(f"there is no journal {path}; expected that of a line that has run") from error
        except (sqlite3.Error, OSError) as error:
            raise kind_of(error, path) from error
        reader = cls(path, connection, alone)
        reader._file, reader._changed_at_ns = (found.st_dev, found.st_ino), found.st_mtime_ns
        try:
            reader.journal_id, reader.line, reader.created_at_ns = read_head(connection, path)
        except (sqlite3.Error, JournalError) as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise kind_of(error, path) from error
            raise
        return reader

    @property
    def first_seq(self) -> int:
        """The oldest event; 0 if there is none."""
        return self.range()[0]

    @property
    def last_seq(self) -> int:
        """The last number that was counted, also if its event was deleted."""
        return self.range()[1]

    def range(self) -> tuple[int, int]:
        """Return the first and the last seq.

        Raises:
            JournalError: the journal cannot be read.
        """
        with self._snapshot():
            return range_in(self._connection)

    def size_bytes(self) -> int:
        """Return the size of the pages in use.

        Raises:
            JournalError: the journal cannot be read.
        """
        with self._snapshot():
            return sizes_in(self._connection)[0]

    def topics(self) -> dict[str, int]:
        """Return the last seq of each topic.

        Raises:
            JournalError: the journal cannot be read.
        """
        with self._snapshot():
            return topics_in(self._connection)

    def progress(self) -> dict[str, Watermark]:
        """Return the last frame that was reported for each camera.

        Raises:
            JournalError: the journal cannot be read.
        """
        with self._snapshot():
            return progress_in(self._connection)

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
        """Read events in order.

        Args:
            after_seq: read events after this one.
            through_seq: read events up to this one; None: to the last.
            topics: prefixes of the topics to read, as in ZeroMQ.
            at_most: most events to read; read on from the page's `through_seq`.
            at_most_bytes: most bytes of headers and heatmaps to read; one event is read whatever its size.
            heatmaps: whether to read heatmaps.
        Raises:
            JournalDamagedError: the first of the events is missing or damaged.
            JournalReplacedError: the file was replaced.
            JournalError: another subclass: the journal cannot be read.
        """
        self.require_in_place()
        wanted, prefixes = _condition(topics)
        with self._snapshot():
            first, last = range_in(self._connection)
            end = last if through_seq is None else min(last, through_seq)
            begin = max(after_seq, first - 1 if first else last)  # events before were deleted
            lost_through = min(begin, end) if after_seq < min(begin, end) else None
            end = min(end, begin + SCANNED_AT_MOST)
            rows = self._connection.execute(
                f"SELECT {EVENT}, {HEATMAP if heatmaps else 'NULL'}, header_crc, heatmap_crc FROM events "
                f"WHERE seq > ? AND seq <= ? AND {wanted} ORDER BY seq LIMIT ?",
                (begin, end, *prefixes, at_most),
            )
            records: list[Record] = []
            left = at_most_bytes
            cut_off = False
            for stored in map(_stored, rows):
                record = stored.record
                left -= len(record.header) + len(record.heatmap or b"")
                faults = stored.faults(heatmaps)
                if records and (left < 0 or faults):  # events before a damaged one are still delivered
                    cut_off = True
                    break
                self._require_none(faults, record)
                records.append(record)
            rows.close()
        through = records[-1].seq if cut_off or len(records) == at_most else max(end, after_seq)
        if (
            not prefixes
            and wanted == _ALL
            and [record.seq for record in records] != list(range(begin + 1, through + 1))
        ):
            raise JournalDamagedError(f"{self.path} is damaged (events after event {begin} are missing)")
        return Page(records, through, lost_through)

    def newest(self, at_most: int, topics: Iterable[str] = ("",)) -> list[StoredRecord]:
        """Return the newest events of these topics, in order, without heatmaps, even if they are damaged.

        Raises:
            JournalError: the journal cannot be read.
        """
        wanted, prefixes = _condition(topics)
        with self._snapshot():
            rows = self._connection.execute(
                f"SELECT {EVENT}, NULL, header_crc, heatmap_crc FROM events WHERE {wanted} ORDER BY seq DESC LIMIT ?",
                (*prefixes, at_most),
            ).fetchall()
        return [_stored(row) for row in reversed(rows)]

    def tally(self) -> dict[str, int]:
        """Return the number of events of each topic.

        Raises:
            JournalError: the journal cannot be read.
        """
        counts: Counter[str] = Counter()
        first, last = self.range()
        for begin in range(first, last + 1, SCANNED_AT_MOST):  # in steps, so that the -wal file need not grow meanwhile
            with self._snapshot():
                rows = self._connection.execute(
                    f"SELECT {TOPIC}, count(*) FROM events WHERE seq >= ? AND seq <= ? GROUP BY 1",
                    (begin, min(last, begin + SCANNED_AT_MOST - 1)),
                )
                counts.update(dict(rows))
        return dict(counts)

    def stored(self, after_seq: int, through_seq: int, at_most: int) -> Stored:
        """Read events after one up to another, even if some are missing or damaged.

        Raises:
            JournalError: the journal cannot be read.
        """
        with self._snapshot():
            first, _ = range_in(self._connection)
            rows = self._connection.execute(
                f"SELECT {EVENT}, {HEATMAP}, header_crc, heatmap_crc FROM events "
                "WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
                (after_seq, through_seq, at_most),
            )
            return Stored(first, [_stored(row) for row in rows])

    def faults_of_structure(self, at_most: int) -> list[str]:
        """Return what SQLite finds wrong with the file. It reads the whole file; Ctrl-C interrupts it.

        Raises:
            JournalError: the journal cannot be read at all.
        """
        self._connection.set_progress_handler(lambda: 0, 10_000)  # lets Python handle Ctrl-C
        try:
            with self._snapshot():
                rows = self._connection.execute(f"PRAGMA integrity_check({at_most})").fetchall()
        except JournalError as error:
            if getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise KeyboardInterrupt from error
            raise
        finally:
            self._connection.set_progress_handler(None, 0)
        return [line for (text,) in rows if text != "ok" for line in text.splitlines()]

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def require_in_place(self) -> None:
        """Require that the open file is still the one at its path.

        Raises:
            JournalReplacedError: the file was replaced.
        """
        try:
            found = self.path.stat()
            same = (found.st_dev, found.st_ino) == self._file
            if self._alone:
                same = same and found.st_mtime_ns == self._changed_at_ns and not _is_written(self.path)
        except OSError:
            same = False
        if not same:
            raise JournalReplacedError(f"{self.path} was replaced while it was open; open it again")

    def _require_none(self, faults: list[str], record: Record) -> None:
        if faults:
            raise JournalDamagedError(f"{self.path} is damaged (event {record.seq}: {faults[0]})")

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Read within one transaction, so that everything is of the same instant."""
        try:
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise kind_of(error, self.path) from error


def _stored(row: tuple[Any, ...]) -> StoredRecord:
    return StoredRecord(Record._make(row[:5]), *row[5:])


def _is_written(path: Path) -> bool:
    """Return whether the -wal file holds pages that are not in the database."""
    try:
        return database_files(path)[1].stat().st_size > 0
    except OSError:
        return False


_ALL = "true"


def _condition(topics: Iterable[str]) -> tuple[str, list[int | str]]:
    """Return the SQL condition that a topic begins with one of these prefixes, and its values."""
    prefixes = list(topics)
    if "" in prefixes:
        return _ALL, []
    values: list[int | str] = []
    for prefix in prefixes:
        values += [len(prefix), prefix]
    return f"({' OR '.join(['substr(topic, 1, ?) = ?'] * len(prefixes)) or 'false'})", values
