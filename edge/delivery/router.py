"""A ROUTER socket that takes requests, in a thread of its own that alone touches it."""

import contextlib
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Generic

import zmq

from edge.delivery.security.access import Access
from edge.delivery.security.authenticator import Authenticator, SocketName
from edge.delivery.sockets import PARTS_KEPT, receive_frames
from edge.errors import DeliveryError
from edge.util.rate_limited_log import RateLimitedLog
from edge.util.threads import NamedThread
from edge.wire.requests import Protocol, Refused, RequestT, refuse

logger = logging.getLogger(__name__)

LONGEST_REQUEST_BYTES = 65536
"""Who sends a longer one is hung up on by ZeroMQ, before it takes memory here."""
REQUESTS_AT_ONCE = 100
"""Taken in between two looks at what else is to be done, so that nobody who floods us with requests keeps that back."""
LINGER_MS = 2000
START_WITHIN_SECONDS = 5.0
TOO_MANY_PARTS = refuse("malformed", "a message of too many parts came; send one JSON object")

Route = tuple[bytes, ...]
"""What a reply begins with: the client as the socket knows it and, where its request had one, the empty delimiter."""


class RouterServer(ABC, Generic[RequestT]):
    """Binds, serves until closed, and lets go.

    Args:
        address: ZeroMQ address to bind, `tcp://...` or `ipc://...`.
        access: who may connect, if the address is not local.
    """

    thread_name: ClassVar[str]
    name: ClassVar[SocketName]
    """Which of the line's sockets it is: its table in the configuration."""
    protocol: Protocol[RequestT, Any]
    send_high_water_mark: ClassVar[int]
    """Messages kept for a client that does not read."""

    def __init__(self, address: str, access: Access | None = None) -> None:
        self.address = address
        self._access = access or Access()
        self._guard: Authenticator | None = None
        self._lock = threading.Lock()
        self._closing = False
        self._wake: int | None = None
        self._bound = threading.Event()
        self._error: zmq.ZMQError | None = None
        self._faults = RateLimitedLog(logger)
        self._thread = NamedThread(self.thread_name, self._run)

    def start(self) -> None:
        """Bind the address.

        Raises:
            AccessError: others could reach it, and the line has no key to protect it with.
            DeliveryError: it cannot be bound.
        """
        self._access.require_protected(f"{self.name}.bind", self.address)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread.start()
        if not self._bound.wait(START_WITHIN_SECONDS):
            raise DeliveryError(f"{self.address} was not bound within {START_WITHIN_SECONDS:.0f} s")
        if self._error is not None:
            self._thread.join()
            raise DeliveryError(
                f"{self.address} cannot be bound ({self._error.strerror}); is another line using it, "
                f"or is the address not of this machine? Set {self.name}.bind"
            ) from self._error

    def close(self) -> None:
        """Finish, give clients `LINGER_MS` to take what was sent, and let go of the address."""
        if self._thread.is_alive():
            with self._lock:
                self._closing = True
                self._wake_up()
            self._thread.join()

    def _wake_up(self) -> None:
        """Have the server look at what changed; the lock is held."""
        if self._wake is not None:
            os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.ROUTER)
        try:
            try:
                self._set_up(socket)
                self._guard = Authenticator(socket, self._access, self.name, self.address)
                self._guard.bind()
            except zmq.ZMQError as error:
                self._error = error
                return
            finally:
                self._bound.set()
            self._serve(socket)
        finally:
            socket.close()
            context.term()
            if self._guard is not None:
                self._guard.join()
            with self._lock:
                assert self._wake is not None
                os.close(self._wake)
                self._wake = None

    def _set_up(self, socket: zmq.Socket[bytes]) -> None:
        """All that is set before the address is bound."""
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, self.send_high_water_mark)
        socket.setsockopt(zmq.MAXMSGSIZE, LONGEST_REQUEST_BYTES)

    @abstractmethod
    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        """Serve until `_closing`, and finish."""

    def _wait(self, socket: zmq.Socket[bytes], timeout_ms: int | None = None) -> bool:
        """Until a request is there, somebody woke us, or the time is up; whether somebody woke us."""
        assert self._wake is not None
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        poller.poll(timeout_ms)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
            return True
        return False

    def _requests(self, socket: zmq.Socket[bytes], at_most: int) -> Iterator[tuple[Route, RequestT | Refused]]:
        """What has come, without waiting: who asked, and the request, or the refusal of what is none, which is counted.

        A REQ socket puts an empty delimiter before its request, and wants it back before the reply; a DEALER may.
        """
        assert self._guard is not None
        for _ in range(at_most):
            try:
                frames = receive_frames(socket, PARTS_KEPT)
            except zmq.Again:
                return
            if not self._guard.authorizes(frames[-1]):
                continue
            client, *parts = (frame.bytes for frame in frames)
            delimiter = parts[:1] if len(parts) > 1 and not parts[0] else []
            whole = len(parts) == len(delimiter) + 1
            request = self.protocol.request_from(parts[-1]) if whole else TOO_MANY_PARTS
            if isinstance(request, Refused):
                self._count(request)
            yield (client, *delimiter), request

    def _count(self, refused: Refused) -> None:
        self._access.refusals.note(self.name, refused.reason, refused.detail)
