"""Keys to sign bundles with and to tell by who signed them: ed25519, in PEM files."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.bundle.plain_file import open_plain, read_plain
from edge.errors import BundleError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LARGEST_KEY_FILE = 64 * 1024
PUBLIC_SUFFIX = ".pub"
NOT_ITS_OWNERS_ALONE = stat.S_IRWXG | stat.S_IRWXO


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
    write_new(path, pem, 0o600)
    try:
        write_new(public_half(path), public.to_pem(), 0o644)
    except BundleError:
        path.unlink()  # half a pair is of no use, and would be in the way of the next try
        raise
    return public


def public_half(path: Path) -> Path:
    """Where the public half of a private key lies."""
    return path.with_name(path.name + PUBLIC_SUFFIX)


def read_private_key(path: Path) -> PrivateKey:
    """The private key in a PEM file.

    Raises:
        BundleError: it cannot be read, is none, or others than its owner may read or write it.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with open_plain(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)  # of what is read, whatever its name becomes
            data = file.read(LARGEST_KEY_FILE)
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read ({error.strerror}); name a private key made by heatline bundle keygen"
        ) from error
    if mode & NOT_ITS_OWNERS_ALONE:
        raise BundleError(
            f"{path} may be used by others than its owner (mode {mode:04o}, expected 0600); make a new key if others "
            f"may have read it, else: chmod 600 {path}"
        )
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


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that was not there, whole or not at all, with just these permissions whatever the umask.

    Raises:
        BundleError: it exists, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise BundleError(f"{path} exists already; keys are never overwritten, name a new file") from error
    except OSError as error:
        raise BundleError(
            f"{path} cannot be written ({error.strerror}); check the folder and its permissions"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise BundleError(f"{path} cannot be written ({error.strerror}); check the disk and the permissions") from error


def _parsed(parse: Callable[[], Any]) -> Any:
    """What the library makes of a key file; nothing where it refuses it, for which it has no common exception."""
    try:
        return parse()
    except Exception:
        return None
