"""A listening socket for asyncio's servers that no client can occupy: it bounds how many connect."""

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from heatline.edge.errors import DeliveryError
from heatline.edge.util.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

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
    address: str
    is_replaced: bool = False
    """Whether another one has its place, so that its transport will close it."""


class Listener(socket.socket):
    """A bound socket. It has `most` places.

    If all are taken, a new connection takes the place of the oldest one of the address that has most. So who only
    connects disconnects no client of another address, unless that has several connections; who has one keeps it.

    Args:
        listen: `HOST:PORT`; the host `*` is every address, the port 0 is any free one.
        refused: begins the sentence of an error, e.g. "the page cannot listen on".
        remedy: ends it.
    Raises:
        DeliveryError: the address cannot be bound.
    """

    def __init__(
        self,
        listen: str,
        most: int,
        refused: str,
        remedy: str,
        allows: Callable[[str], bool] = lambda _: True,
    ) -> None:
        host, _, port = listen.rpartition(":")
        host = {"*": "::" if socket.has_dualstack_ipv6() else "0.0.0.0"}.get(host, host.strip("[]"))
        super().__init__(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._most, self._allows = most, allows
        self._open: list[_Client] = []
        """All accepted ones that are not closed yet, in their order."""
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
        """Accept a connection, in an event loop, and disconnect another if there is one more than places.
        ConnectionAbortedError: its address may not connect.
        """
        connection, peer = super().accept()
        if not self._allows(peer[0]):
            connection.close()
            raise ConnectionAbortedError
        self._open = [each for each in self._open if each.connection.fileno() >= 0]
        self._open.append(_Client(connection, peer[0]))
        staying = [each for each in self._open if not each.is_replaced]
        if len(staying) > self._most:
            self._full.error("all %d connections are in use; the last new one is from %s", self._most, peer[0])
            count = Counter(each.address for each in staying)
            most = max(count.values())
            oldest = next(each for each in staying if count[each.address] == most)
            replaced = oldest if most > 1 else staying[-1]
            replaced.is_replaced = True
            _disconnect(replaced.connection)
        return connection, peer

    async def disconnect_all(self) -> None:
        """Disconnect all clients, and return when their connections are closed.

        A server that is closed between the acceptance of a connection and its transport leaves it open (asyncio's
        `Server._attach` fails), so what no transport has closed in `TRANSPORT_SECONDS` is closed here.
        """
        give_up_s = time.monotonic() + TRANSPORT_SECONDS
        while self._open:
            for client in self._open:
                _disconnect(client.connection)
                if time.monotonic() > give_up_s:
                    client.connection.close()
            await asyncio.sleep(0.01)
            self._open = [each for each in self._open if each.connection.fileno() >= 0]


def _disconnect(connection: socket.socket) -> None:
    """Let its transport, or what waits for its TLS handshake, find the end of the connection."""
    with contextlib.suppress(OSError):  # it has ended
        connection.shutdown(socket.SHUT_RDWR)
