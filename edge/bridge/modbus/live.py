"""The newest verdict of each camera, at once, for a PLC that acts on it. It goes when the line is silent."""

import threading
from collections.abc import Callable, Sequence

from heatline.edge.bridge.line import VERDICTS
from heatline.edge.bridge.modbus.bank import RegisterBank
from heatline.edge.bridge.modbus.registers import Block
from heatline.edge.bridge.modbus.results import NO_RESULT, IdMap, result_values
from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client.gap_detector import Gap
from heatline.edge.delivery.client.subscriber import Subscriber
from heatline.edge.errors import MessageError
from heatline.edge.wire.events import Message, VerdictEvent

TICK_SECONDS = 0.25


class LatestVerdicts:
    """The newest verdicts in the cameras' blocks. Only the thread of the server uses it."""

    def __init__(self, bank: RegisterBank, blocks: Sequence[Block], places: IdMap) -> None:
        self._bank, self._blocks, self._places = bank, blocks, places

    def show(self, event: VerdictEvent) -> None:
        """Show the newest verdict of its camera."""
        if place := self._places.camera(event.camera):
            block = self._blocks[place - 1]
            results = self._bank.number(block, "results") + 1
            self._bank.put(block, {**result_values(event, self._places), "results": results})

    def clear(self, camera: str | None = None) -> None:
        """Show no verdict of a camera, or of all: what was the newest one may not be it any more."""
        for name, block in zip(self._places.cameras, self._blocks, strict=True):
            if camera in (None, name):
                self._bank.put(block, NO_RESULT)


class LiveVerdicts:
    """Subscribes to the line's verdicts. `run` is for a thread of its own.

    Args:
        address: the line's `events.bind`.
        on_server: calls a function in the thread of the server, soon.
    """

    def __init__(
        self, address: str, keys: ClientKeys | None, latest: LatestVerdicts, on_server: Callable[..., object]
    ) -> None:
        self._address, self._keys, self._latest, self._on_server = address, keys, latest, on_server
        self._ended = threading.Event()

    def run(self) -> None:
        """Show verdicts until `end` is called."""
        with Subscriber(self._address, topics=[VERDICTS], timeout_s=TICK_SECONDS, keys=self._keys) as events:
            while not self._ended.is_set():
                try:
                    received = events.receive()
                except MessageError:  # a line of another version; the feed shows that there is a result
                    self._on_server(self._latest.clear)
                    continue
                match received:
                    case Message(event=VerdictEvent() as event):
                        self._on_server(self._latest.show, event)
                    case Gap():
                        self._on_server(self._latest.clear, received.topic.split(".")[1])
                    case None:
                        pass
                    case _:  # the line was restarted, or is lost
                        self._on_server(self._latest.clear)

    def end(self) -> None:
        """Make `run` return soon."""
        self._ended.set()
