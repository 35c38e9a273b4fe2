"""The journal's file on a disk that may hang: every call waits for it so long, and no longer."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edge.delivery.journal.disk_thread import DiskThread
from edge.delivery.journal.errors import JournalDamagedError, JournalFullError, JournalHungError
from edge.delivery.journal.file import FILE_NAME, move_aside
from edge.delivery.journal.journal import WAL_KEPT_BYTES, Journal
from edge.errors import JournalError

logger = logging.getLogger(__name__)

T = TypeVar("T")

DISK_SECONDS = 2.0
"""For one call; what takes longer does not keep events back. A card or a disk that others use may take a second, and
what goes out live only never reaches a durable consumer."""
DISK_SECONDS_AT_START = 10.0
"""Nothing waits yet; and at the end, nothing any more."""
LOOK_SECONDS = 1.0
"""From one look at whether the file is still there to the next."""
WAL_LARGE_BYTES = 64 << 20
"""A reader that makes what is beside the file so large is named in the log."""


class DiskFile:
    """Opens, watches and closes the journal of a line. One thread calls it, except `distrust`.

    Args:
        most_bytes: see `Journal.open`.
        known_seq: given a journal's id, the last event that it must hold. Called by the disk's thread.
        now_s: seconds, monotonic.
    """

    def __init__(self, folder: Path, line: str, most_bytes: int, known_seq: Callable[[str], int], now_s: float) -> None:
        self.path = folder / FILE_NAME
        self.journal: Journal | None = None
        """The one in use. Where a call has not returned in time, the disk's thread may still be at it."""
        self.starting = True
        """Whether nothing waits for the disk yet."""
        self.first_seq = self.size_bytes = 0
        """What the file holds, after the last call that succeeded."""
        self._folder, self._line, self._most_bytes, self._known_seq = folder, line, most_bytes, known_seq
        self._disk = DiskThread(folder)
        self._opened: tuple[Journal, str | None] | None = None
        """One that was opened and not taken over yet, and why it was begun anew, if it was."""
        self._doubt: tuple[str, str] | None = None
        self._look_at_s = now_s + LOOK_SECONDS
        self._wal_is_large = False

    @property
    def busy(self) -> bool:
        """Whether a call is still under way."""
        return self._disk.busy

    @property
    def in_use(self) -> Journal:
        """The journal, where one is open."""
        assert self.journal is not None
        return self.journal

    def run(self, call: Callable[[], T]) -> T:
        """What a call returns that waits for the disk.

        Raises:
            JournalHungError: it has not returned yet.
        """
        return self._disk.run(call, DISK_SECONDS_AT_START if self.starting else DISK_SECONDS)

    def open(self) -> tuple[Journal, str | None]:
        """Open the journal, or a new one in the place of a damaged one; and why it was begun anew, if it was.

        Raises:
            JournalError: it cannot be.
        """
        if self._opened is None:  # else it came late
            self.run(self._open_or_begin)
        assert self._opened is not None
        opened, self._opened = self._opened, None
        self.journal = opened[0]
        return opened

    def note_size(self) -> None:
        """Take over how much the file holds. Beyond what it always has there, what is beside the file counts."""
        journal = self.in_use
        self.first_seq = journal.first_seq
        self.size_bytes = journal.size_bytes + max(0, journal.wal_bytes - WAL_KEPT_BYTES)

    def distrust(self, journal_id: str, why: str) -> None:
        """A reader found this journal damaged: if it is still the one in use, the next `check` fails. Any thread."""
        self._doubt = journal_id, why

    def check(self, now_s: float) -> None:
        """See that the journal is what it was; the disk is asked once a second.

        Raises:
            JournalDamagedError: a reader found that it is damaged.
            JournalReplacedError: its file was deleted or replaced.
            JournalHungError: the disk does not answer.
        """
        journal, doubt = self.in_use, self._doubt
        if doubt is not None:
            self._doubt = None
            if doubt[0] == journal.journal_id:
                raise JournalDamagedError(doubt[1])
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + LOOK_SECONDS
        self.run(journal.require_in_place)
        if journal.wal_bytes <= WAL_KEPT_BYTES:
            self._wal_is_large = False
        elif journal.wal_bytes > WAL_LARGE_BYTES and not self._wal_is_large:
            self._wal_is_large = True
            logger.warning("%s", self.run(journal.in_the_way))

    def let_go_after(self, fault: JournalError) -> None:
        """Let go of the file, except where the disk is full, as opening takes room that may not be there, or does not
        answer.
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
        """Give the file another name; returns it."""
        return self.run(lambda: move_aside(self.path)).name

    def close(self) -> None:
        """Let go of the file as soon as the disk answers; waits for that a while."""
        within_s = DISK_SECONDS if self.busy else DISK_SECONDS_AT_START
        if not self._disk.close(self._close_all, within_s):
            logger.error("%s is left open, its disk does not answer", self.path)

    # Called by the disk's thread.

    def _close_all(self) -> None:
        for journal in (self.journal, self._opened[0] if self._opened else None):
            if journal is not None:
                journal.close()
        self.journal = self._opened = None

    def _open_or_begin(self) -> None:
        why = None
        try:
            journal = self._open_if_none_is_missing()
        except JournalDamagedError as error:
            logger.error("%s", error)
            why = f"{error}; it is {move_aside(self.path).name} now"
            journal = self._open_if_none_is_missing()
        self._opened = journal, why

    def _open_if_none_is_missing(self) -> Journal:
        """Open the journal.

        Raises:
            JournalDamagedError: events are missing that were in it: to go on would be to number others like them.
            JournalError: it cannot be opened.
        """
        journal = Journal.open(self._folder, self._line, most_bytes=self._most_bytes)
        known = self._known_seq(journal.journal_id)
        if journal.last_seq < known:
            journal.close()
            raise JournalDamagedError(
                f"{journal.path} is older than it was: it ends with event {journal.last_seq}, and had event {known}"
            )
        return journal
