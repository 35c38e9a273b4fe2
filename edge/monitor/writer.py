"""Writes pictures into an evidence store."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from msgspec.structs import replace

from heatline.edge.delivery.journal.wall_clock import WallClock
from heatline.edge.errors import InputError
from heatline.edge.monitor.encoding import EncodedEntry, encode_picture
from heatline.edge.monitor.entry import EvidenceEntry, day_of, encode_entry, is_day, is_picture, require_picture
from heatline.edge.monitor.files import HALF_WRITTEN, hold, write_synced, write_whole
from heatline.edge.monitor.picture import Picture
from heatline.edge.monitor.retention import Limits, Retention, delete_entry
from heatline.edge.monitor.store import ENDINGS, ENTRY, REVIEW, EvidenceStore, StoredEntry
from heatline.edge.monitor.stored_marks import StoredMarks
from heatline.edge.util.files import make_folder, writing


class EvidenceWriter:
    """The only writer of an evidence store. One thread uses it at a time.

    Args:
        folder: is made if it does not exist.
        line: the line's name.
        wall_ns: UTC, ns since 1970.
        monotonic_s: seconds.
    Raises:
        DeliveryError: another program writes into the folder.
        InputError: the folder cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        line: str,
        limits: Limits,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._line, self._wall_ns = folder, line, wall_ns
        self._clock = WallClock(wall_ns, monotonic_s)
        with writing(folder):
            make_folder(folder)
            self._lock = hold(folder, os.O_RDWR | os.O_CREAT)
            try:
                sweep(folder)
                self.retention = Retention(folder, limits)
                self.marks = StoredMarks(folder, self.retention)
            except BaseException:
                os.close(self._lock)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, picture: Picture) -> bool:
        """Store a picture that the line chose. When this returns, it is on the disk.

        Returns: whether it is a new entry. It is none if the page brought the picture before: then the entry says from
            now on that the line chose it.

        Raises:
            InputError: it cannot be stored; nothing of it is left. The message gives the reason.
        """
        day, name = day_of(picture.event.times.captured_at_ns), require_picture(picture.event.picture)
        if self.holds(day, name):
            former = EvidenceStore(self._folder).read(day, name)
            if former is None or not former.is_chosen:
                raise InputError(f"{self._folder / day} already holds a picture {name}; the new one is skipped")
            with writing(self._folder):
                self._write_entry(replace(former, is_chosen=False))
            self.retention.recount(day)
            return False
        self.store(encode_picture(picture, self._line, self._wall_ns()))
        return True

    def holds(self, day: str, picture: str) -> bool:
        """Return whether a picture is stored.

        Raises:
            InputError: the folder cannot be read.
        """
        with writing(self._folder):
            return (self._folder / day / f"{picture}{ENTRY}").exists()

    def store(self, encoded: EncodedEntry) -> None:
        """Store an entry that the store does not hold, with the marks that wait for it. As `write`."""
        entry, size_bytes = encoded.entry, encoded.size_bytes
        folder = self._folder / entry.day
        with writing(self._folder):
            self.retention.make_room(size_bytes, self._clock.trusted_ns())
            try:
                make_folder(folder)
                for ending, data in encoded.files.items():
                    if ending != ENTRY:
                        write_synced(folder / f"{entry.picture}{ending}", data)
                self._write_entry(entry)
            except BaseException:
                with contextlib.suppress(OSError):
                    delete_entry(folder, entry.picture)
                raise
        self.retention.add(entry.day, StoredEntry(entry.event.times.captured_at_ns, entry.picture, size_bytes))
        self.marks.write([(entry.day, entry.picture)])

    def _write_entry(self, entry: EvidenceEntry) -> None:
        """Write the JSON file of an entry, with the time of capture as its own time. If it cannot be, nothing changes.

        Raises:
            OSError: it cannot be written.
        """
        path = self._folder / entry.day / f"{entry.picture}{ENTRY}"
        half = path.with_name(f"{path.name}{HALF_WRITTEN}")
        write_whole(path, encode_entry(entry), half, at_ns=entry.event.times.captured_at_ns)

    def tidy(self, *, scan: bool = False) -> None:
        """Delete what is beyond the limits.

        Args:
            scan: first count again what the folder holds.
        Raises:
            InputError: the folder cannot be read or written, or the disk has too little free space.
        """
        with writing(self._folder):
            if scan:
                self.retention.scan()
            self.retention.make_room(0, self._clock.trusted_ns())

    def close(self) -> None:
        """Let another program write into the folder."""
        os.close(self._lock)


def sweep(folder: Path) -> None:
    """Delete what a writer that was killed left of entries that it did not complete.

    Raises:
        OSError: the folder cannot be read or written.
    """
    for day in folder.iterdir():
        if not (is_day(day.name) and day.is_dir()):
            continue
        names = {file.name for file in day.iterdir()}
        for name in names:
            picture, _, ending = name.partition(".")
            is_half = f".{ending}" in (f"{ENTRY}{HALF_WRITTEN}", f"{REVIEW}{HALF_WRITTEN}")
            is_orphan = f".{ending}" in ENDINGS and f"{picture}{ENTRY}" not in names
            if is_picture(picture) and (is_half or is_orphan):
                (day / name).unlink(missing_ok=True)
