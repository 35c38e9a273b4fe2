"""Fills the memory from a line: its journal at the start, its events, and its pictures."""

import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.delivery.subscriber import Gap, Subscriber
from heatline.edge.errors import DeliveryError, JournalError, MessageError
from heatline.edge.monitor.held_picture import HeldPicture
from heatline.edge.monitor.memory import MOST_PICTURES, ROWS, Memory
from heatline.edge.monitor.metrics import Metrics
from heatline.edge.monitor.pictures import PictureClient
from heatline.edge.util.process import NamedThread
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire.events import Message, ReviewEvent, StatusEvent, VerdictEvent, event_from

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
"""How soon a thread notices that it must end."""
RETRY_SECONDS = 1.0
GOOD_INTERVAL_MS = 200
"""Nobody sees more than five pictures a second, and each costs the line a copy of its pixels."""
TOPICS = {"verdict.": ROWS, "review": MOST_PICTURES}
"""Beginnings of the topics whose events are remembered, and how many of each are read in the journal."""
Remembered = VerdictEvent | ReviewEvent


class Collector:
    """Two threads, one for events and one for pictures. Use it as a context.

    Args:
        journal: file of the line's journal; it need not exist.
        pictures: the line's socket for pictures.
        slots: pictures that the line may have sent and that are not copied yet.
    """

    def __init__(
        self,
        memory: Memory,
        metrics: Metrics,
        *,
        address: str,
        keys: ClientKeys | None,
        journal: Path,
        pictures: Path,
        slots: int = 2,
    ) -> None:
        self._memory, self._metrics = memory, metrics
        self._address, self._keys, self._journal, self._pictures = address, keys, journal, pictures
        self._slots = slots
        self._ended = threading.Event()
        self._log = RateLimitedLog(logger)
        self._threads = [
            NamedThread("view events", _ending_the_process(self._events)),
            NamedThread("view pictures", _ending_the_process(self._read_pictures)),
        ]

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
                read = self._read_journal(TOPICS, 0)
                for event in read.events:
                    self._remember(event, live=False)
                has_joined = False
                while not self._ended.is_set():
                    try:
                        received = events.receive()
                    except MessageError as error:
                        self._log.error("%s", error)
                        continue
                    if received is not None and not has_joined:
                        has_joined = True
                        read = self._join(read)
                    match received:
                        case Message(event=StatusEvent() as status):
                            self._memory.add_status(status)
                        case Message(event=VerdictEvent() | ReviewEvent() as event) if not read.holds(event):
                            self._remember(event, live=True)
                            self._count(event)
                        case Gap() as gap:
                            self._fill(gap, read)
        except DeliveryError as error:
            self._memory.fault = str(error)
            self._memory.changed()

    def _join(self, before: "_Read") -> "_Read":
        """Read events in the journal that were sent before the subscription was active: the subscriber does not
        notice that it missed them.
        """
        now = self._read_journal(TOPICS, 0)
        for event in now.events:
            if not before.holds(event):
                self._add_missed(event)
        return now

    def _fill(self, gap: Gap, read: "_Read") -> None:
        """Read events in the journal that did not come live."""
        most = next((most for beginning, most in TOPICS.items() if gap.topic.startswith(beginning)), None)
        if gap.journal_id is None or most is None:
            return
        for event in self._read_journal({gap.topic: most}, gap.after_seq, gap.through_seq).events:
            if event.journal_id == gap.journal_id and not read.holds(event):
                self._add_missed(event)

    def _add_missed(self, event: Remembered) -> None:
        self._remember(event, live=False)
        self._count(event)

    def _remember(self, event: Remembered, *, live: bool) -> None:
        if isinstance(event, ReviewEvent):
            self._memory.add_review(event)
        else:
            self._memory.add_verdict(event, live=live)

    def _count(self, event: Remembered) -> None:
        if isinstance(event, ReviewEvent):
            self._metrics.add_review(event)
        else:
            self._metrics.add_verdict(event)

    def _read_journal(self, topics: Mapping[str, int], after_seq: int, through_seq: float = math.inf) -> "_Read":
        """Read events in the journal, the newest of each topic if they are many."""
        try:
            with JournalReader.open_file(self._journal) as reader:
                last_seq = reader.last_seq
                records = [each.record for topic, most in topics.items() for each in reader.newest(most, [topic])]
                events = [_remembered(each.header) for each in records if after_seq < each.seq <= through_seq]
                return _Read(reader.journal_id, last_seq, [event for event in events if event is not None])
        except JournalError as error:
            if error.kind != "missing":  # otherwise the line has not run yet, or has no journal
                self._log.error("earlier verdicts are not shown: %s", error)
        return _Read(None, 0, [])

    def _read_pictures(self) -> None:
        while not self._ended.is_set():
            try:
                with PictureClient(self._pictures, slots=self._slots, good_interval_ms=GOOD_INTERVAL_MS) as client:
                    self._memory.pictures_fault = None
                    self._receive(client)
            except DeliveryError as error:
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


class _Read(NamedTuple):
    """What was read in the journal at once."""

    journal_id: str | None
    last_seq: int
    """The last event that the journal held then."""
    events: list[Remembered]

    def holds(self, event: Remembered) -> bool:
        """Return whether the journal held an event then."""
        return event.journal_id is not None and event.journal_id == self.journal_id and event.seq <= self.last_seq


def _ending_the_process(work: Callable[[], None]) -> Callable[[], None]:
    """Return work whose bug ends this process, which the line starts again: a page that stands still is worse."""

    def run() -> None:
        try:
            work()
        except Exception:
            logger.exception("the page ends")
            os.kill(os.getpid(), signal.SIGTERM)

    return run


def _remembered(header: bytes) -> Remembered | None:
    try:
        event = event_from(header)
    except MessageError:  # of another schema version, or damaged
        return None
    return event if isinstance(event, VerdictEvent | ReviewEvent) else None
