"""Stores the pictures of a running line and people's marks: the only writer of an evidence store.

If the disk is slow, the recorder takes fewer pictures, and the line skips and counts others.
"""

import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from msgspec import json
from msgspec.structs import replace
from numpy.typing import NDArray

from heatline.edge.delivery.journal import JournalReader
from heatline.edge.errors import DeliveryError, HeatlineError, InputError, MessageError
from heatline.edge.monitor.marks import combine
from heatline.edge.monitor.pictures import Picture, PictureClient, Report
from heatline.edge.monitor.store import (
    BUSY_SECONDS,
    DAY,
    FRAME,
    HEATMAP,
    INDEX,
    SCHEMA,
    EvidenceEntry,
    Key,
    Tiles,
    day_of,
    require_picture,
    require_version,
)
from heatline.edge.util.files import (
    FILE_MODE,
    make_folder,
    open_locked,
    replacing,
    sync_folder,
    writing,
)
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.text import utf8_safe
from heatline.edge.wire.events import EvidenceState, ReviewEvent, event_from

logger = logging.getLogger(__name__)

PNG_OPTIONS = (
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG),
)
"""The cheapest lossless PNG of OpenCV that is also small, which `make bench` measures."""
MIB = 1 << 20
STORE, TIDY, MARKS = "a picture was not stored", "the evidence store", "marks of people are not stored"
"""What failed, for the log."""
LOCK = "evidence.lock"
REVIEW_TOPIC = "review"
MOST_MARKS = 100_000
"""Marks that are read at once."""
MOST_CHOSEN = 16
"""Pictures that people chose and that wait."""
LOOK_EVERY_SECONDS = 1.0
"""Between looks for new marks, and reports to the line."""
TIDY_EVERY_SECONDS = 60.0
RETRY_EVERY_SECONDS = 10.0
"""Between attempts to open a store that cannot be opened."""


@dataclass(frozen=True)
class Limits:
    """What an evidence store may hold."""

    keep_s: float
    """Entries older than this are deleted, seconds."""
    keep_bytes: int
    """Most room of the pictures of all entries; the index comes on top."""
    spare_bytes: int = 1 << 30
    """What the disk keeps free, for the journal and the system."""


class EvidenceWriter(contextlib.AbstractContextManager["EvidenceWriter"]):
    """Writes an evidence store. One thread uses it at a time.

    Every method raises `InputError` if the folder or its index cannot be read or written.

    Args:
        folder: is made if it does not exist.
        wall_ns: UTC, ns since 1970.
    Raises:
        DeliveryError: another line writes into the folder.
    """

    def __init__(self, folder: Path, line: str, limits: Limits, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self.folder, self._line, self._limits, self._wall_ns = folder, line, limits, wall_ns
        with self._writing(), contextlib.ExitStack() as at_end:
            make_folder(folder)
            try:
                at_end.callback(os.close, open_locked(folder / LOCK, os.O_RDWR | os.O_CREAT))
            except BlockingIOError as error:
                raise DeliveryError(
                    f"{folder} is in use by another running line; give each line its own evidence.folder"
                ) from error
            path = folder / INDEX
            has_index = path.exists() and path.stat().st_size
            if not has_index and any(DAY.fullmatch(each.name) for each in folder.iterdir()):
                raise InputError(
                    f"{folder} holds pictures and no {INDEX} that describes them; move the folders of days away"
                )
            self._index = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
            at_end.callback(self._index.close)
            self._index.execute("PRAGMA synchronous = EXTRA")  # what was committed survives a power cut
            self._index.execute("PRAGMA journal_mode = PERSIST")  # its room is there when the disk is full
            if not path.stat().st_size:  # none was there, or what a killed writer began was rolled back
                path.chmod(FILE_MODE)
                self._index.executescript(SCHEMA)
            require_version(self._index, path)
            self._delete_leftovers()
            self._at_end = at_end.pop_all()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another program write into the folder."""
        self._at_end.close()

    def write(self, picture: Picture, *, is_chosen: bool = False) -> bool:
        """Store a picture, which a person chose or the line, and return whether it is a new one. When this returns, it
        is on the disk; if this raises, nothing of it is left.
        """
        entry = _entry_of(picture, self._line, self._wall_ns(), is_chosen=is_chosen)
        key, folder = (entry.picture, entry.day), self.folder / entry.day
        with self._writing():
            if self._index.execute("SELECT 1 FROM pictures WHERE picture = ? AND day = ?", key).fetchone():
                return False
            files = {FRAME: encode_frame(picture.image)}
            if picture.evidence is not None:
                files[HEATMAP] = picture.evidence.png
            size_bytes = sum(room_of(len(content)) for content in files.values())
            self._make_room(size_bytes, key)
            try:
                make_folder(folder)
                for ending, content in files.items():
                    with replacing(folder / f"{entry.picture}{ending}") as half:
                        half.write_bytes(content)
                        half.chmod(FILE_MODE)
                sync_folder(folder)
                at_ns, verdict, camera = entry.event.times.captured_at_ns, entry.event.verdict, entry.event.camera
                row = *key, at_ns, verdict, camera, size_bytes, self._review_of(key), json.encode(entry)
                with self._index as index:
                    index.execute(
                        "INSERT INTO pictures (picture, day, captured_at_ns, verdict, camera, size_bytes, review, "
                        "entry) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        row,
                    )
                    index.execute("DELETE FROM leftovers")
            except BaseException:
                self._delete_leftovers()
                raise
        return True

    def read_marks(self, journal: JournalReader) -> None:
        """Copy the marks that a journal has and this store does not know yet, but those of another version."""
        with self._writing():
            position = "SELECT coalesce(max(read_through), 0) FROM journals WHERE journal_id = ?"
            (after,) = self._index.execute(position, (journal.journal_id,)).fetchone()
            last = journal.contents().topics.get(REVIEW_TOPIC, 0)
            if last <= after:
                return
            events = []
            for record in journal.newest(min(MOST_MARKS, last - after), [REVIEW_TOPIC]):
                with contextlib.suppress(MessageError):
                    event = event_from(record.header)
                    if record.seq > after and isinstance(event, ReviewEvent):
                        events.append(event)
            self.add_marks(events, journal.journal_id, last)

    def add_marks(self, events: Iterable[ReviewEvent], journal_id: str, read_through: int) -> None:
        """Copy marks, in the order of their journal, which has no others up to an event. A mark waits here until its
        picture is stored.
        """
        with self._writing(), self._index as index:
            for event in events:
                mark = event.mark
                key = mark.picture, day_of(mark.captured_at_ns)
                row = journal_id, event.seq, *key, mark.captured_at_ns, json.encode(event)
                index.execute("INSERT OR IGNORE INTO marks VALUES (?, ?, ?, ?, ?, ?)", row)
                review = self._review_of(key)
                index.execute("UPDATE pictures SET review = ? WHERE picture = ? AND day = ?", (review, *key))
            index.execute("INSERT OR REPLACE INTO journals VALUES (?, ?)", (journal_id, read_through))

    def tidy(self) -> None:
        """Delete what is beyond the limits."""
        with self._writing():
            self._make_room(0)
            with self._index as index:
                index.execute("DELETE FROM leftovers")

    def state(self) -> EvidenceState:
        """Return how much is stored."""
        with self._writing():
            stored, size_bytes, oldest_at_ns = self._index.execute(
                "SELECT count(*), coalesce(sum(size_bytes), 0), min(captured_at_ns) FROM pictures"
            ).fetchone()
        return EvidenceState(stored=stored, size_bytes=size_bytes, oldest_at_ns=oldest_at_ns)

    def _make_room(self, size_bytes: int, *coming: Key) -> None:
        """Delete entries until the limits hold with another entry; reviewed ones last, and not for their age, as the
        next model learns from them. If no deletion can make that much room, nothing is deleted for it.

        Args:
            coming: the other entry; its files are leftovers until it has its row.
        """
        before_ns = self._wall_ns() - int(self._limits.keep_s * 1e9)
        with self._index as index:
            index.execute(
                "DELETE FROM marks WHERE captured_at_ns < ? "
                "AND (picture, day) NOT IN (SELECT picture, day FROM pictures)",
                (before_ns,),
            )
        if size_bytes > self._limits.keep_bytes:
            raise InputError(
                f"a picture takes {size_bytes / MIB:.1f} MiB, and evidence.retain_mib is "
                f"{self._limits.keep_bytes / MIB:.0f}; set more"
            )
        held, victims = self.state().size_bytes, list[tuple[int]]()
        disk, spare = os.statvfs(self.folder), self._limits.spare_bytes
        lacking = max(0, spare + size_bytes - disk.f_bavail * disk.f_frsize)
        if lacking > held:
            raise InputError(
                f"the disk of {self.folder} lacks {lacking / MIB:.0f} MiB of the {spare / MIB:.0f} MiB that it must "
                f"keep free, and all stored pictures take less ({held / MIB:.0f} MiB); make room on the disk"
            )
        target = min(held - lacking, self._limits.keep_bytes - size_bytes)
        for number, freed, is_old in self._index.execute(
            "SELECT number, size_bytes, review IS NULL AND captured_at_ns < ? FROM pictures "
            "ORDER BY review IS NOT NULL, captured_at_ns, number",
            (before_ns,),
        ):
            if held <= target and not is_old:
                break
            victims.append((number,))
            held -= freed
        for some, also in ((victims[:1], coming), (victims[1:], ())):  # the first makes room for what SQLite needs
            with self._index as index:
                index.executemany("DELETE FROM pictures WHERE number = ?", some)
                index.executemany("INSERT INTO leftovers VALUES (?, ?)", also)
            self._delete_leftovers()

    def _delete_leftovers(self) -> None:
        """Delete the files of entries that are deleted, or that a writer did not complete; other files stay."""
        for picture, day in self._index.execute("SELECT picture, day FROM leftovers").fetchall():
            for name in (f"{picture}{HEATMAP}", f"{picture}{FRAME}"):
                (self.folder / day / name).unlink(missing_ok=True)
                (self.folder / day / f".{name}.new").unlink(missing_ok=True)  # half written
            with contextlib.suppress(OSError):  # something else is in it
                (self.folder / day).rmdir()

    def _review_of(self, key: Key) -> bytes | None:
        rows = self._index.execute("SELECT event FROM marks WHERE picture = ? AND day = ? ORDER BY rowid", key)
        review = combine(json.decode(event, type=ReviewEvent) for (event,) in rows).get(key[0])
        return None if review is None else json.encode(review)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Translate the errors of the folder and its index into `InputError`."""
        try:
            with writing(self.folder):
                yield
        except sqlite3.Error as error:
            raise InputError(
                f"{self.folder / INDEX} cannot be used ({error}); make room on the disk, or check the permissions"
            ) from error


class Recorder:
    """Stores pictures and marks, of the journal in a folder. A store that cannot be opened is opened later."""

    def __init__(
        self,
        pictures: PictureClient,
        open_writer: Callable[[], EvidenceWriter],
        journal: Path | None = None,
    ) -> None:
        self._pictures, self._open_writer, self._journal = pictures, open_writer, journal
        self.web_fault: str | None = None
        """Why the page beside it is not served, as a sentence; the line's status shows it."""
        self._chosen: queue.Queue[Picture] = queue.Queue(MOST_CHOSEN)
        self._writer: EvidenceWriter | None = None
        self._state = EvidenceState()
        self._faults: dict[str, str] = {}
        """By the work that failed."""
        self._look_at_s = self._tidy_at_s = time.monotonic()
        self._log = RateLimitedLog(logger)

    def choose(self, picture: Picture) -> str | None:
        """Have a picture stored that the line did not choose; return why it may not be, or None. Any thread."""
        fault = self.state().fault or (None if self._writer else "the evidence store is not open yet")
        try:
            self._chosen.put_nowait(picture)
        except queue.Full:
            return "too many pictures wait to be stored"
        return fault

    def run(self, ended: threading.Event) -> None:
        """Store what comes, at the end of the line also what waits; end after the picture in hand if `ended` is set."""
        try:
            while not ended.is_set():
                if time.monotonic() >= self._tidy_at_s:
                    self._work(TIDY, self._tidy)
                if time.monotonic() >= self._look_at_s:
                    self._look()
                self._store_chosen()
                if (picture := self._pictures.receive(LOOK_EVERY_SECONDS)) is not None:
                    self._work(STORE, self._store, picture, False)
        except DeliveryError as error:
            logger.info("%s", error)
        self._store_chosen()
        self._look()
        if self._writer is not None:
            self._writer.close()

    def state(self) -> EvidenceState:
        """Return what is stored, what came and could not be stored, and what is wrong now. Any thread."""
        return replace(self._state, fault=self._faults.get(STORE) or self._faults.get(TIDY))

    def _store_chosen(self) -> None:
        while not self._chosen.empty():
            self._work(STORE, self._store, self._chosen.get(), True)

    def _work(self, what: str, call: Callable[..., None], *arguments: object) -> None:
        """Work on the disk. A fault stays until the same work succeeds."""
        try:
            call(*arguments)
            self._faults.pop(what, None)
        except HeatlineError as error:
            self._faults[what] = utf8_safe(str(error))
            self._log.error("%s: %s", what, error)

    def _store(self, picture: Picture, is_chosen: bool) -> None:
        kept, skipped = False, True
        try:
            if self._writer is not None:
                kept, skipped = self._writer.write(picture, is_chosen=is_chosen), False
        finally:
            picture.release()
            self._count(kept=kept, skipped=skipped)

    def _look(self) -> None:
        """Copy the marks that are new in the journal, and tell the line this program's state."""
        self._look_at_s = time.monotonic() + LOOK_EVERY_SECONDS
        self._work(MARKS, self._read_marks)
        self._pictures.report(Report(self.state(), self.web_fault))

    def _read_marks(self) -> None:
        if self._writer is not None and self._journal is not None:
            with JournalReader.open(self._journal) as journal:
                self._writer.read_marks(journal)

    def _tidy(self) -> None:
        """Open the store if it is not open, and delete what is beyond its limits."""
        try:
            if self._writer is None:
                self._writer = self._open_writer()
            self._writer.tidy()
        finally:
            self._tidy_at_s = time.monotonic() + (RETRY_EVERY_SECONDS if self._writer is None else TIDY_EVERY_SECONDS)
            self._count()

    def _count(self, *, kept: bool = False, skipped: bool = False) -> None:
        found = EvidenceState()
        with contextlib.suppress(InputError):  # the next picture reports it
            found = self._state if self._writer is None else self._writer.state()
        self._state = replace(found, kept=self._state.kept + kept, skipped=self._state.skipped + skipped)


def room_of(size_bytes: int) -> int:
    """Return the room of a file on the disk, which is in blocks of 4 KiB on most file systems."""
    return -(-size_bytes // 4096) * 4096


def encode_frame(image: NDArray[np.uint8]) -> bytes:
    """Encode a frame, grey [H, W] or RGB [H, W, 3], as PNG without loss."""
    data = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", data, PNG_OPTIONS)[1].tobytes()


def _entry_of(picture: Picture, line: str, stored_at_ns: int, *, is_chosen: bool) -> EvidenceEntry:
    evidence, tiles = picture.evidence, None
    if evidence is not None:
        scores = evidence.tiles
        tiles = Tiles(tile_px=scores.tile_px, origins_yx=scores.origins_yx.tolist(), logits=scores.logits.tolist())
    return EvidenceEntry(
        line=line,
        picture=require_picture(picture.event.picture),
        stored_at_ns=stored_at_ns,
        event=picture.event,
        heatmap=None if evidence is None else evidence.scale,
        tiles=tiles,
        is_chosen=is_chosen,
    )
