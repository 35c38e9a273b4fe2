"""Hears all that a line says, on a connection that no fault is made on, with nothing of ours but a SUB socket."""

import threading
from types import TracebackType
from typing import Self

import zmq

from bench.chaos.records import Head, head_of
from edge.wire.events import StatusEvent, event_from

POLL_MS = 50


class Witness:
    """Listening between `with` and its end, in a thread of its own.

    Args:
        address: where the line publishes.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.headers: list[bytes] = []
        """Of all events but statuses, in the order in which they came."""
        self.boot_id: str | None = None
        """Of the line's life that was heard last."""
        self.boots: list[str] = []
        self.frames_of_boot = 0
        """Events of frames that came since it began."""
        self.status: StatusEvent | None = None
        """The last one."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    @property
    def live_only(self) -> bool:
        """Whether events are not kept now, as the last status says."""
        journal = None if self.status is None else self.status.journal
        return journal is not None and journal.live_only is not None

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
                    self._hear(socket.recv_multipart())

    def _hear(self, parts: list[bytes]) -> None:
        if len(parts) < 2:
            return  # a welcome
        head = head_of(parts[1])
        if head.boot_id not in self.boots:
            self.boots.append(head.boot_id)
            self.boot_id, self.frames_of_boot = head.boot_id, 0
        if head.type == "status":
            status = event_from(parts[1])
            assert isinstance(status, StatusEvent)
            self.status = status
            return
        self.headers.append(parts[1])
        self.frames_of_boot += self._is_a_frame(head)

    def _is_a_frame(self, head: Head) -> bool:
        return head.type == "verdict" and head.boot_id == self.boot_id
