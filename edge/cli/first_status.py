"""Waits for the first status of a line, after which a subscriber misses none of its events."""

import time

from heatline.edge.delivery.client.subscriber import Subscriber
from heatline.edge.wire.events import Message, StatusEvent

STATUS_WITHIN_SECONDS = 5.0
"""A running line publishes its status about once a second."""
POLL_SECONDS = 0.5
"""Longest wait of the subscriber for a message."""


def first_status(events: Subscriber, timeout_s: float) -> StatusEvent | None:
    """Wait for a status of the line. Once it is received, no later event is missed."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        received = events.receive()
        if isinstance(received, Message) and isinstance(received.event, StatusEvent):
            return received.event
        if time.monotonic() >= deadline_s:
            return None
