"""ZeroMQ's authentication request and its answer: ZAP 1.0 (https://rfc.zeromq.org/spec/27)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from zmq.utils import z85

from edge.delivery.security.curve import KEY_BYTES

ENDPOINT = "inproc://zeromq.zap.01"
"""Address of the authentication requests in each context."""
_VERSION = b"1.0"
_QUESTION_PARTS = 7
_ALLOWED, _NOT_ALLOWED = (b"200", b"OK"), (b"300", b"not allowed")
"""300 and not 400: ZeroMQ disconnects the client, which tries again by itself. After 400 it would stop for ever, and a
key that is allowed a minute later would stay out."""


class Peer(NamedTuple):
    """A peer that wants to connect."""

    address: str
    key: bytes
    """Z85."""


def answer(question: Sequence[bytes], allows: Callable[[Peer], bool]) -> list[bytes]:
    """Return the answer to a request: whether the peer is authorized. Its messages then have its key as `User-Id`.

    Args:
        allows: called for every peer that shows a CURVE key.
    """
    request_id = question[1] if len(question) > 1 else b""
    peer = _peer(question)
    allowed = peer is not None and allows(peer)
    status, text = _ALLOWED if allowed else _NOT_ALLOWED
    return [_VERSION, request_id, status, text, peer.key if peer is not None and allowed else b"", b""]


def _peer(question: Sequence[bytes]) -> Peer | None:
    if len(question) != _QUESTION_PARTS or question[0] != _VERSION:
        return None
    *_, address, _identity, mechanism, key = question
    if mechanism != b"CURVE" or len(key) != KEY_BYTES:
        return None
    return Peer(address.decode("ascii", "replace"), z85.encode(key))
