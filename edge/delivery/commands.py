"""Commands to a line: requests and replies on the wire, and the socket that takes them. docs/commands.md is the
authority, schemas/ its JSON Schemas.

`request_from` and `reply_from` turn bytes into messages, `to_bytes` back.
"""

import contextlib
import ipaddress
import itertools
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, Literal, NamedTuple

import msgspec
import zmq
from msgspec import Meta

from edge.delivery.messages import BundleName
from edge.delivery.publisher import bind
from edge.errors import ConfigError, DeliveryError, MessageError

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
"""Counts up when an older line could misunderstand a request, or an older client a reply."""

RequestId = Annotated[str, Meta(max_length=64)]
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
        _require_printable(camera=self.camera, part_id=self.part_id)


class SelectRequest(_Asked, frozen=True, kw_only=True, tag="select"):
    """Put one of the line's products in force."""

    product: ShortText

    def __post_init__(self) -> None:
        _require_printable(product=self.product)


def _require_printable(**texts: str | None) -> None:
    for name, text in texts.items():
        if text is not None and not text.isprintable():
            raise ValueError(f"Expected printable characters, got {text!a} - at `$.{name}`")


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

LONGEST_DETAIL = 300
"""Characters: a refusal does not repeat all of a long request."""


def refusal(reason: Reason, detail: str) -> Refused:
    """The refusal of a request, for a reason that docs/commands.md has."""
    short = detail if len(detail) <= LONGEST_DETAIL else f"{detail[: LONGEST_DETAIL - 3]}..."
    return Refused(reason=reason, detail=short)


class _Envelope(msgspec.Struct):
    """What every message has, of whatever version."""

    schema_version: Annotated[int, Meta(ge=1)]
    type: str


class _Named(msgspec.Struct):
    request_id: RequestId | None = None


_encoder = msgspec.json.Encoder()
_envelope = msgspec.json.Decoder(_Envelope)
_named = msgspec.json.Decoder(_Named)
_request: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_reply: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def to_bytes(message: Request | Reply) -> bytes:
    """One JSON object in UTF-8, every field written."""
    return _encoder.encode(message)


def request_from(data: bytes) -> Request | Refused:
    """The request in these bytes, or the refusal of what is none."""
    try:
        version = _envelope.decode(data).schema_version
        if version <= SCHEMA_VERSION:
            return _request.decode(data)
        said = refusal(
            "version",
            f"a request of schema version {version} came, this line knows up to {SCHEMA_VERSION}; update heatline",
        )
    except _UNREADABLE as error:
        said = refusal("malformed", f"what came is no request ({error}); docs/commands.md says what is")
    return msgspec.structs.replace(said, request_id=_request_id(data))


def reply_from(data: bytes) -> Reply:
    """The reply in these bytes.

    Raises:
        MessageError: they are none, or one of a newer schema version.
    """
    try:
        version = _envelope.decode(data).schema_version
        if version > SCHEMA_VERSION:
            raise MessageError(
                f"a reply of schema version {version} came, this client knows up to {SCHEMA_VERSION}; update heatline"
            )
        return _reply.decode(data)
    except _UNREADABLE as error:
        raise MessageError(f"what came is no reply of a line: {error}") from error


def _request_id(data: bytes) -> str | None:
    """Even what is refused is answered by its name, where it can be read."""
    with contextlib.suppress(*_UNREADABLE):
        return _named.decode(data).request_id
    return None


def require_local(address: str) -> None:
    """See that only this machine can reach an address: commands are not encrypted, and whoever can send them moves
    parts.

    Raises:
        ConfigError: another machine could.
    """
    scheme, _, rest = address.partition("://")
    if scheme == "ipc" or (scheme == "tcp" and _is_loopback(rest.rpartition(":")[0])):
        return
    raise ConfigError(
        f"commands.bind is {address!r}; expected an address that this machine alone can reach, as nothing protects "
        "commands: e.g. tcp://127.0.0.1:5557 or ipc:///run/heatline/commands"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return found in ipaddress.ip_network("127.0.0.0/8") if found.version == 4 else found == ipaddress.IPv6Address("::1")


LONGEST_REQUEST_BYTES = 65536
"""Who sends a longer one is hung up on by ZeroMQ, before it takes memory here."""
UNANSWERED_AT_MOST = 1000
"""Requests that wait for their reply, of all clients together."""
SEND_HIGH_WATER_MARK = 4 * UNANSWERED_AT_MOST
"""Replies kept for a client that does not read; ZeroMQ drops its others. All that can wait for one client fit, twice,
as ZeroMQ knows only by halves what was read."""
REQUESTS_AT_ONCE = 100
"""Taken in between two looks at the answers, so that nobody who floods us with requests keeps answers back."""
PARTS_KEPT = 4
"""Of one message: the client, the delimiter, the request, and one more that shows that there are too many."""
LINGER_MS = 2000
START_WITHIN_SECONDS = 5.0
SECONDS_BETWEEN_FAULTS_LOGGED = 10.0

Answer = Callable[[Reply], None]
Handle = Callable[[Request, Answer], None]


class _Asker(NamedTuple):
    """Whom a reply goes to."""

    route: list[bytes]
    """The client as the socket knows it and, where its request began with one, the empty delimiter."""
    request_id: str | None = None


class CommandServer:
    """A ROUTER socket that takes requests, in a thread of its own that alone touches it.

    Args:
        address: ZeroMQ address to bind, `tcp://...` or `ipc://...`; see `require_local`.
        handle: called in the server's thread with each request and what takes its reply; it must not block. The reply
            may be given later and from any thread; the server adds the request's id. Only the first one is sent.
    """

    def __init__(self, address: str, handle: Handle) -> None:
        self.address = address
        self._handle = handle
        self._lock = threading.Lock()
        self._unanswered: dict[int, _Asker] = {}
        self._answered: deque[tuple[_Asker, Reply]] = deque()
        self._numbers = itertools.count()
        self._counts: Counter[str] = Counter()
        self._closing = False
        self._wake: int | None = None
        self._fault_logged_s = -SECONDS_BETWEEN_FAULTS_LOGGED
        self._bound = threading.Event()
        self._error: zmq.ZMQError | None = None
        self._thread = threading.Thread(target=self._run, name="commands", daemon=True)

    def start(self) -> None:
        """Bind the address.

        Raises:
            DeliveryError: it cannot be bound.
        """
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread.start()
        if not self._bound.wait(START_WITHIN_SECONDS):
            raise DeliveryError(f"{self.address} was not bound within {START_WITHIN_SECONDS:.0f} s")
        if self._error is not None:
            self._thread.join()
            raise DeliveryError(
                f"{self.address} cannot be bound ({self._error.strerror}); is another line using it, "
                "or is the address not of this machine? Set commands.bind"
            ) from self._error

    def counts(self) -> Mapping[str, int]:
        """How many replies went out since the start: by type, refusals by reason."""
        with self._lock:
            return dict(self._counts)

    def close(self) -> None:
        """Refuse all that still wait for a reply, give clients `LINGER_MS` to take it, and let go of the address."""
        if self._thread.is_alive():
            with self._lock:
                self._closing = True
                self._wake_up()
            self._thread.join()

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.ROUTER)
        try:
            socket.setsockopt(zmq.LINGER, LINGER_MS)
            socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER_MARK)
            socket.setsockopt(zmq.MAXMSGSIZE, LONGEST_REQUEST_BYTES)
            socket.setsockopt(zmq.IPV6, "[" in self.address)
            try:
                bind(socket, self.address)
            except zmq.ZMQError as error:
                self._error = error
                return
            finally:
                self._bound.set()
            self._serve(socket)
            self._refuse_the_rest(socket)
        finally:
            socket.close()
            context.term()
            with self._lock:
                assert self._wake is not None
                os.close(self._wake)
                self._wake = None

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        wake = self._wake
        assert wake is not None
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(wake, zmq.POLLIN)
        while not self._closing:
            poller.poll()
            with contextlib.suppress(BlockingIOError):  # nobody woke us
                os.eventfd_read(wake)
            self._send_answers(socket)
            for asker, payload in _received(socket, REQUESTS_AT_ONCE):
                self._take(socket, asker, payload)

    def _take(self, socket: zmq.Socket[bytes], asker: _Asker, payload: bytes | None) -> None:
        if payload is None:
            self._send(socket, asker, refusal("malformed", "a message of too many parts came; send one JSON object"))
            return
        request = request_from(payload)
        asker = asker._replace(request_id=request.request_id)
        if isinstance(request, Refused):
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

    def _wake_up(self) -> None:
        """Have the server look at what changed; the lock is held."""
        if self._wake is not None:
            os.eventfd_write(self._wake, 1)

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
        for asker, payload in _received(socket, UNANSWERED_AT_MOST):
            self._send(socket, asker._replace(request_id=_request_id(payload or b"")), stopping)

    def _log_fault(self, request: Request, error: Exception) -> None:
        """Not every time: whoever can bring it about could fill the disk with it."""
        now_s = time.monotonic()
        if now_s - self._fault_logged_s >= SECONDS_BETWEEN_FAULTS_LOGGED:
            self._fault_logged_s = now_s
            logger.error("%s: the request %s failed", self.address, request, exc_info=error)


def _received(socket: zmq.Socket[bytes], at_most: int) -> Iterator[tuple[_Asker, bytes | None]]:
    """What has come, without waiting: who asked, and the request; None where the message has too many parts.

    A REQ socket puts an empty delimiter before its request, and wants it back before the reply; a DEALER may.
    """
    for _ in range(at_most):
        try:
            client, *parts = _receive(socket)
        except zmq.Again:
            return
        delimiter = parts[:1] if len(parts) > 1 and not parts[0] else []
        payload = parts[len(delimiter)] if len(parts) == len(delimiter) + 1 else None
        yield _Asker([client, *delimiter]), payload


def _receive(socket: zmq.Socket[bytes]) -> list[bytes]:
    """The first parts of a message; the others are let go one by one, as there may be any number.

    Raises:
        Again: none has come.
    """
    parts = [socket.recv(zmq.NOBLOCK)]
    while socket.getsockopt(zmq.RCVMORE):
        part = socket.recv()
        if len(parts) < PARTS_KEPT:
            parts.append(part)
    return parts
