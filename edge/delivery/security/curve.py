"""CurveZMQ keys of a line and its clients, in files that other ZeroMQ programs can read.

A key has 32 bytes, or 40 characters in Z85: the form that ZeroMQ, its files and this module use.
"""

import hashlib
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import zmq
from zmq.utils import z85

from heatline.edge.errors import AccessError
from heatline.edge.key_files import LARGEST_KEY_FILE, PUBLIC_SUFFIX, read_private, write_pair
from heatline.edge.util.plain_file import read_plain

KEY_BYTES = 32
MADE_BY = "heatline keys new"
_ENTRY = re.compile(rb'^\s*(public-key|secret-key)\s*=\s*"?([^"\s]*)"?\s*$', re.MULTILINE)
_COMMENT = re.compile(rb"^\s*#.*$", re.MULTILINE)
_FILE = """\
#   heatline: a CurveZMQ {half} key, as ZeroMQ's certificate files have it.
#   {what}

metadata
curve
    public-key = "{public}"
"""
_SECRET = '    secret-key = "{secret}"\n'


@dataclass(frozen=True)
class KeyPair:
    """Both halves of a key."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class ClientKeys:
    """Keys that a client needs to connect to a protected line."""

    own: KeyPair
    line: bytes
    """The line's public key, which proves that the peer is the line."""

    @classmethod
    def read(cls, own: Path, line: Path) -> Self:
        """Read a client's private key file and the line's public key file.

        Raises:
            AccessError: a file cannot be used.
        """
        return cls(read_key_pair(own), read_public_key(line))

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Set up a socket before it connects."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.line)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.own.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.own.secret)


def make_key_pair(path: Path, owner_uid: int | None = None) -> KeyPair:
    """Create a key in a new file that only its owner may read, and its public half in a file beside it.

    Args:
        owner_uid: user who owns the file, which only root can set; None: the current user.
    Raises:
        AccessError: one of the files exists, or cannot be written.
    """
    public, secret = zmq.curve_keypair()
    write_pair(path, _written(public, secret), to_file(public), AccessError, owner_uid=owner_uid)
    return KeyPair(public, secret)


def to_file(public: bytes) -> bytes:
    """Return the content of a public key's file."""
    return _FILE.format(half="public", what="This half is public.", public=public.decode()).encode()


def read_key_pair(path: Path) -> KeyPair:
    """Read a private key's file.

    Raises:
        AccessError: it cannot be read, is not a key, or others than its owner may read or write it.
    """
    found = _entries(read_private(path, AccessError, MADE_BY))
    public, secret = found.get("public-key"), found.get("secret-key")
    if public is not None and secret is None:
        raise AccessError(
            f"{path} holds a public key and no private one; name the private one that {MADE_BY} made with it"
        )
    if public is None or secret is None or zmq.curve_public(secret) != public:
        raise AccessError(f"{path} holds no CurveZMQ key, or a damaged one; make one with {MADE_BY}")
    return KeyPair(public, secret)


def read_public_key(path: Path) -> bytes:
    """Read a public key's file.

    Raises:
        AccessError: it cannot be read, or is not a key.
    """
    try:
        return parse_public_key(read_plain(path, LARGEST_KEY_FILE), path)
    except OSError as error:
        raise AccessError(
            f"{path} cannot be read ({error.strerror}); name a public key, KEY{PUBLIC_SUFFIX} of {MADE_BY}"
        ) from error


def parse_public_key(data: bytes, where: Path) -> bytes:
    """Parse the content of a public key's file.

    Raises:
        AccessError: it is not a key.
    """
    if b"secret-key" in data or b"PRIVATE KEY" in data:
        raise AccessError(f"{where} holds a private key, which stays with its owner; name its public half, a .pub file")
    public = _entries(data).get("public-key")
    if public is None:
        raise AccessError(f"{where} holds no CurveZMQ public key; name KEY{PUBLIC_SUFFIX} of {MADE_BY}")
    return public


def fingerprint(public: bytes) -> str:
    """Return the fingerprint that people compare: the sha256 of the raw key, in hexadecimal."""
    return hashlib.sha256(z85.decode(public)).hexdigest()


def _written(public: bytes, secret: bytes) -> bytes:
    what = "Keep this half secret: its holder can pretend to be its owner."
    text = _FILE.format(half="secret", what=what, public=public.decode()) + _SECRET.format(secret=secret.decode())
    return text.encode()


def _entries(data: bytes) -> dict[str, bytes]:
    """Return the valid keys in a file by name, except names that occur twice."""
    found = _ENTRY.findall(_COMMENT.sub(b"", data))
    names = [name for name, _ in found]
    return {name.decode(): key for name, key in found if names.count(name) == 1 and _is_key(key)}


def _is_key(text: bytes) -> bool:
    """Return whether a text is the Z85 of 32 bytes."""
    try:
        return len(z85.decode(text)) == KEY_BYTES
    except (KeyError, ValueError, struct.error):
        return False
