"""A listening socket for asyncio's servers that no client can occupy: it bounds how many connect."""

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from heatline.edge.errors import DeliveryError
from heatline.edge.util.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

MODBUS_QUIET_SECONDS = 5.0
"""A PLC that connects again and again without closing may replace those of its own connections that are as quiet."""
GONE_AFTER_SECONDS = 20
"""The kernel drops a connection whose peer does not answer, or reads nothing, for so long."""
ACCEPTED_AT_ONCE = 16
"""Between two rounds of the event loop, for its servers' `backlog`: those who are connected are served in between."""
TRANSPORT_SECONDS = 1.0
"""A transport closes a connection that is shut down long before."""
WAITING_CONNECTIONS = 1024
"""In the kernel, until they are accepted."""


@dataclass
class _Client:
    connection: socket.socket
    peer: Any
    """Address and port."""
    since_s: float = field(default_factory=time.monotonic)
    requested_s: float | None = None
    """When its last request came; None: none was complete yet, so it is not at work."""


class Listener(socket.socket):
    """A bound socket. It has `most` places for clients at work, and as many for those without a complete request.

    Who only connects disconnects no client at work: it takes a place of the second kind, if necessary that of the
    oldest of the address that has most of them. A client takes a place of the first kind when its first request is
    complete, and if all are taken, that of

    1. the quietest of the address that has most of them, if that address still has as many then as the client's;
    2. the quietest of its own address, if it was quiet for `quiet_s`.

    If there is none, the client is disconnected.

    Args:
        listen: `HOST:PORT`; the host `*` is every address, the port 0 is any free one.
        most: number of clients at work.
        refused: begins the sentence of an error, e.g. "the page cannot listen on".
        remedy: ends it.
        allows: whether an address may connect.
    Raises:
        DeliveryError: the address cannot be bound.
    """

    def __init__(
        self,
        listen: str,
        most: int,
        refused: str,
        remedy: str,
        *,
        quiet_s: float = math.inf,
        allows: Callable[[str], bool] = lambda _: True,
    ) -> None:
        host, _, port = listen.rpartition(":")
        host = {"*": "::" if socket.has_dualstack_ipv6() else "0.0.0.0"}.get(host, host.strip("[]"))
        super().__init__(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._most, self._quiet_s, self._allows = most, quiet_s, allows
        self._clients: dict[Any, _Client] = {}
        """By the peer's address and port."""
        self._open: list[socket.socket] = []
        """All accepted ones that are not closed yet, also of a disconnected client whose port a new one has."""
        self._full = RateLimitedLog(logger)
        try:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for option, value in (  # accepted sockets inherit these options
                (socket.TCP_KEEPIDLE, 5),
                (socket.TCP_KEEPINTVL, 5),
                (socket.TCP_USER_TIMEOUT, GONE_AFTER_SECONDS * 1000),
            ):
                self.setsockopt(socket.IPPROTO_TCP, option, value)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self.family == socket.AF_INET6:
                self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            self.bind((host, int(port)))
            self.listen()
        except (OSError, OverflowError, ValueError) as error:
            self.close()
            reason = error.strerror if isinstance(error, OSError) else error
            raise DeliveryError(f"{refused} {listen} ({reason}); {remedy}") from error

    def listen(self, _: int = WAITING_CONNECTIONS) -> None:
        """Listen. A server's `backlog` is only how many it accepts at once."""
        super().listen(WAITING_CONNECTIONS)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection, in an event loop.

        Raises:
            ConnectionAbortedError: its address may not connect.
        """
        connection, peer = super().accept()
        if not self._allows(peer[0]):
            connection.close()
            raise ConnectionAbortedError
        self._open.append(connection)
        self._clients[peer] = client = _Client(connection, peer)
        self._make_room_for(client)
        return connection, peer

    def requested(self, transport: asyncio.BaseTransport) -> None:
        """Note that a request of a client is complete: it is at work."""
        client = self._clients.get(transport.get_extra_info("peername"))
        if client is not None:
            was_at_work, client.requested_s = client.requested_s is not None, time.monotonic()
            if not was_at_work:
                self._make_room_for(client)

    async def disconnect_all(self) -> None:
        """Disconnect all clients, and return when their connections are closed.

        A server that is closed between the acceptance of a connection and its transport leaves it open (asyncio's
        `Server._attach` fails), so what no transport has closed in `TRANSPORT_SECONDS` is closed here.
        """
        give_up_s = time.monotonic() + TRANSPORT_SECONDS
        while self._open:
            for connection in self._open:
                _disconnect(connection)
                if time.monotonic() > give_up_s:
                    connection.close()
            await asyncio.sleep(0.01)
            self._open = [each for each in self._open if each.fileno() >= 0]

    def _make_room_for(self, client: _Client) -> None:
        """Disconnect one of those that are at work, or of those that are not, if there is one more than places."""
        self._clients = {peer: each for peer, each in self._clients.items() if each.connection.fileno() >= 0}
        self._open = [each for each in self._open if each.fileno() >= 0]
        is_at_work = client.requested_s is not None
        alike = [each for each in self._clients.values() if (each.requested_s is not None) == is_at_work]
        if len(alike) <= self._most:
            return
        self._full.error("all %d connections are in use; the last new one is from %s", self._most, client.peer[0])
        count = Counter(each.peer[0] for each in alike)
        most, now_s = max(count.values()), time.monotonic()
        if not is_at_work or most > count[client.peer[0]]:
            replaced = [each for each in alike if count[each.peer[0]] == most]
        else:
            replaced = [
                each
                for each in alike
                if each.peer[0] == client.peer[0] and now_s - (each.requested_s or now_s) >= self._quiet_s
            ] or [client]
        quietest = min(replaced, key=lambda each: each.requested_s or each.since_s)
        _disconnect(self._clients.pop(quietest.peer).connection)


def _disconnect(connection: socket.socket) -> None:
    """Let its transport, or what waits for its TLS handshake, find the end of the connection."""
    with contextlib.suppress(OSError):  # it has ended
        connection.shutdown(socket.SHUT_RDWR)
