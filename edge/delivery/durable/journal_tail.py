"""The journal as it can be read now: opened anew when it was replaced, and tried again when it cannot be read."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge.delivery.journal.errors import JournalDamagedError, JournalReplacedError
from edge.delivery.journal.reader import JournalReader, Page
from edge.errors import JournalError

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 1.0


class JournalTail:
    """Reads the journal of a folder for as long as it is used, by one thread.

    Args:
        damaged: are told the id of a journal that reads damaged, and why, in words.
    """

    def __init__(self, folder: Path, damaged: Sequence[Callable[[str, str], None]] = ()) -> None:
        self._folder, self._damaged = folder, damaged
        self._reader: JournalReader | None = None
        self._try_again_s = float("-inf")
        self.journal_id: str | None = None
        """Of the journal that was read last; None: none could be yet."""
        self.first_seq = self.last_seq = 0
        """As far as is known."""
        self.fault: str | None = None
        """Why it cannot be read now, in words; None while it can."""

    def look(self, at_once: bool = False) -> bool:
        """See how far it is.

        Args:
            at_once: do not wait until it may be tried again.
        Returns: whether it is another journal now, or has gone back, as one does that was copied from elsewhere.
        """
        try:
            return self._look(at_once)
        except JournalReplacedError:
            self.close()
        except JournalError as error:
            self._failed(error)
            return False
        try:
            return self._look(at_once=True)
        except JournalError as error:
            self._failed(error)
            return False

    def read(self, after_seq: int, **wanted: Any) -> Page:
        """As `JournalReader.read`.

        Raises:
            JournalError: it cannot be read now.
        """
        if self._reader is None:
            raise JournalError(self.fault or "the journal is being opened")
        try:
            page = self._reader.read(after_seq, **wanted)
        except JournalError as error:
            self._failed(error)
            raise
        self.last_seq = max(self.last_seq, page.through_seq if page.records else 0)
        return page

    def close(self) -> None:
        """Let go of the file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _look(self, at_once: bool) -> bool:
        if self._reader is None:
            if not at_once and time.monotonic() < self._try_again_s:
                return False
            self._reader = JournalReader.open(self._folder)
        self._reader.require_in_place()
        first_seq, last_seq = self._reader.range()
        changed = self._reader.journal_id != self.journal_id or last_seq < self.last_seq
        if self.fault is not None:
            logger.info("%s can be read again", self._reader.path)
        self.journal_id, self.first_seq, self.last_seq, self.fault = self._reader.journal_id, first_seq, last_seq, None
        return changed

    def _failed(self, error: JournalError) -> None:
        journal_id = self.journal_id if self._reader is None else self._reader.journal_id
        if isinstance(error, JournalDamagedError) and journal_id is not None:
            for tell in self._damaged:
                tell(journal_id, str(error))
        self.close()
        self._try_again_s = time.monotonic() + (0 if isinstance(error, JournalReplacedError) else SECONDS_BETWEEN_TRIES)
        if self.fault is None and not isinstance(error, JournalReplacedError):
            logger.error("%s; durable consumers wait, and it is tried again", error)
        self.fault = str(error)
