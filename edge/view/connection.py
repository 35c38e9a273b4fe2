"""Bounds what a client that is slow or hostile can use: time, memory, connections, and the log."""

import asyncio
import logging
import socket
import weakref
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected

from edge.errors import DeliveryError
from edge.util.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

REQUEST_WITHIN_SECONDS = 5.0
"""A client must send a whole request in this time."""
READ_WITHIN_SECONDS = 20
"""A client that reads nothing for this time is disconnected by the kernel."""
MOST_CONNECTIONS = 64


class DeadlineProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose request does not come."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the first request."""
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a request, or stop waiting if it is complete."""
        super().data_received(data)
        has_become_a_websocket = self.transport.get_protocol() is not self  # which has limits of its own
        if has_become_a_websocket or self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop_waiting()
        elif self._deadline is None:
            self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_request(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_WITHIN_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Listener(socket.socket):
    """Accepts a bounded number of connections. A TLS handshake that does not end takes memory, and counts, too."""

    def __init__(self, family: int, kind: int) -> None:
        super().__init__(family, kind)
        self._accepted: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; close it if too many are open.

        Raises:
            ConnectionAbortedError: it was closed.
        """
        found, address = super().accept()
        if sum(each.fileno() >= 0 for each in self._accepted) >= MOST_CONNECTIONS:
            found.close()
            raise ConnectionAbortedError
        self._accepted.add(found)
        return found, address


def with_log(app: ASGIApp) -> ASGIApp:
    """Log the faults of an application, at a limited rate, in place of uvicorn."""
    log = RateLimitedLog(logger)

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except ClientDisconnected:
            raise
        except Exception as error:
            log.error("a request was not answered: %s", error, exc_info=error)
            raise

    return logged


def listening_socket(listen: str) -> socket.socket:
    """Return a socket that listens on `HOST:PORT`; port 0 is any free one.

    Raises:
        DeliveryError: the address cannot be bound.
    """
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = _Listener(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted sockets inherit these options
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, READ_WITHIN_SECONDS * 1000)
        found.bind(("" if host == "*" else host, int(port)))
        found.listen()
    except (OSError, OverflowError, ValueError) as problem:
        found.close()
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise DeliveryError(
            f"the page cannot listen on {listen} ({reason}); a line with web.listen serves its page itself while it "
            "runs, so open that, or name another address with --listen HOST:PORT or web.listen"
        ) from problem
    return found
