"""Fills the memory from a line: its journal at the start, its events, and its pictures."""

import contextlib
import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.journal import JournalReader
from heatline.edge.delivery.subscriber import Gap, Subscriber
from heatline.edge.errors import DeliveryError, JournalError, MessageError
from heatline.edge.monitor.held_picture import HeldPicture
from heatline.edge.monitor.memory import MOST_PICTURES, ROWS, Memory
from heatline.edge.monitor.metrics import Metrics
from heatline.edge.monitor.pictures import PictureClient
from heatline.edge.util.process import NamedThread
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire.events import Event, Message, PartEvent, ReviewEvent, StatusEvent, VerdictEvent, event_from

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
"""How soon a thread notices that it must end."""
RETRY_SECONDS = 1.0
GOOD_INTERVAL_MS = 200
"""Nobody sees more than five pictures a second, and each costs the line a copy of its pixels."""
TOPICS = {"verdict.": ROWS, "review": MOST_PICTURES}
"""Beginnings of the topics whose events are remembered, and how many of each are read in the journal."""
MOST_KNOWN = 2 * sum(TOPICS.values())
"""Events that are recognised when they come again."""


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
        self._known: dict[tuple[str, int], None] = {}
        """Journal and number of the last events, in the order in which they came."""
        self._ended = threading.Event()
        self._log = RateLimitedLog(logger)
        self._threads = NamedThread("view events", self._events), NamedThread("view pictures", self._read_pictures)

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
                self._read_journal(TOPICS, is_new=False)
                has_joined = False
                while not self._ended.is_set():
                    try:
                        received = events.receive()
                    except MessageError as error:
                        self._log.error("%s", error)
                        continue
                    if received is not None and not has_joined:  # the subscriber missed what was sent before
                        has_joined = True
                        self._read_journal(TOPICS)
                    match received:
                        case Message(event=StatusEvent() as status):
                            self._memory.add_status(status)
                        case Message(event=PartEvent() as part):
                            self._memory.part = part
                        case Message(event=VerdictEvent() | ReviewEvent() as event):
                            self._remember(event, is_live=True)
                        case Gap(topic=topic):
                            self._read_journal([each for each in TOPICS if topic.startswith(each)])
        except DeliveryError as error:
            self._memory.fault = str(error)

    def _read_journal(self, topics: Iterable[str], *, is_new: bool = True) -> None:
        """Remember the newest events of these topics that the journal has, but those that are known."""
        try:
            with JournalReader.open_file(self._journal) as reader:
                for record in [each for topic in topics for each in reader.newest(TOPICS[topic], [topic])]:
                    with contextlib.suppress(MessageError):  # of another schema version, or damaged
                        self._remember(event_from(record.header), is_new=is_new)
        except JournalError as error:
            if error.kind != "missing":  # otherwise the line has not run yet, or has no journal
                self._log.error("earlier verdicts are not shown: %s", error)

    def _remember(self, event: Event, *, is_live: bool = False, is_new: bool = True) -> None:
        """Remember an event once. A live one did not come from the journal; one that came since the start is new, and
        is counted.
        """
        if not isinstance(event, VerdictEvent | ReviewEvent):
            return
        if event.journal_id is not None:
            key = event.journal_id, event.seq
            if key in self._known:
                return
            self._known[key] = None
            if len(self._known) > MOST_KNOWN:
                del self._known[next(iter(self._known))]
        if isinstance(event, ReviewEvent):
            self._memory.add_review(event)
        else:
            self._memory.add_verdict(event, live=is_live)
        if is_new:
            self._metrics.add(event)

    def _read_pictures(self) -> None:
        while not self._ended.is_set():
            try:
                with PictureClient(self._pictures, slots=self._slots, good_interval_ms=GOOD_INTERVAL_MS) as client:
                    self._memory.pictures_fault = None
                    while not self._ended.is_set():
                        if (picture := client.receive(TICK_SECONDS)) is not None:
                            self._memory.add_picture(HeldPicture.copy_of(picture))
                            picture.release()
            except DeliveryError as error:
                self._memory.pictures_fault = str(error)
            self._ended.wait(RETRY_SECONDS)
