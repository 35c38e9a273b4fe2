"""A reference subscriber, which receives all messages of a line by a plain SUB socket without faults."""

import threading
from types import TracebackType
from typing import Self

import zmq

from heatline.edge.wire.events import StatusEvent, event_from
from tests.system.chaos.records import head_of

POLL_MS = 50


class ReferenceSubscriber:
    """Receives in a thread for the duration of the `with` block.

    Args:
        address: of the line's events.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.headers: list[bytes] = []
        """Headers of all events but statuses, in the order of receipt."""
        self.boots: list[str] = []
        """Boot ids of the line, in the order of their first event."""
        self.frames_of_boot = 0
        """Number of verdict events of the last boot."""
        self.status: StatusEvent | None = None
        """The last status."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reference", daemon=True)

    @property
    def live_only(self) -> str | None:
        """Why events are not recorded, by the last status; None: they are."""
        journal = None if self.status is None else self.status.journal
        return None if journal is None else journal.live_only

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.setsockopt(zmq.RECONNECT_IVL, 10)
            socket.subscribe("")
            socket.connect(self._address)
            while not self._ending.is_set():
                if socket.poll(POLL_MS):
                    self._record(socket.recv_multipart())

    def _record(self, parts: list[bytes]) -> None:
        if len(parts) < 2:
            return  # a welcome
        head = head_of(parts[1])
        if head.boot_id not in self.boots:
            self.frames_of_boot = 0
            self.boots.append(head.boot_id)
        if head.type == "status":
            status = event_from(parts[1])
            assert isinstance(status, StatusEvent)
            self.status = status
            return
        self.headers.append(parts[1])
        self.frames_of_boot += head.type == "verdict" and head.boot_id == self.boots[-1]
