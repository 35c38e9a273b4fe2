"""A line that only publishes its status, over a real socket, and inspects nothing."""

import threading
from typing import Any, Self

import msgspec

from heatline.edge.delivery.auth import Access
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.wire.events import ChangeEvent, CountedEvent, Handshake, Message, StatusEvent
from tests.edge.wire_examples import CHANGE, HANDSHAKE

STATUS_EVERY_SECONDS = 0.01
READY = Handshake(state="READY", heartbeat=7)


def a_status(**what: Any) -> StatusEvent:
    """Return the example status event with changed fields."""
    assert isinstance(HANDSHAKE.event, StatusEvent)
    return msgspec.structs.replace(HANDSHAKE.event, **what)


def a_change(**what: Any) -> ChangeEvent:
    """Return the example change event with changed fields."""
    assert isinstance(CHANGE.event, ChangeEvent)
    return msgspec.structs.replace(CHANGE.event, **what)


class StatusOnlyLine:
    """Publishes its status repeatedly, as a line does, and other events with `send`."""

    def __init__(self, address: str, status: StatusEvent, access: Access | None = None) -> None:
        self.status = status
        self._publisher = Publisher(address, access=access)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._publish_status)

    def send(self, event: StatusEvent | CountedEvent) -> None:
        self._publisher.send(Message(event))

    def start(self) -> None:
        self._publisher.start()
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._publisher.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _publish_status(self) -> None:
        while not self._ended.wait(STATUS_EVERY_SECONDS):
            self.send(self.status)
