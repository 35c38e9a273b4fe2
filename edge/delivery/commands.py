"""Commands to a line: requests and replies on the wire, and the socket that takes them. docs/commands.md is the
authority, schemas/ its JSON Schemas.

`request_from` and `reply_from` turn bytes into messages, `to_bytes` back.
"""

import itertools
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Literal, NamedTuple

import msgspec
import zmq
from msgspec import Meta

from edge.delivery.asking import NoRequest, RequestId, reply_of, request_id_of, request_of, require_printable, shortened
from edge.delivery.messages import BundleName
from edge.delivery.router import REQUESTS_AT_ONCE, Route, RouterServer
from edge.delivery.security.access import Access

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
"""Counts up when an older line could misunderstand a request, or an older client a reply."""

ShortText = Annotated[str, Meta(min_length=1, max_length=64)]
Reason = Literal[
    "malformed",
    "version",
    "unknown_camera",
    "unknown_product",
    "not_triggered",
    "busy",
    "camera_dead",
    "no_frame",
    "unusable",
    "stopping",
    "fault",
]
"""Why a request is refused. A reader must expect others: `Refused.reason` is any text."""


class _Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """What every request has."""

    # Unknown fields are refused: a part id under a misspelt name must not be lost in silence.

    schema_version: int = SCHEMA_VERSION
    request_id: RequestId | None = None
    """The client's own, handed back with the reply."""


class TriggerRequest(_Asked, frozen=True, kw_only=True, tag="trigger"):
    """Take a frame of the next part: at once where heatline triggers, else with the next edge of the line's trigger."""

    camera: ShortText
    part_id: ShortText | None = None

    def __post_init__(self) -> None:
        require_printable(camera=self.camera, part_id=self.part_id)


class SelectRequest(_Asked, frozen=True, kw_only=True, tag="select"):
    """Put one of the line's products in force."""

    product: ShortText

    def __post_init__(self) -> None:
        require_printable(product=self.product)


Request = TriggerRequest | SelectRequest


class Triggered(msgspec.Struct, frozen=True, kw_only=True, tag="triggered", tag_field="type"):
    """The camera was triggered, and this is the frame that came of it."""

    schema_version: int = SCHEMA_VERSION
    request_id: str | None = None
    camera: str
    part_id: str | None = None
    frame_id: int
    """The camera's own number, as in the frame's verdict event."""
    frame_number: int
    """heatline's count of the camera's frames since boot."""


class Announced(msgspec.Struct, frozen=True, kw_only=True, tag="announced", tag_field="type"):
    """The part id waits for the camera's next trigger edge."""

    schema_version: int = SCHEMA_VERSION
    request_id: str | None = None
    camera: str
    part_id: str | None = None


class Selected(msgspec.Struct, frozen=True, kw_only=True, tag="selected", tag_field="type"):
    """The product is in force: every frame that the line takes from now on is inspected as it."""

    schema_version: int = SCHEMA_VERSION
    request_id: str | None = None
    product: str
    bundle: BundleName


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused", tag_field="type"):
    """Nothing was done, or no frame came of it."""

    schema_version: int = SCHEMA_VERSION
    request_id: str | None = None
    reason: str
    """One word."""
    detail: str
    """The reason in words, for people."""


Reply = Triggered | Announced | Selected | Refused


def refusal(reason: Reason, detail: str) -> Refused:
    """The refusal of a request, for a reason that docs/commands.md has."""
    return Refused(reason=reason, detail=shortened(detail))


_encoder = msgspec.json.Encoder()
_request: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_reply: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


def to_bytes(message: Request | Reply) -> bytes:
    """One JSON object in UTF-8, every field written."""
    return _encoder.encode(message)


def request_from(data: bytes) -> Request | Refused:
    """The request in these bytes, or the refusal of what is none."""
    found = request_of(data, _request, SCHEMA_VERSION, "docs/commands.md")
    if isinstance(found, NoRequest):
        return msgspec.structs.replace(refusal(found.reason, found.detail), request_id=found.request_id)
    return found


def reply_from(data: bytes) -> Reply:
    """The reply in these bytes.

    Raises:
        MessageError: they are none, or one of a newer schema version.
    """
    return reply_of(data, _reply, SCHEMA_VERSION)


UNANSWERED_AT_MOST = 1000
"""Requests that wait for their reply, of all clients together."""
SEND_HIGH_WATER_MARK = 4 * UNANSWERED_AT_MOST
"""Replies kept for a client that does not read; ZeroMQ drops its others. All that can wait for one client fit, twice,
as ZeroMQ knows only by halves what was read."""
SECONDS_BETWEEN_FAULTS_LOGGED = 10.0

Answer = Callable[[Reply], None]
Handle = Callable[[Request, Answer], None]


TOO_MANY_PARTS = refusal("malformed", "a message of too many parts came; send one JSON object")


class _Asker(NamedTuple):
    """Whom a reply goes to."""

    route: Route
    request_id: str | None = None


class CommandServer(RouterServer):
    """Takes commands. When it is closed, all that still wait for a reply are refused.

    Args:
        address: ZeroMQ address to bind, `tcp://...` or `ipc://...`.
        handle: called in the server's thread with each request and what takes its reply; it must not block. The reply
            may be given later and from any thread; the server adds the request's id. Only the first one is sent.
        access: who may connect, if the address is not local.
    """

    thread_name = "commands"
    name = "commands"
    send_high_water_mark = SEND_HIGH_WATER_MARK

    def __init__(self, address: str, handle: Handle, access: Access | None = None) -> None:
        super().__init__(address, access)
        self._handle = handle
        self._unanswered: dict[int, _Asker] = {}
        self._answered: deque[tuple[_Asker, Reply]] = deque()
        self._numbers = itertools.count()
        self._counts: Counter[str] = Counter()
        self._fault_logged_s = -SECONDS_BETWEEN_FAULTS_LOGGED

    def counts(self) -> Mapping[str, int]:
        """How many replies went out since the start: by type, refusals by reason."""
        with self._lock:
            return dict(self._counts)

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        while not self._closing:
            self._wait(socket)
            self._send_answers(socket)
            for route, payload in self._received(socket, REQUESTS_AT_ONCE):
                self._take(socket, _Asker(route), payload)
        self._refuse_the_rest(socket)

    def _take(self, socket: zmq.Socket[bytes], asker: _Asker, payload: bytes | None) -> None:
        request = TOO_MANY_PARTS if payload is None else request_from(payload)
        asker = asker._replace(request_id=request.request_id)
        if isinstance(request, Refused):
            self._access.refusals.note(self.name, request.reason, request.detail)
            self._send(socket, asker, request)
            return
        with self._lock:
            full = len(self._unanswered) >= UNANSWERED_AT_MOST
            number = next(self._numbers)
            if not full:
                self._unanswered[number] = asker
        if full:
            detail = f"{UNANSWERED_AT_MOST} requests wait for their reply already; wait for some before you send more"
            self._send(socket, asker, refusal("busy", detail))
            return
        answer = partial(self._answer, number)
        try:
            self._handle(request, answer)
        except Exception as error:
            self._log_fault(request, error)
            answer(refusal("fault", "heatline failed at this request, which is a fault of its own; see the line's log"))

    def _answer(self, number: int, reply: Reply) -> None:
        with self._lock:
            asker = self._unanswered.get(number)
            if asker is None:  # answered before, or refused as the server stopped
                return
            to_bytes(reply)  # what cannot be said fails here, where it was made, not in the server's thread
            del self._unanswered[number]
            self._answered.append((asker, reply))
            self._wake_up()

    def _send_answers(self, socket: zmq.Socket[bytes]) -> None:
        with self._lock:
            answered = list(self._answered)
            self._answered.clear()
        for asker, reply in answered:
            self._send(socket, asker, reply)

    def _send(self, socket: zmq.Socket[bytes], asker: _Asker, reply: Reply) -> None:
        """Send a reply; ZeroMQ drops it where the client has gone or does not read."""
        named = msgspec.structs.replace(reply, request_id=asker.request_id)
        socket.send_multipart([*asker.route, to_bytes(named)])
        with self._lock:
            self._counts[reply.reason if isinstance(reply, Refused) else type(reply).__name__.lower()] += 1

    def _refuse_the_rest(self, socket: zmq.Socket[bytes]) -> None:
        """Those that wait for their reply, and those that wait to be read."""
        self._send_answers(socket)
        with self._lock:
            waiting = list(self._unanswered.values())
            self._unanswered.clear()
        stopping = refusal("stopping", "the line stops; ask again once it has started")
        for asker in waiting:
            self._send(socket, asker, stopping)
        for route, payload in self._received(socket, UNANSWERED_AT_MOST):
            self._send(socket, _Asker(route, request_id_of(payload or b"")), stopping)

    def _log_fault(self, request: Request, error: Exception) -> None:
        """Not every time: whoever can bring it about could fill the disk with it."""
        now_s = time.monotonic()
        if now_s - self._fault_logged_s >= SECONDS_BETWEEN_FAULTS_LOGGED:
            self._fault_logged_s = now_s
            logger.error("%s: the request %s failed", self.address, request, exc_info=error)
