"""Brings the journal's results to the mailbox, one at a time, and acknowledges them to the line."""

import logging
import threading
from collections.abc import Callable

from heatline.edge.bridge.line import VERDICTS
from heatline.edge.bridge.modbus.mailbox import Mailbox
from heatline.edge.bridge.modbus.results import Entry, IdMap, entry_of, lost_entry
from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client.follower import Follower
from heatline.edge.errors import EventsLostError
from heatline.edge.wire.following import Start

logger = logging.getLogger(__name__)

TOPICS = (VERDICTS, "journal")
TICK_SECONDS = 0.25


class Feed:
    """Follows the line as a durable consumer. `run` is for a thread of its own.

    Args:
        address: the line's `journal.bind`.
        name: of the consumer.
        on_server: calls a function in the thread of the server, soon.
        start: where a new name begins.
    """

    def __init__(
        self,
        address: str,
        name: str,
        keys: ClientKeys | None,
        places: IdMap,
        mailbox: Mailbox,
        on_server: Callable[..., object],
        start: Start = "first",
    ) -> None:
        self._start: Start = start
        self._address, self._name, self._keys = address, name, keys
        self._places, self._mailbox, self._on_server = places, mailbox, on_server
        self._ended = threading.Event()

    def run(self) -> None:
        """Follow until `end` is called. What was shown and not acknowledged comes again at the next start.

        Raises: as `Follower.receive`, without EventsLostError.
        """
        with Follower(
            self._address,
            self._name,
            topics=TOPICS,
            start=self._start,
            timeout_s=TICK_SECONDS,
            keys=self._keys,
        ) as events:
            while not self._ended.is_set():
                entry = self._next(events)
                if entry is not None and not self._is_acknowledged(entry, events):
                    return
            events.acknowledge()

    def end(self) -> None:
        """Make `run` return soon."""
        self._ended.set()

    def _next(self, events: Follower) -> Entry | None:
        try:
            delivered = events.receive()
        except EventsLostError as lost:
            logger.error("%s; the mailbox shows it to the PLC", lost)
            return lost_entry(lost)
        return None if delivered is None else entry_of(delivered, self._places)

    def _is_acknowledged(self, entry: Entry, events: Follower) -> bool:
        """Show an entry, and wait until it is acknowledged; return whether it was before the end."""
        acknowledged = self._mailbox.acknowledged
        acknowledged.clear()
        self._on_server(self._mailbox.show, entry)
        while not acknowledged.wait(TICK_SECONDS):
            if self._ended.is_set():
                return acknowledged.is_set()
            events.hold()
        return True
