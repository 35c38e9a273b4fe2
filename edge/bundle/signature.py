"""A bundle's detached signature, `manifest.sig`, over the digest of `manifest.json` and so over all files it lists.

It contains the signer's public key, so that every machine notices damage, even one that does not know the key. The
bundle itself never decides whether the key is trusted: see `trusted.py`.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heatline.edge.bundle.keys import PrivateKey, PublicKey
from heatline.edge.errors import BundleError
from heatline.edge.util.atomic_file import replacing
from heatline.edge.util.os_errors import writing
from heatline.edge.util.plain_file import read_plain

SIGNATURE = "manifest.sig"
LARGEST_SIGNATURE = 4096
DOMAIN = b"heatline bundle 1\0"
"""Prefix of the signed bytes: a signature that the same key made for anything else is not valid for a bundle."""


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `manifest.sig`."""

    algorithm: Literal["ed25519"]
    key: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """The public key, in hexadecimal."""
    signature: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}\Z")]

    def to_bytes(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def read_signature(folder: Path, digest: str) -> PublicKey | None:
    """Return the key that signed the bundle with this digest; None if it is not signed.

    Raises:
        BundleError: the signature is not valid for this bundle.
    """
    path = folder / SIGNATURE
    try:
        data = read_plain(path, LARGEST_SIGNATURE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); copy the bundle again") from error
    try:
        signature = msgspec.json.decode(data, type=Signature)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path} is not a signature of a bundle: {error}; copy the bundle again") from error
    key = PublicKey(bytes.fromhex(signature.key))
    if signature.to_bytes() != data or not key.verifies(bytes.fromhex(signature.signature), _message(digest)):
        raise BundleError(
            f"{path} does not fit the manifest.json beside it: one of them was changed after it was signed by key "
            f"{key.fingerprint}; copy the bundle again, and do not use it if that does not help"
        )
    return key


def write_signature(folder: Path, digest: str, key: PrivateKey) -> None:
    """Sign the bundle with this digest; an earlier signature is replaced atomically.

    Raises:
        BundleError: the signature cannot be written.
    """
    signature = Signature("ed25519", key.public.raw.hex(), key.sign(_message(digest)).hex())
    path = folder / SIGNATURE
    with writing(path, BundleError), replacing(path, unique=True) as new:
        new.write_bytes(signature.to_bytes())
        new.chmod(0o644)


def _message(digest: str) -> bytes:
    return DOMAIN + bytes.fromhex(digest)
