"""Writes pictures into an evidence store."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.delivery.journal.wall_clock import WallClock
from edge.errors import DeliveryError, InputError
from edge.evidence.entry import encode_entry, entry_of, is_day, is_picture
from edge.evidence.retention import Limits, Retention, delete_entry
from edge.evidence.store import ENTRY, FRAME, HEATMAP, StoredEntry, room_of
from edge.heatmap_picture import ColourScale, png
from edge.pictures.picture import Picture
from edge.util.atomic_file import sync_folder
from edge.util.file_lock import open_locked
from edge.util.os_errors import writing

LOCK = "evidence.lock"
HALF_WRITTEN = ".new"
PNG_OPTIONS = (
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG),
)
"""The cheapest lossless PNG of OpenCV that is also small; docs/evidence.md has the figures."""
FOLDER_MODE, FILE_MODE = 0o750, 0o640
"""The group of the service may read, as it may read the journal."""


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
            folder.parent.mkdir(parents=True, exist_ok=True)
            make_folder(folder)
            try:
                self._lock = open_locked(folder / LOCK, os.O_RDWR | os.O_CREAT)
            except BlockingIOError as error:
                raise DeliveryError(
                    f"{folder} is in use by another running line; give each line its own evidence.folder"
                ) from error
            try:
                sweep(folder)
                self.retention = Retention(folder, limits)
            except BaseException:
                os.close(self._lock)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, picture: Picture) -> None:
        """Store a picture. When this returns, it is on the disk.

        Raises:
            InputError: it cannot be stored; nothing of it is left. The message gives the reason.
        """
        entry = entry_of(picture, self._line, self._wall_ns())
        folder = self._folder / entry.day
        with writing(self._folder):
            if (folder / f"{entry.picture}{ENTRY}").exists():
                raise InputError(f"{folder} already holds a picture {entry.picture}; the new one is skipped")
        parts = {FRAME: encode_frame(picture.image)}
        if picture.evidence is not None:
            parts[HEATMAP] = png(ColourScale(*picture.evidence.scale).grey(picture.evidence.heatmap))
        text = encode_entry(entry)
        size_bytes = sum(map(room_of, map(len, (*parts.values(), text))))
        captured_at_ns = entry.event.times.captured_at_ns
        with writing(self._folder):
            self.retention.make_room(size_bytes, self._clock.trusted_ns())
            try:
                make_folder(folder)
                for ending, data in parts.items():
                    _write_synced(folder / f"{entry.picture}{ending}", data)
                half = folder / f"{entry.picture}{ENTRY}{HALF_WRITTEN}"
                _write_synced(half, text)
                os.utime(half, ns=(captured_at_ns, captured_at_ns))
                half.rename(folder / f"{entry.picture}{ENTRY}")
                sync_folder(folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    (folder / f"{entry.picture}{ENTRY}{HALF_WRITTEN}").unlink(missing_ok=True)
                    delete_entry(folder, entry.picture)
                raise
        self.retention.add(entry.day, StoredEntry(captured_at_ns, entry.picture, size_bytes))

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


def encode_frame(image: NDArray[np.uint8]) -> bytes:
    """Encode a frame, grey [H, W] or RGB [H, W, 3], as PNG without loss."""
    data = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", data, PNG_OPTIONS)[1].tobytes()


def sweep(folder: Path) -> int:
    """Delete what a writer that was killed left of entries that it did not complete; return the number of files.

    Raises:
        OSError: the folder cannot be read or written.
    """
    swept = 0
    for day in folder.iterdir():
        if not (is_day(day.name) and day.is_dir()):
            continue
        names = {file.name for file in day.iterdir()}
        for name in names:
            picture, _, ending = name.partition(".")
            is_half = f".{ending}" == f"{ENTRY}{HALF_WRITTEN}"
            is_orphan = f".{ending}" in (FRAME, HEATMAP) and f"{picture}{ENTRY}" not in names
            if is_picture(picture) and (is_half or is_orphan):
                (day / name).unlink(missing_ok=True)
                swept += 1
    return swept


def make_folder(folder: Path) -> None:
    """Make a folder if it does not exist, which the group may read whatever the umask.

    Raises:
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(FOLDER_MODE)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
