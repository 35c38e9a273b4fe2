"""The end of the journal: opened again when the file is replaced, and tried again when it cannot be read."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from heatline.edge.delivery.journal.errors import JournalDamagedError, JournalReplacedError
from heatline.edge.delivery.journal.reader import JournalReader, Page
from heatline.edge.errors import JournalError

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 1.0


class JournalTail:
    """Reads the journal of a folder, by one thread.

    Args:
        on_damaged: called with the id of a damaged journal and a sentence about the damage.
    """

    def __init__(self, folder: Path, on_damaged: Sequence[Callable[[str, str], None]] = ()) -> None:
        self._folder, self._on_damaged = folder, on_damaged
        self._reader: JournalReader | None = None
        self._try_again_s = float("-inf")
        self.journal_id: str | None = None
        """Id of the journal that was read last; None: none was read yet."""
        self.first_seq = self.last_seq = 0
        """The first and last event, as far as is known."""
        self.fault: str | None = None
        """Why the journal cannot be read now, as a sentence; None while it can."""

    def refresh(self, at_once: bool = False) -> bool:
        """Read the first and the last number of the journal.

        Args:
            at_once: do not wait for the next attempt that is due.
        Returns: whether the journal is another one now.
        """
        try:
            return self._refresh(at_once)
        except JournalReplacedError:
            self.close()
        except JournalError as error:
            self._failed(error)
            return False
        try:
            return self._refresh(at_once=True)
        except JournalError as error:
            self._failed(error)
            return False

    def read(self, after_seq: int, **wanted: Any) -> Page:
        """Read events as `JournalReader.read` does.

        Raises:
            JournalError: the journal cannot be read now.
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
        """Close the file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _refresh(self, at_once: bool) -> bool:
        if self._reader is None:
            if not at_once and time.monotonic() < self._try_again_s:
                return False
            self._reader = JournalReader.open(self._folder)
        self._reader.require_in_place()
        first_seq, last_seq = self._reader.range()
        changed = self._reader.journal_id != self.journal_id
        if self.fault is not None:
            logger.info("%s can be read again", self._reader.path)
        self.journal_id, self.first_seq, self.last_seq, self.fault = self._reader.journal_id, first_seq, last_seq, None
        return changed

    def _failed(self, error: JournalError) -> None:
        journal_id = self.journal_id if self._reader is None else self._reader.journal_id
        if isinstance(error, JournalDamagedError) and journal_id is not None:
            for callback in self._on_damaged:
                callback(journal_id, str(error))
        self.close()
        self._try_again_s = time.monotonic() + (0 if isinstance(error, JournalReplacedError) else SECONDS_BETWEEN_TRIES)
        if self.fault is None and not isinstance(error, JournalReplacedError):
            logger.error("%s; durable consumers wait until it can be read", error)
        self.fault = str(error)
