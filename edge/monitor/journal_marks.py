"""Reads people's marks from a line's journal, while the line writes it."""

import contextlib
import logging
from pathlib import Path

from heatline.edge.delivery.journal.errors import JournalDamagedError
from heatline.edge.delivery.journal.reader import JournalReader, Page
from heatline.edge.errors import JournalError, MessageError
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire.events import ReviewEvent, event_from

logger = logging.getLogger(__name__)

TOPIC = "review"
READ_AT_ONCE = 200
"""Events that are read to find a damaged one."""


class JournalMarks:
    """The review events of a journal, first all that it holds, then new ones. One thread uses it at a time.

    A journal that is missing, damaged or replaced is logged, and opened again at the next call.

    Args:
        folder: of the journal.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader: JournalReader | None = None
        self._journal_id: str | None = None
        self._seq = 0
        """Events of that journal up to this one are read."""
        self._last_seq = 0
        self._fault: str | None = None
        self._log = RateLimitedLog(logger)

    @property
    def more(self) -> bool:
        """Whether the last call left events for the next one."""
        return self._seq < self._last_seq

    def read(self) -> list[ReviewEvent]:
        """Return the next events; few enough for one call, perhaps none."""
        try:
            reader = self._open()
            self._last_seq = reader.topics().get(TOPIC, 0)
            found = self._next(reader) if self.more else []
            self._fault = None
            return found
        except JournalError as error:
            self.close()
            self._last_seq = self._seq
            if str(error) != self._fault:
                self._fault = str(error)
                self._log.error("marks of people are not read: %s", error)
            return []

    def start_over(self) -> None:
        """Read all marks of the journal again, from the next call on."""
        self._seq = 0

    def close(self) -> None:
        """Close the journal; it is opened again when it is needed."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _open(self) -> JournalReader:
        """Return the open journal.

        Raises:
            JournalError: it cannot be opened, or was replaced.
        """
        if self._reader is None:
            self._reader = JournalReader.open(self._folder)
            if self._journal_id != self._reader.journal_id:
                self._journal_id, self._seq = self._reader.journal_id, 0
        self._reader.require_in_place()
        return self._reader

    def _next(self, reader: JournalReader) -> list[ReviewEvent]:
        try:
            page = reader.read(self._seq, through_seq=self._last_seq, topics=[TOPIC])
        except JournalDamagedError as error:
            page = Page([], _damaged_event(reader, self._seq, self._last_seq), None)
            self._log.error("a mark is left out: %s", error)
        self._seq = page.through_seq
        found = []
        for record in page.records:
            with contextlib.suppress(MessageError):  # another version wrote it
                event = event_from(record.header)
                if isinstance(event, ReviewEvent):
                    found.append(event)
        return found


def _damaged_event(reader: JournalReader, after_seq: int, through_seq: int) -> int:
    """Return the number of the first damaged mark after an event.

    Raises:
        JournalError: the journal cannot be read.
    """
    while after_seq < through_seq and (records := reader.stored(after_seq, through_seq, READ_AT_ONCE).records):
        for stored in records:
            if stored.record.topic == TOPIC and stored.faults(heatmap=False):
                return stored.record.seq
        after_seq = records[-1].record.seq
    return through_seq
