"""ed25519 keys in PEM files, which sign bundles and verify their signatures."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heatline.edge.errors import BundleError
from heatline.edge.key_files import LARGEST_KEY_FILE, PUBLIC_SUFFIX, read_private, write_pair
from heatline.edge.util.plain_file import read_plain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class PublicKey:
    """The public half of a key, which verifies signatures."""

    raw: bytes
    """32 bytes."""

    @property
    def fingerprint(self) -> str:
        """The sha256 of the raw key, in hexadecimal, for people to compare."""
        return hashlib.sha256(self.raw).hexdigest()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Return whether the private half of this key signed the message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):  # ValueError: the key is not a point of the curve
            return False
        return True

    def to_pem(self) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        key = Ed25519PublicKey.from_public_bytes(self.raw)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class PrivateKey:
    """The private half of a key, which signs."""

    _key: "Ed25519PrivateKey"

    @property
    def public(self) -> PublicKey:
        return PublicKey(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


def make_key(path: Path) -> PublicKey:
    """Write a new private key to a new file that only its owner may read, and its public half to a file beside it.

    Raises:
        BundleError: one of the files exists, or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    public = PublicKey(key.public_key().public_bytes_raw())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_pair(path, pem, public.to_pem(), BundleError)
    return public


def read_private_key(path: Path) -> PrivateKey:
    """Read the private key in a PEM file.

    Raises:
        BundleError: the file cannot be read, holds no such key, or others than its owner may read or write it.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_private(path, BundleError, "heatline bundle keygen")
    key = _parsed(lambda: load_pem_private_key(data, password=None))
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(
            f"{path} holds no ed25519 private key in PEM without a password; make one with heatline bundle keygen"
        )
    return PrivateKey(key)


def read_public_key(path: Path) -> PublicKey:
    """Read the public key in a PEM file.

    Raises:
        BundleError: the file cannot be read, or holds no such key.
    """
    try:
        return parse_public_key(read_plain(path, LARGEST_KEY_FILE), path)
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read ({error.strerror}); name a public key, KEY{PUBLIC_SUFFIX} of heatline bundle keygen"
        ) from error


def parse_public_key(data: bytes, where: Path) -> PublicKey:
    """Parse the public key in the bytes of a PEM file.

    Raises:
        BundleError: the bytes hold no such key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in data:
        raise BundleError(f"{where} holds a private key, which stays with its owner; name its public half, a .pub file")
    key = _parsed(lambda: load_pem_public_key(data))
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"{where} holds no ed25519 public key in PEM; name KEY.pub of heatline bundle keygen")
    return PublicKey(key.public_bytes_raw())


def _parsed(parse: Callable[[], Any]) -> Any:
    """Return the parsed key, or None if the library refuses it; its exceptions have no common base."""
    try:
        return parse()
    except Exception:
        return None
