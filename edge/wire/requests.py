"""The common form of requests and replies on every socket: a type, a version, an id, and the refusal."""

import contextlib
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from heatline.edge.errors import MessageError, SchemaVersionError

SCHEMA_VERSION = 2
"""Counts up when a line of the version before could misunderstand a request, or such a client a reply. Line and client
refuse all other versions."""
LONGEST_DETAIL = 300
"""Characters. A refusal does not repeat all of a long request."""
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Errors that msgspec raises on bytes that are not a message."""

RequestId = Annotated[str, Meta(max_length=64)]
ShortText = Annotated[str, Meta(min_length=1, max_length=64)]


class BareRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Fields of every request."""

    # Unknown fields are refused: a part id or a topic under a misspelt name must not be lost silently.

    schema_version: int = SCHEMA_VERSION
    """Always write it."""


class IdentifiedRequest(BareRequest, frozen=True, kw_only=True):
    """Fields of every request that one reply answers."""

    request_id: RequestId | None = None
    """Chosen by the client; the reply contains it."""


class BareReply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Fields of every reply."""

    schema_version: int = SCHEMA_VERSION


class IdentifiedReply(BareReply, frozen=True, kw_only=True):
    """Fields of every reply that answers one request."""

    request_id: str | None = None
    """As in the request; null if it had none, or none could be read."""


class Refused(IdentifiedReply, frozen=True, kw_only=True, tag="refused"):
    """The request was not carried out."""

    reason: str
    """One word."""
    detail: str
    """The reason as a sentence for people; do not parse it."""


class _Envelope(msgspec.Struct):
    """Fields of every message of any version."""

    schema_version: Annotated[int, Meta(ge=1)]
    type: str


class _Identified(msgspec.Struct):
    request_id: RequestId | None = None


RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")
MessageT = TypeVar("MessageT")


class Protocol(Generic[RequestT, ReplyT]):
    """Reads the requests and replies of one socket, of these unions of types, which a document describes."""

    def __init__(self, requests: Any, replies: Any, document: str) -> None:
        self._requests: msgspec.json.Decoder[RequestT] = msgspec.json.Decoder(requests)
        self._replies: msgspec.json.Decoder[ReplyT] = msgspec.json.Decoder(replies)
        self._document = document

    def request_from(self, data: bytes) -> RequestT | Refused:
        """Return the request in these bytes, or its refusal if they are not a valid request."""
        try:
            return decode(data, self._requests, SCHEMA_VERSION, "a request", "this line", "the client")
        except SchemaVersionError as error:
            reason, detail = "version", str(error)
        except MessageError as error:
            reason, detail = "malformed", f"{error}; see {self._document}"
        request_id = None
        with contextlib.suppress(*UNREADABLE):  # the request may be malformed
            request_id = msgspec.json.decode(data, type=_Identified).request_id
        return refuse(reason, detail, request_id)

    def reply_from(self, data: bytes) -> ReplyT:
        """Return the reply in these bytes; raise a MessageError if they are not one of this schema version."""
        return decode(data, self._replies, SCHEMA_VERSION, "a reply", "this client", "the line")


def decode(
    data: bytes, decoder: msgspec.json.Decoder[MessageT], version: int, kind: str, reader: str, sender: str
) -> MessageT:
    """Return the message in these bytes; a SchemaVersionError if it has another version, a MessageError if it is none.
    `kind`, `reader` and `sender` are words for these errors, such as `a reply`, `this client` and `the line`.
    """
    try:
        came = msgspec.json.decode(data, type=_Envelope).schema_version
        if came == version:
            return decoder.decode(data)
    except UNREADABLE as error:
        raise MessageError(f"this is not {kind} ({error})") from error
    raise SchemaVersionError(
        f"{kind} of schema version {came} came, {reader} knows version {version}; "
        f"update {reader if came > version else sender}"
    )


def to_bytes(message: msgspec.Struct) -> bytes:
    """Return a message as one JSON object in UTF-8 with every field: as it is sent, and an event also journalled."""
    return msgspec.json.encode(message)


def refuse(reason: str, detail: str, request_id: str | None = None) -> Refused:
    """Return the refusal of a request; the detail is truncated."""
    return Refused(request_id=request_id, reason=reason, detail=shortened(detail))


def shortened(detail: str) -> str:
    """Return a detail truncated to `LONGEST_DETAIL` characters."""
    return detail if len(detail) <= LONGEST_DETAIL else f"{detail[: LONGEST_DETAIL - 3]}..."


def require_printable(**texts: str | None) -> None:
    """Raise a ValueError, worded as by msgspec, if a text cannot be shown on a terminal and in a log."""
    for name, text in texts.items():
        if text is not None and not text.isprintable():
            raise ValueError(f"Expected printable characters, got {text!a} - at `$.{name}`")
