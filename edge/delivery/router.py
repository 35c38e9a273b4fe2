"""A ROUTER socket that takes requests, in a thread of its own. Only this thread uses the socket."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any, Generic

import zmq

from heatline.edge.delivery.security.access import Access
from heatline.edge.delivery.socket_server import SocketServer
from heatline.edge.delivery.sockets import PARTS_KEPT, receive_frames
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire.requests import Protocol, Refused, RequestT, refuse

logger = logging.getLogger(__name__)

LONGEST_REQUEST_BYTES = 65536
REQUESTS_AT_ONCE = 100
"""Requests read before the server does its other work, so that a flood of requests does not delay that work."""
TOO_MANY_PARTS = refuse("malformed", "a message of too many parts came; send one JSON object")

Route = tuple[bytes, ...]
"""First parts of a reply: the client's identity and, if the request had one, the empty delimiter."""


class RouterServer(SocketServer, Generic[RequestT]):
    """A server that takes requests."""

    kind = zmq.ROUTER
    longest_bytes = LONGEST_REQUEST_BYTES
    protocol: Protocol[RequestT, Any]

    def __init__(self, address: str, access: Access | None = None) -> None:
        super().__init__(address, access)
        self._lock = threading.Lock()
        self._closing = False
        self._wake: int | None = None
        self._faults = RateLimitedLog(logger)

    def close(self) -> None:
        """Finish, give clients `LINGER_MS` to receive what was sent, and release the address."""
        if self._thread.is_alive():
            with self._lock:
                self._closing = True
                self._wake_up()
            self._thread.join()

    def _wake_up(self) -> None:
        """Wake up the server's thread. The lock is held."""
        if self._wake is not None:
            os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            super()._run()
        finally:
            with self._lock:
                os.close(self._wake)
                self._wake = None

    def _wait(self, socket: zmq.Socket[bytes], timeout_ms: int | None = None) -> bool:
        """Wait for a request, a wake-up or the timeout; return whether it was a wake-up."""
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
        """Yield the requests that have arrived, without waiting: the route, and the request or its refusal.

        Refusals are counted. A REQ socket puts an empty delimiter before its request and expects it before the reply; a
        DEALER socket may do the same.
        """
        assert self._authenticator is not None
        for _ in range(at_most):
            try:
                frames = receive_frames(socket, PARTS_KEPT)
            except zmq.Again:
                return
            if not self._authenticator.authorizes(frames[-1]):
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
