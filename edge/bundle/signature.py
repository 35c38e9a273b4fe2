"""Signatures of bundles: ed25519 keys, the detached signature `manifest.sig`, and the keys that a machine trusts.

The signature is over the digest of `manifest.json` and so over all files. It contains the signer's public key, so that
every machine notices damage; only the machine's own folder of public keys decides whether that key is trusted.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from heatline.edge.errors import BundleError
from heatline.edge.keys import KeyStore, StoredKey, read_private, read_public, write_pair
from heatline.edge.util.files import replacing, writing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

# cryptography is imported where it is used: it would delay every start by 40 ms. All errors are BundleErrors.

TRUSTED_KEYS = Path("/etc/heatline/trusted")
"""The default folder of a machine's trusted keys."""
SIGNATURE = "manifest.sig"
DOMAIN = b"heatline bundle 1\0"
"""Prefix of the signed bytes: a signature that the same key made for anything else is not valid for a bundle."""
MADE_BY = "heatline bundle keygen"


def fingerprint(key: "Ed25519PublicKey") -> str:
    """Return the sha256 of the raw key, in hexadecimal, for people to compare."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def to_pem(key: "Ed25519PublicKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def make_key(path: Path) -> "Ed25519PublicKey":
    """Write a new private key to a new file that only its owner may read, and its public half to a file beside it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_pair(path, pem, to_pem(key.public_key()), BundleError)
    return key.public_key()


def read_private_key(path: Path) -> "Ed25519PrivateKey":
    """Read the private key in a PEM file, which only its owner may read and write."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_private(path, BundleError, MADE_BY)
    try:
        key: object = load_pem_private_key(data, password=None)
    except Exception:  # the library's exceptions have no common base
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"{path} holds no ed25519 private key in PEM without a password; make one with {MADE_BY}")
    return key


def read_public_key(path: Path) -> "Ed25519PublicKey":
    """Read the public key in a PEM file."""
    return parse_public_key(read_public(path, BundleError, MADE_BY), path)


def parse_public_key(data: bytes, where: Path) -> "Ed25519PublicKey":
    """Parse the public key in the bytes of a PEM file."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in data:
        raise BundleError(f"{where} holds a private key, which stays with its owner; name its public half, a .pub file")
    try:
        key: object = load_pem_public_key(data)
    except Exception:  # the library's exceptions have no common base
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"{where} holds no ed25519 public key in PEM; name KEY.pub of {MADE_BY}")
    return key


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `manifest.sig`."""

    algorithm: Literal["ed25519"]
    key: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """The public key, in hexadecimal."""
    signature: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}\Z")]

    def to_bytes(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def read_signature(folder: Path, digest: str) -> "Ed25519PublicKey | None":
    """Return the key that signed the bundle with this digest; None if it is not signed."""
    path = folder / SIGNATURE
    try:
        data = path.read_bytes()
        signature = msgspec.json.decode(data, type=Signature)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); copy the bundle again") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path} is not a signature of a bundle: {error}; copy the bundle again") from error
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw = bytes.fromhex(signature.key)
    try:
        key = Ed25519PublicKey.from_public_bytes(raw)
        key.verify(bytes.fromhex(signature.signature), DOMAIN + bytes.fromhex(digest))
        if signature.to_bytes() != data:
            raise InvalidSignature
    except (InvalidSignature, ValueError) as error:  # ValueError: the key is not a point of the curve
        raise BundleError(
            f"{path} does not fit the manifest.json beside it: one of them was changed after it was signed by key "
            f"{hashlib.sha256(raw).hexdigest()}; copy the bundle again, and do not use it if that does not help"
        ) from error
    return key


def write_signature(folder: Path, digest: str, key: "Ed25519PrivateKey") -> None:
    """Sign the bundle with this digest; an earlier signature is replaced atomically."""
    signature = Signature(
        "ed25519", key.public_key().public_bytes_raw().hex(), key.sign(DOMAIN + bytes.fromhex(digest)).hex()
    )
    path = folder / SIGNATURE
    with writing(path, BundleError), replacing(path, unique=True) as new:
        new.write_bytes(signature.to_bytes())
        new.chmod(0o644)


class Signer(msgspec.Struct, frozen=True):
    """The signer of a bundle."""

    key: str
    """The key's fingerprint."""
    trusted_as: str | None
    """The key's name in the folder of trusted keys; none: the folder does not have it."""


def trusted_keys(folder: Path) -> list[StoredKey["Ed25519PublicKey"]]:
    """Return all keys of a folder, sorted by name; none if there is no folder."""
    return KeyStore(folder, parse_public_key, BundleError).all()


def trust_key(key: "Ed25519PublicKey", name: str, folder: Path) -> StoredKey["Ed25519PublicKey"]:
    """Add a key to a folder of trusted keys. A key that is already there keeps its name."""
    return KeyStore(folder, parse_public_key, BundleError).add(name, key, to_pem(key), "--keys")


def signer_of(
    bundle: Path, signed_by: "Ed25519PublicKey | None", folder: Path, *, required: bool = False
) -> Signer | None:
    """Return the signer of a bundle, with its name if a folder's keys include it; None if the bundle is not signed.

    Args:
        required: raise a BundleError unless a key of the folder signed it.
    """
    names = [] if signed_by is None else [each.name for each in trusted_keys(folder) if each.key == signed_by]
    if required and not names:
        named = str(folder) if folder.exists() else f"{folder}, which does not exist"
        if signed_by is None:
            raise BundleError(
                f"{bundle} is not signed, expected a signature by a key of {named}; sign it with heatline bundle "
                "sign, or set allow_unsigned = true in the line's file"
            )
        raise BundleError(
            f"{bundle} is signed by key {fingerprint(signed_by)}, which is not in {named}; if you know whose key that "
            "is, add it with heatline bundle trust, or set allow_unsigned = true in the line's file"
        )
    return None if signed_by is None else Signer(fingerprint(signed_by), names[0] if names else None)


def describe_signer(signer: Signer | None) -> str:
    """Describe the signer, for people."""
    return f"{signer.trusted_as or 'nobody who is trusted here'}, key {signer.key}" if signer else "nobody"
