"""Receives commands to a line. docs/commands.md describes the protocol."""

import itertools
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec
import zmq

from heatline.edge.delivery.auth import Access, Authenticator
from heatline.edge.delivery.servers import REQUESTS_AT_ONCE, Route, RouterServer
from heatline.edge.wire.commands import PROTOCOL, Reply, Request, refusal
from heatline.edge.wire.requests import Refused, to_bytes

UNANSWERED_AT_MOST = 1000
"""Requests of all clients together that may wait for their reply."""
SEND_HIGH_WATER_MARK = 4 * UNANSWERED_AT_MOST
"""Replies queued for a client that does not read; ZeroMQ drops the others. The queue holds twice what can wait for one
client, because ZeroMQ notices only half of the high-water mark at a time that replies were read."""

Answer = Callable[[Reply], None]
Handle = Callable[[Request, Answer], None]


class _Requester(NamedTuple):
    """Sender of a request, to whom the reply goes."""

    route: Route
    request_id: str | None = None


class CommandServer(RouterServer[Request]):
    """Receives commands. When it is closed, it refuses all requests that still wait for a reply.

    Args:
        address: ZeroMQ address to bind, `tcp://...` or `ipc://...`.
        handle: called in the server's thread with each request and a function that takes its reply. It must not block.
            The reply may come later and from any thread; the server adds the request's id. Only the first one is sent.
        access: who may connect, if the address is not local.
    """

    thread_name = "commands"
    name = "commands"
    protocol = PROTOCOL
    send_high_water_mark = SEND_HIGH_WATER_MARK

    def __init__(self, address: str, handle: Handle, access: Access | None = None) -> None:
        super().__init__(address, access)
        self._handle = handle
        self._unanswered: dict[int, _Requester] = {}
        self._answered: deque[tuple[_Requester, Reply]] = deque()
        self._numbers = itertools.count()

    def _serve(self, socket: zmq.Socket[bytes], authenticator: Authenticator) -> None:
        while not self._closing:
            self._wait(socket)
            self._send_answers(socket)
            for route, request in self._requests(socket, authenticator, REQUESTS_AT_ONCE):
                self._take(socket, _Requester(route, request.request_id), request)
        self._refuse_the_rest(socket, authenticator)

    def _take(self, socket: zmq.Socket[bytes], requester: _Requester, request: Request | Refused) -> None:
        if isinstance(request, Refused):
            self._send(socket, requester, request)
            return
        with self._lock:
            full = len(self._unanswered) >= UNANSWERED_AT_MOST
            number = next(self._numbers)
            if not full:
                self._unanswered[number] = requester
        if full:
            detail = (
                f"{UNANSWERED_AT_MOST} requests wait for their reply already; wait for replies before you send more"
            )
            self._send(socket, requester, refusal("busy", detail))
            return
        answer = partial(self._answer, number)
        try:
            self._handle(request, answer)
        except Exception as error:
            self._faults.error("%s: the request %s failed", self.address, request, exc_info=error)
            answer(refusal("fault", "heatline failed at this request, which is a fault of its own; see the line's log"))

    def _answer(self, number: int, reply: Reply) -> None:
        with self._lock:
            requester = self._unanswered.get(number)
            if requester is None:  # it was answered before, or refused because the server stopped
                return
            to_bytes(reply)  # a reply that cannot be encoded fails here, in its maker's thread
            del self._unanswered[number]
            self._answered.append((requester, reply))
            self._wake_up()

    def _send_answers(self, socket: zmq.Socket[bytes]) -> None:
        with self._lock:
            answered = list(self._answered)
            self._answered.clear()
        for requester, reply in answered:
            self._send(socket, requester, reply)

    def _send(self, socket: zmq.Socket[bytes], requester: _Requester, reply: Reply) -> None:
        """Send a reply. ZeroMQ drops it if the client has gone or does not read."""
        named = msgspec.structs.replace(reply, request_id=requester.request_id)
        socket.send_multipart([*requester.route, to_bytes(named)])

    def _refuse_the_rest(self, socket: zmq.Socket[bytes], authenticator: Authenticator) -> None:
        """Refuse the requests that wait for their reply, and those that wait to be read."""
        self._send_answers(socket)
        with self._lock:
            waiting = list(self._unanswered.values())
            self._unanswered.clear()
        stopping = refusal("stopping", "the line stops; ask again once it has started")
        for requester in waiting:
            self._send(socket, requester, stopping)
        for route, request in self._requests(socket, authenticator, UNANSWERED_AT_MOST):
            self._send(socket, _Requester(route, request.request_id), stopping)
