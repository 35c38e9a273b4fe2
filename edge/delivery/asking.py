"""What requests and their replies have in common, on whichever socket they go: a type, a version, an id."""

import contextlib
from typing import Annotated, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from edge.errors import MessageError

T = TypeVar("T")

RequestId = Annotated[str, Meta(max_length=64)]
LONGEST_DETAIL = 300
"""Characters: a refusal does not repeat all of a long request."""
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What bytes raise that are no message."""


class _Envelope(msgspec.Struct):
    """What every message has, of whatever version."""

    schema_version: Annotated[int, Meta(ge=1)]
    type: str


class _Named(msgspec.Struct):
    request_id: RequestId | None = None


class NoRequest(NamedTuple):
    """Why bytes are refused."""

    reason: Literal["version", "malformed"]
    detail: str
    request_id: str | None


_envelope = msgspec.json.Decoder(_Envelope)
_named = msgspec.json.Decoder(_Named)


def version_of(data: bytes) -> int:
    """The schema version of a message.

    Raises:
        MsgspecError, UnicodeDecodeError, RecursionError: it has none.
    """
    return _envelope.decode(data).schema_version


def reply_of(data: bytes, decoder: msgspec.json.Decoder[T], schema_version: int) -> T:
    """The reply of a line in these bytes.

    Args:
        schema_version: the newest that this client knows.
    Raises:
        MessageError: they are none, or one of a newer schema version.
    """
    try:
        version = version_of(data)
        if version > schema_version:
            raise MessageError(
                f"a reply of schema version {version} came, this client knows up to {schema_version}; update heatline"
            )
        return decoder.decode(data)
    except UNREADABLE as error:
        raise MessageError(f"what came is no reply of a line: {error}") from error


def request_of(data: bytes, decoder: msgspec.json.Decoder[T], schema_version: int, document: str) -> T | NoRequest:
    """The request in these bytes, or what is wrong with them.

    Args:
        schema_version: the newest that this line knows.
        document: says what is a request.
    """
    try:
        version = version_of(data)
        if version <= schema_version:
            return decoder.decode(data)
        said = f"a request of schema version {version} came, this line knows up to {schema_version}; update heatline"
        return NoRequest("version", said, request_id_of(data))
    except UNREADABLE as error:
        said = f"what came is no request ({error}); {document} says what is"
        return NoRequest("malformed", said, request_id_of(data))


def request_id_of(data: bytes) -> str | None:
    """Even what is refused is answered by its name, where it can be read."""
    with contextlib.suppress(*UNREADABLE):
        return _named.decode(data).request_id
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
