"""What a connected consumer was sent, what it has room for, and what it gets next."""

import time
from collections import deque
from dataclasses import dataclass, field

from edge.delivery.durable.journal_tail import JournalTail
from edge.delivery.journal.reader import Page
from edge.delivery.router import Route
from edge.wire.following import Batch, FollowRequest, batch_parts

BYTES_PER_BATCH = 1 << 20
"""An event that is larger makes a batch of its own."""
BYTES_UNACKNOWLEDGED = 4 << 20
"""A consumer that has so much on its way gets no more, whatever its window."""
FULL_SECONDS = 0.1
"""After so long, a consumer is tried again that took nothing."""


@dataclass
class Subscription:
    """One consumer's, on one connection and in one journal."""

    route: Route
    request: FollowRequest
    journal_id: str = ""
    sent_through: int = 0
    """The consumer knows that it has all up to here: the next batch is of what comes after."""
    scanned_through: int = 0
    """All that it wants up to here was sent."""
    unacknowledged: deque[tuple[int, int]] = field(default_factory=deque)
    """What was sent: up to which event, and how many bytes."""
    unacknowledged_bytes: int = 0
    sent_s: float = 0.0
    full_s: float = float("-inf")
    """When it last took nothing."""

    def begin(self, journal_id: str, acked_seq: int) -> None:
        """Start again after an event."""
        self.journal_id, self.sent_through, self.scanned_through = journal_id, acked_seq, acked_seq
        self.unacknowledged.clear()
        self.unacknowledged_bytes = 0

    def next_page(self, journal: JournalTail) -> Page | None:
        """What comes next of the journal, as far as there is room for it; None where there is nothing or no room.

        Raises:
            JournalError: it cannot be read now.
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
        """The parts of a message that brings a page.

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
        """A page was sent."""
        if page.lost_through is not None:
            self.await_acknowledgement(page.lost_through)
        for record in page.records:
            self.await_acknowledgement(record.seq, len(record.header) + len(record.heatmap or b""))
        self.sent_through = self.scanned_through = page.through_seq
        self.sent_s = time.monotonic()

    def await_acknowledgement(self, seq: int, size: int = 0) -> None:
        """An event is on its way, or word of what is gone: that is repeated until the consumer acknowledges it."""
        self.unacknowledged.append((seq, size))
        self.unacknowledged_bytes += size

    def acknowledge(self, seq: int) -> None:
        """The consumer is done with all up to an event."""
        while self.unacknowledged and self.unacknowledged[0][0] <= seq:
            self.unacknowledged_bytes -= self.unacknowledged.popleft()[1]
