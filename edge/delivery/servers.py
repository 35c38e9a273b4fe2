"""Servers of the sockets that a line binds, each in a thread of its own, which alone uses the socket; that of commands.

docs/commands.md describes the protocol of commands.
"""

import contextlib
import logging
import os
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic

import msgspec
import zmq

from heatline.edge.delivery.auth import Access, Authenticator, SocketName
from heatline.edge.delivery.sockets import bind, notice_vanished_peers, set_options
from heatline.edge.errors import DeliveryError
from heatline.edge.util.process import NamedThread
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire import commands
from heatline.edge.wire.requests import Protocol, Refused, RequestT, refuse, to_bytes

logger = logging.getLogger(__name__)

LINGER_MS = 2000
REQUESTS_AT_ONCE = 100
"""Requests read before the server does its other work, so that a flood of requests does not delay that work."""
TOO_MANY_PARTS = refuse("malformed", "a message of too many parts came; send one JSON object")

Route = tuple[bytes, ...]
"""First parts of a reply: the client's identity and, if the request had one, the empty delimiter."""
REPLIES_HIGH_WATER_MARK = 4000
"""Replies queued for a client that does not read; ZeroMQ drops the others."""

Answer = Callable[[commands.Reply], None]
Handle = Callable[[commands.Request, Answer], None]


class SocketServer(ABC):
    """Binds an address, serves until it is closed, and releases the address. `access` holds unless it is local."""

    kind: ClassVar[int]
    """ZeroMQ's type of the socket."""
    name: ClassVar[SocketName]
    """Name of the socket among the line's: its table in the configuration."""
    send_high_water_mark: ClassVar[int]
    """Messages queued for a client that does not read."""
    longest_bytes: ClassVar[int]
    """ZeroMQ disconnects a client that sends a longer part, before it takes memory here."""
    options: ClassVar[Mapping[int, int]] = {}
    """Further options of ZeroMQ."""

    def __init__(self, address: str, access: Access | None = None) -> None:
        self.address = address
        self._access = access or Access()
        self._thread = NamedThread(f"{self.name} socket", self._run)

    def start(self) -> None:
        """Bind the address, which must be local if the line has no key; a DeliveryError if that is not possible."""
        context = zmq.Context()
        self._socket = context.socket(self.kind)
        try:
            set_options(self._socket, {zmq.LINGER: LINGER_MS, zmq.SNDHWM: self.send_high_water_mark})
            set_options(self._socket, {zmq.MAXMSGSIZE: self.longest_bytes, **self.options})
            notice_vanished_peers(self._socket)
            self._authenticator = Authenticator(self._socket, self._access, self.name, self.address)
            bind(self._socket, self.address, f"{self.name}.bind")
        except DeliveryError:
            self._socket.close()
            context.term()
            raise
        self._thread.start()  # from now on, only this thread uses the socket

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self._socket.close()
            self._socket.context.term()
            self._authenticator.join()

    @abstractmethod
    def _serve(self) -> None:
        """Serve until it is closed, then finish."""


class RouterServer(SocketServer, Generic[RequestT]):
    """A ROUTER socket that takes requests."""

    kind = zmq.ROUTER
    longest_bytes = 65536
    protocol: Protocol[RequestT, Any]

    def __init__(self, address: str, access: Access | None = None) -> None:
        super().__init__(address, access)
        self._closing = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._wake)  # any thread may still wake a server that was closed
        self._faults = RateLimitedLog(logger)

    def close(self) -> None:
        """Finish, give clients `LINGER_MS` to receive what was sent, and release the address."""
        if self._thread.is_alive():
            self._closing = True
            self.wake()
            self._thread.join()

    def wake(self) -> None:
        """Have the server look for work now, such as what to send. Any thread."""
        os.eventfd_write(self._wake, 1)

    def _wait(self, timeout_ms: int | None = None) -> None:
        """Wait for a request, a wake-up or the timeout."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        poller.poll(timeout_ms)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _requests(self, at_most: int) -> Iterator[tuple[Route, RequestT | Refused]]:
        """Yield the requests that have arrived, without waiting: the route, and the request or its refusal.

        Refusals are counted. A REQ socket puts an empty delimiter before its request and expects it before the reply; a
        DEALER socket may do the same.
        """
        for _ in range(at_most):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
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


@dataclass(frozen=True, eq=False)
class _Requester:
    """Sender of one request, to whom the reply goes."""

    route: Route
    request_id: str | None = None


class CommandServer(RouterServer[commands.Request]):
    """Receives commands. When it is closed, it refuses all requests that still wait for a reply.

    Args:
        handle: called in the server's thread with each request and a function that takes its reply. It must not block.
            The reply may come later and from any thread; the server adds the request's id. Only the first one is sent.
    """

    name = "commands"
    protocol = commands.PROTOCOL
    send_high_water_mark = REPLIES_HIGH_WATER_MARK

    def __init__(self, address: str, handle: Handle, access: Access | None = None) -> None:
        super().__init__(address, access)
        self._handle = handle
        self._unanswered: set[_Requester] = set()
        self._answered: deque[list[bytes]] = deque()

    def _serve(self) -> None:
        while not self._closing:
            self._wait()
            self._send_answers()
            for route, request in self._requests(REQUESTS_AT_ONCE):
                self._take(_Requester(route, request.request_id), request)
        for route, request in self._requests(REPLIES_HIGH_WATER_MARK):
            self._unanswered.add(_Requester(route, request.request_id))
        for waiting in list(self._unanswered):
            self._answer(waiting, commands.refusal("stopping", "the line stops; ask again once it has started"))
        self._send_answers()

    def _take(self, requester: _Requester, request: commands.Request | Refused) -> None:
        self._unanswered.add(requester)
        answer = partial(self._answer, requester)
        if isinstance(request, Refused):
            answer(request)
            return
        try:
            self._handle(request, answer)
        except Exception as error:
            self._faults.error("%s: the request %s failed", self.address, request, exc_info=error)
            detail = "heatline failed at this request, which is a fault of its own; see the line's log"
            answer(commands.refusal("fault", detail))

    def _answer(self, requester: _Requester, reply: commands.Reply) -> None:
        # A reply that cannot be encoded fails here, in its maker's thread.
        data = to_bytes(msgspec.structs.replace(reply, request_id=requester.request_id))
        with contextlib.suppress(KeyError):  # it was answered before, or refused because the server stopped
            self._unanswered.remove(requester)
            self._answered.append([*requester.route, data])
        self.wake()

    def _send_answers(self) -> None:
        """Send the replies. ZeroMQ drops that of a client that has gone or does not read."""
        while self._answered:
            self._socket.send_multipart(self._answered.popleft())
