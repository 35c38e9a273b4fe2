"""Fills the memory from a line: its journal at the start, its events, and its pictures."""

import logging
import threading
from pathlib import Path
from typing import Self

from edge.delivery.client.gap_detector import Gap
from edge.delivery.client.subscriber import Subscriber
from edge.delivery.journal.errors import JournalMissingError
from edge.delivery.journal.reader import JournalReader
from edge.delivery.security.curve import ClientKeys
from edge.errors import DeliveryError, JournalError, MessageError
from edge.pictures.client import PictureClient
from edge.util.rate_limited_log import RateLimitedLog
from edge.util.threads import NamedThread
from edge.view.held_picture import HeldPicture
from edge.view.memory import ROWS, Memory
from edge.view.metrics import Metrics
from edge.wire.events import Message, StatusEvent, VerdictEvent, event_from

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
"""How soon a thread notices that it must end."""
RETRY_SECONDS = 1.0


class Collector:
    """Two threads, one for events and one for pictures. Use it as a context.

    Args:
        journal: file of the line's journal; None or missing: there are no earlier verdicts.
        pictures: the line's socket for pictures.
    """

    def __init__(
        self,
        memory: Memory,
        metrics: Metrics,
        *,
        address: str,
        keys: ClientKeys | None,
        journal: Path | None,
        pictures: Path,
    ) -> None:
        self._memory, self._metrics = memory, metrics
        self._address, self._keys, self._journal, self._pictures = address, keys, journal, pictures
        self._ended = threading.Event()
        self._log = RateLimitedLog(logger)
        self._threads = [NamedThread("view events", self._events), NamedThread("view pictures", self._read_pictures)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=2 * TICK_SECONDS)

    def _events(self) -> None:
        try:
            with Subscriber(self._address, timeout_s=TICK_SECONDS, keys=self._keys) as events:
                after = self._read_journal(0, None)
                while not self._ended.is_set():
                    try:
                        received = events.receive()
                    except MessageError as error:
                        self._log.error("%s", error)
                        continue
                    match received:
                        case Message(event=StatusEvent() as status):
                            self._memory.add_status(status)
                        case Message(event=VerdictEvent() as verdict):
                            if verdict.journal_id is None or verdict.seq > after:  # not read in the journal before
                                self._memory.add_verdict(verdict, live=True)
                                self._metrics.add_verdict(verdict)
                        case Gap(journal_id=str()) as gap:
                            self._read_journal(max(after, gap.after_seq), gap.through_seq)
        except DeliveryError as error:
            self._memory.fault = str(error)
            self._memory.changed()

    def _read_journal(self, after_seq: int, through_seq: int | None) -> int:
        """Read verdicts from the journal, the newest if they are many; return the number of its last event."""
        if self._journal is None:
            return 0
        try:
            with JournalReader.open_file(self._journal) as reader:
                last = reader.last_seq
                for stored in reader.newest(ROWS, ["verdict."]):
                    record = stored.record
                    if record.seq <= after_seq or (through_seq is not None and record.seq > through_seq):
                        continue
                    try:
                        event = event_from(record.header)
                    except MessageError:  # of another schema version
                        continue
                    if isinstance(event, VerdictEvent):
                        self._memory.add_verdict(event, live=False)
                return last
        except JournalMissingError:  # the line has not run yet, or has no journal
            return 0
        except JournalError as error:
            logger.info("no earlier verdicts: %s", error)
            return 0

    def _read_pictures(self) -> None:
        while not self._ended.is_set():
            try:
                with PictureClient(self._pictures) as client:
                    self._receive(client)
            except (DeliveryError, NotImplementedError) as error:
                if self._memory.pictures_fault != str(error):
                    self._memory.pictures_fault = str(error)
                    self._memory.changed()
            self._ended.wait(RETRY_SECONDS)

    def _receive(self, client: PictureClient) -> None:
        while not self._ended.is_set():
            picture = client.receive(TICK_SECONDS)
            if picture is None:
                continue
            try:
                held = HeldPicture.copy_of(picture)
            finally:
                picture.release()
            self._metrics.add_picture(held)
            self._memory.add_picture(held)
