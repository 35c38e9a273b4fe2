"""A listening socket for asyncio's servers that no client can occupy: it bounds how many connect, and for how long
without a request, the TLS handshake included.
"""

import asyncio
import logging
import math
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edge.errors import DeliveryError
from edge.util.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

PAGE_CONNECTIONS, OPCUA_CONNECTIONS = 128, 32
PAGE_REQUEST_SECONDS, OPCUA_REQUEST_SECONDS = 5.0, 10.0
"""A client that has not completed its first request by then is disconnected; at OPC UA, that is to open a session."""
MODBUS_QUIET_SECONDS = 5.0
"""A PLC that connects again and again without closing may replace those of its own connections that are as quiet."""
CONNECTING_SECONDS = 1.0
"""A new connection of an address with few is not replaced by one of an address with more for so long."""
GONE_AFTER_SECONDS = 20
"""The kernel drops a connection whose peer does not answer, or reads nothing, for so long."""
ACCEPTED_AT_ONCE = 16
"""Between two rounds of the event loop, for its servers' `backlog`: those who are connected are served in between."""
WAITING_CONNECTIONS = 1024
"""In the kernel, until they are accepted."""


@dataclass
class _Client:
    connection: socket.socket
    address: str
    since_s: float = field(default_factory=time.monotonic)
    requested_s: float | None = None
    """When its last request came; None: none was complete yet."""
    deadline: asyncio.TimerHandle | None = None


class Listener(socket.socket):
    """A bound socket. If all places are taken, a new connection takes the place of, in this order,

    1. the oldest without a request, of the address that has most of them;
    2. the quietest of the address that has most connections, if it still has as many then as the new one's address;
    3. the quietest of its own address, if it was quiet for `quiet_s`.

    So a client at work loses its place neither to those who only connect nor to those who hold many places. If there is
    no such connection, the new one is refused.

    Args:
        listen: `HOST:PORT`; the host `*` is every address, the port 0 is any free one.
        most: number of connections.
        refused: begins the sentence of an error, e.g. "the page cannot listen on".
        remedy: ends it.
        request_within_s: time for a request; see `waits`.
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
        request_within_s: float = math.inf,
        quiet_s: float = math.inf,
        allows: Callable[[str], bool] = lambda _: True,
    ) -> None:
        host, _, port = listen.rpartition(":")
        host = {"*": "::" if socket.has_dualstack_ipv6() else "0.0.0.0"}.get(host, host.strip("[]"))
        super().__init__(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._most, self._request_within_s, self._quiet_s, self._allows = most, request_within_s, quiet_s, allows
        self._clients: dict[Any, _Client] = {}
        """By the peer's address and port."""
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
            ConnectionAbortedError: it was refused.
        """
        connection, peer = super().accept()
        self._clients = {key: each for key, each in self._clients.items() if each.connection.fileno() >= 0}
        if not self._allows(peer[0]) or not self._make_room(peer[0]):
            connection.close()
            raise ConnectionAbortedError
        self._clients[peer] = _Client(connection, peer[0])
        self._wait(self._clients[peer])
        return connection, peer

    def requested(self, transport: asyncio.BaseTransport) -> None:
        """Note that a request of a client is complete: it is at work."""
        client = self._clients.get(transport.get_extra_info("peername"))
        if client is not None:
            client.requested_s = time.monotonic()
            if client.deadline is not None:
                client.deadline.cancel()
                client.deadline = None

    def waits(self, transport: asyncio.BaseTransport) -> None:
        """Disconnect a client whose next request is not complete within `request_within_s`."""
        client = self._clients.get(transport.get_extra_info("peername"))
        if client is not None and client.deadline is None:
            self._wait(client)

    def _wait(self, client: _Client) -> None:
        if self._request_within_s < math.inf:
            loop = asyncio.get_running_loop()
            client.deadline = loop.call_later(self._request_within_s, _disconnect, client)

    def _make_room(self, address: str) -> bool:
        if len(self._clients) < self._most:
            return True
        self._full.error("all %d connections are in use; the last new one is from %s", self._most, address)
        peer = self._replaced_by(address)
        if peer is None:
            return False
        _disconnect(self._clients.pop(peer))
        return True

    def _replaced_by(self, address: str) -> Any:
        """Return the peer whose place a connection from an address takes; None: nobody's."""
        now_s, clients = time.monotonic(), self._clients
        count = Counter(each.address for each in clients.values())
        silent = {
            peer: each.address
            for peer, each in clients.items()
            if each.requested_s is None
            and (count[each.address] >= count[address] or now_s - each.since_s >= CONNECTING_SECONDS)
        }
        if silent:
            silent_of = Counter(silent.values())
            return max(silent, key=lambda peer: silent_of[silent[peer]])  # the first, so the oldest
        others = [peer for peer, each in clients.items() if count[each.address] > count[address] + 1]
        most = max((count[clients[peer].address] for peer in others), default=0)
        quiet = [peer for peer in others if count[clients[peer].address] == most] or [
            peer
            for peer, each in clients.items()
            if each.address == address and now_s - (each.requested_s or each.since_s) >= self._quiet_s
        ]
        return min(quiet, key=lambda peer: clients[peer].requested_s or clients[peer].since_s, default=None)


def _disconnect(client: _Client) -> None:
    """Let its transport, or what waits for its TLS handshake, find the end of the connection."""
    try:
        client.connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it has ended
        return
