"""Whom a page lets change something from another machine: holders of keys that its line allows in a role.

A browser has no key. `heatline keys login` makes a code that only the holder of a client's key and the line can make;
the page answers a valid one with a cookie that names the key. What the key may do is read again at each request.
"""

import base64
import hashlib
import hmac
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from zmq.utils import z85

from heatline.edge.config import SecurityConfig
from heatline.edge.delivery.auth import KEY_BYTES, KeyPair, Role, allow_list, read_key_pair
from heatline.edge.errors import AccessError

CODE_SECONDS = 600
"""Largest difference between the clocks of both machines, with the time that a person needs."""
PERSON = "heatline.person"
"""Key of a request's scope: the name of the person who is logged in; without it, of somebody at this machine."""
PERSON_SECONDS = 12 * 3600
"""A cookie is valid for a shift."""
_HEAD = struct.Struct(f">{KEY_BYTES}sQ")
"""Public key, and UTC in seconds: when a code was made, or when a cookie ends."""


class Person(NamedTuple):
    """Who sent a request."""

    name: str
    """Of the key, in the allow-list."""
    role: Role


def make_code(own: KeyPair, line: bytes) -> str:
    """Return a code by which the page of a line, by its public key, knows the holder of a key, for some minutes."""
    head = _HEAD.pack(z85.decode(own.public), int(time.time()))
    return _text(head, _shared(own, z85.decode(line)))


class Logins:
    """The people who are logged in to a page, by the line's key and the folder of its allow-lists. Any thread."""

    def __init__(self, line: KeyPair, allowed: Path, clock: Callable[[], float] = time.time) -> None:
        self._line, self._allowed, self._clock = line, allowed, clock
        self._cookie_key = hmac.digest(line.secret, b"heatline page", "sha256")
        self._begin_s = int(clock())
        """What was used before is not known, so older codes are not valid."""
        self._used: dict[str, float] = {}
        """Codes that were used, and when they end."""
        self._lock = threading.Lock()

    @classmethod
    def of(cls, security: SecurityConfig) -> Self | None:
        """Return the logins of a line; None: it has no key, or this user cannot read it."""
        if security.key is None:
            return None
        try:
            return cls(read_key_pair(security.key), security.allowed or security.key.parent / "allowed")
        except AccessError:
            return None

    def cookie_for(self, code: str) -> str | None:
        """Return the cookie for a code; None: it is not valid, or not any more. A code is valid once."""
        head = _head_of(code)
        if head is None or self._person(head[0]) is None:
            return None
        (public, made_s), now_s = head, self._clock()
        expected = _text(_HEAD.pack(public, made_s), _shared(self._line, public))
        if made_s < self._begin_s or abs(now_s - made_s) > CODE_SECONDS or not hmac.compare_digest(code, expected):
            return None
        with self._lock:
            self._used = {used: end_s for used, end_s in self._used.items() if end_s > now_s}
            if code in self._used:
                return None
            self._used[code] = made_s + CODE_SECONDS
        return _text(_HEAD.pack(public, int(now_s) + PERSON_SECONDS), self._cookie_key)

    def person(self, cookie: str) -> Person | None:
        """Return whom a cookie names; None: it is not valid, or the key is not allowed any more."""
        head = _head_of(cookie)
        if head is None or head[1] < self._clock():
            return None
        is_ours = hmac.compare_digest(cookie, _text(_HEAD.pack(*head), self._cookie_key))
        return self._person(head[0]) if is_ours else None

    def _person(self, public: bytes) -> Person | None:
        """Return whose key it is, in the role that may most."""
        key = z85.encode(public)
        roles: tuple[Role, ...] = ("engineer", "reviewer")
        known = ((each, role) for role in roles for each in allow_list(self._allowed, role).valid()[0])
        return next((Person(each.name, role) for each, role in known if each.key == key), None)


def _shared(own: KeyPair, other: bytes) -> bytes:
    """Return the secret that the holders of both keys can compute, and nobody else (RFC 7748)."""
    private = X25519PrivateKey.from_private_bytes(z85.decode(own.secret))
    return private.exchange(X25519PublicKey.from_public_bytes(other))


def _text(head: bytes, key: bytes) -> str:
    return base64.urlsafe_b64encode(head + hmac.digest(key, head, hashlib.sha256)).decode()


def _head_of(text: str) -> tuple[bytes, int] | None:
    """Return key and time that a code or a cookie claims; None: it is neither."""
    try:
        return _HEAD.unpack_from(base64.b64decode(text, b"-_", validate=True))
    except (ValueError, struct.error):
        return None
