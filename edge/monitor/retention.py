"""Deletes the oldest entries of an evidence store, by their age, by their size and by the free space of the disk.

Those that people have reviewed are what the next model learns from.
"""

import contextlib
import heapq
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from heatline.edge.errors import InputError
from heatline.edge.monitor.entry import day_of
from heatline.edge.monitor.store import ENTRY, FRAME, HEATMAP, REVIEW, EvidenceStore, StoredEntry, scan_day

MIB = 1 << 20
DAY_NS = 86_400 * 10**9


@dataclass(frozen=True)
class Limits:
    """What an evidence store may hold."""

    keep_s: float
    """Entries older than this are deleted, seconds."""
    keep_bytes: int
    """Most room of all entries."""
    spare_bytes: int = 1 << 30
    spare_share: float = 0.05
    """The disk keeps the larger of both free: bytes, and a share of its size."""


class NoRoomError(InputError):
    """An entry that does not fit the limits."""


@dataclass
class _Day:
    """The entries of a day."""

    entries: int = 0
    size_bytes: int = 0


class _Bucket:
    """The entries of a store that are reviewed, or those that are not: by day, with the oldest day's as a heap."""

    def __init__(self, folder: Path, *, is_reviewed: bool) -> None:
        self._folder, self._is_reviewed = folder, is_reviewed
        self.days: dict[str, _Day] = {}
        self._heap: tuple[str, list[StoredEntry]] = ("", [])

    @property
    def oldest_at_ns(self) -> int | None:
        found = self.oldest_of(min(self.days)) if self.days else []
        return found[0].captured_at_ns if found else None

    def count(self, day: str, found: Iterable[StoredEntry]) -> None:
        """Count the entries of a day again."""
        own = [each for each in found if each.is_reviewed == self._is_reviewed]
        self._forget(day)
        if own:
            self.days[day] = _Day(len(own), sum(each.size_bytes for each in own))

    def add(self, day: str, entry: StoredEntry) -> None:
        counted = self.days.setdefault(day, _Day())
        counted.entries += 1
        counted.size_bytes += entry.size_bytes
        if self._heap[0] == day:
            heapq.heappush(self._heap[1], entry)

    def oldest_of(self, day: str) -> list[StoredEntry]:
        """Return the entries of a day as a heap. Its count is corrected, as others may have deleted some."""
        if self._heap[0] != day:
            heap = [each for each in scan_day(self._folder / day) if each.is_reviewed == self._is_reviewed]
            heapq.heapify(heap)
            self._heap = day, heap
            self.days[day] = _Day(len(heap), sum(each.size_bytes for each in heap))
        return self._heap[1]

    def delete_first(self, day: str) -> bool:
        """Delete the oldest entry of a day, and the day if it has no more; return whether there was an entry."""
        oldest = self.oldest_of(day)
        found = bool(oldest)
        if found:
            delete_entry(self._folder / day, oldest[0].picture)
            entry = heapq.heappop(oldest)
            self.days[day].entries -= 1
            self.days[day].size_bytes -= entry.size_bytes
        if not oldest:
            self._forget(day)
            with contextlib.suppress(OSError):  # it holds other entries or files of others, or is gone
                (self._folder / day).rmdir()
        return found

    def _forget(self, day: str) -> None:
        self.days.pop(day, None)
        if self._heap[0] == day:
            self._heap = "", []


class Retention:
    """Counts what a store holds, and deletes what is beyond its limits. Only one program may do this in a folder.

    Entries that people have reviewed are deleted after all others, and not for their age. The entries of a day that
    lies in the future, which a wrong clock named, are deleted before others.

    Raises:
        InputError: the folder cannot be read.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder, self._limits = folder, limits
        self.deleted = 0
        """Number of entries that were deleted."""
        self.scan()

    @property
    def entries(self) -> int:
        return sum(day.entries for bucket in self._buckets for day in bucket.days.values())

    @property
    def size_bytes(self) -> int:
        return sum(day.size_bytes for bucket in self._buckets for day in bucket.days.values())

    @property
    def oldest_at_ns(self) -> int | None:
        """Time of capture of the oldest entry: UTC, ns since 1970."""
        found = (bucket.oldest_at_ns for bucket in self._buckets)
        return min((at_ns for at_ns in found if at_ns is not None), default=None)

    def scan(self) -> None:
        """Count again what the folder holds, as others may have deleted some of it.

        Raises:
            InputError: the folder cannot be read.
        """
        # In the order of deletion.
        self._buckets = _Bucket(self._folder, is_reviewed=False), _Bucket(self._folder, is_reviewed=True)
        for name in EvidenceStore(self._folder).days():
            self.recount(name)

    def recount(self, day: str) -> None:
        """Count the entries of a day again, as some were reviewed.

        Raises:
            InputError: the folder cannot be read.
        """
        found = scan_day(self._folder / day)
        for bucket in self._buckets:
            bucket.count(day, found)

    def add(self, day: str, entry: StoredEntry) -> None:
        """Count a new entry, which nobody has reviewed."""
        self._buckets[0].add(day, entry)

    def make_room(self, size_bytes: int, now_ns: int | None) -> None:
        """Delete entries until the limits hold with another entry.

        Args:
            size_bytes: room of the other entry.
            now_ns: UTC, ns since 1970; None: the time is not known, and no entry is deleted for its age.
        Raises:
            NoRoomError: no deletion can make that much room; nothing was deleted for it.
            InputError: the folder cannot be read.
            OSError: an entry cannot be deleted.
        """
        self._delete_old(now_ns)
        held = self.size_bytes
        if size_bytes > self._limits.keep_bytes:
            raise NoRoomError(
                f"a picture takes {size_bytes / MIB:.1f} MiB, and evidence.retain_mib is "
                f"{self._limits.keep_bytes / MIB:.0f}; set more"
            )
        lacking = require_room(self._folder, self._limits, size_bytes, held=lambda: held)
        target = min(held - lacking, self._limits.keep_bytes - size_bytes)
        for bucket in self._buckets:
            while bucket.days and self.size_bytes > target:
                self.deleted += bucket.delete_first(_first_day(bucket.days, now_ns))

    def _delete_old(self, now_ns: int | None) -> None:
        before_ns = 0 if now_ns is None else now_ns - int(self._limits.keep_s * 1e9)
        bucket = self._buckets[0]
        while bucket.days and (day := min(bucket.days)) <= day_of(before_ns):
            oldest = bucket.oldest_of(day)
            if oldest and oldest[0].captured_at_ns >= before_ns:
                return
            self.deleted += bucket.delete_first(day)


def require_room(folder: Path, limits: Limits, size_bytes: int, held: Callable[[], int]) -> int:
    """Require that a disk has room for another entry, if need be after all others were deleted.

    Args:
        held: bytes of all entries; asked only if the disk lacks space.
    Returns: as `lacking_bytes`.

    Raises:
        NoRoomError: there would be none.
        InputError, OSError: the folder cannot be read.
    """
    lacking = lacking_bytes(folder, limits, size_bytes)
    if lacking and lacking > (holds := held()):
        raise NoRoomError(
            f"the disk of {folder} lacks {lacking / MIB:.0f} MiB of the free space that it must keep "
            f"({limits.spare_bytes / MIB:.0f} MiB, or {limits.spare_share:.0%} of the disk if that is more), and all "
            f"stored pictures take less ({holds / MIB:.0f} MiB); make room on the disk"
        )
    return lacking


def lacking_bytes(folder: Path, limits: Limits, size_bytes: int) -> int:
    """Return the bytes of free space that the disk of a folder lacks for another entry; 0: none.

    Raises:
        OSError: the folder cannot be read.
    """
    disk = os.statvfs(folder)
    spare = max(limits.spare_bytes, round(disk.f_blocks * disk.f_frsize * limits.spare_share))
    return max(0, spare + size_bytes - disk.f_bavail * disk.f_frsize)


def _first_day(days: Iterable[str], now_ns: int | None) -> str:
    """Return the day of which the oldest entry is deleted next."""
    if now_ns is not None:
        tomorrow = day_of(now_ns + DAY_NS)
        future = [day for day in days if day > tomorrow]
        if future:
            return min(future)
    return min(days)


def delete_entry(folder: Path, picture: str) -> None:
    """Delete an entry. Its JSON file goes first, as an entry exists only with it.

    Raises:
        OSError: it cannot be deleted.
    """
    for ending in (ENTRY, REVIEW, HEATMAP, FRAME):
        (folder / f"{picture}{ending}").unlink(missing_ok=True)
