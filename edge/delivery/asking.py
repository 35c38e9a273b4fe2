"""What requests and their replies have in common, on whichever socket they go: a type, a version, an id."""

import contextlib
from typing import Annotated

import msgspec
from msgspec import Meta

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


_envelope = msgspec.json.Decoder(_Envelope)
_named = msgspec.json.Decoder(_Named)


def version_of(data: bytes) -> int:
    """The schema version of a message.

    Raises:
        MsgspecError, UnicodeDecodeError, RecursionError: it has none.
    """
    return _envelope.decode(data).schema_version


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
