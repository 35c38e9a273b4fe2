"""Stores the positions of durable consumers.

The positions are in a small file beside the journal, which is only overwritten, so that acknowledgements can be stored
on a full disk.
"""

import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from heatline.edge.delivery.journal.errors import kind_of
from heatline.edge.errors import JournalError
from heatline.edge.util.files import make_folder, sync_folder
from heatline.edge.util.slot_file import SlotFile, read_slots

logger = logging.getLogger(__name__)

FILE_NAME = "consumers.db"
MOST_CONSUMERS = 64
SLOT_BYTES = 16384
"""Room for all consumers."""
SECONDS_BETWEEN_TRIES = 1.0
NOT_KNOWN = "(not known)"
"""Stands for all consumers while the file cannot be read."""


class Position(NamedTuple):
    """How far a consumer has acknowledged."""

    journal_id: str
    acked_seq: int
    """All events up to this one were acknowledged."""
    seen_at_ns: int
    """Time of its last request: UTC, ns since 1970."""

    def in_journal(self, journal_id: str) -> int:
        """Return the last event of a journal that was acknowledged; 0 if none was."""
        return self.acked_seq if self.journal_id == journal_id else 0


class Consumers:
    """The durable consumers of a line. Any thread.

    A fault of the disk ends nothing: positions stay in memory, the fault is logged, and each `write` tries again.

    Args:
        folder: folder of the journal.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._aside = folder / f"{FILE_NAME}.damaged"
        self._lock = threading.Lock()
        """Held briefly. A thread that needs both locks takes `_writing` first."""
        self._writing = threading.Lock()
        """Held while the disk is waited for."""
        self._file: SlotFile | None = None
        self._known = False
        self._positions: dict[str, Position] = {}
        self._written: dict[str, Position] = {}
        self._try_again_s = 0.0
        self.fault: str | None = None
        """Why acknowledgements cannot be stored now, as a sentence; None while they can."""
        with self._writing, contextlib.suppress(JournalError):
            self._open()

    @property
    def lost_consumers(self) -> bool:
        """Whether a damaged file was moved aside, so that a name that looks new may have existed before."""
        return self._aside.exists()

    def positions(self) -> dict[str, Position]:
        """Return the position of each consumer by name.

        Raises:
            JournalError: the positions are not known yet, because the file cannot be read.
        """
        with self._lock:
            if not self._known:
                raise JournalError(self.fault or f"{self._path} was not read yet")
            return dict(self._positions)

    def acked(self, journal_id: str) -> dict[str, int]:
        """Return the acknowledged event of each consumer as it is on the disk. Later events must not be deleted."""
        with self._lock:
            if not self._known:
                return {NOT_KNOWN: 0}
            written = {name: self._written.get(name) for name in self._positions}
            return {name: each.in_journal(journal_id) if each else 0 for name, each in written.items()}

    def register(self, name: str, journal_id: str, acked_seq: int) -> None:
        """Register a new consumer, for which events are retained from now on. It is on the disk when this returns.

        Raises:
            JournalError: the disk cannot be written, and the consumer is not registered.
        """
        position = Position(journal_id, acked_seq, time.time_ns())
        with self._writing:
            file = self._open()
            self._store(file, self._written | {name: position})
            with self._lock:
                self._positions[name] = position

    def forget(self, name: str) -> None:
        """Remove a consumer. It is removed from the disk when this returns.

        Raises:
            JournalError: the disk cannot be written, and the consumer is still registered.
        """
        with self._writing:
            file = self._open()
            self._store(file, {each: position for each, position in self._written.items() if each != name})
            with self._lock:
                self._positions.pop(name, None)

    def acknowledge(self, name: str, journal_id: str, seq: int) -> None:
        """Record that a consumer acknowledged all events up to one. The next `write` stores it."""
        with self._lock:
            if name in self._positions:
                self._positions[name] = Position(journal_id, seq, time.time_ns())

    def seen(self, name: str) -> None:
        """Record that a consumer sent a request. It is stored with its next acknowledgement, and at the end."""
        with self._lock:
            if name in self._positions:
                self._positions[name] = self._positions[name]._replace(seen_at_ns=time.time_ns())

    def write(self, *, seen: bool = False) -> None:
        """Store the acknowledgements on the disk. If that fails, a later call tries again.

        Args:
            seen: whether the times of the last requests are worth a write.
        """
        with self._writing, contextlib.suppress(JournalError):
            if self.fault is not None and time.monotonic() < self._try_again_s:
                return
            file = self._open()
            with self._lock:
                positions = dict(self._positions)
            before = self._written
            if any(before[name][:2] != each[:2] or (seen and before[name] != each) for name, each in positions.items()):
                self._store(file, positions)

    def close(self) -> None:
        """Store the acknowledgements, and close the file."""
        self._try_again_s = 0.0
        self.write(seen=True)
        with self._writing:
            self._close_file()

    # The following methods are called with `_writing` held.

    def _open(self) -> SlotFile:
        """Return the open file. Create it if there is none, and replace it if it is damaged.

        Raises:
            JournalError: the file cannot be opened, or it can be read and not be written.
        """
        if self._file is None:
            try:
                if not self._known:
                    self._read()
                make_folder(self._path.parent)
                new = self._path if self._path.exists() else self._path.with_name(f"{FILE_NAME}.new")
                self._file = SlotFile(new, SLOT_BYTES)
                self._store(self._file, self._written)
                new.rename(self._path)  # only now: an empty file was damaged
                sync_folder(self._path.parent)
            except OSError as error:
                raise self._failed(error) from error
        return self._file

    def _read(self) -> None:
        found: dict[str, Position] = {}
        try:
            (data,) = read_slots(self._path, SLOT_BYTES)[:1] or [None]
            found = msgspec.json.decode(data or b"", type=dict[str, Position])
        except FileNotFoundError:
            pass
        except msgspec.MsgspecError:
            self._path.rename(self._aside)
            sync_folder(self._path.parent)
            logger.error(
                "%s is damaged; it was moved to %s, and all consumers start with the first event in the journal",
                self._path, self._aside,
            )  # fmt: skip
        with self._lock:
            self._positions, self._written, self._known = dict(found), found, True

    def _store(self, file: SlotFile, positions: dict[str, Position]) -> None:
        try:
            file.write(0, msgspec.json.encode(positions), sync=True)
        except OSError as error:
            raise self._failed(error) from error
        with self._lock:
            self._written = positions
        if self.fault is not None:
            logger.info("%s can be written again: the acknowledgements of durable consumers are stored", self._path)
        self.fault = None

    def _failed(self, error: OSError) -> JournalError:
        journal_error = kind_of(error, self._path)
        self._close_file()
        if self.fault is None:
            logger.error("the acknowledgements of durable consumers cannot be stored; trying again: %s", journal_error)
        self.fault = str(journal_error)
        self._try_again_s = time.monotonic() + SECONDS_BETWEEN_TRIES
        return journal_error

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
