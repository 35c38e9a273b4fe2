"""The keys that a machine trusts: public keys in a folder that only its administrator can write."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge.bundle.keys import PublicKey, parse_public_key
from edge.bundle.store import Bundle
from edge.errors import BundleError
from edge.key_files import files_in, name_of, put, read_trusted, require_name

TRUSTED_KEYS = Path("/etc/heatline/trusted")
"""Where a machine's trusted keys lie unless another folder is named."""


@dataclass(frozen=True)
class TrustedKey:
    """One key of the folder; its name is what the folder calls it."""

    name: str
    key: PublicKey
    path: Path


class Signer(msgspec.Struct, frozen=True):
    """Whose signature a bundle bears."""

    key: str
    """Its fingerprint."""
    trusted_as: str | None
    """What the folder of trusted keys calls it; none: it is not there."""


def trusted_keys(folder: Path) -> list[TrustedKey]:
    """All keys of a folder, by name; none where there is no folder.

    Raises:
        BundleError: the folder or a key cannot be read, or others can write it.
    """
    return [
        TrustedKey(name_of(path), parse_public_key(read_trusted(path, BundleError), path), path)
        for path in files_in(folder, BundleError)
    ]


def take_in(key: PublicKey, name: str, folder: Path) -> TrustedKey:
    """Put a key into a folder of trusted keys, which is made if there is none. One that is there already stays.

    Raises:
        BundleError: the name is none, or is another key's, or the folder cannot be written, or others can write it.
    """
    require_name(name, BundleError)
    for other in trusted_keys(folder):
        if other.key == key:
            return other
    path = put(key.to_pem(), name, folder, BundleError, "--keys")
    return TrustedKey(name, key, path)


def signer_of(bundle: Bundle, folder: Path) -> Signer | None:
    """Who signed a bundle, and whether a folder's keys vouch for it; none where nobody signed.

    Raises:
        BundleError: as in `trusted_keys`.
    """
    if bundle.signed_by is None:
        return None
    known = (each.name for each in trusted_keys(folder) if each.key == bundle.signed_by)
    return Signer(bundle.signed_by.fingerprint, next(known, None))


def require_trusted(bundle: Bundle, folder: Path) -> Signer:
    """See that a bundle is signed by a key of a folder.

    Raises:
        BundleError: it is not.
    """
    signer = signer_of(bundle, folder)
    if signer is None:
        raise BundleError(
            f"{bundle.path} is not signed, expected a signature by a key of {folder}; sign it with heatline bundle "
            "sign, or set allow_unsigned = true in the line's file"
        )
    if signer.trusted_as is None:
        raise BundleError(
            f"{bundle.path} is signed by key {signer.key}, which is not in {folder}; if you know whose key that is, "
            "take it in with heatline bundle trust, or set allow_unsigned = true in the line's file"
        )
    return signer


def describe_signer(signer: Signer | None) -> str:
    """Who signed, for people."""
    if signer is None:
        return "nobody"
    return f"{signer.trusted_as or 'nobody who is trusted here'}, key {signer.key}"
