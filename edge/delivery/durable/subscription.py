"""The subscription of a connected consumer: what was sent, what its window allows, and what is sent next."""

import time
from collections import deque
from dataclasses import dataclass, field

from heatline.edge.delivery.durable.journal_tail import JournalTail
from heatline.edge.delivery.journal.reader import Page
from heatline.edge.delivery.servers import Route
from heatline.edge.wire.following import Batch, FollowRequest, batch_parts

BYTES_PER_BATCH = 1 << 20
"""A larger event makes a batch of its own."""
BYTES_UNACKNOWLEDGED = 4 << 20
"""A consumer with this many unacknowledged bytes gets no more events, whatever its window."""
FULL_SECONDS = 0.1
"""After this time, sending to a consumer that took nothing is tried again."""


@dataclass
class Subscription:
    """Subscription of one consumer, on one connection and to one journal."""

    route: Route
    request: FollowRequest
    journal_id: str = ""
    sent_through: int = 0
    """The consumer knows that it has all events up to this one; the next batch starts after it."""
    scanned_through: int = 0
    """All events up to this one were scanned, and those of the consumer's topics were sent."""
    last_event: int = 0
    """The last event, or notice of a loss, that was sent."""
    acked_seq: int = 0
    """The last event up to which the consumer wants none again."""
    taken_seq: int = 0
    """The last event that it has acknowledged at all."""
    unacknowledged: deque[tuple[int, int]] = field(default_factory=deque)
    """Batches in flight: last event and bytes of each."""
    unacknowledged_bytes: int = 0
    sent_s: float = 0.0
    full_s: float = float("-inf")
    """Time when the consumer last took nothing."""

    def begin(self, journal_id: str, acked_seq: int) -> None:
        """Start again after an event."""
        self.journal_id, self.sent_through, self.scanned_through = journal_id, acked_seq, acked_seq
        self.last_event = self.acked_seq = self.taken_seq = acked_seq
        self.unacknowledged.clear()
        self.unacknowledged_bytes = 0

    def next_page(self, journal: JournalTail) -> Page | None:
        """Return the next page of the journal, as far as the window allows; None if there is no event or no room.

        Raises:
            JournalError: the journal cannot be read now.
        """
        room = self.request.window - len(self.unacknowledged)
        bytes_left = BYTES_UNACKNOWLEDGED - self.unacknowledged_bytes
        full = time.monotonic() < self.full_s + FULL_SECONDS
        if self.scanned_through >= journal.last_seq or room <= 0 or bytes_left <= 0 or full:
            return None
        return journal.read(
            self.scanned_through,
            topics=self.request.topics,
            at_most=room,
            at_most_bytes=min(bytes_left, BYTES_PER_BATCH),
            heatmaps=self.request.heatmaps,
        )

    def batch(self, page: Page, last_seq: int) -> list[bytes]:
        """Return the parts of the message for a page.

        Args:
            last_seq: the newest event of the journal.
        """
        batch = Batch(
            journal_id=self.journal_id,
            after_seq=self.sent_through,
            through_seq=page.through_seq,
            last_seq=max(last_seq, page.through_seq),
            events=len(page.records),
            lost_through=page.lost_through,
        )
        return batch_parts(batch, [(record.header, record.heatmap) for record in page.records])

    def sent(self, page: Page) -> None:
        """Record that a page was sent."""
        if page.lost_through is not None:
            self.await_acknowledgement(page.lost_through)
        for record in page.records:
            self.await_acknowledgement(record.seq, len(record.header) + len(record.heatmap or b""))
        self.sent_through = self.scanned_through = page.through_seq
        self.sent_s = time.monotonic()

    def await_acknowledgement(self, seq: int, size: int = 0) -> None:
        """Record that an event, or the notice of a loss, is in flight. A notice is repeated until acknowledged."""
        self.last_event = seq
        self.unacknowledged.append((seq, size))
        self.unacknowledged_bytes += size

    def acknowledge(self, seq: int) -> None:
        """Record that the consumer acknowledged all events up to one."""
        self.taken_seq = max(seq, self.taken_seq)
        while self.unacknowledged and self.unacknowledged[0][0] <= seq:
            self.unacknowledged_bytes -= self.unacknowledged.popleft()[1]
