"""What requests and their replies have in common on every socket: a type, a version, an id, and the refusal."""

import contextlib
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from edge.errors import MessageError, SchemaVersionError

SCHEMA_VERSION = 2
"""Counts up when a line of the version before could misunderstand a request, or such a client a reply. Line and client
refuse all other versions."""
LONGEST_DETAIL = 300
"""Characters: a refusal does not repeat all of a long request."""
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that are no message."""

RequestId = Annotated[str, Meta(max_length=64)]
ShortText = Annotated[str, Meta(min_length=1, max_length=64)]


class BareRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """What every request has."""

    # Unknown fields are refused: a part id or a topic under a misspelt name must not be lost in silence.

    schema_version: int = SCHEMA_VERSION


class IdentifiedRequest(BareRequest, frozen=True, kw_only=True):
    """What every request has that is answered by one reply."""

    request_id: RequestId | None = None
    """The client's own, handed back with the reply."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused", tag_field="type"):
    """What was asked for is not done."""

    schema_version: int = SCHEMA_VERSION
    request_id: str | None = None
    reason: str
    """One word."""
    detail: str
    """The reason in words, for people."""


class _Envelope(msgspec.Struct):
    """What every message has, of whatever version."""

    schema_version: Annotated[int, Meta(ge=1)]
    type: str


class _Identified(msgspec.Struct):
    request_id: RequestId | None = None


_encoder = msgspec.json.Encoder()
_envelope = msgspec.json.Decoder(_Envelope)
_identified = msgspec.json.Decoder(_Identified)

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


class Protocol(Generic[RequestT, ReplyT]):
    """Reads the requests and replies of one socket.

    Args:
        requests: the union of the requests' types.
        replies: the union of the replies' types.
        document: describes them.
    """

    def __init__(self, requests: Any, replies: Any, document: str) -> None:
        self._requests: msgspec.json.Decoder[RequestT] = msgspec.json.Decoder(requests)
        self._replies: msgspec.json.Decoder[ReplyT] = msgspec.json.Decoder(replies)
        self._document = document

    def request_from(self, data: bytes) -> RequestT | Refused:
        """The request in these bytes, or the refusal of what is none."""
        try:
            version = _envelope.decode(data).schema_version
            if version == SCHEMA_VERSION:
                return self._requests.decode(data)
            reason, side = "version", "the line" if version > SCHEMA_VERSION else "the client"
            detail = (
                f"a request of schema version {version} came, this line knows version {SCHEMA_VERSION}; update {side}"
            )
        except UNREADABLE as error:
            reason, detail = "malformed", f"what came is no request ({error}); {self._document} says what is"
        return refuse(reason, detail, request_id_of(data))

    def reply_from(self, data: bytes) -> ReplyT:
        """The reply in these bytes.

        Raises:
            MessageError: they are not a reply of this schema version.
        """
        try:
            version = _envelope.decode(data).schema_version
            if version != SCHEMA_VERSION:
                side = "this client" if version > SCHEMA_VERSION else "the line"
                raise SchemaVersionError(
                    f"a reply of schema version {version} came, this client knows version {SCHEMA_VERSION}; "
                    f"update {side}"
                )
            return self._replies.decode(data)
        except UNREADABLE as error:
            raise MessageError(f"what came is no reply of a line: {error}") from error


def to_bytes(message: msgspec.Struct) -> bytes:
    """A request or a reply as one JSON object in UTF-8, every field written."""
    return _encoder.encode(message)


def refuse(reason: str, detail: str, request_id: str | None = None) -> Refused:
    """The refusal of a request.

    Args:
        detail: is cut off after `LONGEST_DETAIL`.
    """
    return Refused(request_id=request_id, reason=reason, detail=shortened(detail))


def request_id_of(data: bytes) -> str | None:
    """The id of a request that may be malformed; None: it has none, or none that can be read."""
    with contextlib.suppress(*UNREADABLE):
        return _identified.decode(data).request_id
    return None


def shortened(detail: str) -> str:
    """A detail that is no longer than `LONGEST_DETAIL`."""
    return detail if len(detail) <= LONGEST_DETAIL else f"{detail[: LONGEST_DETAIL - 3]}..."


def require_printable(**texts: str | None) -> None:
    """See that texts can be shown on a terminal and in a log.

    Raises:
        ValueError: one cannot; as msgspec says it.
    """
    for name, text in texts.items():
        if text is not None and not text.isprintable():
            raise ValueError(f"Expected printable characters, got {text!a} - at `$.{name}`")
