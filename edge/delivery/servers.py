"""Servers of the sockets that a line binds, each in a thread of its own, which alone uses the socket; that of commands.

docs/commands.md describes the protocol of commands.
"""

import contextlib
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic

import msgspec
import zmq

from heatline.edge.delivery.auth import Access, Authenticator, SocketName
from heatline.edge.delivery.sockets import bind, cannot_bind
from heatline.edge.errors import DeliveryError
from heatline.edge.util.process import NamedThread
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire import commands
from heatline.edge.wire.requests import Protocol, Refused, RequestT, refuse, to_bytes

logger = logging.getLogger(__name__)

LINGER_MS = 2000
START_WITHIN_SECONDS = 5.0
LONGEST_REQUEST_BYTES = 65536
REQUESTS_AT_ONCE = 100
"""Requests read before the server does its other work, so that a flood of requests does not delay that work."""
TOO_MANY_PARTS = refuse("malformed", "a message of too many parts came; send one JSON object")

Route = tuple[bytes, ...]
"""First parts of a reply: the client's identity and, if the request had one, the empty delimiter."""
UNANSWERED_AT_MOST = 1000
"""Requests of all clients together that may wait for their reply."""
REPLIES_HIGH_WATER_MARK = 4 * UNANSWERED_AT_MOST
"""Replies queued for a client that does not read; ZeroMQ drops the others. The queue holds twice what can wait for one
client, because ZeroMQ notices only half of the high-water mark at a time that replies were read."""

Answer = Callable[[commands.Reply], None]
Handle = Callable[[commands.Request, Answer], None]


class SocketServer(ABC):
    """Binds an address, serves until it is closed, and releases the address.

    Args:
        address: ZeroMQ address to bind, `tcp://...` or `ipc://...`.
        access: who may connect, if the address is not local.
    """

    thread_name: ClassVar[str]
    kind: ClassVar[int]
    """ZeroMQ's type of the socket."""
    name: ClassVar[SocketName]
    """Name of the socket among the line's: its table in the configuration."""
    send_high_water_mark: ClassVar[int]
    """Messages queued for a client that does not read."""
    longest_bytes: ClassVar[int]
    """ZeroMQ disconnects a client that sends a longer part, before it takes memory here."""

    def __init__(self, address: str, access: Access | None = None) -> None:
        self.address = address
        self._access = access or Access()
        self._bound = threading.Event()
        self._error: zmq.ZMQError | None = None
        self._thread = NamedThread(self.thread_name, self._run)

    def start(self) -> None:
        """Bind the address.

        Raises:
            AccessError: other machines can reach the address, and the line has no key.
            DeliveryError: the address cannot be bound.
        """
        self._access.require_protected(f"{self.name}.bind", self.address)
        self._thread.start()
        if not self._bound.wait(START_WITHIN_SECONDS):
            raise DeliveryError(f"{self.address} was not bound within {START_WITHIN_SECONDS:.0f} s")
        if self._error is not None:
            self._thread.join()
            raise cannot_bind(f"{self.name}.bind", self.address, self._error) from self._error

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(self.kind)
        authenticator: Authenticator | None = None
        try:
            try:
                self._set_up(socket)
                authenticator = Authenticator(socket, self._access, self.name, self.address)
                bind(socket, self.address)
            except zmq.ZMQError as error:
                self._error = error
                return
            finally:
                self._bound.set()
            self._serve(socket, authenticator)
        finally:
            socket.close()
            context.term()
            if authenticator is not None:
                authenticator.join()

    def _set_up(self, socket: zmq.Socket[bytes]) -> None:
        """Set the options that must be set before the socket is bound."""
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, self.send_high_water_mark)
        socket.setsockopt(zmq.MAXMSGSIZE, self.longest_bytes)

    @abstractmethod
    def _serve(self, socket: zmq.Socket[bytes], authenticator: Authenticator) -> None:
        """Serve until it is closed, then finish."""


class RouterServer(SocketServer, Generic[RequestT]):
    """A ROUTER socket that takes requests."""

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

    def _requests(
        self, socket: zmq.Socket[bytes], authenticator: Authenticator, at_most: int
    ) -> Iterator[tuple[Route, RequestT | Refused]]:
        """Yield the requests that have arrived, without waiting: the route, and the request or its refusal.

        Refusals are counted. A REQ socket puts an empty delimiter before its request and expects it before the reply; a
        DEALER socket may do the same.
        """
        for _ in range(at_most):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if not authenticator.authorizes(frames[-1]):
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
        address: ZeroMQ address to bind, `tcp://...` or `ipc://...`.
        handle: called in the server's thread with each request and a function that takes its reply. It must not block.
            The reply may come later and from any thread; the server adds the request's id. Only the first one is sent.
        access: who may connect, if the address is not local.
    """

    thread_name = "commands"
    name = "commands"
    protocol = commands.PROTOCOL
    send_high_water_mark = REPLIES_HIGH_WATER_MARK

    def __init__(self, address: str, handle: Handle, access: Access | None = None) -> None:
        super().__init__(address, access)
        self._handle = handle
        self._unanswered: set[_Requester] = set()
        self._answered: deque[tuple[_Requester, commands.Reply]] = deque()

    def _serve(self, socket: zmq.Socket[bytes], authenticator: Authenticator) -> None:
        while not self._closing:
            self._wait(socket)
            self._send_answers(socket)
            for route, request in self._requests(socket, authenticator, REQUESTS_AT_ONCE):
                self._take(socket, _Requester(route, request.request_id), request)
        self._refuse_the_rest(socket, authenticator)

    def _take(self, socket: zmq.Socket[bytes], requester: _Requester, request: commands.Request | Refused) -> None:
        if isinstance(request, Refused):
            self._send(socket, requester, request)
            return
        with self._lock:
            full = len(self._unanswered) >= UNANSWERED_AT_MOST
            if not full:
                self._unanswered.add(requester)
        if full:
            detail = (
                f"{UNANSWERED_AT_MOST} requests wait for their reply already; wait for replies before you send more"
            )
            self._send(socket, requester, commands.refusal("busy", detail))
            return
        answer = partial(self._answer, requester)
        try:
            self._handle(request, answer)
        except Exception as error:
            self._faults.error("%s: the request %s failed", self.address, request, exc_info=error)
            detail = "heatline failed at this request, which is a fault of its own; see the line's log"
            answer(commands.refusal("fault", detail))

    def _answer(self, requester: _Requester, reply: commands.Reply) -> None:
        with self._lock:
            if requester not in self._unanswered:  # it was answered before, or refused because the server stopped
                return
            to_bytes(reply)  # a reply that cannot be encoded fails here, in its maker's thread
            self._unanswered.remove(requester)
            self._answered.append((requester, reply))
            self._wake_up()

    def _send_answers(self, socket: zmq.Socket[bytes]) -> None:
        with self._lock:
            answered = list(self._answered)
            self._answered.clear()
        for requester, reply in answered:
            self._send(socket, requester, reply)

    def _send(self, socket: zmq.Socket[bytes], requester: _Requester, reply: commands.Reply) -> None:
        """Send a reply. ZeroMQ drops it if the client has gone or does not read."""
        named = msgspec.structs.replace(reply, request_id=requester.request_id)
        socket.send_multipart([*requester.route, to_bytes(named)])

    def _refuse_the_rest(self, socket: zmq.Socket[bytes], authenticator: Authenticator) -> None:
        """Refuse the requests that wait for their reply, and those that wait to be read."""
        self._send_answers(socket)
        with self._lock:
            waiting = list(self._unanswered)
            self._unanswered.clear()
        stopping = commands.refusal("stopping", "the line stops; ask again once it has started")
        for requester in waiting:
            self._send(socket, requester, stopping)
        for route, request in self._requests(socket, authenticator, UNANSWERED_AT_MOST):
            self._send(socket, _Requester(route, request.request_id), stopping)
