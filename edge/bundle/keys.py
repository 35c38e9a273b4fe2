"""Keys to sign bundles with and to tell by who signed them: ed25519, in PEM files."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import BundleError
from edge.key_files import LARGEST_KEY_FILE, PUBLIC_SUFFIX, read_private, write_pair
from edge.util.plain_file import read_plain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class PublicKey:
    """The half of a key that may be told to everybody: it checks signatures."""

    raw: bytes
    """32 bytes."""

    @property
    def fingerprint(self) -> str:
        """What people compare: the sha256 of the raw key, in hexadecimal."""
        return hashlib.sha256(self.raw).hexdigest()

    def fits(self, signature: bytes, message: bytes) -> bool:
        """Whether the other half of this key made that signature of that message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):  # the latter where the key itself is no point of the curve
            return False
        return True

    def to_pem(self) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        key = Ed25519PublicKey.from_public_bytes(self.raw)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class PrivateKey:
    """The half that signs."""

    _key: "Ed25519PrivateKey"

    @property
    def public(self) -> PublicKey:
        return PublicKey(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


def make_key(path: Path) -> PublicKey:
    """A new private key in a new file that only its owner may read, and its public half in a file beside it.

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
    """The private key in a PEM file.

    Raises:
        BundleError: it cannot be read, is none, or others than its owner may read or write it.
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
    """The public key in a PEM file.

    Raises:
        BundleError: it cannot be read, or is none.
    """
    try:
        return parse_public_key(read_plain(path, LARGEST_KEY_FILE), path)
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read ({error.strerror}); name a public key, KEY{PUBLIC_SUFFIX} of heatline bundle keygen"
        ) from error


def parse_public_key(data: bytes, where: Path) -> PublicKey:
    """The public key in the bytes of a PEM file.

    Raises:
        BundleError: they are none.
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
    """What the library makes of a key file; nothing where it refuses it, for which it has no common exception."""
    try:
        return parse()
    except Exception:
        return None
