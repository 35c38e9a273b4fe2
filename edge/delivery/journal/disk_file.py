"""The journal's file on a disk that may hang: every call waits for a limited time."""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

from heatline.edge.delivery.journal.errors import JournalDamagedError, JournalFullError, JournalHungError
from heatline.edge.delivery.journal.file import FILE_NAME, move_aside
from heatline.edge.delivery.journal.journal import WAL_KEPT_BYTES, Journal
from heatline.edge.errors import JournalError
from heatline.edge.util.process import NamedThread

logger = logging.getLogger(__name__)

T = TypeVar("T")

DISK_SECONDS = 2.0
"""Limit for one call, so that a slow disk does not delay events. A memory card or a busy disk may take a second, and
events that are sent live only never reach a durable consumer."""
DISK_SECONDS_AT_START = 10.0
"""Limit while the line starts or ends, when no events wait."""


class DiskThread:
    """Makes calls one after the other, for one caller thread.

    Args:
        folder: a folder on the disk, for messages.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._last: Future[Any] | None = None
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a call is still running."""
        return self._last is not None and not self._last.done()

    def run(self, call: Callable[[], T], within_s: float) -> T:
        """Make a call, and return its result or raise its error.

        Raises:
            JournalHungError: the call has not returned in time and continues; or an earlier call still runs, and this
                one is not made.
        """
        made = None if self.busy else self._begin(call, within_s)
        if made is None or not made.done():
            raise JournalHungError(f"the disk of {self._folder} does not answer; check the disk")
        return made.result()

    def close(self, last: Callable[[], None], within_s: float) -> bool:
        """Make a last call after those before have returned; return whether it returned in time."""
        return self._begin(last, within_s, ends=True).done()

    def _begin(self, call: Callable[[], T], within_s: float, *, ends: bool = False) -> Future[T]:
        """Make a call, and return its result, which is not there yet if the time was too short."""
        if self._thread is None:
            # Not joined at the end: a call that the disk does not answer cannot be ended.
            self._thread = NamedThread("journal", self._make_calls)
            self._thread.start()
        self._last = made = Future[T]()
        self._calls.put((made, call))
        if ends:
            self._calls.put(None)
        wait([made], within_s)
        return made

    def _make_calls(self) -> None:
        while (each := self._calls.get()) is not None:
            made, call = each
            try:
                made.set_result(call())
            except BaseException as error:  # it is raised again in the caller's thread
                made.set_exception(error)
            del each, made, call  # so that the objects they refer to can be closed


class DiskFile:
    """Opens and closes the journal of a line. One thread calls it, except `mark_corrupt`.

    Args:
        most_bytes: as for `Journal.open`.
    """

    def __init__(self, folder: Path, line: str, most_bytes: int) -> None:
        self.path = folder / FILE_NAME
        self.journal: Journal | None = None
        """The journal in use. While a call has not returned, the disk's thread may still be using it."""
        self.starting = True
        """Whether the line is still starting, and no events wait for the disk."""
        self.first_seq = self.size_bytes = 0
        """The first event and the size of the file after the last successful call."""
        self._folder, self._line, self._most_bytes = folder, line, most_bytes
        self._disk = DiskThread(folder)
        self._opened: tuple[Journal, str | None] | None = None
        """A journal that was opened and not yet taken over, and the reason if it is a new one."""
        self._doubt: tuple[str, str] | None = None

    @property
    def busy(self) -> bool:
        """Whether a call is still running."""
        return self._disk.busy

    @property
    def in_use(self) -> Journal:
        """The open journal. One must be open."""
        assert self.journal is not None
        return self.journal

    def run(self, call: Callable[[], T]) -> T:
        """Return the result of a call that waits for the disk.

        Raises:
            JournalHungError: the call has not returned in time.
        """
        return self._disk.run(call, DISK_SECONDS_AT_START if self.starting else DISK_SECONDS)

    def open(self) -> tuple[Journal, str | None]:
        """Open the journal, or begin a new one in place of a damaged one. Return it, and the reason if it is a new one.

        Raises:
            JournalError: no journal can be opened.
        """
        if self._opened is None:  # otherwise it was opened after an earlier call had timed out
            self.run(self._open_or_begin)
        assert self._opened is not None
        opened, self._opened = self._opened, None
        self.journal = opened[0]
        return opened

    def note_size(self) -> None:
        """Update first event and size. The -wal file counts as far as it exceeds its usual size."""
        journal = self.in_use
        self.first_seq = journal.first_seq
        self.size_bytes = journal.size_bytes + max(0, journal.wal_bytes - WAL_KEPT_BYTES)

    def mark_corrupt(self, journal_id: str, reason: str) -> None:
        """Make the next `check` fail if this journal is in use: a reader found it damaged. Any thread."""
        self._doubt = journal_id, reason

    def check(self) -> None:
        """Require that no reader found the journal in use damaged.

        Raises:
            JournalDamagedError: one did.
        """
        doubt, self._doubt = self._doubt, None
        if doubt is not None and doubt[0] == self.in_use.journal_id:
            raise JournalDamagedError(doubt[1])

    def close_after(self, fault: JournalError) -> None:
        """Close the file after a fault.

        It stays open if the disk is full, since opening takes room that may be missing, or if the disk does not answer.
        """
        journal = self.journal
        if journal is None or isinstance(fault, JournalFullError | JournalHungError):
            return
        self.journal = None
        try:
            self.run(journal.close)
        except Exception as error:
            logger.warning("%s", error, exc_info=None if isinstance(error, JournalError) else error)

    def move_aside(self) -> str:
        """Rename the file; return its new name."""
        return self.run(lambda: move_aside(self.path)).name

    def close(self) -> None:
        """Close the file as soon as the disk answers; wait for a limited time."""
        within_s = DISK_SECONDS if self.busy else DISK_SECONDS_AT_START
        if not self._disk.close(self._close_all, within_s):
            logger.error("%s is not closed, because its disk does not answer", self.path)

    # The disk's thread calls the following methods.

    def _close_all(self) -> None:
        for journal in (self.journal, self._opened[0] if self._opened else None):
            if journal is not None:
                journal.close()
        self.journal = self._opened = None

    def _open_or_begin(self) -> None:
        reason = None
        try:
            journal = Journal.open(self._folder, self._line, most_bytes=self._most_bytes)
        except JournalDamagedError as error:
            logger.error("%s", error)
            reason = f"{error}; it is {move_aside(self.path).name} now"
            journal = Journal.open(self._folder, self._line, most_bytes=self._most_bytes)
        self._opened = journal, reason
