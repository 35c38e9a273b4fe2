"""Finds the frames that nobody has reviewed yet. Each entry of the evidence store is read once."""

import logging
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from heatline.edge.errors import InputError
from heatline.edge.monitor.entry import is_picture
from heatline.edge.monitor.files import is_whole_png
from heatline.edge.monitor.held_picture import PictureMemory
from heatline.edge.monitor.memory import VerdictRow, row_of
from heatline.edge.monitor.review import Review
from heatline.edge.monitor.reviews import Reviews
from heatline.edge.monitor.store import ENTRY, EvidenceStore

logger = logging.getLogger(__name__)

MOST_QUEUED = 1000
"""Frames that the queue looks for; a person reviews them in hours."""
READ_AT_ONCE = 500
"""Entries that one request reads, so that a large store does not delay it for long; the next one reads on."""

SETTLED_AFTER_NS = 1_000_000_000


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """Frames that nobody has reviewed."""

    rows: list[VerdictRow]
    """Newest first."""
    count: int
    """Of all of them, as far as they are known."""
    complete: bool
    """Whether there are no others: the whole store was read."""


@dataclass
class _Entry:
    """A frame of the store that can be reviewed."""

    row: VerdictRow
    review: Review | None


@dataclass
class _Day:
    """What was read of a day's folder."""

    changed_ns: int = -1
    known: dict[str, _Entry | None] = field(default_factory=dict)
    """By picture; None: it has no verdict, or it or its frame cannot be read."""
    unread: list[str] = field(default_factory=list)
    """Pictures whose entries are not read yet, the newest at the end."""


class ReviewQueue:
    """The queue of a line. Any thread may use it, but not the event loop: it reads the disk.

    Args:
        store: None: the line stores no evidence. Then the DEFECTs in memory can be reviewed.
    """

    def __init__(self, reviews: Reviews, held: PictureMemory, store: EvidenceStore | None) -> None:
        self._reviews, self._held, self._store = reviews, held, store
        self._lock = threading.Lock()
        self._days: dict[str, _Day] = {}

    def unreviewed(self, limit: int) -> Queue:
        """Return the newest frames that nobody has reviewed, and the number of all.

        Raises:
            InputError: the evidence store cannot be read.
        """
        if self._store is None:
            rows, complete = self._in_memory(), True
        else:
            with self._lock:
                rows, complete = self._stored(self._store)
        return Queue(rows=rows[:limit], count=len(rows), complete=complete)

    def _in_memory(self) -> list[VerdictRow]:
        rows = [row_of(each.event) for each in self._held.all() if each.event.verdict == "DEFECT"]
        rows = [row for row in rows if self._reviews.of(row.id) is None]
        return sorted(rows, key=lambda row: row.at_ns, reverse=True)

    def _stored(self, store: EvidenceStore) -> tuple[list[VerdictRow], bool]:
        rows: list[VerdictRow] = []
        budget = READ_AT_ONCE
        names = sorted(store.days(), reverse=True)
        self._days = {name: self._days.get(name, _Day()) for name in names}
        for name, day in self._days.items():
            _refresh(day, store.folder / name)
            while day.unread and budget:
                picture = day.unread.pop()
                day.known[picture] = _read(store, name, picture)
                budget -= 1
            of_day = [each.row for each in day.known.values() if each is not None and self._waits(each)]
            rows += sorted(of_day, key=lambda row: row.at_ns, reverse=True)
            if day.unread or len(rows) >= MOST_QUEUED:
                return rows, False
        return rows, True

    def _waits(self, entry: _Entry) -> bool:
        return self._reviews.of(entry.row.id, entry.review) is None


def _read(store: EvidenceStore, day: str, picture: str) -> _Entry | None:
    entry = store.read(day, picture)
    if entry is None or entry.event.verdict == "NO_VERDICT":
        return None
    frame = store.frame_path(picture, day)
    if frame is None or not is_whole_png(frame):
        logger.warning("%s of %s is left out of the review: its frame is missing or not whole", picture, day)
        return None
    row = msgspec.structs.replace(row_of(entry.event), id=entry.picture, picture="evidence")
    return _Entry(row, store.review(picture, day))


def _refresh(day: _Day, folder: Path) -> None:
    """Compare what is known of a day with its folder, if that has changed."""
    try:
        changed_ns = folder.stat().st_mtime_ns
        if changed_ns == day.changed_ns:
            return
        entries: dict[str, os.DirEntry[str]] = {}
        with os.scandir(folder) as files:
            for file in files:
                picture, _, ending = file.name.partition(".")
                if f".{ending}" == ENTRY and is_picture(picture):
                    entries[picture] = file
        day.known = {picture: entry for picture, entry in day.known.items() if picture in entries}
        day.unread = sorted(entries.keys() - day.known.keys(), key=lambda picture: _time_of(entries[picture]))
        # A file that comes within the same tick of the clock does not change the time again.
        day.changed_ns = changed_ns if time.time_ns() - changed_ns > SETTLED_AFTER_NS else -1
    except FileNotFoundError:  # it was deleted a moment ago
        day.known, day.unread = {}, []
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); check the folder and its permissions") from error


def _time_of(file: "os.DirEntry[str]") -> int:
    """Return the time of capture, which an entry's file has as its own time."""
    try:
        return file.stat(follow_symlinks=False).st_mtime_ns
    except FileNotFoundError:
        return 0
