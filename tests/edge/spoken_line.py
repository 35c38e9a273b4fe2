"""A line that only says how it is: real sockets, and nothing inspected."""

import threading
from types import TracebackType
from typing import Any, Self

import msgspec

from edge.delivery.messages import ChangeEvent, Message, StatusEvent
from edge.delivery.publisher import Publisher
from tests.edge.wire_examples import CHANGE, HANDSHAKE

SAID_EVERY_SECONDS = 0.02


def a_status(**what: Any) -> StatusEvent:
    """A status event as it is kept of the wire, with something else in it."""
    assert isinstance(HANDSHAKE.event, StatusEvent)
    return msgspec.structs.replace(HANDSHAKE.event, **what)


def a_change(**what: Any) -> ChangeEvent:
    """A change event as it is kept of the wire, with something else in it."""
    assert isinstance(CHANGE.event, ChangeEvent)
    return msgspec.structs.replace(CHANGE.event, **what)


class SpokenLine:
    """Says its status over and over, as a line does, and whatever else it is told to."""

    def __init__(self, address: str, status: StatusEvent) -> None:
        self.status = status
        self._publisher = Publisher(address)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._speak)

    def say(self, event: StatusEvent | ChangeEvent) -> None:
        self._publisher.send(Message(event))

    def __enter__(self) -> Self:
        self._publisher.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._publisher.close()

    def _speak(self) -> None:
        while not self._ended.wait(SAID_EVERY_SECONDS):
            self.say(self.status)
