"""Reads the journal: in any process, while it is written, and on a read-only disk."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from heatline.edge.delivery.journal import (
    FILE_NAME,
    Record,
    connect,
    database_files,
    hold,
    journal_error,
    progress_in,
    range_in,
    read_head,
    require_own,
    size_in,
    topics_in,
)
from heatline.edge.errors import JournalError
from heatline.edge.frames import Watermark
from heatline.edge.util.files import require_writable

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How long to wait for another process that has locked the file."""
SCANNED_AT_MOST = 20_000
"""Events scanned in one transaction, so that a filter that matches nothing does not keep it open for long."""

_ALL = "true"


class Page(NamedTuple):
    """Events that were read at once."""

    records: list[Record]
    through_seq: int
    """All requested events up to this one that are in the journal were read."""
    lost_through: int | None
    """Requested events up to this one were deleted; None: none were."""


class JournalReader:
    """The journal, for reading by one thread. Create it with `open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, alone: bool) -> None:
        self.path = path
        self._connection = connection
        self._alone = alone
        """Nobody writes: there are no -wal and -shm files, and none can be created."""
        self._inode = path.stat().st_ino
        self.journal_id, self.line, self.created_at_ns = read_head(connection, path)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the journal of a folder; raise a JournalError if there is none, or it cannot be read."""
        return cls.open_file(folder / FILE_NAME)

    @classmethod
    def open_file(cls, path: Path) -> Self:
        """Open a journal by its path, such as one that was moved aside; otherwise like `open`."""
        try:
            return cls._open(path, "mode=ro", alone=False)
        except JournalError as error:
            # SQLite could not create the -wal and -shm files. If there are none, nobody writes.
            if error.kind not in ("full", "failed") or _is_written(path):
                raise
            return cls._open(path, "mode=ro&immutable=1", alone=True)

    @classmethod
    def _open(cls, path: Path, how: str, *, alone: bool) -> Self:
        with contextlib.ExitStack() as if_it_fails:
            try:
                path.stat()
                connection = connect(path, how, BUSY_SECONDS)
                if_it_fails.callback(connection.close)
                reader = cls(path, connection, alone)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise JournalError(
                    f"there is no journal {path}; expected that of a line that has run", "missing"
                ) from error
            except (sqlite3.Error, OSError) as error:
                raise journal_error(error, path) from error
            if_it_fails.pop_all()
        return reader

    # Each of the following raises JournalError if the journal cannot be read.

    def range(self) -> tuple[int, int]:
        """Return the first and the last seq; the first is 0 if there is no event."""
        return self._ask(range_in)

    def size_bytes(self) -> int:
        """Return the size of the pages in use."""
        return self._ask(size_in)

    def topics(self) -> dict[str, int]:
        """Return the last seq of each topic."""
        return self._ask(topics_in)

    def progress(self) -> dict[str, Watermark]:
        """Return the last frame that was reported for each camera."""
        return self._ask(progress_in)

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
            first, last = range_in(self._connection)
            end = last if through_seq is None else min(last, through_seq)
            begin = max(after_seq, first - 1 if first else last)  # events before were deleted
            lost_through = min(begin, end) if after_seq < min(begin, end) else None
            end = min(end, begin + SCANNED_AT_MOST)
            rows = self._rows(f"seq > ? AND seq <= ? AND {wanted} ORDER BY seq LIMIT ?", heatmaps)
            records: list[Record] = []
            left = at_most_bytes
            cut_off = False
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
        found = self._ask(lambda connection: connection.execute(rows, (*prefixes, at_most)).fetchall())
        return list(map(Record._make, reversed(found)))

    def close(self) -> None:
        """Close the file."""
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

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        with self._snapshot():
            return question(self._connection)

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
            raise journal_error(error, self.path) from error


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
    try:
        if require_writable(folder) == folder and path.exists():
            os.close(hold(folder, os.O_RDONLY))
            with JournalReader.open(folder) as journal:
                require_own(path, journal.line, line)
    except OSError as error:
        raise journal_error(error, path) from error
