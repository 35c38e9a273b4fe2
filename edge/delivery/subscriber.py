"""Listens to a line's events."""

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import zmq

from edge.delivery.messages import Message, from_frames
from edge.errors import DeliveryError


class Subscriber:
    """A SUB socket as an iterator of messages. Reconnects by itself; what was sent meanwhile is missed.

    Use it in the thread that made it:

        with Subscriber("tcp://127.0.0.1:5556") as events:
            for message in events:
                ...

    Args:
        address: what the line binds.
        topics: prefixes to listen to, e.g. `verdict.top.DEFECT`; default: all.
        timeout_s: stop the iteration when nothing came for so long; None: wait for ever.
    Raises:
        DeliveryError: the address is none.
    """

    def __init__(self, address: str, *, topics: Iterable[str] = ("",), timeout_s: float | None = None) -> None:
        self._timeout_ms = None if timeout_s is None else int(timeout_s * 1000)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        for topic in topics:
            self._socket.setsockopt_string(zmq.SUBSCRIBE, topic)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise DeliveryError(
                f"{address} is no address to connect to ({error.strerror}); expected e.g. tcp://127.0.0.1:5556"
            ) from error

    def __iter__(self) -> Iterator[Message]:
        while (message := self.receive()) is not None:
            yield message

    def receive(self) -> Message | None:
        """The next message, or None when none came in time.

        Raises:
            MessageError: what came is no message of ours.
        """
        if not self._socket.poll(self._timeout_ms):
            return None
        return from_frames(self._socket.recv_multipart())

    def close(self) -> None:
        """Let go of the socket; may be called twice."""
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
